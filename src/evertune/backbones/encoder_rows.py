"""Rows of several tasks for one encoder: who reads which, and whether it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.reading import Limits, Reader
from evertune.backbones.windows import EncodedRow
from evertune.errors import ConfigError, Problem
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class EncoderRows:
    """Encodes rows of several tasks; needs no weights.

    Args:
        readers: By task.
        config: Says how windows overlap, and how many there are.
    """

    def __init__(self, readers: Mapping[str, Reader], config: BackboneConfig) -> None:
        self._readers, self._config = readers, config

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[EncodedRow]:
        """Windows of every row; see `Reader.encode`. Answers have no length."""
        stride = min(self._config.doc_stride, max_source_length // 2)
        limits = Limits(max_source_length, stride, self._config.max_windows)
        by_task: dict[str, list[PromptTarget]] = {}
        for row in rows:
            by_task.setdefault(task_of(row.id), []).append(row)
        encoded = {
            row.id: row
            for name, own in by_task.items()
            for row in self._readers[name].encode(own, limits, answers=answers)
        }
        return [encoded[row.id] for row in rows]


def task_of(id: str) -> str:
    """Name of the task that a row belongs to."""
    return id.rsplit("/", 2)[0]


def reader_of(task: Task) -> type[Reader]:
    """How rows of a task are read."""
    return BACKBONES.get(task.task_type).reader


def check_task_types(tasks: Sequence[Task], config: BackboneConfig, settings: PretrainedConfig) -> None:
    """Checks that an encoder can read all tasks.

    Raises:
        ConfigError: With the tasks that it cannot read, or if none is of the kind that it is loaded for.
    """
    wanted = BACKBONES.get(config.task_type).reader
    kinds = {task.name: task.task_type for task in tasks}
    problems = [
        Problem(
            f"task {name}",
            f"Its rows are for {kind}, which a model for {config.task_type} cannot read.",
            f"Write `backbone.task_type: {kind}`, or give it a stream of its own.",
        )
        for name, kind in kinds.items()
        if (reader := BACKBONES.get(kind).reader) is None or reader.reads != wanted.reads
    ]
    problems += [
        Problem(
            f"task {task.name}",
            f"Its rows are for {task.task_type}, where every row has a label; this task has no closed set of labels.",
            "Name them under `labels`, or choose a model that answers in text.",
        )
        for task in tasks
        if task.task_type == "sequence_classification" and not task.labels
    ]
    if settings.is_encoder_decoder:
        problems += [
            Problem(
                f"task {name}",
                f"Its rows are for {kind}, and an encoder-decoder model has the head of {config.task_type} alone.",
                "Use an encoder, or give it a stream of its own.",
            )
            for name, kind in kinds.items()
            if kind != config.task_type
        ]
    if not problems and config.task_type not in kinds.values():
        other = next(iter(kinds.values()))
        problems = [
            Problem(
                "backbone.task_type",
                f"No task of the stream is for {config.task_type}; the first is for {other}.",
                f"Write `task_type: {other}`.",
            )
        ]
    if problems:
        raise ConfigError(problems)
