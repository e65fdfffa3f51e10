"""PNG files of a run: training loss of every stage, evaluation loss of every task, the matrix, and what else it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.files import atomic_path
from evertune.reporting.charts import spread
from evertune.reporting.curves import LEAST_FREE
from evertune.reporting.formats import percent
from evertune.reporting.load import Run, load_run
from evertune.reporting.palette import LINES, heat, text_on
from evertune.reporting.protected import ProtectedStage, protected_shares, protected_stages
from evertune.reporting.safety import SAFETY_KINDS, SafetyPoint, odds_points, odds_range, safety_points
from evertune.reporting.series import TrainingSeries, learnt_position, loss_points, row_names, training_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_TEXT, _SOFT, _GRID = "#1b1f24", "#5b6570", "#e3e7ec"
_LABEL_POINTS = 9.0


def write_plots(run_dir: Path, *, redraw: bool = True) -> list[Path]:
    """Draws what there is to draw into ``plots/``; the same run gives the same bytes.

    Args:
        run_dir: The run folder.
        redraw: Whether training losses of complete stages are drawn again where their files exist; without it the time
            that a stage adds does not grow with the number of stages.

    Returns:
        The files written.

    Raises:
        CheckpointError: If it is not a run folder, or a file in it is damaged.
    """
    run, folder = load_run(run_dir), Path(run_dir) / "plots"
    written = []
    last = len(run.finished_stages) - 1
    for series in training_series(run):
        path = folder / f"train_loss_{series.name}.png"
        if redraw or series.stage >= last or not path.exists():
            written.append(_save(_training_figure(series), path))
    if any(loss is not None for row in run.matrix.loss for loss in row):
        written.append(_save(_evaluation_loss_figure(run), folder / "evaluation_loss.png"))
    if any(score is not None for row in (run.matrix.zero_shot, *run.matrix.values) for score in row):
        written.append(_save(_matrix_figure(run), folder / "matrix.png"))
    if stages := protected_stages(run):
        written.append(_save(_protected_figure(run, stages), folder / "protected_space.png"))
    if points := safety_points(run):
        written.append(_save(_safety_figure(run, points), folder / "safety.png"))
    return written


def _save(figure: Figure, path: Path) -> Path:
    with atomic_path(path) as temporary:
        # Without the software's name the bytes do not change with its version number alone.
        figure.savefig(temporary, format="png", dpi=150, facecolor="white", metadata={"Software": None})
    return path


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure with one drawing."""
    figure = _canvas(width, height)
    return figure, figure.add_subplot()


def _canvas(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot: no global state, no window, nothing to close."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=_TEXT, pad=10)
    axes.set_xlabel(x_label, color=_SOFT, fontsize=10)
    axes.set_ylabel(y_label, color=_SOFT, fontsize=10)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_SOFT, labelsize=_LABEL_POINTS, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_SOFT)


def _training_figure(series: TrainingSeries) -> Figure:
    figure, axes = _figure(7.0, 3.8)
    colour = LINES[series.stage % len(LINES)]
    axes.plot(*zip(*series.loss, strict=True), color=colour, linewidth=0.9, alpha=0.35)
    axes.plot(*zip(*series.smooth, strict=True), color=colour, linewidth=2.0, label="training, smoothed")
    if series.dev:
        axes.plot(*zip(*series.dev, strict=True), "o-", color=LINES[-1], markersize=4, linewidth=1.2, label="dev")
    best = [point for point in series.dev if point[0] == series.best]
    if best:
        axes.plot(*best[0], "o", color=LINES[-1], markersize=9, markerfacecolor="white", label="dev, best score")
    _dress(axes, f"Training loss: {series.name}", "optimiser step", "mean loss of what is scored")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    if series.dev:
        axes.legend(frameon=False, fontsize=_LABEL_POINTS, labelcolor=_TEXT)
    return figure


