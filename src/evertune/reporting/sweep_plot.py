"""``sweep.png``: the score against the swept value."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evertune.files import atomic_path
from evertune.reporting.palette import LINES
from evertune.reporting.sweep_rows import SweepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TEXT, _SOFT, _GRID = "#1b1f24", "#5b6570", "#e3e7ec"


def write_sweep_plot(path: Path, rows: Sequence[SweepRow], keys: Sequence[str], base: str) -> bool:
    """Draws the first score of every version: a line over one key of single runs, points otherwise.

    Args:
        path: The file.
        rows: The lines of the table.
        keys: The swept keys.
        base: Name of the version that is drawn as a level for the others to reach.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row.version != base and any(row.scores.values())]
    if not shown:
        return False
    # A figure of its own, outside pyplot: no global state, no window, nothing to close.
    figure = Figure(figsize=(max(6.0, 0.7 * len(shown) + 2.0), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    name = next(iter(shown[0].scores))
    _draw(axes, shown, name, line=len(keys) == 1 and all(len(row.runs) == 1 for row in shown))
    level = next((row.scores.get(name) for row in rows if row.version == base), None)
    if level is not None:
        axes.axhline(100 * level.mean, color=_SOFT, linewidth=1.2, linestyle=(0, (4, 2)), label=base)
        axes.legend(frameon=False, labelcolor=_TEXT)
    _dress(axes, ", ".join(keys), f"{name} (%)")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return True


def _draw(axes: Axes, rows: Sequence[SweepRow], name: str, *, line: bool) -> None:
    for place, row in enumerate(rows):
        scores = [run.scores.get(name) for run in row.runs]
        points = [100 * score for score in scores if score is not None]
        axes.plot([place] * len(points), points, "o", color=LINES[0], alpha=0.45 if len(points) > 1 else 1.0)
    means = [(place, spread) for place, row in enumerate(rows) if (spread := row.scores.get(name)) is not None]
    places, heights = [place for place, _ in means], [100 * spread.mean for _, spread in means]
    if line:
        axes.plot(places, heights, "-", color=LINES[0], linewidth=2.0)
    elif any(spread.std is not None for _, spread in means):
        errors = [100 * (spread.std or 0.0) for _, spread in means]
        axes.errorbar(places, heights, yerr=errors, fmt="_", color=LINES[1], capsize=4, markersize=14)
    labels = [", ".join(row.runs[0].values.values()) or row.version for row in rows]
    axes.set_xticks(range(len(rows)), labels, rotation=30 if len(rows) > 5 or max(map(len, labels)) > 12 else 0)


def _dress(axes: Axes, x_label: str, y_label: str) -> None:
    axes.set_xlabel(x_label, color=_SOFT, fontsize=10)
    axes.set_ylabel(y_label, color=_SOFT, fontsize=10)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelsize=9, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
