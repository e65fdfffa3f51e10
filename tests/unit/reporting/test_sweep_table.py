"""The table of a sweep: figures against a run folder whose numbers are known, means by hand, and the plot."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import numpy
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from evertune.files import write_json
from evertune.reporting.sweep_plot import write_sweep_plot
from evertune.reporting.sweep_rows import EpochScore, SweepRun, read_figures, spread, table_rows
from evertune.reporting.sweep_table import epoch_cells, markdown, sweep_result, table_cells, to_json


def run(version: str, seed: str | None = None, status: str = "done", **figures: object) -> SweepRun:
    name = f"{version}_seed-{seed}" if seed else version
    return SweepRun(name, version, status, {"adapter.r": version}, seed, **figures)  # type: ignore[arg-type]


RUNS = [
    run("4", "1", rank=4, trainable=1000, total=100_000, disk_bytes=4096, scores={"f1": 0.5, "recall": 0.4}),
    run("4", "2", rank=4, trainable=1000, total=100_000, disk_bytes=4096, scores={"f1": 0.7, "recall": 0.6}),
    run("8", "1", rank=8, seconds_per_epoch=61.0, peak_memory_bytes=2_000_000, scores={"f1": 0.8, "recall": 0.9}),
    run("8", "2", status="failed"),
    run("16", "1", status="failed"),
    run("16", "2", status="pending"),
]


def test_means_and_deviations_over_seeds() -> None:
    four, eight, sixteen = table_rows(RUNS)
    first = four.scores["f1"]
    assert first is not None
    assert (first.mean, first.std) == (pytest.approx(0.6), pytest.approx(statistics.stdev([0.5, 0.7])))
    assert eight.scores["f1"] == spread([0.8])
    assert [(row.status, row.best) for row in (four, eight, sixteen)] == [
        ("done", False),
        ("done", True),
        ("failed", False),
    ]
    assert spread([]) is None


def test_the_lines_of_the_table() -> None:
    head, four, eight, sixteen = table_cells(table_rows(RUNS))
    assert head == ["version", "rank", "trainable", "on disk", "time per epoch", "f1 %", "recall %", "peak memory"]
    assert four == ["4", "4", "1,000 (1 %)", "4.1 kB", "–", "60.0 ± 14.1", "50.0 ± 14.1", "–"]
    assert eight == ["8", "8", "–", "–", "1:01", "80.0 *", "90.0", "2.0 MB"]
    assert sixteen[5] == "failed"
    assert table_cells(table_rows(RUNS), narrow=True)[1][2] == "1,000"


def test_no_version_is_the_best_where_all_are_alike() -> None:
    rows = table_rows([run("4", scores={"f1": 0.0}), run("8", scores={"f1": 0.0})])
    assert [row.best for row in rows] == [False, False]
    assert "*" not in "".join(cell for line in table_cells(rows) for cell in line)


def test_a_single_version_is_not_the_best_of_anything() -> None:
    (row,) = table_rows(RUNS[:2])
    assert not row.best


EPOCHS = (
    EpochScore("rows", 1.0, 4, 0.25, 2.5, {"precision": 0.5, "recall": 0.25}, best=False),
    EpochScore("rows", 2.0, 8, 0.5, None, {"precision": 0.75, "recall": 0.5}, best=True),
)


def test_scores_after_every_epoch() -> None:
    head, first, second = epoch_cells([run("4", scores={"f1": 0.5}, epochs=EPOCHS), run("8")])
    assert head == ["run", "epoch", "dev score %", "precision %", "recall %", "loss"]
    assert first == ["4", "1", "25.0", "50.0", "25.0", "2.500"]
    assert second == ["4", "2", "50.0 *", "75.0", "50.0", "–"]
    assert epoch_cells([run("4")]) == []


@pytest.mark.parametrize("width", [60, 80, 160])
def test_it_fits_on_a_terminal_and_in_markdown(width: int) -> None:
    runs = [*RUNS, run("32", scores={"f1": 0.1}, epochs=EPOCHS)]
    rows = table_rows(runs)
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(sweep_result(runs, rows))
    said = console.export_text()
    assert max(len(line) for line in said.splitlines()) <= width
    assert "standard deviation over the seeds" in " ".join(said.split())
    lines = markdown("Sweep", runs, rows).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.replace(r"\|", "").count("|") for line in table[: 2 + len(rows)]}) == 1
    assert any(line.startswith("| 8 | 8 |") and r"80.0 \*" in line for line in table)


def test_json_holds_everything() -> None:
    rows = table_rows(RUNS)
    content = json.loads(json.dumps(to_json("x.yaml", {"adapter.r": ("4", "8", "16")}, RUNS, rows), allow_nan=False))
    assert content["keys"] == {"adapter.r": ["4", "8", "16"]}
    assert [row["best"] for row in content["rows"]] == [False, True, False]
    assert content["rows"][0]["runs"] == ["4_seed-1", "4_seed-2"]
    assert content["runs"][2]["scores"] == {"f1": 0.8, "recall": 0.9}


def test_the_plot_is_a_line_over_one_key_and_points_otherwise(tmp_path: Path) -> None:
    single = [run(str(rank), scores={"f1": score}) for rank, score in ((4, 0.5), (8, 0.75), (16, 0.625))]
    rows = table_rows([run("base", scores={"f1": 0.9}), *single])
    line, points = tmp_path / "line.png", tmp_path / "points.png"
    assert write_sweep_plot(line, rows, ["adapter.r"], "base")
    assert write_sweep_plot(points, rows, ["adapter.r", "train.learning_rate"], "base")
    assert line.read_bytes() != points.read_bytes()
    assert line.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    again = tmp_path / "again.png"
    write_sweep_plot(again, rows, ["adapter.r"], "base")
    assert again.read_bytes() == line.read_bytes()
    assert not write_sweep_plot(tmp_path / "none.png", table_rows([run("4", status="failed")]), ["adapter.r"], "base")


def test_figures_of_a_run_folder(four: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(four, folder)
    last = sorted(folder.glob("stages/04-*"))[0]
    task = json.loads((last / "metrics.json").read_text())["tasks"][0]
    held = {"base_model.model.classifier.weight": numpy.ones((2, 3), "float32")}
    (last / "adapter").mkdir(exist_ok=True)
    save_file({**held, "lora_A.weight": numpy.ones(40)}, last / "adapter" / "adapter_model.safetensors")
    # The head of the stage's own task lies beside its adapter too; that of an earlier task does not.
    heads = {f"{task}/classifier.weight": numpy.ones((2, 3), "float32"), "old/classifier.weight": numpy.ones(5)}
    save_file(heads, last / "heads.safetensors")
    (last / "method.safetensors").write_bytes(b"x" * 9)
    sizes = [(last / name).stat().st_size for name in ("adapter/adapter_model.safetensors", "heads.safetensors")]
    write_json(last / "adapter" / "adapter_config.json", {"r": 12})
    figures = read_figures(folder, name="four", version="four", values={})
    metrics = [json.loads(path.read_text())["training"] for path in sorted(folder.glob("stages/*/metrics.json"))]
    assert figures.seconds_per_epoch == pytest.approx(
        sum(record["seconds"] for record in metrics) / sum(record["epochs"] for record in metrics)
    )
    assert (figures.rank, figures.disk_bytes, figures.status) == (12, sum(sizes) - 2 * 3 * 4, "done")
    summary = json.loads((folder / "summary.json").read_text())
    assert list(figures.scores) == ["average_accuracy", "backward_transfer", "forgetting"]
    assert figures.scores["average_accuracy"] == summary["average_accuracy"]
    assert figures.trainable == summary["parameters"]["trainable"]
    assert figures.peak_memory_bytes == summary["peak_memory_bytes"]  # no memory record in this old folder
