"""The accuracy matrix R and the numbers of continual learning that are read from it.

``R[i, j]`` is the score on task j after learning task i, ``Z[j]`` the one before any learning, ``c[j]`` that of chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, cast

from evertune.errors import CheckpointError
from evertune.metrics.statistics import mean

Number = float | None
Row = tuple[Number, ...]
Grid = tuple[Row, ...]
Value = TypeVar("Value")


class Scored(Protocol):
    """What a cell of the matrix is made of."""

    @property
    def score(self) -> Number:
        """Score in [0, 1]."""
        ...

    @property
    def count(self) -> int:
        """Rows scored."""
        ...

    @property
    def standard_error(self) -> Number:
        """Standard error of the score."""
        ...

    @property
    def loss(self) -> Number:
        """Mean negative log-likelihood per answer token, in nats."""
        ...


def _changed(row: Sequence[Value], tasks: Sequence[str], values: Mapping[str, Value]) -> tuple[Value, ...]:
    return tuple(values.get(task, old) for task, old in zip(tasks, row, strict=True))


@dataclass(frozen=True)
class EvalMatrix:
    """R with all that belongs to it; None where nothing was measured. Task names are the keys, in stream order.

    Attributes:
        tasks: The T task names.
        metric: Name of the metric of every task.
        zero_shot: Scores of the untouched model, T.
        values: R, T x T, in [0, 1].
        count: Rows scored per task, T.
        standard_error: Of every value, T x T.
        loss: Mean negative log-likelihood per answer token (nats), T x T.
    """

    tasks: tuple[str, ...]
    metric: Mapping[str, str]
    zero_shot: Row
    values: Grid
    count: tuple[int | None, ...]
    standard_error: Grid
    loss: Grid

    @classmethod
    def empty(cls, tasks: Sequence[str], metric: Mapping[str, str]) -> EvalMatrix:
        """A matrix in which nothing is measured yet."""
        row: Row = (None,) * len(tasks)
        grid: Grid = (row,) * len(tasks)
        return cls(tuple(tasks), {task: metric[task] for task in tasks}, row, grid, row, grid, grid)  # type: ignore[arg-type]

    def with_row(self, row: int, cells: Mapping[str, Scored]) -> EvalMatrix:
        """The same matrix with the scores of some tasks after learning task `row` filled in.

        Raises:
            KeyError: If a cell belongs to no task.
            IndexError: If there is no such row.
        """
        self._check(cells)

        def put(grid: Grid, pick: Callable[[Scored], Number]) -> Grid:
            changed = _changed(grid[row], self.tasks, {task: pick(cell) for task, cell in cells.items()})
            return (*grid[:row], changed, *grid[row + 1 :])

        return replace(
            self,
            values=put(self.values, lambda cell: cell.score),
            standard_error=put(self.standard_error, lambda cell: cell.standard_error),
            loss=put(self.loss, lambda cell: cell.loss),
            count=self._counted(cells),
        )

    def with_zero_shot(self, cells: Mapping[str, Scored]) -> EvalMatrix:
        """The same matrix with the scores of the untouched model filled in.

        Raises:
            KeyError: If a cell belongs to no task.
        """
        self._check(cells)
        scores = {task: cell.score for task, cell in cells.items()}
        return replace(self, zero_shot=_changed(self.zero_shot, self.tasks, scores), count=self._counted(cells))

    def _check(self, cells: Mapping[str, Scored]) -> None:
        for task in cells:
            if task not in self.tasks:
                raise KeyError(task)

    def _counted(self, cells: Mapping[str, Scored]) -> tuple[int | None, ...]:
        return _changed(self.count, self.tasks, {task: cell.count for task, cell in cells.items()})

    def to_json(self) -> dict[str, Any]:
        """The content of ``matrix.json``."""
        return {
            "metric": dict(self.metric),
            "tasks": list(self.tasks),
            "zero_shot": list(self.zero_shot),
            "values": [list(row) for row in self.values],
            "count": list(self.count),
            "standard_error": [list(row) for row in self.standard_error],
            "loss": [list(row) for row in self.loss],
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str = "matrix.json") -> EvalMatrix:
        """Reads the content of ``matrix.json``.

        Args:
            value: The parsed JSON.
            where: The file, as named in an error.

        Raises:
            CheckpointError: If a key is missing or foreign, or a shape or a type is wrong.
        """
        return _Reader(where).read(value)


_KEYS = ("metric", "tasks", "zero_shot", "values", "count", "standard_error", "loss")


class _Reader:
    """Checks parsed JSON piece by piece, so that an error names the piece."""

    def __init__(self, where: str) -> None:
        self._where = where

    def _fail(self, what: str) -> CheckpointError:
        return CheckpointError(what, where=self._where, instead="Restore the file, or start again with `--fresh`.")

    def read(self, value: Any) -> EvalMatrix:
        keys = sorted(cast("dict[str, Any]", value)) if isinstance(value, dict) else []
        if keys != sorted(_KEYS):
            raise self._fail(f"This is not an accuracy matrix: it needs the keys {', '.join(_KEYS)} and no others.")
        data = cast("dict[str, Any]", value)
        tasks = tuple(self._list(data["tasks"], "tasks", None))
        if not all(isinstance(task, str) for task in tasks) or len(set(tasks)) != len(tasks):
            raise self._fail("`tasks` must be a list of different names.")
        metric = cast("dict[str, Any]", data["metric"]) if isinstance(data["metric"], dict) else {}
        if set(metric) != set(tasks):
            raise self._fail("`metric` must name the metric of every task and of no other.")
        size = len(tasks)
        return EvalMatrix(
            cast("tuple[str, ...]", tasks),
            {task: str(metric[task]) for task in tasks},
            self._row(data["zero_shot"], "zero_shot", size),
            self._grid(data["values"], "values", size),
            self._counts(data["count"], size),
            self._grid(data["standard_error"], "standard_error", size),
            self._grid(data["loss"], "loss", size),
        )

    def _list(self, value: Any, name: str, size: int | None) -> list[Any]:
        if not isinstance(value, list):
            raise self._fail(f"`{name}` must be a list.")
        items = cast("list[Any]", value)
        if size is not None and len(items) != size:
            raise self._fail(f"`{name}` has {len(items)} entries for {size} tasks.")
        return items

    def _row(self, value: Any, name: str, size: int) -> Row:
        for number in self._list(value, name, size):
            # bool is an int in Python, but no score.
            if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
                raise self._fail(f"`{name}` holds {number!r} where a number or null belongs.")
            if number is not None and not math.isfinite(number):
                raise self._fail(f"`{name}` holds {number!r}, which is not finite.")
        return tuple(value)

    def _grid(self, value: Any, name: str, size: int) -> Grid:
        return tuple(
            self._row(row, f"{name}[{index}]", size) for index, row in enumerate(self._list(value, name, size))
        )

    def _counts(self, value: Any, size: int) -> tuple[int | None, ...]:
        row = self._row(value, "count", size)
        if any(number is not None and (number != int(number) or number < 0) for number in row):
            raise self._fail("`count` must hold numbers of rows.")
        return tuple(None if number is None else int(number) for number in row)


def average_accuracy(matrix: EvalMatrix) -> Number:
    """``mean_j R[T, j]``: a mean over tasks, never over rows."""
    return _mean(_last(matrix))


def average_incremental_accuracy(matrix: EvalMatrix) -> Number:
    """``mean_i mean_{j<=i} R[i, j]``."""
    return _mean([_mean(row[: index + 1]) for index, row in enumerate(matrix.values)])


def worst_task(matrix: EvalMatrix) -> Number:
    """``min_j R[T, j]``."""
    scores = _measured(_last(matrix))
    return min(scores) if scores else None


def learning_accuracy(matrix: EvalMatrix) -> Number:
    """``mean_i R[i, i]``: how well each task was learnt when it was learnt."""
    return _mean([row[index] for index, row in enumerate(matrix.values)])


def backward_transfer(matrix: EvalMatrix) -> Number:
    """``mean_{j<T} (R[T, j] - R[j, j])``; undefined for one task.

    Source: Lopez-Paz & Ranzato (2017), arXiv:1706.08840, with the divisor T - 1.
    """
    return _mean([_minus(last, column[0]) for last, column in _past(matrix)])


def forgetting(matrix: EvalMatrix) -> Number:
    """``mean_{j<T} (max_{j<=i<T} R[i, j] - R[T, j])``; undefined for one task, may be negative.

    Source: Chaudhry et al. (2018), arXiv:1801.10112.
    """
    return _mean([_minus(_top(column[:-1]), last) for last, column in _past(matrix)])


def forward_transfer(matrix: EvalMatrix) -> Number:
    """``mean_{j>1} (R[j-1, j] - Z_j)``; undefined for one task, needs the cell above the diagonal and zero-shot scores.

    Source: Lopez-Paz & Ranzato (2017), arXiv:1706.08840, against the untouched model.
    """
    size = len(matrix.tasks)
    return _mean([_minus(matrix.values[task - 1][task], matrix.zero_shot[task]) for task in range(1, size)])


def subchance_gap(matrix: EvalMatrix, chance: Sequence[Number]) -> Number:
    """``mean_{j<T} max(0, c_j - R[T, j])`` over the tasks that have a chance score; undefined if none has.

    What falls below guessing was not forgotten but answered in another form: a lower bound of illusory forgetting.
    """
    gaps: list[Number] = []
    for guess, (last, _) in zip(chance, _past(matrix), strict=False):
        if guess is not None:
            gaps.append(None if last is None else max(0.0, guess - last))
    return _mean(gaps)


def rebound(matrix: EvalMatrix) -> Number:
    """``mean_{j<T} max_{j<=u<s<=T} max(0, R[s, j] - R[u, j])``: recovery of a task without new data of it.

    Undefined for one task. It grows with the noise of the scores, so read it beside their standard errors.
    """
    rises: list[Number] = []
    for _, column in _past(matrix):
        scores = _measured(column)
        rises.append(_largest_rise(scores) if scores is not None else None)
    return _mean(rises)


def summary_metrics(matrix: EvalMatrix, chance: Sequence[Number]) -> dict[str, Number]:
    """All of the above, by the names of ``summary.json``; None where undefined or where a needed cell is missing.

    Args:
        matrix: The matrix.
        chance: Score of a uniform guess per task; None for free text.

    Raises:
        ValueError: If there are not as many chance scores as tasks.
    """
    if len(chance) != len(matrix.tasks):
        raise ValueError(f"{len(chance)} chance scores for {len(matrix.tasks)} tasks")
    return {
        "average_accuracy": average_accuracy(matrix),
        "average_incremental_accuracy": average_incremental_accuracy(matrix),
        "worst_task": worst_task(matrix),
        "learning_accuracy": learning_accuracy(matrix),
        "backward_transfer": backward_transfer(matrix),
        "forward_transfer": forward_transfer(matrix),
        "forgetting": forgetting(matrix),
        "subchance_gap": subchance_gap(matrix, chance),
        "rebound": rebound(matrix),
    }


def _measured(values: Sequence[Number]) -> list[float] | None:
    """The values if all were measured, else None."""
    numbers = [value for value in values if value is not None]
    return numbers if len(numbers) == len(values) else None


def _mean(values: Sequence[Number]) -> Number:
    numbers = _measured(values)
    return mean(numbers) if numbers else None


def _top(values: Sequence[Number]) -> Number:
    numbers = _measured(values)
    return max(numbers) if numbers else None


def _minus(left: Number, right: Number) -> Number:
    return None if left is None or right is None else left - right


def _last(matrix: EvalMatrix) -> Row:
    return matrix.values[-1] if matrix.values else ()


def _past(matrix: EvalMatrix) -> list[tuple[Number, Row]]:
    """For every task j but the last: its final score, and its scores from row j to the last row."""
    columns = [tuple(row[task] for row in matrix.values[task:]) for task in range(len(matrix.tasks) - 1)]
    return [(column[-1], column) for column in columns]


def _largest_rise(scores: Sequence[float]) -> float:
    lowest, rise = scores[0], 0.0
    for score in scores[1:]:
        rise = max(rise, score - lowest)
        lowest = min(lowest, score)
    return rise
