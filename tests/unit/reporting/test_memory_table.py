"""The memory record as people read it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from evertune.files import write_json
from evertune.reporting.load import load_run
from evertune.reporting.memory import highest_peak, memory_rows, memory_table


def numbers(peak: int) -> dict[str, int]:
    return {"before": 100, "consumed": -5, "peak_consumed": peak - 100, "peak": peak}


@pytest.fixture
def folder(four: Path, tmp_path: Path) -> Path:
    """A run whose second stage took most while training, and whose first did while scoring."""
    copy = tmp_path / "run"
    shutil.copytree(four, copy)
    for place, path in enumerate(sorted(copy.glob("stages/*/metrics.json"))):
        train, scoring = (500 + 100 * (place == 1), 300 - place)
        memory = {"load": {"cpu": numbers(200)}, "train": {"cpu": numbers(train)}, "eval": {"cpu": numbers(scoring)}}
        write_json(path, {**json.loads(path.read_text()), "memory": memory})
    return copy


def test_of_several_stages_the_highest_is_shown(folder: Path) -> None:
    run = load_run(folder)
    names = [stage.name for stage in run.stages]
    rows = dict(memory_rows(run))
    assert list(rows) == ["CPU load", f"CPU train, {names[1]}", f"CPU eval, {names[0]}"]
    assert rows[f"CPU train, {names[1]}"] == numbers(600)
    assert highest_peak(run) == 600


def test_a_gpu_comes_first_and_counts(folder: Path) -> None:
    path = sorted(folder.glob("stages/*/metrics.json"))[2]
    metrics = json.loads(path.read_text())
    metrics["memory"]["train"]["gpu"] = numbers(10_000)
    write_json(path, metrics)
    run = load_run(folder)
    assert next(name for name, _ in memory_rows(run)) == "GPU train"
    assert highest_peak(run) == 10_000


def test_the_table_says_it_in_their_words(folder: Path) -> None:
    from rich.console import Console

    table = memory_table(load_run(folder))
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    said = console.export_text()
    for words in (
        "before entering",
        "consumed at the end (end-begin)",
        "peak consumed (max-begin)",
        "total peak (max)",
    ):
        assert words in said


def test_an_old_run_has_none(four: Path) -> None:
    assert memory_table(load_run(four)) is None
