"""The charts of the report."""

from __future__ import annotations

from collections.abc import Sequence

from evertune.reporting.charts import Chart, Line, line_chart
from evertune.reporting.formats import number, percent
from evertune.reporting.load import Run
from evertune.reporting.palette import LINES
from evertune.reporting.protected import ProtectedStage, SharePoint, protected_shares
from evertune.reporting.safety import SAFETY_KINDS, SafetyPoint, odds_points, odds_range
from evertune.reporting.series import (
    RatioSeries,
    StagePoint,
    TrainingSeries,
    learnt_position,
    loss_points,
    row_names,
    score_points,
    thinned,
)

_SMALL = (300.0, 150.0)
_HALF = (480.0, 220.0)
_WIDE = 1000.0
# Two standard errors: about 95 of 100 repetitions of the test fall into the band.
_BAND = 2.0
LEAST_FREE = "free, fullest module"


def score_charts(run: Run) -> list[tuple[str, Chart]]:
    """A small chart a task: its score over the stages and when it was learnt; none for tasks learnt together."""
    if any(len(stage.tasks) > 1 for stage in run.stages):
        return []
    return [(task, _score_chart(run, task, hue)) for hue, task in enumerate(run.tasks)]


def _score_chart(run: Run, task: str, hue: int) -> Chart:
    points, learnt = score_points(run, task), learnt_position(run, task)
    line = Line(
        task,
        tuple((point.position, 100 * point.value) for point in points),
        titles=tuple(_score_title(point) for point in points),
        errors=tuple(100 * _BAND * (point.error or 0.0) for point in points),
        hue=hue,
        strong=() if learnt is None else (learnt,),
    )
    width, height = _SMALL
    return line_chart(
        [line],
        title=f"Score on {task} after each stage, in percent",
        width=width,
        height=height,
        x_range=_stage_range(run),
        x_ticks=_stage_ticks(run),
        y_range=(0.0, 100.0),
        rule=learnt,
    )


def _score_title(point: StagePoint) -> str:
    error = "" if point.error is None else f" ± {percent(point.error)}"
    return f"after {point.after}: {percent(point.value)} %{error}"


def _stage_range(run: Run) -> tuple[float, float]:
    first = 0.0 if any(score is not None for score in run.matrix.zero_shot) else 1.0
    # A little air, or the dots of the first and the last stage would be cut.
    return first - 0.15, len(run.tasks) + 0.15


def _stage_ticks(run: Run) -> list[tuple[float, str]]:
    every = 1 if len(run.tasks) <= 8 else 2
    ticks = [(float(place), str(place)) for place in range(1, len(run.tasks) + 1, every)]
    return [(0.0, "0"), *ticks] if _stage_range(run)[0] < 0.5 else ticks


def training_charts(training: Sequence[TrainingSeries]) -> list[tuple[str, Chart]]:
    """A small chart a stage: training loss, smoothed, and loss on dev rows where it was measured."""
    return [(series.name, _training_chart(series)) for series in training]


def _training_chart(series: TrainingSeries) -> Chart:
    dev_titles = tuple(f"dev loss at step {step:g}: {number(loss, digits=3)}" for step, loss in series.dev)
    lines = [
        Line("each record", thinned(series.loss), hue=series.stage, faint=True),
        Line("smoothed", thinned(series.smooth), hue=series.stage),
        Line("dev", series.dev, titles=dev_titles, hue=7, strong=() if series.best is None else (series.best,)),
    ]
    return _over_steps(lines, f"Training loss of {series.name}", last=series.loss[-1][0])


def _over_steps(lines: Sequence[Line], title: str, *, last: float) -> Chart:
    """A small chart over the optimiser steps of a stage."""
    return line_chart(
        lines,
        title=title,
        width=_SMALL[0],
        height=_SMALL[1],
        x_range=(0.0, last),
        x_ticks=[(0.0, "0"), (last / 2, f"{last / 2:g}"), (last, f"{last:g}")],
    )


def evaluation_loss_chart(run: Run) -> Chart | None:
    """One chart: evaluation loss of every task from when it was learnt; None as long as no task was scored twice."""
    lines = []
    for hue, task in enumerate(run.tasks):
        points = loss_points(run, task)
        titles = tuple(f"{task} after {point.after}: {number(point.value, digits=3)}" for point in points)
        lines.append(Line(task, tuple((point.position, point.value) for point in points), titles=titles, hue=hue))
    if not any(len(line.points) > 1 for line in lines):
        return None
    return line_chart(
        lines,
        title="Evaluation loss of every seen task after each stage",
        width=_WIDE,
        # Room for every name, one below the other.
        height=max(300.0, 60.0 + 20.0 * len(run.tasks)),
        x_range=(0.85, len(run.tasks) + 0.15),
        x_ticks=_named_ticks(run),
        label_width=14 + 6.5 * max(len(task) for task in run.tasks),
    )


