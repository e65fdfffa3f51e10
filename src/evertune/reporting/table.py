"""The result on a terminal: the accuracy matrix, the numbers read from it together, and what they hide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evertune.metrics.matrix import EvalMatrix, Row
from evertune.reporting import formats
from evertune.reporting.explain import METRIC_TEXTS, hints

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table
    from rich.text import Text

    from evertune.reporting.load import Run

# With more tasks than this, column heads are numbers, so that the table fits on a terminal.
_MOST_NAMED_COLUMNS = 6
# Differences of fewer standard errors than this are not coloured.
_NOTABLE_ERRORS = 2.0


@dataclass(frozen=True)
class MatrixTable:
    """The accuracy matrix as a table: after which task (rows), on which task (columns), in percent.

    The cell of the task that was just learnt is bold; later scores of it are red or green where they differ from it by
    more than two standard errors. On a narrow terminal the digit after the point is left out.

    Attributes:
        matrix: The matrix.
    """

    matrix: EvalMatrix

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws itself for the width there is."""
        from rich.measure import Measurement
        from rich.text import Text

        if not any(map(_measured, (self.matrix.zero_shot, *self.matrix.values))):
            yield Text("Nothing is scored yet.")
            return
        yield Text("Scores in %, after each task (rows) on each task (columns)", style="bold")
        table = _matrix_table(self.matrix, 1)
        # A width that constrains nothing gives the width that the table would like to have.
        if Measurement.get(console, options.update_width(10_000), table).maximum > options.max_width:
            table = _matrix_table(self.matrix, 0)
        yield table


def _measured(row: Row) -> bool:
    return any(score is not None for score in row)


def _row_names(matrix: EvalMatrix, *, numbered: bool) -> list[str]:
    """What was learnt last before each row."""
    if len(matrix.tasks) > 1 and not any(map(_measured, matrix.values[:-1])):
        # Only learning them all at once leaves every row but the last empty.
        return [*matrix.tasks[:-1], "all tasks"]
    return [f"{place} {task}" if numbered else task for place, task in enumerate(matrix.tasks, 1)]


def _matrix_table(matrix: EvalMatrix, digits: int) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    numbered = len(matrix.tasks) > _MOST_NAMED_COLUMNS
    table.add_column("after", no_wrap=True)
    for place, task in enumerate(matrix.tasks, 1):
        table.add_column(str(place) if numbered else task, justify="right", no_wrap=True)
    if _measured(matrix.zero_shot):
        scores = [formats.percent(score, digits=digits) for score in matrix.zero_shot]
        table.add_row("zero-shot", *(Text(score, style="dim") for score in scores))
    names = _row_names(matrix, numbered=numbered)
    for place, (name, row) in enumerate(zip(names, matrix.values, strict=True)):
        if _measured(row):
            table.add_row(Text(name), *(_cell(matrix, place, column, digits) for column in range(len(row))))
    table.add_section()
    counts = ["" if number is None else formats.count(number) for number in matrix.count]
    table.add_row("rows", *counts, style="dim")
    return table


def _cell(matrix: EvalMatrix, row: int, column: int, digits: int) -> Text:
    from rich.text import Text

    score = matrix.values[row][column]
    if score is None:
        return Text("·", style="dim")
    return Text(formats.percent(score, digits=digits), style=_style(matrix, row, column))


def _style(matrix: EvalMatrix, row: int, column: int) -> str:
    if row == column:
        return "bold"
    if row < column:
        return "dim"
    score, learnt = matrix.values[row][column], matrix.values[column][column]
    errors = matrix.standard_error[row][column], matrix.standard_error[column][column]
    if score is None or learnt is None or None in errors:
        return ""
    noise = _NOTABLE_ERRORS * sum(error**2 for error in errors if error is not None) ** 0.5
    if abs(score - learnt) <= noise:
        return ""
    return "red" if score < learnt else "green"


def summary_table(summary: Mapping[str, Any]) -> Table:
    """The numbers of ``summary.json`` side by side, each with what it means; undefined ones are left out."""
    from rich.table import Table

    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    for text in METRIC_TEXTS:
        value = summary.get(text.key)
        if value is not None:
            table.add_row(text.title, formats.percent(value, signed=text.signed), text.meaning)
    for title, value, meaning in _costs(summary):
        table.add_row(title, value, meaning)
    return table


def _costs(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    parameters = summary.get("parameters") or {}
    lines = [
        ("Time", formats.time, summary.get("seconds"), "training and evaluation"),
        ("Peak memory", formats.size, summary.get("peak_memory_bytes"), ""),
        ("Trained parameters", formats.count, parameters.get("trainable"), _of_all(parameters)),
        ("Tokens", formats.count, summary.get("tokens"), "seen in training"),
    ]
    return [(title, show(value), meaning) for title, show, value, meaning in lines if value is not None]


def _of_all(parameters: Mapping[str, Any]) -> str:
    trainable, total = parameters.get("trainable"), parameters.get("total")
    return f"{100 * trainable / total:.2f} % of {formats.count(total)}" if trainable and total else ""


def result(matrix: EvalMatrix, summary: Mapping[str, Any], chance: Sequence[float | None]) -> RenderableType:
    """Everything that a run ends with: the matrix, the summary, and a line for each thing that they hide."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [MatrixTable(matrix)]
    table = summary_table(summary)
    if table.row_count:
        parts += [Text(), table]
    parts += [Text(f"- {sentence}") for sentence in hints(matrix, summary, chance)]
    return Group(*parts)


def run_result(run: Run) -> RenderableType:
    """`result` of a run folder."""
    return result(run.matrix, run.summary, run.chance)


def row_table(scores: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row of the matrix, as ``scores`` of a ``metrics.json`` holds it: a task a line, with its standard error.

    Args:
        scores: Task name to ``{"metric", "score", "count", "standard_error", "loss", ...}``.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("task", no_wrap=True)
    for head in ("score %", "± SE", "rows", "loss"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("metric", style="dim")
    for task, entry in scores.items():
        table.add_row(
            Text(task),
            formats.percent(entry["score"]),
            formats.percent(entry["standard_error"]),
            formats.count(entry["count"]),
            formats.number(entry["loss"], digits=3),
            entry["metric"],
        )
    return table
