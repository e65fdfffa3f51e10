"""Checks of a run's parts that need no weights, before hours are spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from evertune.adapters.bank import AdapterBank
from evertune.adapters.released import released_record
from evertune.adapters.spec import BaseWeights
from evertune.assembly import check_tasks
from evertune.backbones import BACKBONES
from evertune.backbones.loading import Encoder
from evertune.backbones.location import resolve_path
from evertune.console import Console
from evertune.errors import CapabilityError, ConfigError, DataError, InputError, Problem
from evertune.evaluation.safety_prompts import read_safety_prompts
from evertune.methods.stack import FIRST_STAGE, MethodStack
from evertune.settings import RunSettings, StageSettings
from evertune.streams.task import Stream, Task

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Checked:
    """What the checks came upon.

    Attributes:
        stream: The stream, loaded.
        notes: What is worth knowing about the model.
        cut: By task, how many inputs and how many answers are cut to fit.
    """

    stream: Stream
    notes: tuple[str, ...]
    cut: Mapping[str, tuple[int, int]]


def check_parts(settings: RunSettings, console: Console) -> Checked:
    """Checks rows, model, adapters, and how rows are encoded; it complains when all of it is checked.

    Args:
        settings: The configuration.
        console: Told what is odd about the rows.

    Raises:
        InputError: With the problems of every part.
    """
    problems: list[Problem] = []
    stream = _tried(lambda: _checked_stream(settings, console), problems)
    family = BACKBONES.get(settings.backbone.task_type)
    described = _tried(lambda: family.describe(settings.backbone), problems)
    if described is not None:
        _tried(lambda: check_adapter(settings), problems)
    if stream is None or described is None:
        raise InputError(problems)
    encoder = _tried(lambda: family.row_encoder(settings.backbone, described, stream.tasks), problems)
    if encoder is None:
        raise InputError(problems)
    cut = _tried(lambda: check_rows(settings, stream, encoder), problems)
    _tried(lambda: check_safety_prompts(settings, encoder), problems)
    if cut is None or problems:
        raise InputError(problems)
    return Checked(stream, described.notes, cut)


def check_rows(settings: RunSettings, stream: Stream, encoder: Encoder) -> dict[str, tuple[int, int]]:
    """Encodes every row once, so that no stage meets one that cannot be.

    Returns:
        By task, how many inputs and how many answers are cut to fit.

    Raises:
        DataError: With the rows of all tasks whose instructions are too long or whose answers are empty.
    """
    problems: list[Problem] = []
    cut = {
        task.name: _tried(lambda index=index, task=task: _cut(settings, index, task, encoder), problems) or (0, 0)
        for index, task in enumerate(stream.tasks)
    }
    if problems:
        raise DataError(problems)
    return cut


def check_safety_prompts(settings: RunSettings, encoder: Encoder) -> None:
    """Reads and encodes the prompts of safety measurements, where there are any.

    Raises:
        DataError: With the rows that are wrong or too long.
    """
    safety = settings.first.evaluation.safety
    if safety is not None:
        encoder.encode(
            [prompt.row for prompt in read_safety_prompts(safety)],
            max_source_length=settings.first.train.max_source_length,
            max_target_length=safety.max_new_tokens,
            answers=False,
        )


def _cut(settings: RunSettings, index: int, task: Task, encoder: Encoder) -> tuple[int, int]:
    """Encodes all rows of a task: inputs and answers that had to be cut.

    Raises:
        DataError: If a row cannot be encoded.
    """
    train = settings.for_task(task.name, index).train
    encoded = encoder.encode(
        [*task.train, *task.dev, *task.test],
        max_source_length=train.max_source_length,
        max_target_length=train.max_target_length,
    )
    return sum(row.source_cut for row in encoded), sum(row.target_cut for row in encoded)


def _tried(check: Callable[[], _Result], problems: list[Problem]) -> _Result | None:
    try:
        return check()
    except InputError as error:
        problems += error.problems
        return None


def _checked_stream(settings: RunSettings, console: Console) -> Stream:
    stream = settings.stream.load(seed=settings.seed, console=console)
    check_tasks(settings, stream)
    return stream


def check_adapter(settings: RunSettings) -> None:
    """Puts the configured adapter on a model without weights, as the run will put it on the real one.

    Raises:
        InputError: If kind, targets or layers match nothing, `start_from` does not fit, or a method cannot work on it.
    """
    model = BACKBONES.get(settings.backbone.task_type).skeleton(settings.backbone)
    location = resolve_path(settings.backbone.path, revision=settings.backbone.revision).location
    bank = AdapterBank(model, settings.adapter, task_type=settings.backbone.task_type, base_path=location)
    bank.check_base(_base_weights(settings))  # before there are adapters on the model: it is described as it came
    if settings.adapter.start_from is None:
        bank.add("check", seed=settings.seed)
    else:
        _check_start(settings)
        bank.start_from("check", settings.adapter.start_from)
    for _, stage_settings in _all_settings(settings):
        for _, method in stage_settings.methods:
            method.check_model(bank)


def _all_settings(settings: RunSettings) -> Iterator[tuple[str, StageSettings]]:
    """What holds in any stage, with the block that it was written in; that of the first comes first."""
    yield "", settings.first
    yield "after_first.", settings.later
    for name, pair in settings.per_task.items():
        yield from ((f"per_task.{name}.", stage_settings) for stage_settings in pair)


def _base_weights(settings: RunSettings) -> BaseWeights | None:
    """The base weights that change, which are those of the first stage in every other one too.

    Raises:
        ConfigError: If they are not: what was learnt in some of them would be given back for a task with others.
    """
    plans = [
        (block, MethodStack(stage_settings.methods).adapters(FIRST_STAGE).base)
        for block, stage_settings in _all_settings(settings)
    ]
    first = plans[0][1]
    for block, base in plans:
        if base != first:
            key = (base or first or BaseWeights()).key
            raise ConfigError(
                "Which base weights change must be the same for all tasks.",
                where=f"{block}{key}",
                instead="Write it under `method` alone.",
            )
    return first


def _check_start(settings: RunSettings) -> None:
    """Refuses an adapter to begin with where a method sets the weights of its adapters itself."""
    for name, method in settings.first.methods:
        if "new_adapters" in method.required() and released_record(settings.adapter.start_from) is None:
            raise CapabilityError(
                f"method {name} chooses the input directions of its adapters: one that has learnt would be spoilt.",
                where="adapter.start_from",
                instead="Leave it out.",
            )
