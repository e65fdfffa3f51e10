from __future__ import annotations

import json
from pathlib import Path

import pytest
from bigram import task_of

from evertune.errors import CheckpointError
from evertune.evaluation.cell import Cell, Prediction, read_cell, read_predictions, row_summary, write_cell

# Line separators that are none in JSON, markup, and what a careless reader would strip.
ODD = "first\u2028second\x0bthird\x85\n<b>&\"'\\ 你好 "


def cell_of(
    task: str = "amazon", *, score: float | None = 0.5, count: int = 2, graded: bool = False, seconds: float = 0.25
) -> Cell:
    if graded:
        predictions = (Prediction("a/0", ODD, "x", None, 1 / 3), Prediction("a/1", "", ODD, None, 0.0))
    else:
        predictions = (Prediction("a/0", ODD, ODD, True, None), Prediction("a/1", "", "x", False, None))
    return Cell(
        task=task,
        metric="rougeL" if graded else "exact_match",
        score=score,
        count=count,
        standard_error=0.1 + 0.2,
        loss=2 / 3,
        metrics={"exact_match": 0.1, "rouge1": 1 / 3},
        predictions=predictions,
        seconds=seconds,
        generated_tokens=1.5,
    )


@pytest.mark.parametrize("graded", [False, True])
def test_a_cell_comes_back_exactly(tmp_path: Path, graded: bool) -> None:
    cell = cell_of(graded=graded)
    write_cell(tmp_path, cell)
    assert read_cell(tmp_path, "amazon") == cell
    lines = (tmp_path / "predictions" / "amazon.jsonl").read_text(encoding="utf-8").rstrip("\n").split("\n")
    last = "score" if graded else "correct"
    assert [list(json.loads(line)) for line in lines] == [["id", "prediction", "reference", last]] * 2


def test_predictions_do_not_depend_on_the_time_it_took(tmp_path: Path) -> None:
    write_cell(tmp_path / "one", cell_of(seconds=1.0))
    write_cell(tmp_path / "two", cell_of(seconds=2.0))
    one, two = [(tmp_path / name / "predictions" / "amazon.jsonl").read_bytes() for name in ("one", "two")]
    assert one == two
    assert [path.name for path in (tmp_path / "one" / "predictions").iterdir()] == ["amazon.jsonl"]


def test_what_is_not_finished_is_not_there(tmp_path: Path) -> None:
    assert read_cell(tmp_path, "amazon") is None
    write_cell(tmp_path, cell_of())
    predictions = tmp_path / "predictions" / "amazon.jsonl"
    content = predictions.read_text()
    predictions.write_text(content.splitlines(keepends=True)[0])
    assert read_cell(tmp_path, "amazon") is None, "the scores belong to other predictions"
    predictions.unlink()
    assert read_cell(tmp_path, "amazon") is None


def test_damage_is_named(tmp_path: Path) -> None:
    write_cell(tmp_path, cell_of())
    sidecar = tmp_path / "cells" / "amazon.json"
    sidecar.write_text('{"score": 1}')
    with pytest.raises(CheckpointError, match=r"amazon\.json: This file is damaged: .*Delete it"):
        read_cell(tmp_path, "amazon")
    broken = tmp_path / "predictions" / "amazon.jsonl"
    broken.write_text('{"id": 1}\n')
    with pytest.raises(CheckpointError, match=r"amazon\.jsonl: This file is damaged: 'prediction'"):
        read_predictions(broken)
    with pytest.raises(CheckpointError, match="This file is missing"):
        read_predictions(tmp_path / "nothing.jsonl")


def test_scores_entry() -> None:
    assert cell_of().to_scores_json() == {
        "metric": "exact_match",
        "score": 0.5,
        "count": 2,
        "standard_error": 0.1 + 0.2,
        "loss": 2 / 3,
        "generated_tokens": 1.5,
        "metrics": {"exact_match": 0.1, "rouge1": 1 / 3},
    }


def test_row_summary() -> None:
    tasks = [
        task_of((), name="a", group="TC"),
        task_of((), name="b", group="NLI"),
        task_of((), name="c", group="TC"),
        task_of((), name="d"),
        task_of((), name="unseen", group="TC"),
    ]
    cells = {
        "d": cell_of("d", score=0.0, count=100, seconds=4),
        "a": cell_of("a", score=0.9, count=300, seconds=1),
        "b": cell_of("b", score=0.4, count=50, seconds=2),
        "c": cell_of("c", score=0.5, count=100, seconds=3),
    }
    summary = row_summary(cells, tasks)
    assert list(summary["scores"]) == ["a", "b", "c", "d"], "in stream order"
    assert summary["scores"]["a"] == cells["a"].to_scores_json()
    assert summary["task_mean"] == pytest.approx(1.8 / 4)
    assert summary["row_weighted_mean"] == pytest.approx((0.9 * 300 + 0.4 * 50 + 0.5 * 100) / 550)
    assert summary["groups"] == {
        "TC": {"score": pytest.approx(0.7), "row_weighted_mean": pytest.approx(320 / 400), "count": 400},
        "NLI": {"score": 0.4, "row_weighted_mean": pytest.approx(0.4), "count": 50},
    }
    assert summary["evaluation_seconds"] == 10
    json.dumps(summary, allow_nan=False)


def test_row_summary_without_scores() -> None:
    summary = row_summary({"a": cell_of("a", score=None, count=0)}, [task_of((), name="a", group="g")])
    assert (summary["task_mean"], summary["row_weighted_mean"]) == (None, None)
    assert summary["groups"] == {"g": {"score": None, "row_weighted_mean": None, "count": 0}}
