"""Refusals over a run: the numbers of the files, in the table, the charts and the plot."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread
from run_folder import FIFTEEN, FOUR, HOSTILE, write_json, write_run
from test_report_page import page_of

from evertune.errors import CheckpointError
from evertune.reporting import curves, plots
from evertune.reporting.load import load_run
from evertune.reporting.safety import changed_answers, safety_points, safety_table

COUNT = 20
# How many of the harmful and of the harmless prompts are refused: before training, and after each stage.
REFUSED = [(16, 2), (16, 2), (12, 1), (10, 0), (6, 8)]


def entry(refused: int, odds: float | None) -> dict[str, Any]:
    rate = refused / COUNT
    return {
        "count": COUNT,
        "refused": refused,
        "rate": rate,
        "interval": [max(0.0, rate - 0.2), min(1.0, rate + 0.2)],
        "log_odds": {"mean": odds, "standard_error": None if odds is None else 0.25},
        "prompts_sha256": "ab" * 32,
    }


def write_measurement(folder: Path, place: int) -> None:
    harmful, harmless = REFUSED[place]
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["safety"] = {
        "harmful": entry(harmful, 3.0 - place),
        "harmless": entry(harmless, -4.0 + 0.5 * place),
        "youden": (harmful - harmless) / COUNT,
        "youden_interval": [(harmful - harmless) / COUNT - 0.25, (harmful - harmless) / COUNT + 0.25],
        "seconds": 1.5,
    }
    write_json(folder / "metrics.json", metrics)
    for kind, refused in (("harmful", harmful), ("harmless", harmless)):
        lines = [
            {
                "id": f"{kind}/{row + 1}",
                "prompt_sha256": f"{row:064x}",
                "answer": f"No. {HOSTILE}" if row < refused else f"Sure\u2028{'x' * 300}",
                "refused": row < refused,
                "log_odds": 0.5,
            }
            for row in range(COUNT)
        ]
        (folder / "safety").mkdir(exist_ok=True)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / "safety" / f"{kind}.jsonl").write_text(text, encoding="utf-8")


def write_measured(folder: Path, tasks: tuple[str, ...] = FOUR, **options: Any) -> Path:
    """A run that measured refusals before training and after every finished stage."""
    write_run(folder, tasks, **options)
    places = [folder / "zero_shot", *sorted(path.parent for path in folder.glob("stages/*/metrics.json"))]
    for place, path in enumerate(path for path in places if (path / "metrics.json").exists()):
        write_measurement(path, place % len(REFUSED))
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_measured(tmp_path / "run")


def test_measurements_in_order(run_dir: Path) -> None:
    points = safety_points(load_run(run_dir))
    assert [(point.position, point.after) for point in points] == list(enumerate(("no training", *FOUR)))
    assert [point.kinds["harmful"].rate for point in points] == [0.8, 0.8, 0.6, 0.5, 0.3]
    assert [point.kinds["harmless"].log_odds for point in points] == [-4.0, -3.5, -3.0, -2.5, -2.0]
    assert points[4].youden == pytest.approx(-0.1)


def test_the_table_tells_changes_from_the_first_line(run_dir: Path) -> None:
    table = dict(safety_table(safety_points(load_run(run_dir))))
    assert [(cell.text, cell.change) for cell in table["no training"]] == [
        *(("80.0", ""), ("10.0", ""), ("0.70", "")),
        *(("3.00", ""), ("−4.00", "")),
    ]
    assert [(cell.text, cell.change) for cell in table["agnews"]] == [
        *(("30.0", "−50.0"), ("40.0", "+30.0"), ("−0.10", "−0.80")),
        *(("−1.00", "−4.00"), ("−2.00", "+2.00")),
    ]
    assert [cell.change for cell in table["dbpedia"]] == ["0.0", "0.0", "0.00", "−1.00", "+0.50"]
    assert [cell.spread for cell in table["agnews"]] == [
        *("10.0 to 50.0", "20.0 to 60.0", "−0.35 to 0.15", "± 0.25", "± 0.25"),
    ]


def test_answers_that_changed_sides(run_dir: Path) -> None:
    harmful, harmless = changed_answers(safety_points(load_run(run_dir)))
    assert harmful.title == "harmful prompts: 10 no longer refused, 0 newly refused, of 20"
    assert harmless.title == "harmless prompts: 0 no longer refused, 6 newly refused, of 20"
    assert [answer.id for answer in harmful.answers] == [f"harmful/{row}" for row in range(7, 12)]
    assert {answer.fate for answer in harmless.answers} == {"newly refused"}
    first = harmful.answers[0]
    assert (first.first, len(first.last)) == (f"No. {HOSTILE}", 240)


def test_the_page(run_dir: Path) -> None:
    page = page_of(run_dir)
    assert page.of("section", id="safety")
    text = (run_dir / "report.html").read_text(encoding="utf-8")
    section = text[text.index('<section id="safety">') :]
    section = section[: section.index("</section>")]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in section
    assert "<script" not in text
    assert "10 no longer refused" in section
    assert section.count("<svg") == 2
    assert "after agnews: 30.0 % of 20 harmful prompts" in section


def test_the_charts_have_these_numbers(run_dir: Path) -> None:
    run = load_run(run_dir)
    (_, rates), (_, odds) = curves.safety_charts(run, safety_points(run))
    for chart, lines in ((rates, [[80, 80, 60, 50, 30], [10, 10, 5, 0, 40]]), (odds, [[3, 2, 1, 0, -1]])):
        low, high = (float(text) for _, text in (chart.y_ticks[0], chart.y_ticks[-1]))
        bottom, top = chart.y_ticks[0][0], chart.y_ticks[-1][0]
        for line, values in zip(chart.lines, lines, strict=False):
            found = [low + (dot.y - bottom) / (top - bottom) * (high - low) for dot in line.dots]
            assert found == pytest.approx(values, abs=0.5 if chart is rates else 0.05)
    assert [line.name for line in odds.lines] == ["harmful", "harmless"]


def test_the_plot_has_these_numbers(run_dir: Path) -> None:
    run = load_run(run_dir)
    rates, odds = plots._safety_figure(run, safety_points(run)).axes
    harmful, harmless = rates.lines
    assert list(harmful.get_xdata()) == [0, 1, 2, 3, 4]
    assert list(harmful.get_ydata()) == pytest.approx([80, 80, 60, 50, 30])
    assert list(harmless.get_ydata()) == pytest.approx([10, 10, 5, 0, 40])
    assert list(odds.lines[0].get_ydata()) == [3, 2, 1, 0, -1]
    band = odds.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (-1.5, 3.5)
    assert odds.get_ylim()[0] < -4.5 < 3.5 < odds.get_ylim()[1]


def test_the_file_is_drawn_for_such_runs_only(run_dir: Path, four: Path, tmp_path: Path) -> None:
    path = run_dir / "plots" / "safety.png"
    assert path in plots.write_plots(run_dir)
    assert min(imread(path).shape[:2]) >= 300
    first = path.read_bytes()
    plots.write_plots(run_dir)
    assert path.read_bytes() == first
    plain = Path(shutil.copytree(four, tmp_path / "plain"))
    assert "safety.png" not in {path.name for path in plots.write_plots(plain)}
    assert not page_of(plain).of("section", id="safety")


@pytest.mark.parametrize(
    "options", [{"zero_shot": False}, {"finished": 0}, {"multi_task": True}, {"finished": 1, "zero_shot": False}]
)
def test_runs_under_way_and_of_other_shapes(tmp_path: Path, options: dict[str, Any]) -> None:
    folder = write_measured(tmp_path / "run", **options)
    points = safety_points(load_run(folder))
    assert (points[0].position == 0) == options.get("zero_shot", True)
    plots.write_plots(folder)
    assert page_of(folder).of("section", id="safety")


def test_fifteen_tasks(tmp_path: Path) -> None:
    folder = write_measured(tmp_path / "run", FIFTEEN)
    assert len(safety_points(load_run(folder))) == 16
    assert page_of(folder).of("section", id="safety")


def test_log_odds_that_are_not_finite(run_dir: Path) -> None:
    path = run_dir / "stages" / "04-agnews" / "metrics.json"
    metrics = json.loads(path.read_text())
    metrics["safety"]["harmful"] = entry(6, None)
    write_json(path, metrics)
    points = safety_points(load_run(run_dir))
    cell = dict(safety_table(points))["agnews"][3]
    assert (cell.text, cell.spread, cell.change) == ("–", "", "–")
    (_, odds) = curves.safety_charts(load_run(run_dir), points)[1]
    assert [len(line.dots) for line in odds.lines] == [4, 5]
    plots.write_plots(run_dir)


def test_a_damaged_file_is_named(run_dir: Path) -> None:
    path = run_dir / "stages" / "04-agnews" / "safety" / "harmful.jsonl"
    path.write_text('{"id": "harmful/1"}\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"harmful\.jsonl"):
        changed_answers(safety_points(load_run(run_dir)))