def _evaluation_loss_figure(run: Run) -> Figure:
    figure, axes = _figure(8.5, max(4.2, 0.24 * len(run.tasks) + 2.0))
    ends: list[tuple[float, float, str, str]] = []
    for place, task in enumerate(run.tasks):
        points = loss_points(run, task)
        if points:
            xs, ys = [point.position for point in points], [point.value for point in points]
            colour = LINES[place % len(LINES)]
            style = "-" if place < len(LINES) else (0, (4, 2))
            axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=4)
            ends.append((xs[-1], ys[-1], task, colour))
    _dress(axes, "Evaluation loss after each stage", "", "mean loss of what is scored")
    axes.set_ylim(bottom=0)
    _dress_stages(axes, run, ends)
    return figure


def _dress_stages(axes: Axes, run: Run, ends: list[tuple[float, float, str, str]]) -> None:
    """The stages below, and names at the ends of the lines."""
    names = row_names(run)
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(names) > 6 else {}
    axes.set_xticks(range(1, len(names) + 1), names, **turned)
    axes.set_xlim(0.8, len(names) + 0.2)
    _label_ends(axes, ends, len(names) + 0.2)


def _protected_figure(run: Run, stages: list[ProtectedStage]) -> Figure:
    shares = protected_shares(stages)
    figure, axes = _figure(8.5, max(4.2, 0.24 * (len(shares) + 1) + 2.0))
    ends: list[tuple[float, float, str, str]] = []
    for place, (kind, points) in enumerate(shares.items()):
        xs, ys = [point.position for point in points], [100 * point.middle for point in points]
        low, high = [100 * point.low for point in points], [100 * point.high for point in points]
        colour = LINES[place % len(LINES)]
        style = "-" if place < len(LINES) else (0, (4, 2))
        axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(xs, ys, color=colour, linestyle=style, linewidth=1.8, marker="o", markersize=4)
        ends.append((xs[-1], ys[-1], kind, colour))
    xs, ys = [stage.position for stage in stages], [100 * stage.fullest.free for stage in stages]
    axes.plot(xs, ys, color=_SOFT, linestyle=(0, (4, 2)), linewidth=1.6, marker="o", markersize=3)
    ends.append((xs[-1], ys[-1], LEAST_FREE, _SOFT))
    fullest = f"fullest: {stages[-1].fullest.text}"
    _dress(axes, "Input directions protected after each stage", fullest, "%, median and range over layers")
    axes.set_ylim(0, 100)
    _dress_stages(axes, run, ends)
    return figure


