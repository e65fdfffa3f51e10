"""What is drawn, as numbers: losses and their terms while training, losses and scores over the stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from evertune.reporting.load import Run

Point = tuple[float, float]


@dataclass(frozen=True)
class TrainingSeries:
    """The losses of one stage.

    Attributes:
        name: Name of the stage.
        stage: Its index.
        loss: (step, training loss).
        smooth: (step, training loss averaged over the steps around it).
        dev: (step, loss on dev rows).
        best: The step marked best on dev rows, None if none is.
    """

    name: str
    stage: int
    loss: tuple[Point, ...]
    smooth: tuple[Point, ...]
    dev: tuple[Point, ...]
    best: int | None


@dataclass(frozen=True)
class StagePoint:
    """A measurement of one task after one stage.

    Attributes:
        position: 0 for the untouched model, i for the i-th row of the matrix.
        after: What was learnt last, in words.
        value: The score or the loss.
        error: Its standard error, None where undefined.
    """

    position: int
    after: str
    value: float
    error: float | None = None


def training_series(run: Run) -> list[TrainingSeries]:
    """The training losses of every stage that has begun, in order."""
    loss: dict[int, dict[int, float]] = {}
    dev: dict[int, dict[int, float]] = {}
    best: dict[int, int | None] = {}
    for event in run.events():
        kind, stage, step = event.get("event"), event.get("stage"), event.get("step")
        if not isinstance(stage, int) or not isinstance(step, int) or not isinstance(event.get("loss"), int | float):
            continue
        # A resumed run repeats the steps since its last checkpoint: the later record of a step holds.
        if kind == "step":
            loss.setdefault(stage, {})[step] = float(event["loss"])
        elif kind == "evaluation":
            dev.setdefault(stage, {})[step] = float(event["loss"])
            if event.get("best"):
                best[stage] = step
    names = {stage.index: stage.name for stage in run.stages}
    return [
        TrainingSeries(
            names[stage],
            stage,
            tuple(sorted(loss[stage].items())),
            smoothed(sorted(loss[stage].items())),
            tuple(sorted(dev.get(stage, {}).items())),
            best.get(stage),
        )
        for stage in sorted(loss)
        if stage in names
    ]


@dataclass(frozen=True)
class RatioSeries:
    """How hard the terms of the loss pull beside the data in one stage.

    Attributes:
        name: Name of the stage.
        stage: Its index.
        terms: (step, norm of the term's gradient over that of the task's), by the name of the term.
    """

    name: str
    stage: int
    terms: Mapping[str, tuple[tuple[float, float], ...]]

    @property
    def texts(self) -> tuple[str, ...]:
        """What there is to say of every term, in their order."""
        return tuple(_ratio_text(term, [ratio for _, ratio in points]) for term, points in self.terms.items())


def _ratio_text(term: str, ratios: Sequence[float]) -> str:
    if len(ratios) == 1:
        return f"{term}: {ratios[0]:.3g}"
    return f"{term}: median {median(ratios):.3g}, highest {max(ratios):.3g}"


def gradient_ratios(run: Run) -> list[RatioSeries]:
    """The ratios of every stage that has any, in order."""
    found: dict[int, dict[str, dict[int, float]]] = {}
    for event in run.events():
        stage, step, ratios = event.get("stage"), event.get("step"), event.get("gradient_ratios")
        if event.get("event") != "step" or not isinstance(stage, int) or not isinstance(step, int):
            continue
        for term, ratio in (ratios if isinstance(ratios, dict) else {}).items():
            if isinstance(ratio, int | float) and math.isfinite(ratio):
                # A resumed run repeats steps: the later record holds.
                found.setdefault(stage, {}).setdefault(term, {})[step] = float(ratio)
    names = {stage.index: stage.name for stage in run.stages}
    return [
        RatioSeries(names[stage], stage, {term: tuple(sorted(points.items())) for term, points in terms.items()})
        for stage, terms in sorted(found.items())
        if stage in names
    ]


def smoothed(points: Sequence[Point]) -> tuple[Point, ...]:
    """Means over a window of about a tenth of the points around each; as they are where there are few."""
    reach = len(points) // 20
    values = [value for _, value in points]
    return tuple(
        (step, sum(window) / len(window))
        for index, (step, _) in enumerate(points)
        for window in [values[max(0, index - reach) : index + reach + 1]]
    )


def thinned(points: Sequence[Point], most: int = 300) -> tuple[Point, ...]:
    """At most about `most` points: means over groups of neighbours."""
    group = -(-len(points) // most)
    if group <= 1:
        return tuple(points)
    return tuple(
        (sum(step for step, _ in part) / len(part), sum(value for _, value in part) / len(part))
        for start in range(0, len(points), group)
        for part in [points[start : start + group]]
    )


def row_names(run: Run) -> list[str]:
    """What was learnt last before each row of the matrix, in words."""
    names = {stage.row: stage.name if len(stage.tasks) == 1 else "all tasks" for stage in run.stages}
    return [names.get(row, task) for row, task in enumerate(run.tasks)]


def score_points(run: Run, task: str) -> list[StagePoint]:
    """Scores of a task over the run, the untouched model first where it was scored."""
    column, matrix, names = run.tasks.index(task), run.matrix, row_names(run)
    points = []
    zero_shot = matrix.zero_shot[column]
    if zero_shot is not None:
        error = run.zero_shot.get("scores", {}).get(task, {}).get("standard_error")
        points.append(StagePoint(0, "no training", zero_shot, error))
    for row, values in enumerate(matrix.values):
        value = values[column]
        if value is not None:
            points.append(StagePoint(row + 1, names[row], value, matrix.standard_error[row][column]))
    return points


def loss_points(run: Run, task: str) -> list[StagePoint]:
    """Evaluation losses of a task from when it was learnt."""
    column, names = run.tasks.index(task), row_names(run)
    first = learnt_position(run, task)
    return [
        StagePoint(row + 1, names[row], loss)
        for row, losses in enumerate(run.matrix.loss)
        if (loss := losses[column]) is not None and first is not None and row + 1 >= first
    ]


def learnt_position(run: Run, task: str) -> int | None:
    """Position (see `StagePoint`) of the complete stage that learnt a task, None if none has."""
    for stage in run.finished_stages:
        if task in stage.tasks:
            return stage.row + 1
    return None
