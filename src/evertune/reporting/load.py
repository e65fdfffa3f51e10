"""Reads a run folder, piece by piece and only what is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evertune.errors import CheckpointError
from evertune.files import read_json
from evertune.metrics.matrix import EvalMatrix, summary_metrics


@dataclass(frozen=True)
class Answer:
    """One line of ``predictions/<task>.jsonl``.

    Attributes:
        id: The row's id.
        prediction: What was answered.
        reference: What would have been right.
        value: Score of the row in [0, 1]; 0 or 1 where answers are right or wrong.
    """

    id: str
    prediction: str
    reference: str
    value: float


@dataclass(frozen=True)
class StageResult:
    """One stage of a run, as the manifest and its own files tell it.

    Attributes:
        path: Its folder, whether or not it exists yet.
        index: 0 for the first.
        name: Name of its task, or ``multi-task``.
        tasks: Names of the tasks learnt in it.
        row: Row of the matrix that it fills.
        status: ``pending``, ``training``, ``trained`` or ``complete``.
    """

    path: Path
    index: int
    name: str
    tasks: tuple[str, ...]
    row: int
    status: str

    @property
    def complete(self) -> bool:
        """Whether it is trained, saved and scored."""
        return self.status == "complete"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Content of its ``metrics.json``, without scores until it is complete; empty before it is trained."""
        return read_json(self.path / "metrics.json") if self.status in ("trained", "complete") else {}

    @property
    def training(self) -> dict[str, Any]:
        """What is known about its training; empty before it is trained."""
        return self.metrics.get("training", {})


@dataclass(frozen=True)
class Run:
    """A run folder. Files are read when they are first needed, and only once.

    Attributes:
        folder: The folder.
        manifest: Content of ``manifest.json``.
    """

    folder: Path
    manifest: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.manifest["run_name"]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks, in stream order."""
        return tuple(self.manifest["stream"]["order"])

    @cached_property
    def task_records(self) -> dict[str, dict[str, Any]]:
        """What the manifest says about every task: group, metric, labels, chance, splits, audit."""
        return {record["name"]: record for record in self.manifest["stream"]["tasks"]}

    @cached_property
    def stages(self) -> tuple[StageResult, ...]:
        """All stages of the run, begun or not."""
        return tuple(
            StageResult(
                self.folder / stage["folder"],
                stage["index"],
                stage["name"],
                tuple(stage["tasks"]),
                stage["row"],
                stage["status"],
            )
            for stage in self.manifest["stages"]
        )

    @property
    def finished_stages(self) -> tuple[StageResult, ...]:
        """The complete stages, in order."""
        return tuple(stage for stage in self.stages if stage.complete)

    @property
    def complete(self) -> bool:
        """Whether every stage is complete."""
        return all(stage.complete for stage in self.stages)

    @cached_property
    def matrix(self) -> EvalMatrix:
        """The accuracy matrix; empty before anything was scored.

        Raises:
            CheckpointError: If the file is damaged or belongs to other tasks.
        """
        path = self.folder / "matrix.json"
        if not path.exists():
            metric = {task: self.task_records[task]["metric"] for task in self.tasks}
            return EvalMatrix.empty(self.tasks, metric)
        matrix = EvalMatrix.from_json(read_json(path), where=str(path))
        if matrix.tasks != self.tasks:
            raise CheckpointError(
                f"This matrix is of the tasks {', '.join(matrix.tasks)}, the run of {', '.join(self.tasks)}.",
                where=str(path),
                instead="Restore the file, or start again with `--fresh`.",
            )
        return matrix

    @property
    def chance(self) -> list[float | None]:
        """Score of a uniform guess for every task; None for free text."""
        return [self.task_records[task]["chance"] for task in self.tasks]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Content of ``summary.json``; computed from the matrix as long as the file is not written."""
        path = self.folder / "summary.json"
        return read_json(path) if path.exists() else summary_metrics(self.matrix, self.chance)

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Content of ``environment.json``; empty if it was not written."""
        path = self.folder / "environment.json"
        return read_json(path) if path.exists() else {}

    @cached_property
    def config_text(self) -> str:
        """Text of ``config.yaml``; empty if it was not written."""
        path = self.folder / "config.yaml"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @cached_property
    def zero_shot(self) -> dict[str, Any]:
        """Content of ``zero_shot/metrics.json``; empty if the untouched model was not scored."""
        path = self.folder / "zero_shot" / "metrics.json"
        return read_json(path) if path.exists() else {}

    def events(self) -> Iterator[dict[str, Any]]:
        """The events in order; a line torn by a kill, last or followed by those of the resumed run, is passed over."""
        path = self.folder / "events.jsonl"
        if not path.exists():
            return
        for line in path.read_bytes().split(b"\n"):
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                yield event

    @cached_property
    def warnings(self) -> list[str]:
        """Texts of the warnings, each once, in order."""
        texts = [str(event.get("text", "")) for event in self.events() if event.get("event") == "warning"]
        return list(dict.fromkeys(texts))

    def answers(self, folder: Path, task: str) -> list[Answer]:
        """The predictions kept in a stage's folder; empty if there are none.

        Raises:
            CheckpointError: If a line is damaged.
        """
        path = folder / "predictions" / f"{task}.jsonl"
        if not path.exists():
            return []
        try:
            # Not splitlines(): answers may hold other line separators, which JSON leaves as they are.
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
            return [_answer(row) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"This file is damaged: {error}.", where=str(path)) from error


def _answer(row: Mapping[str, Any]) -> Answer:
    value = row["correct"] if "correct" in row else row["score"]
    return Answer(str(row["id"]), str(row["prediction"]), str(row["reference"]), float(value))


_FIRST_OF_ALL = ("stream", "stages", "backbone", "method", "zero_shot")


def load_run(path: str | Path) -> Run:
    """Opens a run folder.

    Args:
        path: The ``output_dir`` of a run, finished or not.

    Raises:
        CheckpointError: If it is not a run folder, or its manifest is damaged.
    """
    folder = Path(path)
    manifest_path = folder / "manifest.json"
    if not manifest_path.is_file():
        raise CheckpointError(
            "There is no run here: no manifest.json." if folder.is_dir() else "There is no such folder.",
            where=str(folder),
            instead="Name the `output_dir` of a run." + _runs_below(folder),
        )
    manifest = read_json(manifest_path)
    missing = [key for key in _FIRST_OF_ALL if not isinstance(manifest, dict) or key not in manifest]
    if missing:
        raise CheckpointError(
            f"This manifest is damaged: it lacks {', '.join(missing)}.",
            where=str(manifest_path),
            instead="Restore it, or start again with `--fresh`.",
        )
    run = Run(folder, manifest)
    try:
        _ = run.tasks, run.task_records, run.stages, run.chance
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"This manifest is damaged: {type(error).__name__} {error}.",
            where=str(manifest_path),
            instead="Restore it, or start again with `--fresh`.",
        ) from error
    return run


def _runs_below(folder: Path) -> str:
    """A sentence with the runs in a folder that is none itself, or beside one that does not exist."""
    parent = folder if folder.is_dir() else folder.parent
    if not parent.is_dir():
        return ""
    runs = sorted(str(found.parent) for found in parent.glob("*/manifest.json"))
    return f" Runs there: {', '.join(runs[:8])}{', ...' if len(runs) > 8 else ''}." if runs else ""
