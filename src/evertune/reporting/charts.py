"""Line charts as coordinates; the page's template draws them, so that every text goes through its escaping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.reporting.palette import DASHES, LINES

_FONT = 11.0


@dataclass(frozen=True)
class Dot:
    """A point that can be pointed at: its place, and the text shown then."""

    x: float
    y: float
    title: str
    strong: bool = False


@dataclass(frozen=True)
class Line:
    """One line of a chart, in the units of the data.

    Attributes:
        name: What it shows; becomes its label.
        points: (x, y).
        titles: Text of every point when pointed at; no dots are drawn without.
        errors: Half heights of a band around it; no band without.
        spans: Lowest and highest y of such a band, where it is not as high below as above.
        hue: Index of its colour in the palette.
        faint: Drawn thin and pale, without a label.
        strong: x values of dots that stand out.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    titles: tuple[str, ...] = ()
    errors: tuple[float, ...] = ()
    spans: tuple[tuple[float, float], ...] = ()
    hue: int = 0
    faint: bool = False
    strong: tuple[float, ...] = ()


@dataclass(frozen=True)
class DrawnLine:
    """A line in pixels: its path, its band, its dots and its label."""

    name: str
    path: str
    band: str
    dots: tuple[Dot, ...]
    hue: int
    dash: str
    faint: bool
    label_y: float | None
    end: tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """A chart in pixels.

    Attributes:
        width: Of the whole, in pixels.
        height: Of the whole, in pixels.
        left: Where the plotting area begins.
        right: Where it ends.
        top: Where it begins.
        bottom: Where it ends.
        x_ticks: (x, text).
        y_ticks: (y, text).
        x_label: What x is.
        lines: The lines.
        rule: x of a vertical mark, None for none.
        title: What the chart shows, for those who cannot see it.
    """

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_label: str
    lines: tuple[DrawnLine, ...]
    rule: float | None
    title: str


def line_chart(
    lines: Sequence[Line],
    *,
    title: str,
    width: float,
    height: float,
    x_range: tuple[float, float],
    x_ticks: Sequence[tuple[float, str]],
    x_label: str = "",
    y_range: tuple[float, float] | None = None,
    label_width: float = 0.0,
    rule: float | None = None,
) -> Chart:
    """Places lines in a chart.

    Args:
        lines: The lines; those without points are left out.
        title: What the chart shows.
        width: In pixels.
        height: In pixels.
        x_range: First and last x.
        x_ticks: (x, text) of the marks below.
        x_label: What x is.
        y_range: Lowest and highest y; from zero to a little over the highest point by default.
        label_width: Pixels kept free at the right for the names of the lines; 0 for no names.
        rule: x of a vertical mark.
    """
    drawn = [line for line in lines if line.points]
    low, high = y_range or (0.0, 1.05 * max((y for line in drawn for _, y in line.points), default=1.0) or 1.0)
    left, right, top, bottom = 34.0, width - 8 - label_width, 8.0, height - (36 if x_label else 22)

    def x_of(x: float) -> float:
        return left + (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1) * (right - left)

    def y_of(y: float) -> float:
        return bottom - (min(high, max(low, y)) - low) / (high - low) * (bottom - top)

    ends = [y_of(line.points[-1][1]) for line in drawn if not line.faint]
    label_ys = iter(spread(ends, gap=_FONT + 2, low=top, high=bottom))
    placed = []
    for line in drawn:
        pixels = [(round(x_of(x), 1), round(y_of(y), 1)) for x, y in line.points]
        label_y = None if line.faint else next(label_ys)
        placed.append(_placed(line, pixels, _band(line, x_of, y_of), label_y if label_width else None))
    return Chart(
        width,
        height,
        left,
        right,
        top,
        bottom,
        tuple((x_of(x), text) for x, text in x_ticks),
        tuple((y_of(y), text) for y, text in _y_ticks(low, high)),
        x_label,
        tuple(placed),
        None if rule is None else x_of(rule),
        title,
    )


def _placed(line: Line, pixels: list[tuple[float, float]], band: str, label_y: float | None) -> DrawnLine:
    dots = tuple(
        Dot(*pixel, title, point[0] in line.strong)
        for pixel, point, title in zip(pixels, line.points, line.titles, strict=False)
    )
    # Only where lines share a chart must two of the same hue be told apart.
    dash = DASHES[line.hue // len(LINES) % len(DASHES)] if label_y is not None else ""
    hue = line.hue % len(LINES)
    return DrawnLine(line.name, _path(pixels), band, dots, hue, dash, line.faint, label_y, pixels[-1])


def _path(pixels: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g},{y:g}" for x, y in pixels)


def _band(line: Line, x_of: Callable[[float], float], y_of: Callable[[float], float]) -> str:
    spans = line.spans or [(y - error, y + error) for (_, y), error in zip(line.points, line.errors, strict=False)]
    if not spans:
        return ""
    upper = [(x_of(x), y_of(high)) for (x, _), (_, high) in zip(line.points, spans, strict=True)]
    lower = [(x_of(x), y_of(low)) for (x, _), (low, _) in zip(line.points, spans, strict=True)]
    return _path([(round(x, 1), round(y, 1)) for x, y in [*upper, *reversed(lower)]]) + "Z"


def _y_ticks(low: float, high: float) -> list[tuple[float, str]]:
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [(float(tick), f"{tick:g}") for tick in ticks if low - 1e-9 <= tick <= high + 1e-9]


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Moves places apart until neighbours are `gap` from each other, each as near as may be to where it wants to be.

    Args:
        wanted: Places, in any order.
        gap: Least distance; smaller where there is not enough room for all.
        low: Nothing is placed below.
        high: Nothing is placed above.

    Returns:
        The places, in the order of `wanted`.
    """
    if not wanted:
        return []
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    # Groups of touching labels, each at the mean of what its members want (pool adjacent violators).
    groups: list[tuple[float, int]] = []
    for place, index in enumerate(order):
        groups.append((wanted[index] - place * gap, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (mean, size), (other, more) = groups.pop(), groups.pop()
            groups.append(((mean * size + other * more) / (size + more), size + more))
    starts = [mean for mean, size in groups for _ in range(size)]
    result = [0.0] * len(wanted)
    for place, index in enumerate(order):
        start = min(max(starts[place], low), high - (len(wanted) - 1) * gap)
        result[index] = start + place * gap
    return result
