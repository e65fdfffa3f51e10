"""What the numbers mean, and what they hide: sentences for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evertune.metrics.matrix import EvalMatrix
from evertune.reporting.formats import percent

# Below these a difference is not worth a sentence, in score.
_FLAT = 0.02
_BARELY_LEARNT = 0.10
_NOTABLE = 0.05


@dataclass(frozen=True)
class MetricText:
    """A number of ``summary.json`` in words.

    Attributes:
        key: Its key.
        title: Its name.
        meaning: What it says, in one line.
        better: Which direction is good.
        signed: Whether its sign says something.
        unit: ``%`` of a score, or ``points`` between two.
    """

    key: str
    title: str
    meaning: str
    better: Literal["high", "low"]
    signed: bool = False
    unit: Literal["%", "points"] = "%"


METRIC_TEXTS = (
    MetricText("average_accuracy", "Average accuracy", "mean over tasks after the last", "high"),
    MetricText("learning_accuracy", "Learning accuracy", "mean over tasks when just learnt", "high"),
    MetricText("backward_transfer", "Backward transfer", "change since they were learnt", "high", True, "points"),
    MetricText("forgetting", "Forgetting", "loss from their best score", "low", unit="points"),
    MetricText("worst_task", "Worst task", "lowest score after the last task", "high"),
    MetricText("average_incremental_accuracy", "Average incremental accuracy", "mean over the whole stream", "high"),
    MetricText("forward_transfer", "Forward transfer", "gain on tasks not learnt yet", "high", True, "points"),
    MetricText("subchance_gap", "Below chance", "how far tasks end below guessing", "low", unit="points"),
    MetricText("rebound", "Rebound", "recovery without new data of a task", "low", unit="points"),
)


def hints(matrix: EvalMatrix, summary: Mapping[str, Any], chance: Sequence[float | None]) -> list[str]:
    """Sentences on what the summary alone would hide; empty where nothing needs saying."""
    found = [
        _never_learnt(matrix, summary, chance),
        _below_zero_shot(matrix),
        _most_forgotten(matrix),
        _below_chance(matrix, summary, chance),
        _came_back(summary),
    ]
    return [sentence for sentence in found if sentence]


def _never_learnt(matrix: EvalMatrix, summary: Mapping[str, Any], chance: Sequence[float | None]) -> str:
    backward, learning = summary.get("backward_transfer"), summary.get("learning_accuracy")
    if backward is None or learning is None or backward < -_FLAT:
        return ""
    known = [
        max(value for value in pair if value is not None)
        for pair in zip(matrix.zero_shot, chance, strict=True)
        if pair != (None, None)
    ]
    floor = sum(known) / len(known) if known else 0.0
    if learning - floor >= _BARELY_LEARNT:
        return ""
    return (
        f"A good backward transfer ({percent(backward, signed=True)}) with a poor learning accuracy "
        f"({percent(learning)}) is not a success: what was never learnt cannot be forgotten."
    )


def _below_zero_shot(matrix: EvalMatrix) -> str:
    if not matrix.values:
        return ""
    worse = [
        task
        for task, before, noise in zip(matrix.tasks, matrix.zero_shot, _noise(matrix), strict=True)
        if before is not None and noise is not None and noise[0] < before - max(_FLAT, noise[1])
    ]
    if not worse:
        return ""
    return f"{_listed(worse)} {'ends' if len(worse) == 1 else 'end'} below the score of the untouched model."


def _most_forgotten(matrix: EvalMatrix) -> str:
    drops = [
        (learnt - last, task, learnt, last)
        for place, task in enumerate(matrix.tasks)
        if (learnt := matrix.values[place][place]) is not None and (last := matrix.values[-1][place]) is not None
    ]
    if not drops or max(drops)[0] < _NOTABLE:
        return ""
    _, task, learnt, last = max(drops)
    return f"{task} lost most: {percent(learnt)} when learnt, {percent(last)} at the end."


def _below_chance(matrix: EvalMatrix, summary: Mapping[str, Any], chance: Sequence[float | None]) -> str:
    gap = summary.get("subchance_gap")
    if gap is None or gap < _FLAT:
        return ""
    below = [
        task
        for task, guess, noise in zip(matrix.tasks[:-1], chance, _noise(matrix), strict=False)
        if guess is not None and noise is not None and noise[0] < guess - noise[1]
    ]
    if not below:
        return ""
    return (
        f"{_listed(below)} {'ends' if len(below) == 1 else 'end'} below guessing: answers there take the form of "
        "another task. Score with `evaluation.decoding: label_likelihood` to see what is still known."
    )


def _noise(matrix: EvalMatrix) -> list[tuple[float, float] | None]:
    """Final score of every task with two standard errors of it; None where it was not measured."""
    return [
        None if score is None else (score, 2 * (error or 0.0))
        for score, error in zip(matrix.values[-1], matrix.standard_error[-1], strict=True)
    ]


def _came_back(summary: Mapping[str, Any]) -> str:
    rebound = summary.get("rebound")
    if rebound is None or rebound < _NOTABLE:
        return ""
    return (
        f"Scores came back by {percent(rebound)} points without new data of the task: part of what looks forgotten "
        "was hidden, not lost."
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3} more tasks"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
