"""One cell of the accuracy matrix with everything it is made of, and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import CheckpointError
from evertune.files import read_json, sha256, write_json, write_json_lines
from evertune.metrics.statistics import mean
from evertune.streams.task import Task


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered to one row.

    Attributes:
        id: The row's id.
        prediction: The answer, without prompt and special tokens.
        reference: The right answer.
        correct: Whether it is right, under a metric that says so; None under others.
        score: Score of the row under a graded metric; None under others.
    """

    id: str
    prediction: str
    reference: str
    correct: bool | None = None
    score: float | None = None

    @property
    def value(self) -> float:
        """Score of the row in [0, 1], whichever way it is kept."""
        return float(self.correct) if self.correct is not None else float(self.score or 0.0)

    def to_json(self) -> dict[str, Any]:
        """A line of ``predictions/<task>.jsonl``."""
        row = {"id": self.id, "prediction": self.prediction, "reference": self.reference}
        return {**row, "correct": self.correct} if self.correct is not None else {**row, "score": self.score}


@dataclass(frozen=True)
class Cell:
    """The score of one task at one moment.

    Attributes:
        task: Name of the task.
        metric: Name of the metric behind `score`.
        score: In [0, 1]; None without rows.
        count: Rows scored.
        standard_error: Of the score; None where undefined.
        loss: Mean negative log-likelihood per answer token, in nats; None without rows, or if it is not finite.
        metrics: Other metrics of the same predictions, by name.
        predictions: One a row, in the order of the rows.
        seconds: Time it took.
        generated_tokens: Mean number of tokens of an answer, without special tokens.
    """

    task: str
    metric: str
    score: float | None
    count: int
    standard_error: float | None
    loss: float | None
    metrics: Mapping[str, float]
    predictions: tuple[Prediction, ...]
    seconds: float
    generated_tokens: float | None = None

    def to_scores_json(self) -> dict[str, Any]:
        """The task's entry under ``scores`` in a ``metrics.json``."""
        return {
            "metric": self.metric,
            "score": self.score,
            "count": self.count,
            "standard_error": self.standard_error,
            "loss": self.loss,
            "generated_tokens": self.generated_tokens,
            "metrics": dict(self.metrics),
        }


def write_predictions(path: Path, cell: Cell) -> None:
    """Writes ``predictions/<task>.jsonl``, atomically."""
    write_json_lines(path, [prediction.to_json() for prediction in cell.predictions])


def read_predictions(path: Path) -> tuple[Prediction, ...]:
    """Reads ``predictions/<task>.jsonl``.

    Raises:
        CheckpointError: If it is missing or a line is damaged.
    """
    try:
        # Not splitlines(): answers may hold other line separators, which JSON leaves as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
        return tuple(_prediction(json.loads(line)) for line in lines if line)
    except FileNotFoundError as error:
        raise CheckpointError("This file is missing.", where=str(path)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"This file is damaged: {error}.",
            where=str(path),
            instead="Score the stage again with `evertune evaluate`.",
        ) from error


def _prediction(row: Mapping[str, Any]) -> Prediction:
    return Prediction(row["id"], row["prediction"], row["reference"], row.get("correct"), row.get("score"))


def _cell_file(folder: Path, task: str) -> Path:
    return folder / "cells" / f"{task}.json"


def write_cell(folder: Path, cell: Cell) -> None:
    """Keeps a finished cell: ``predictions/<task>.jsonl``, then ``cells/<task>.json`` which makes it count.

    Args:
        folder: A stage's folder, or ``zero_shot``.
        cell: The cell.
    """
    predictions = folder / "predictions" / f"{cell.task}.jsonl"
    write_predictions(predictions, cell)
    entry = {**cell.to_scores_json(), "seconds": cell.seconds, "predictions_sha256": sha256(predictions)}
    write_json(_cell_file(folder, cell.task), entry)


def read_cell(folder: Path, task: str) -> Cell | None:
    """A cell that `write_cell` finished, exactly; None if there is none or its files do not belong together.

    Args:
        folder: A stage's folder, or ``zero_shot``.
        task: Name of the task.

    Raises:
        CheckpointError: If a file is there but is not what we write.
    """
    predictions = folder / "predictions" / f"{task}.jsonl"
    file = _cell_file(folder, task)
    if not file.is_file() or not predictions.is_file():
        return None
    entry = read_json(file)
    try:
        # A kill between the two writes of a later evaluation leaves new predictions beside old scores.
        if entry.pop("predictions_sha256") != sha256(predictions):
            return None
        return Cell(task=task, predictions=read_predictions(predictions), **entry)
    except (AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"This file is damaged: {error}.", where=str(file), instead="Delete it: the task is then scored again."
        ) from error


def row_summary(cells: Mapping[str, Cell], tasks: Sequence[Task]) -> dict[str, Any]:
    """What one row of the matrix comes to: the content of ``zero_shot/metrics.json``, and of a stage's in part.

    Args:
        cells: Cells by task name.
        tasks: The tasks, for their order and groups; those without a cell are left out.

    Returns:
        ``scores``, ``task_mean`` (every task counts the same), ``row_weighted_mean`` (every row does), ``groups`` (both
        means and the rows of every named group) and ``evaluation_seconds``.
    """
    scored = [(task, cells[task.name]) for task in tasks if task.name in cells]
    by_group: dict[str, list[Cell]] = {}
    for task, cell in scored:
        if task.group:
            by_group.setdefault(task.group, []).append(cell)
    row = [cell for _, cell in scored]
    return {
        "scores": {cell.task: cell.to_scores_json() for cell in row},
        "task_mean": _task_mean(row),
        "row_weighted_mean": _row_weighted_mean(row),
        "groups": {
            group: {
                "score": _task_mean(members),
                "row_weighted_mean": _row_weighted_mean(members),
                "count": sum(cell.count for cell in members),
            }
            for group, members in by_group.items()
        },
        "evaluation_seconds": sum(cell.seconds for cell in row),
    }


def _task_mean(cells: Sequence[Cell]) -> float | None:
    return mean([cell.score for cell in cells if cell.score is not None])


def _row_weighted_mean(cells: Sequence[Cell]) -> float | None:
    scored = [(cell.score, cell.count) for cell in cells if cell.score is not None]
    total = sum(count for _, count in scored)
    return sum(score * count for score, count in scored) / total if total else None