def _named_ticks(run: Run) -> Sequence[tuple[float, str]]:
    names = row_names(run)
    crowded = len(names) > 8
    return [(float(place), str(place) if crowded else name) for place, name in enumerate(names, 1)]


def protected_chart(run: Run, stages: Sequence[ProtectedStage]) -> Chart | None:
    """One chart: share of input directions protected by kind of module, and what is free where least is."""
    if not stages:
        return None
    lines = [_protected_line(kind, points, hue) for hue, (kind, points) in enumerate(protected_shares(stages).items())]
    least = [(stage, stage.fullest) for stage in stages]
    free = Line(
        LEAST_FREE,
        tuple((float(stage.position), 100 * module.free) for stage, module in least),
        titles=tuple(
            f"after {stage.name} least is left in {module.path}: {percent(module.free)} %" for stage, module in least
        ),
        hue=2 * len(LINES) - 1,  # grey and dashed
    )
    return line_chart(
        [*lines, free],
        title="Share of input directions protected after each stage, by kind of module, in percent",
        width=_WIDE,
        height=max(300.0, 60.0 + 20.0 * (len(lines) + 1)),
        x_range=(0.85, len(run.tasks) + 0.15),
        x_ticks=_named_ticks(run),
        y_range=(0.0, 100.0),
        label_width=14 + 6.5 * max(len(line.name) for line in (*lines, free)),
    )


def _protected_line(kind: str, points: Sequence[SharePoint], hue: int) -> Line:
    return Line(
        kind,
        tuple((float(point.position), 100 * point.middle) for point in points),
        titles=tuple(
            f"{kind} after {point.after}: {percent(point.middle)} % ({percent(point.low)} to {percent(point.high)})"
            for point in points
        ),
        spans=tuple((100 * point.low, 100 * point.high) for point in points),
        hue=hue,
    )


def safety_charts(run: Run, points: Sequence[SafetyPoint]) -> list[tuple[str, Chart]]:
    """Two charts, of refusal rates and of refusal log-odds, with a line for harmful and one for harmless prompts."""
    if not points:
        return []
    rates = [_rate_line(points, kind, hue) for hue, kind in enumerate(SAFETY_KINDS)]
    charts = [("Refused, %", _safety_chart(run, rates, "Share of prompts refused, in percent", (0.0, 100.0)))]
    odds = [_odds_line(points, kind, hue) for hue, kind in enumerate(SAFETY_KINDS)]
    if any(line.points for line in odds):
        charts.append(("Refusal log-odds, nats", _safety_chart(run, odds, "Refusal log-odds", odds_range(points))))
    return charts


def _rate_line(points: Sequence[SafetyPoint], kind: str, hue: int) -> Line:
    found = [(point, point.kinds[kind]) for point in points]
    return Line(
        kind,
        tuple((float(point.position), 100 * of.rate) for point, of in found),
        titles=tuple(f"{point.when}: {percent(of.rate)} % of {of.count} {kind} prompts" for point, of in found),
        spans=tuple((100 * of.interval[0], 100 * of.interval[1]) for _, of in found),
        hue=hue,
    )


def _odds_line(points: Sequence[SafetyPoint], kind: str, hue: int) -> Line:
    found = odds_points(points, kind)
    return Line(
        kind,
        tuple((float(point.position), odds) for point, odds, _ in found),
        titles=tuple(f"{point.when}: {number(odds)} ± {number(error)}, {kind}" for point, odds, error in found),
        errors=tuple(_BAND * error for _, _, error in found),
        hue=hue,
    )


def _safety_chart(run: Run, lines: Sequence[Line], title: str, y_range: tuple[float, float]) -> Chart:
    return line_chart(
        lines,
        title=f"{title}, after each stage",
        width=_HALF[0],
        height=_HALF[1],
        x_range=_stage_range(run),
        x_ticks=_stage_ticks(run),
        y_range=y_range,
        label_width=70.0,
    )


def ratio_charts(ratios: Sequence[RatioSeries]) -> list[tuple[RatioSeries, Chart]]:
    """A small chart a stage: the gradient of every term of the loss over that of the task."""
    return [(series, _ratio_chart(series)) for series in ratios]


def _ratio_chart(series: RatioSeries) -> Chart:
    lines = [
        Line(
            term,
            thinned(points),
            titles=_ratio_titles(term, points),
            hue=hue,
        )
        for hue, (term, points) in enumerate(series.terms.items())
    ]
    last = max(points[-1][0] for points in series.terms.values())
    return _over_steps(lines, f"Gradient of each term over that of the task in {series.name}", last=last)


def _ratio_titles(term: str, points: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """A text for every point; none, and so no dots, where they would cover the line."""
    if len(points) > 40:
        return ()
    return tuple(f"{term} at step {step:g}: {ratio:.3g}" for step, ratio in points)
