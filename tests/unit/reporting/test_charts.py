from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.reporting import formats
from evertune.reporting.charts import Line, line_chart, spread
from evertune.reporting.palette import LINES, LINES_DARK, contrast, heat, luminance, text_on
from evertune.reporting.series import smoothed, thinned


@settings(deadline=None)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=20), st.floats(1, 30))
def test_labels_never_overlap_and_stay_inside(wanted: list[float], gap: float) -> None:
    places = spread(wanted, gap=gap, low=0.0, high=100.0)
    room = min(gap, 100.0 / max(1, len(wanted) - 1))
    ordered = sorted(places)
    assert all(after - before >= room - 1e-6 for before, after in itertools.pairwise(ordered))
    assert ordered[0] >= -1e-6
    assert ordered[-1] <= 100 + 1e-6
    # The order of the lines is the order of their labels.
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert [places[index] for index in order] == ordered


def test_labels_with_room_stay_where_they_want_to_be() -> None:
    assert spread([10.0, 80.0, 40.0], gap=10.0, low=0.0, high=100.0) == [10.0, 80.0, 40.0]
    assert spread([50.0, 52.0], gap=10.0, low=0.0, high=100.0) == [46.0, 56.0]
    assert spread([], gap=1.0, low=0.0, high=1.0) == []


def test_points_land_where_the_axes_say() -> None:
    chart = line_chart(
        [Line("a", ((0.0, 0.0), (10.0, 100.0)), titles=("first", "second"), errors=(0.0, 10.0), strong=(10.0,))],
        title="t",
        width=200,
        height=100,
        x_range=(0.0, 10.0),
        x_ticks=[(5.0, "5")],
        y_range=(0.0, 100.0),
        rule=10.0,
    )
    first, second = chart.lines[0].dots
    assert (first.x, first.y, first.title, first.strong) == (chart.left, chart.bottom, "first", False)
    assert (second.x, second.y, second.title, second.strong) == (chart.right, chart.top, "second", True)
    assert chart.x_ticks == (((chart.left + chart.right) / 2, "5"),)
    assert chart.rule == chart.right
    assert {text: y for y, text in chart.y_ticks}["100"] == chart.top
    assert chart.lines[0].band.endswith("Z")


@pytest.mark.parametrize("points", [(), ((1.0, 0.0),), ((1.0, 0.0), (2.0, 0.0))])
def test_charts_of_nothing_and_of_zeros(points: tuple[tuple[float, float], ...]) -> None:
    chart = line_chart([Line("a", points)], title="", width=100, height=80, x_range=(1.0, 1.0), x_ticks=[])
    assert len(chart.lines) == (1 if points else 0)
    assert "nan" not in repr(chart)


def test_text_on_heat_is_always_readable() -> None:
    colours = [heat(step / 1000) for step in range(1001)]
    assert min(contrast(text_on(colour), colour) for colour in colours) >= 4.5
    lightness = [luminance(colour) for colour in colours]
    assert all(after <= before + 0.005 for before, after in itertools.pairwise(lightness))
    assert lightness[0] - lightness[-1] > 0.8
    assert heat(-1) == heat(0)
    assert heat(2) == heat(1)


def test_contrast_of_known_pairs() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_lines_can_be_seen_on_their_page() -> None:
    # 3 is what WCAG asks of graphics; orange and sky blue are the two of the set that fall short on white, which is why
    # every line also has its name at its end.
    assert sorted(colour for colour in LINES if contrast(colour, "#ffffff") < 3) == ["#56B4E9", "#E69F00"]
    assert all(contrast(colour, "#181c22") >= 3 for colour in LINES_DARK)
    assert len(set(LINES)) == len(LINES) == len(LINES_DARK)


def test_smoothing_and_thinning_keep_means() -> None:
    flat = [(float(step), 2.0) for step in range(100)]
    assert smoothed(flat) == tuple(flat)
    assert smoothed(flat[:5]) == tuple(flat[:5])
    line = [(float(step), float(step)) for step in range(1000)]
    thin = thinned(line, most=100)
    assert len(thin) == 100
    assert thin[0] == (4.5, 4.5)
    assert thinned(line[:50], most=100) == tuple(line[:50])
    # A straight line stays one, but for its ends.
    assert smoothed(line)[500] == line[500]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (formats.percent(0.97737), "97.7"),
        (formats.percent(-0.0118, signed=True), "−1.2"),
        (formats.percent(0.0118, signed=True), "+1.2"),
        (formats.percent(-0.0001), "0.0"),
        (formats.percent(-0.0001, signed=True), "0.0"),
        (formats.percent(None), "–"),
        (formats.count(1520000), "1,520,000"),
        (formats.count(None), "–"),
        (formats.size(1_234_567_890), "1.2 GB"),
        (formats.size(512), "512 B"),
        (formats.size(242_024_448), "242 MB"),
        (formats.size(80e9 * 20), "1600 GB"),
        (formats.size(None), "–"),
        (formats.number(-1.234), "−1.23"),
        (formats.time(125), "2:05"),
        (formats.plain({"train": 3, "ids": ["a", None], "ok": True}), "train: 3, ids: a, –, ok: yes"),
    ],
)
def test_formats(text: str, expected: str) -> None:
    assert text == expected
