"""The table that a sweep ends with, on a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evertune.reporting import formats
from evertune.reporting.sweep_rows import Spread, SweepRow, SweepRun

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table

_BEST = " *"
_FIXED = ("version", "rank", "trainable", "on disk", "time per epoch")


def score_columns(rows: Sequence[SweepRow]) -> list[str]:
    """The scores that any version has, in order."""
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def table_cells(rows: Sequence[SweepRow], *, narrow: bool = False) -> list[list[str]]:
    """The table as text: its head, then a line for each version; the best one's score carries a star.

    Args:
        rows: The lines.
        narrow: Leave out which share of the parameters learns.
    """
    columns = score_columns(rows)
    lines = [[*_FIXED, *map(_percent_head, columns), "peak memory"]]
    for row in rows:
        scores = [_spread(row.scores.get(name)) for name in columns]
        if row.status != "done":
            scores[:1] = [row.status]
        elif row.best:
            scores[0] += _BEST
        lines.append(
            [
                row.version,
                formats.count(row.rank),
                formats.count(row.trainable) if narrow else _trainable(row),
                formats.size(row.disk_bytes),
                _time(row.seconds_per_epoch),
                *scores,
                formats.size(row.peak_memory_bytes),
            ]
        )
    return [[*line, *[""] * (len(lines[0]) - len(line))] for line in lines]


def epoch_cells(runs: Sequence[SweepRun]) -> list[list[str]]:
    """Scores on dev rows after every epoch: a head, then a line for each; the best of a stage carries a star."""
    lines = [(run, score) for run in runs for score in run.epochs]
    metrics = list(dict.fromkeys(name for _, score in lines for name in score.metrics))
    several = len({score.stage for _, score in lines}) > 1
    head = ["run", *(["task"] if several else []), "epoch", "dev score %", *map(_percent_head, metrics), "loss"]
    body = [
        [
            run.name,
            *([score.stage] if several else []),
            f"{score.epoch:g}",
            formats.percent(score.score) + _BEST * score.best,
            *(formats.percent(score.metrics.get(name)) for name in metrics),
            formats.number(score.loss, digits=3),
        ]
        for run, score in lines
    ]
    return [head, *body] if body else []


@dataclass(frozen=True)
class SweepTable:
    """The table for the width there is; the best version is bold.

    Attributes:
        rows: Its lines.
    """

    rows: Sequence[SweepRow]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draws itself; with fewer words where they do not fit."""
        from rich.measure import Measurement

        bold = {row.version for row in self.rows if row.best}
        table = _table(table_cells(self.rows), bold)
        # A width that constrains nothing gives the width that the table would like to have.
        if Measurement.get(console, options.update_width(10_000), table).maximum > options.max_width:
            table = _table(table_cells(self.rows, narrow=True), bold, space=1)
        yield table


def sweep_result(runs: Sequence[SweepRun], rows: Sequence[SweepRow]) -> RenderableType:
    """The table, the scores after every epoch where there are any, and what the signs mean."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [SweepTable(rows)]
    epochs = epoch_cells(runs)
    if epochs:
        parts += [Text(), _table(epochs, set())]
    parts += [Text(f"- {sentence}", style="dim") for sentence in legend(rows)]
    return Group(*parts)


def legend(rows: Sequence[SweepRow]) -> Iterator[str]:
    """What the table does not say itself."""
    if any(row.best for row in rows):
        yield "* the best score. It is a score on test rows: what was chosen by it needs other rows to be reported."
    if any(spread is not None and spread.std is not None for row in rows for spread in row.scores.values()):
        yield "± is the standard deviation over the seeds."


def markdown(title: str, runs: Sequence[SweepRun], rows: Sequence[SweepRow]) -> str:
    """The same as Markdown."""
    parts = [f"# {title}", _markdown_table(table_cells(rows))]
    epochs = epoch_cells(runs)
    if epochs:
        parts += ["## Dev scores while training", _markdown_table(epochs)]
    notes = "\n".join(f"- {sentence.replace('*', chr(92) + '*', 1)}" for sentence in legend(rows))
    return "\n\n".join([*parts, *([notes] if notes else [])]) + "\n"


def to_json(
    config: str, keys: Mapping[str, Sequence[str]], runs: Sequence[SweepRun], rows: Sequence[SweepRow]
) -> dict[str, Any]:
    """Everything, as plain JSON values.

    Args:
        config: The configuration as the user named it.
        keys: Swept keys to their values, as YAML text.
        runs: The runs.
        rows: The lines of the table.
    """
    return {
        "config": config,
        "keys": {key: list(values) for key, values in keys.items()},
        "rows": [row.to_json() for row in rows],
        "runs": [run.to_json() for run in runs],
    }


def _percent_head(metric: str) -> str:
    return f"{metric.replace('_', ' ')} %"


def _table(cells: Sequence[Sequence[str]], bold: set[str], *, space: int = 2) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, space, 0, 0), pad_edge=False, show_edge=False)
    head, *body = cells
    for place, name in enumerate(head):
        longest = max(len(word) for word in name.split())
        justify = "left" if place == 0 else "right"
        table.add_column(name, justify=justify, no_wrap=place == 0, min_width=longest, overflow="fold")
    for line in body:
        table.add_row(*(Text(cell) for cell in line), style="bold" if line[0] in bold else None)
    return table


def _markdown_table(cells: Sequence[Sequence[str]]) -> str:
    head, *body = ([cell.replace("|", r"\|").replace("*", r"\*") for cell in line] for line in cells)
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *body))


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return formats.NOTHING
    deviation = f" ± {formats.percent(spread.std)}" if spread.std is not None else ""
    return f"{formats.percent(spread.mean)}{deviation}"


def _trainable(row: SweepRow) -> str:
    if not row.trainable or not row.total:
        return formats.count(row.trainable)
    return f"{formats.count(row.trainable)} ({100 * row.trainable / row.total:.3g} %)"


def _time(seconds: float | None) -> str:
    """Short epochs, of small models, with the tenths that tell them apart."""
    return f"{seconds:.1f} s" if seconds is not None and seconds < 60 else formats.time(seconds)