def _safety_figure(run: Run, points: list[SafetyPoint]) -> Figure:
    """Rates at the left, log-odds at the right."""
    figure = _canvas(11.0, 4.4)
    rates, odds = figure.subplots(1, 2)
    for kind, colour in zip(SAFETY_KINDS, LINES, strict=False):
        found = [(point.position, point.kinds[kind]) for point in points]
        low, high = zip(*[of.interval for _, of in found], strict=True)
        _band(rates, kind, colour, [x for x, _ in found], *_in_percent([of.rate for _, of in found], low, high))
        leaning = odds_points(points, kind)
        means, errors = [mean for _, mean, _ in leaning], [2 * error for _, _, error in leaning]
        ends = [[mean + sign * error for mean, error in zip(means, errors, strict=True)] for sign in (-1, 1)]
        _band(odds, kind, colour, [point.position for point, _, _ in leaning], means, *ends)
    _dress(rates, "Prompts refused", "", "%, with 95 % interval")
    _dress(odds, "Refusal log-odds", "", "nats, with two standard errors")
    rates.set_ylim(0, 100)
    odds.set_ylim(*odds_range(points))
    odds.axhline(0, color=_SOFT, linewidth=0.8, linestyle=(0, (2, 3)))
    for axes in (rates, odds):
        _dress_measurements(axes, run, points)
    # Above the drawing: inside it might hide a line.
    beside = {"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2}
    rates.legend(frameon=False, fontsize=_LABEL_POINTS, labelcolor=_TEXT, **beside)
    return figure


def _in_percent(*series: Sequence[float]) -> list[list[float]]:
    return [[100 * value for value in values] for values in series]


def _band(
    axes: Axes,
    name: str,
    colour: str,
    xs: Sequence[int],
    ys: Sequence[float],
    low: Sequence[float],
    high: Sequence[float],
) -> None:
    axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(xs, ys, color=colour, linewidth=1.8, marker="o", markersize=4, label=name)


def _dress_measurements(axes: Axes, run: Run, points: list[SafetyPoint]) -> None:
    names = {0: "no training", **dict(enumerate(row_names(run), 1))}
    first = points[0].position
    shown = {place: name for place, name in names.items() if place >= first}
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if len(shown) > 3 else {}
    axes.set_xticks(list(shown), list(shown.values()), **turned)
    axes.set_xlim(first - 0.2, len(run.tasks) + 0.2)


def _label_ends(axes: Axes, ends: list[tuple[float, float, str, str]], edge: float) -> None:
    """Names at the right of the lines, moved apart where lines end close to each other."""
    low, high = axes.get_ylim()
    # The figure is laid out when it is saved; a point and a half of line height in a slightly smaller box is enough.
    inches = axes.get_figure().get_size_inches()[1] * 0.72  # type: ignore[union-attr]
    gap = (high - low) * (_LABEL_POINTS * 1.3 / 72) / inches
    places = spread([y for _, y, _, _ in ends], gap=gap, low=low, high=high)
    for (x, y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(edge + 0.03 * edge, place),
            textcoords="data",
            va="center",
            fontsize=_LABEL_POINTS,
            color=_TEXT,
            annotation_clip=False,
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "linewidth": 0.8,
                "alpha": 0.6,
                "relpos": (0, 0.5),
                "shrinkA": 2,
                "shrinkB": 3,
            },
        )


def _matrix_figure(run: Run) -> Figure:
    from matplotlib.patches import Rectangle

    rows = _matrix_rows(run)
    columns = len(run.tasks)
    figure, axes = _figure(2.2 + 0.62 * columns, 1.6 + 0.42 * len(rows))
    for down, (name, scores) in enumerate(rows):
        for across, score in enumerate(scores):
            colour = _GRID if score is None else heat(score)
            axes.add_patch(Rectangle((across - 0.48, down - 0.47), 0.96, 0.94, facecolor=colour, edgecolor="none"))
            if score is not None:
                learnt = _learnt_here(run, run.tasks[across], name)
                axes.text(across, down, percent(score), **_cell_text(colour, learnt))
    _dress_matrix(axes, run, [name for name, _ in rows])
    return figure


def _matrix_rows(run: Run) -> list[tuple[str, tuple[float | None, ...]]]:
    named = [("no training", run.matrix.zero_shot), *zip(row_names(run), run.matrix.values, strict=True)]
    return [(name, scores) for name, scores in named if any(score is not None for score in scores)]


def _learnt_here(run: Run, task: str, row_name: str) -> bool:
    position = learnt_position(run, task)
    return position is not None and row_names(run)[position - 1] == row_name


def _cell_text(background: str, learnt: bool) -> dict[str, Any]:
    weight = "bold" if learnt else "normal"
    return {"ha": "center", "va": "center", "fontsize": 9.5, "color": text_on(background), "fontweight": weight}


def _dress_matrix(axes: Axes, run: Run, names: list[str]) -> None:
    columns = len(run.tasks)
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(len(names) - 0.5, -0.5)
    turned = {"rotation": 45, "ha": "left", "rotation_mode": "anchor"} if columns > 6 else {}
    axes.set_xticks(range(columns), run.tasks, **turned)
    axes.set_yticks(range(len(names)), names)
    axes.xaxis.tick_top()
    axes.tick_params(colors=_TEXT, labelsize=10, length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(
        "Score in %, after each stage (rows)", loc="left", fontsize=12, fontweight="bold", color=_TEXT, pad=10
    )
