from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evertune.evaluation.cell import Cell, Prediction
from evertune.reporting.predict_results import predict_results, prediction_rows, write_predict_results
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task


def task_of(name: str, group: str) -> Task:
    prompt = (Segment("Choose.\n"), Segment(f"text of {name}", cut=True), Segment("\nAnswer:"))
    return Task(name, (), (), (PromptTarget(f"{name}/test/0", prompt, "yes"),), group=group)


def cell_of(task: str, score: float, count: int, **changes: Any) -> Cell:
    return Cell(
        task=task,
        metric="exact_match",
        score=score,
        count=count,
        standard_error=0.0,
        loss=changes.get("loss", 1.0),
        metrics={"exact_match": score, "rouge1": score, "rougeL": score / 2},
        predictions=(Prediction(f"{task}/test/0", "no", "yes", False, None),),
        seconds=2.0,
        generated_tokens=changes.get("generated_tokens", 1.0),
    )


TASKS = (task_of("agnews", "TC"), task_of("amazon", "SC"), task_of("yahoo", "TC"), task_of("QQP", "QQP"))
CELLS = {
    "agnews": cell_of("agnews", 0.9, 300, loss=0.5),
    "amazon": cell_of("amazon", 0.5, 100, loss=2.0),
    "yahoo": cell_of("yahoo", 0.6, 100, generated_tokens=3.0),
    "QQP": cell_of("QQP", 1 / 3, 3),
}


def test_published_keys_and_percentages() -> None:
    results = predict_results(CELLS, TASKS, extra={"epoch": 1.0, "predict_global_step": 500})
    rows = 503
    assert results["predict_exact_match"] == pytest.approx(
        100 * (0.9 * 300 + 0.5 * 100 + 0.6 * 100 + 1) / rows, abs=1e-4
    )
    assert results["predict_exact_match_for_TC"] == pytest.approx(100 * (270 + 60) / 400)
    assert results["predict_exact_match_for_agnews"] == 90.0
    assert results["predict_exact_match_for_QQP"] == 33.3333
    assert results["predict_rougeL_for_SC"] == 25.0
    assert results["predict_loss"] == pytest.approx((0.5 * 300 + 2.0 * 100 + 1.0 * 103) / rows, abs=1e-6)
    assert results["predict_gen_len"] == pytest.approx((300 + 100 + 300 + 3) / rows, abs=1e-6)
    assert (results["predict_samples"], results["predict_runtime"]) == (503, 8.0)
    assert results["predict_samples_per_second"] == pytest.approx(62.875)
    assert (results["epoch"], results["predict_global_step"]) == (1.0, 500)
    names = ["TC", "SC", "QQP", "agnews", "amazon", "yahoo"]
    expected = {
        f"predict_{metric}{suffix}"
        for metric in ("exact_match", "rouge1", "rougeL")
        for suffix in ("", *(f"_for_{name}" for name in names))
    }
    assert expected <= set(results)
    assert list(results) == sorted(results)


def test_over_all_rows_is_not_the_mean_of_tasks() -> None:
    results = predict_results(CELLS, TASKS)
    assert results["predict_exact_match"] != pytest.approx(100 * (0.9 + 0.5 + 0.6 + 1 / 3) / 4, abs=1)


def test_nothing_scored() -> None:
    results = predict_results({}, TASKS)
    assert results["predict_samples"] == 0
    assert results["predict_exact_match"] is None


def test_prediction_lines() -> None:
    lines = prediction_rows({"amazon": CELLS["amazon"]}, TASKS)
    assert lines == [
        {
            "Task": "SC",
            "Dataset": "amazon",
            "Instance": {
                "id": "amazon/test/0",
                "label": "yes",
                "ground_truth": "yes",
                "sentence": "text of amazon",
                "instruction": "Choose.\ntext of amazon\nAnswer:",
            },
            "Prediction": "no",
        }
    ]


def test_both_files(tmp_path: Path) -> None:
    results, predictions = write_predict_results(tmp_path, CELLS, TASKS)
    assert json.loads(results.read_text()) == predict_results(CELLS, TASKS)
    lines = [json.loads(line) for line in predictions.read_text().splitlines()]
    assert [line["Dataset"] for line in lines] == ["agnews", "amazon", "yahoo", "QQP"]
    assert results.name == "predict_results.json"
    assert predictions.name == "predict_eval_predictions.jsonl"
