"""Refusals over a run: rates and log-odds after every stage, and the prompts whose answers changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import CheckpointError
from evertune.reporting.formats import NOTHING, number, percent
from evertune.reporting.load import Run

SAFETY_KINDS = ("harmful", "harmless")
_SHOWN_ANSWERS = 5
_SHOWN_CHARACTERS = 240


@dataclass(frozen=True)
class KindPoint:
    """Refusals of the prompts of one kind at one moment.

    Attributes:
        count: Prompts.
        rate: Share that is refused.
        interval: Of the rate, 95 %.
        log_odds: Mean log-odds of refusing, in nats; None if not finite.
        standard_error: Of that mean; None where undefined.
    """

    count: int
    rate: float
    interval: tuple[float, float]
    log_odds: float | None
    standard_error: float | None


@dataclass(frozen=True)
class SafetyPoint:
    """A measurement of refusals.

    Attributes:
        position: 0 for the untouched model, i for the i-th row of the matrix.
        after: What was learnt last, in words.
        folder: Where the answers are.
        kinds: By kind of prompt.
        youden: Refusal rate of harmful prompts less that of harmless ones.
        youden_interval: Of that, 95 %.
    """

    position: int
    after: str
    folder: Path
    kinds: Mapping[str, KindPoint]
    youden: float
    youden_interval: tuple[float, float]

    @property
    def when(self) -> str:
        """When it was made, in words."""
        return f"after {self.after}" if self.position else "before training"


def safety_points(run: Run) -> list[SafetyPoint]:
    """The measurements in order, the untouched model first; none unless they were asked for."""
    found = [(0, "no training", run.folder / "zero_shot", run.zero_shot)]
    found += [(stage.row + 1, stage.name, stage.path, stage.metrics) for stage in run.finished_stages]
    return [
        _point(position, after, folder, metrics["safety"])
        for position, after, folder, metrics in found
        if metrics.get("safety")
    ]


def _point(position: int, after: str, folder: Path, entry: Mapping[str, Any]) -> SafetyPoint:
    kinds = {
        kind: KindPoint(
            count=entry[kind]["count"],
            rate=entry[kind]["rate"],
            interval=tuple(entry[kind]["interval"]),
            log_odds=entry[kind]["log_odds"]["mean"],
            standard_error=entry[kind]["log_odds"]["standard_error"],
        )
        for kind in SAFETY_KINDS
    }
    return SafetyPoint(position, after, folder, kinds, entry["youden"], tuple(entry["youden_interval"]))


def odds_points(points: Sequence[SafetyPoint], kind: str) -> list[tuple[SafetyPoint, float, float]]:
    """The measurements with finite log-odds: each with their mean and its standard error, 0 where undefined."""
    found = [(point, point.kinds[kind]) for point in points]
    return [(point, of.log_odds, of.standard_error or 0.0) for point, of in found if of.log_odds is not None]


def odds_range(points: Sequence[SafetyPoint]) -> tuple[float, float]:
    """Lowest and highest log-odds that a chart must show, with two standard errors, zero, and a little room."""
    ends = [0.0]
    for kind in SAFETY_KINDS:
        for _, odds, error in odds_points(points, kind):
            ends += [odds - 2 * error, odds + 2 * error]
    room = 0.05 * (max(ends) - min(ends)) or 1.0
    return min(ends) - room, max(ends) + room


SAFETY_COLUMNS = (
    "harmful refused, %",
    "harmless refused, %",
    "Youden's J",
    "log-odds, harmful",
    "log-odds, harmless",
)


@dataclass(frozen=True)
class SafetyCell:
    """A number of the table.

    Attributes:
        text: The number.
        spread: How sure it is.
        change: Its change from the first measurement; empty there.
    """

    text: str
    spread: str
    change: str


def safety_table(points: Sequence[SafetyPoint]) -> list[tuple[str, list[SafetyCell]]]:
    """What was learnt last, and a cell for every one of `SAFETY_COLUMNS`."""
    return [(point.after, _cells(point, points[0])) for point in points]


def _cells(point: SafetyPoint, first: SafetyPoint) -> list[SafetyCell]:
    is_first = point is first
    rates = [_rate(point.kinds[kind], None if is_first else first.kinds[kind]) for kind in SAFETY_KINDS]
    low, high = point.youden_interval
    change = "" if is_first else _signed(point.youden - first.youden)
    youden = SafetyCell(number(point.youden), f"{number(low)} to {number(high)}", change)
    odds = [_odds(point.kinds[kind], None if is_first else first.kinds[kind]) for kind in SAFETY_KINDS]
    return [*rates, youden, *odds]


def _rate(kind: KindPoint, first: KindPoint | None) -> SafetyCell:
    low, high = kind.interval
    change = "" if first is None else percent(kind.rate - first.rate, signed=True)
    return SafetyCell(percent(kind.rate), f"{percent(low)} to {percent(high)}", change)


def _odds(kind: KindPoint, first: KindPoint | None) -> SafetyCell:
    spread = "" if kind.standard_error is None else f"± {number(kind.standard_error)}"
    if first is None:
        return SafetyCell(number(kind.log_odds), spread, "")
    both = None not in (kind.log_odds, first.log_odds)
    change = _signed((kind.log_odds or 0.0) - (first.log_odds or 0.0)) if both else NOTHING
    return SafetyCell(number(kind.log_odds), spread, change)


def _signed(value: float) -> str:
    text = number(abs(value))
    return text if not float(text) else f"{'+' if value > 0 else '−'}{text}"


@dataclass(frozen=True)
class ChangedAnswer:
    """A prompt that was refused in one of two measurements; the prompt itself is in its file alone.

    Attributes:
        id: Its id, ``<kind>/<row of the file>``.
        fate: What became of it.
        first: Its first answer.
        last: Its last one.
    """

    id: str
    fate: str
    first: str
    last: str


@dataclass(frozen=True)
class ChangedKind:
    """Prompts of one kind that are refused no longer, or newly, between the first measurement and the last.

    Attributes:
        title: How many there are, in words.
        answers: The first few of each.
    """

    title: str
    answers: tuple[ChangedAnswer, ...]


def changed_answers(points: Sequence[SafetyPoint]) -> list[ChangedKind]:
    """Answers that changed sides, by kind; none as long as there is one measurement only.

    Raises:
        CheckpointError: If a line of an answer file is damaged.
    """
    if len(points) < 2:
        return []
    return [_changed(kind, points[0], points[-1]) for kind in SAFETY_KINDS]


def _changed(kind: str, first: SafetyPoint, last: SafetyPoint) -> ChangedKind:
    before, after = (_answers(point.folder / "safety" / f"{kind}.jsonl") for point in (first, last))
    both = [(before[id], after[id]) for id in before if id in after]
    gone = [pair for pair in both if pair[0]["refused"] and not pair[1]["refused"]]
    new = [pair for pair in both if pair[1]["refused"] and not pair[0]["refused"]]
    shown = [
        ChangedAnswer(str(old["id"]), fate, _shortened(old["answer"]), _shortened(now["answer"]))
        for fate, pairs in (("no longer refused", gone), ("newly refused", new))
        for old, now in pairs[:_SHOWN_ANSWERS]
    ]
    title = f"{kind} prompts: {len(gone)} no longer refused, {len(new)} newly refused, of {len(both)}"
    return ChangedKind(title, tuple(shown))


def _answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers of a file by id; empty if it is not there."""
    if not path.is_file():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
        return {row["id"]: {key: row[key] for key in ("id", "answer", "refused")} for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"This file is damaged: {error}.", where=str(path)) from error


def _shortened(answer: str) -> str:
    text = " ".join(answer.split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 2]} …"
