"""The figures of the runs of a sweep, read from their folders, and their means over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from evertune.files import read_json
from evertune.metrics.statistics import mean
from evertune.reporting.load import Run, StageResult, load_run
from evertune.reporting.memory import highest_peak

# Beside the task's own score: what people who extract and classify look at.
BESIDE = ("precision", "recall", "f1")
# Of several tasks no single one's score is shown.
_OF_SEVERAL = ("average_accuracy", "backward_transfer", "forgetting")
_NOT_THE_MODEL = "method.safetensors"
_HEADS = "heads.safetensors"


@dataclass(frozen=True)
class EpochScore:
    """One evaluation on dev rows while training.

    Attributes:
        stage: Name of the stage.
        epoch: Passes over the rows by then.
        step: Optimiser steps by then.
        score: Score of the task.
        loss: Loss; None where it is not finite.
        metrics: The metrics of the same answers that are shown: `BESIDE`, where there are any.
        best: Whether it is the best of its stage.
    """

    stage: str
    epoch: float
    step: int
    score: float
    loss: float | None
    metrics: Mapping[str, float]
    best: bool


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    Attributes:
        name: Name of its folder.
        version: What it has in common with the runs of other seeds.
        status: ``done``, ``failed`` or ``pending``.
        values: The swept keys, as YAML text.
        seed: Its seed, where seeds were given.
        rank: Rank of its adapters; None for adapters without one.
        trainable: Parameters that learn.
        total: All parameters.
        disk_bytes: What is kept of the last stage's weights, in bytes.
        seconds_per_epoch: Training time of an epoch.
        peak_memory_bytes: The most memory in use while training.
        scores: Column to score, the one that decides first.
        epochs: Evaluations while training.
    """

    name: str
    version: str
    status: str
    values: Mapping[str, str] = field(default_factory=dict[str, str])
    seed: str | None = None
    rank: int | None = None
    trainable: int | None = None
    total: int | None = None
    disk_bytes: int | None = None
    seconds_per_epoch: float | None = None
    peak_memory_bytes: int | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict[str, "float | None"])
    epochs: tuple[EpochScore, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds.

    Attributes:
        mean: Its mean.
        std: Its sample standard deviation; None for a single value.
    """

    mean: float
    std: float | None


@dataclass(frozen=True)
class SweepRow:
    """One line of the table: the runs of one version.

    Attributes:
        version: Its name.
        status: ``done``; ``failed`` or ``pending`` if not one of its runs is done.
        runs: Its runs.
        rank: As in `SweepRun`.
        trainable: As in `SweepRun`.
        total: As in `SweepRun`.
        disk_bytes: As in `SweepRun`.
        seconds_per_epoch: Mean over the runs that are done.
        peak_memory_bytes: The highest of them.
        scores: Column to its spread; None where no run has it.
        best: Whether its first score is the highest of all versions.
    """

    version: str
    status: str
    runs: tuple[SweepRun, ...]
    rank: int | None
    trainable: int | None
    total: int | None
    disk_bytes: int | None
    seconds_per_epoch: float | None
    peak_memory_bytes: int | None
    scores: Mapping[str, Spread | None]
    best: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values; of the runs only their names."""
        return {**asdict(self), "runs": [run.name for run in self.runs]}


def read_figures(
    folder: Path, *, name: str, version: str, values: Mapping[str, str], seed: str | None = None
) -> SweepRun:
    """The figures of a run that is complete.

    Raises:
        CheckpointError: If its folder is damaged.
    """
    run = load_run(folder)
    training = [stage.training for stage in run.stages]
    seconds, epochs = (math.fsum(record[key] for record in training) for key in ("seconds", "epochs"))
    parameters = run.summary.get("parameters") or {}
    return SweepRun(
        name,
        version,
        "done",
        values,
        seed,
        rank=_rank(run.stages[-1]),
        trainable=parameters.get("trainable"),
        total=parameters.get("total"),
        disk_bytes=_disk_bytes(run.stages[-1]),
        seconds_per_epoch=seconds / epochs if epochs else None,
        peak_memory_bytes=highest_peak(run),
        scores=_scores(run),
        epochs=_epochs(run),
    )


def _rank(stage: StageResult) -> int | None:
    for file in sorted(stage.path.glob("adapter*/**/adapter_config.json")):
        return read_json(file).get("r")
    return None


def _disk_bytes(stage: StageResult) -> int:
    """Size of the weights of a stage: adapters, heads and changed base weights, not the state of a method.

    The head of the task that was learnt counts once, where the folder of its adapter holds it too.
    """
    adapters = list(stage.path.glob("adapter*/**/*.safetensors"))
    kept = [file for file in (*stage.path.glob("*.safetensors"), *adapters) if file.name != _NOT_THE_MODEL]
    return sum(file.stat().st_size for file in kept) - _held_twice(
        stage.path / _HEADS, adapters, stage.metrics["tasks"]
    )


def _held_twice(heads: Path, adapters: Sequence[Path], tasks: Sequence[str]) -> int:
    """Bytes of the heads ``<task>/<name>`` whose name is that of a tensor beside the adapter."""
    if not heads.exists() or len(tasks) > 1:
        return 0
    beside = [name for file in adapters for name in _sizes(file)]
    prefix = f"{tasks[0]}/"
    own = {name.removeprefix(prefix): size for name, size in _sizes(heads).items() if name.startswith(prefix)}
    return sum(size for name, size in own.items() if any(f".{each}".endswith(f".{name}") for each in beside))


def _sizes(file: Path) -> dict[str, int]:
    """Bytes of the tensors in a file of safetensors, by its header alone: its length in 8 bytes, then JSON."""
    with file.open("rb") as opened:
        header: dict[str, Any] = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    places = {name: each["data_offsets"] for name, each in header.items() if name != "__metadata__"}
    return {name: end - start for name, (start, end) in places.items()}


def _scores(run: Run) -> dict[str, float | None]:
    if len(run.tasks) > 1:
        return {key: run.summary.get(key) for key in _OF_SEVERAL}
    entry = run.stages[-1].metrics["scores"][next(iter(run.tasks))]
    return {entry["metric"]: entry["score"], **_beside(entry["metrics"], but=entry["metric"])}


def _beside(metrics: Mapping[str, float], but: str = "") -> dict[str, float]:
    """Precisions, then recalls, then F1s."""
    return {
        name: metrics[name]
        for kind in BESIDE
        for name in metrics
        if name != but and (name == kind or name.endswith(f"_{kind}"))
    }


def _epochs(run: Run) -> tuple[EpochScore, ...]:
    """Evaluations on dev rows; the last record of a step counts, which a resumed run may have written again."""
    found: dict[tuple[int, int], EpochScore] = {}
    for event in run.events():
        if event.get("event") != "evaluation" or event.get("split") != "dev" or "epoch" not in event:
            continue
        metrics = _beside(event["metrics"])
        found[event["stage"], event["step"]] = EpochScore(
            event["task"], event["epoch"], event["step"], event["score"], event["loss"], metrics, best=False
        )
    best = {stage.index: (stage.training.get("best") or {}).get("step") for stage in run.stages}
    return tuple(
        EpochScore(**{**vars(score), "best": best.get(stage) == step}) for (stage, step), score in found.items()
    )


def spread(values: Sequence[float]) -> Spread | None:
    """Mean and sample standard deviation (divisor n - 1); None without values."""
    average = mean(values)
    if average is None:
        return None
    if len(values) < 2:
        return Spread(average, None)
    return Spread(average, math.sqrt(math.fsum((value - average) ** 2 for value in values) / (len(values) - 1)))


def table_rows(runs: Iterable[SweepRun]) -> list[SweepRow]:
    """The lines of the table, in the order of the runs; the best is marked, ties all, and none where all are alike."""
    versions: dict[str, list[SweepRun]] = {}
    for run in runs:
        versions.setdefault(run.version, []).append(run)
    rows = [_row(version, members) for version, members in versions.items()]
    firsts = [first.mean for row in rows if (first := _first(row)) is not None]
    several = len(set(firsts)) > 1
    return [
        SweepRow(**{**vars(row), "best": several and (first := _first(row)) is not None and first.mean == max(firsts)})
        for row in rows
    ]


def _row(version: str, members: Sequence[SweepRun]) -> SweepRow:
    done = [run for run in members if run.status == "done"]
    columns = dict.fromkeys(name for run in done for name in run.scores)
    peaks = [run.peak_memory_bytes for run in done if run.peak_memory_bytes is not None]
    failed = any(run.status == "failed" for run in members)
    first = done[0] if done else SweepRun("", version, "pending")
    return SweepRow(
        version,
        "done" if done else "failed" if failed else "pending",
        tuple(members),
        first.rank,
        first.trainable,
        first.total,
        first.disk_bytes,
        mean([run.seconds_per_epoch for run in done if run.seconds_per_epoch is not None]),
        max(peaks, default=None),
        {name: spread([score for run in done if (score := run.scores.get(name)) is not None]) for name in columns},
    )


def _first(row: SweepRow) -> Spread | None:
    return next(iter(row.scores.values()), None)
