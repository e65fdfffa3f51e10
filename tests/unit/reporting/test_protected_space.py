"""The space that a method protects, and the pull of its terms: the numbers of the files, in plots and on the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from matplotlib.image import imread
from run_folder import FIFTEEN, FOUR, HOSTILE, write_json, write_run
from test_report_page import page_of

from evertune.methods import protected as methods_protected
from evertune.reporting import curves, plots
from evertune.reporting.load import load_run
from evertune.reporting.protected import LITTLE_ROOM, protected_notes, protected_shares, protected_stages
from evertune.reporting.series import gradient_ratios

LAYERS = 3


def entry(width: int, directions: int, new: int, *, full: bool = False) -> dict[str, Any]:
    free = 1 - directions / width
    return {
        "width": width,
        "directions": directions,
        "new": new,
        "energy": 0.95 + 0.01 * full,
        "free": free,
        "full": full,
    }


def spaces(stage: int, step: int = 10) -> dict[str, dict[str, Any]]:
    """q protects `step` directions a stage and one more a layer, of 64; wo the tenth of that, of 128."""
    found = {}
    for layer in range(LAYERS):
        start = f"encoder.block.{layer}.layer"
        found[f"{start}.0.SelfAttention.q"] = entry(64, step * (stage + 1) + layer, step + (layer if not stage else 0))
        found[f"{start}.1.DenseReluDense.wo"] = entry(128, stage + 1, 1, full=layer == 2 and stage > 0)
    return found


def write_protecting(folder: Path, tasks: tuple[str, ...] = FOUR, *, step: int = 10, **options: Any) -> Path:
    """A run whose stages tell what they protect."""
    write_run(folder, tasks, **options)
    for stage, path in enumerate(sorted(folder.glob("stages/*/metrics.json"))):
        metrics = json.loads(path.read_text())
        metrics["training"]["facts"] = {"gorp": {"protected_space": spaces(stage, step)}}
        write_json(path, metrics)
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return write_protecting(tmp_path / "run")


def test_shares_by_kind_of_module_and_stage(run_dir: Path) -> None:
    stages = protected_stages(load_run(run_dir))
    assert [(stage.position, stage.name) for stage in stages] == list(enumerate(FOUR, 1))
    shares = protected_shares(stages)
    assert list(shares) == ["SelfAttention q", "DenseReluDense wo"]
    for stage, point in enumerate(shares["SelfAttention q"]):
        of_layers = [(10 * (stage + 1) + layer) / 64 for layer in range(LAYERS)]
        assert (point.position, point.after) == (stage + 1, FOUR[stage])
        assert (point.low, point.middle, point.high) == pytest.approx((of_layers[0], median(of_layers), of_layers[2]))
    assert stages[-1].fullest.path == "encoder.block.2.layer.0.SelfAttention.q"


def test_the_plot_has_these_numbers(run_dir: Path) -> None:
    run = load_run(run_dir)
    axes = plots._protected_figure(run, protected_stages(run)).axes[0]
    q, wo, free = axes.lines
    assert list(q.get_xdata()) == list(free.get_xdata()) == [1, 2, 3, 4]
    assert list(q.get_ydata()) == pytest.approx([100 * (10 * stage + 1) / 64 for stage in (1, 2, 3, 4)])
    assert list(wo.get_ydata()) == pytest.approx([100 * stage / 128 for stage in (1, 2, 3, 4)])
    assert list(free.get_ydata()) == pytest.approx([100 - 100 * (10 * stage + 2) / 64 for stage in (1, 2, 3, 4)])
    assert {text.get_text() for text in axes.texts} == {"SelfAttention q", "DenseReluDense wo", curves.LEAST_FREE}
    assert axes.get_xlabel() == "fullest: encoder.block.2.layer.0.SelfAttention.q: 42 of 64 directions, 34.4 % free"
    band = axes.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((100 * 10 / 64, 100 * 42 / 64))


def test_the_file_is_drawn_for_such_runs_only(run_dir: Path, four: Path, tmp_path: Path) -> None:
    path = run_dir / "plots" / "protected_space.png"
    assert path in plots.write_plots(run_dir)
    assert min(imread(path).shape[:2]) >= 300
    first = path.read_bytes()
    plots.write_plots(run_dir)
    assert path.read_bytes() == first
    plain = Path(shutil.copytree(four, tmp_path / "plain"))
    assert "protected_space.png" not in {path.name for path in plots.write_plots(plain)}
    page = page_of(plain)
    assert not page.of("section", id="protected")
    assert not page.of("section", id="ratios")


def section(folder: Path, name: str) -> str:
    page_of(folder)
    found = re.search(rf'<section id="{name}">.*?</section>', (folder / "report.html").read_text(), re.DOTALL)
    assert found
    return found[0]


def rows_of(html: str) -> list[list[str]]:
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", html)
    ]


def test_the_page_has_a_table_a_stage_the_newest_first(run_dir: Path) -> None:
    html = section(run_dir, "protected")
    header, q, wo, *rest = rows_of(html)
    assert header[1:] == ["modules", "inputs", "directions", "new", "energy covered", "still free", "least free"]
    assert q == ["SelfAttention q", "3", "64", "41 (40 to 42)", "10", "95.0 %", "35.9 %", "34.4 %"]
    assert wo == ["DenseReluDense wo", "3", "128", "4", "1", "95.0 %", "96.9 %", "96.9 %"]
    assert rest[-2] == ["SelfAttention q", "3", "64", "11 (10 to 12)", "11 (10 to 12)", "95.0 %", "82.8 %", "81.2 %"]
    assert re.findall(r"<summary>after (\w+)", html) == list(reversed(FOUR))
    assert "fullest: encoder.block.2.layer.0.SelfAttention.q: 42 of 64 directions, 34.4 % free" in html
    assert html.count("<details open>") == 1
    assert html.count('class="band"') == 2
    assert "<title>SelfAttention q after agnews: 64.1 % (62.5 to 65.6)</title>" in html


def test_little_room_is_said(run_dir: Path, tmp_path: Path) -> None:
    assert LITTLE_ROOM == methods_protected.LITTLE_ROOM
    full = "1 of 6 modules protect as many directions as they may and hold less of agnews than asked for"
    (note,) = protected_notes(protected_stages(load_run(run_dir)))
    assert note.startswith(full)
    short = write_protecting(tmp_path / "short", step=14)  # 56, 57 and 58 of 64 in the end: 12.5, 10.9 and 9.4 % free
    first, second = protected_notes(protected_stages(load_run(short)))
    assert first == (
        "After agnews, 1 of 6 modules have less than 10% of their input directions left for later tasks: "
        "encoder.block.2.layer.0.SelfAttention.q (9.4 % free)."
    )
    assert second == note
    html = section(short, "protected")
    assert first in html
    assert '<td class="n lost">9.4 %</td>' in html
    assert html.count("lost") == 1


def test_only_finished_stages_and_many_of_them(tmp_path: Path) -> None:
    begun = load_run(write_protecting(tmp_path / "begun", finished=2))
    assert [stage.name for stage in protected_stages(begun)] == list(FOUR[:2])
    assert protected_notes([]) == []
    none = load_run(write_run(tmp_path / "none", finished=0))
    assert curves.protected_chart(none, protected_stages(none)) is None
    long = write_protecting(tmp_path / "long", FIFTEEN, step=3)
    chart = curves.protected_chart(load_run(long), protected_stages(load_run(long)))
    assert chart is not None
    assert [text for _, text in chart.x_ticks] == [str(place) for place in range(1, 16)]
    assert [len(line.dots) for line in chart.lines] == [15, 15, 15]


def test_what_the_run_says_is_escaped(run_dir: Path) -> None:
    path = next(run_dir.glob("stages/04-*/metrics.json"))
    metrics = json.loads(path.read_text())
    metrics["training"]["facts"]["gorp"]["protected_space"] = {f"a.{HOSTILE}": entry(10, 10, 1)}
    write_json(path, metrics)
    with (run_dir / "events.jsonl").open("a") as out:
        out.write("\n" + json.dumps({"event": "step", "stage": 0, "step": 5, "gradient_ratios": {HOSTILE: 1.0}}) + "\n")
    page = page_of(run_dir)
    assert not page.of("script")
    assert "<script>" in page.text, "it is shown as text"


def with_ratios(folder: Path) -> Path:
    lines = []
    for line in (folder / "events.jsonl").read_text().splitlines()[:-1]:
        event = json.loads(line)
        if event["event"] == "step" and event["stage"] and event["step"] % 20 == 0:
            ratios = {"orthogonality": event["step"] / 1000 * event["stage"], "adapter_norm": 0.25}
            event["gradient_ratios"] = ratios
        lines.append(json.dumps(event))
    repeated = {"event": "step", "stage": 1, "step": 500, "loss": 1.0, "gradient_ratios": {"orthogonality": 7.0}}
    unusable = {"event": "step", "stage": 1, "step": 510, "loss": 1.0, "gradient_ratios": {"orthogonality": None}}
    empty = {"event": "step", "stage": 0, "step": 510, "loss": 1.0, "gradient_ratios": {}}
    lines += [json.dumps(event) for event in (repeated, unusable, empty)]
    (folder / "events.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_ratios_of_penalty_and_task_gradients(tmp_path: Path) -> None:
    folder = with_ratios(write_run(tmp_path / "run"))
    series = gradient_ratios(load_run(folder))
    assert [found.name for found in series] == list(FOUR[1:])
    steps = list(range(20, 520, 20))
    assert series[1].terms["orthogonality"] == tuple((step, pytest.approx(step / 500)) for step in steps)
    assert series[0].terms["orthogonality"][-1] == (500, 7.0), "the later record of a step holds"
    html = section(folder, "ratios")
    assert "orthogonality: median 0.26, highest 7" in html
    assert html.count("adapter_norm: median 0.25, highest 0.25") == 3
    assert "<title>orthogonality at step 20: 0.04</title>" in html
    assert html.count("<svg") == 3
