from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.errors import CheckpointError
from evertune.metrics.matrix import EvalMatrix, summary_metrics

LABEL_COUNTS = {
    "yelp": 5,
    "amazon": 5,
    "MNLI": 3,
    "CB": 3,
    "COPA": 2,
    "QQP": 2,
    "RTE": 2,
    "IMDB": 2,
    "SST-2": 2,
    "dbpedia": 14,
    "agnews": 4,
    "yahoo": 10,
    "MultiRC": 2,
    "BoolQA": 2,
    "WiC": 2,
}
GOLDEN_NAMES = {
    "AA": "average_accuracy",
    "LA": "learning_accuracy",
    "worst": "worst_task",
    "AvgInc": "average_incremental_accuracy",
    "BWT": "backward_transfer",
    "F_chaudhry": "forgetting",
    "subchance_gap": "subchance_gap",
    "rebound": "rebound",
}


@dataclass(frozen=True)
class Score:
    score: float | None
    count: int = 100
    standard_error: float | None = 0.01
    loss: float | None = 0.5


def matrix_of(values: list[list[float | None]], zero_shot: list[float | None] | None = None) -> EvalMatrix:
    tasks = [f"task{index}" for index in range(len(values))]
    data = EvalMatrix.empty(tasks, dict.fromkeys(tasks, "exact_match")).to_json()
    data["values"] = values
    if zero_shot is not None:
        data["zero_shot"] = zero_shot
    return EvalMatrix.from_json(data)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["order1_olora", "order1_icrlora", "order1_seqft", "long_olora", "long_seqlora"])
def test_published_matrices(shared_data: Path, name: str) -> None:
    golden = json.loads((shared_data / "golden" / "golden_R.json").read_text())[name]
    matrix = matrix_of([[None if score is None else score / 100 for score in row] for row in golden["R"]])
    summary = summary_metrics(matrix, [1 / LABEL_COUNTS[task] for task in golden["tasks"]])
    for theirs, ours in GOLDEN_NAMES.items():
        assert 100 * (summary[ours] or 0.0) == pytest.approx(golden["expected"][theirs], abs=1e-3), ours
        assert summary[ours] is not None, ours


def test_a_matrix_worked_out_by_hand() -> None:
    matrix = matrix_of(
        [[0.8, 0.3, 0.1], [0.2, 0.9, 0.4], [0.6, 0.5, 0.7]],
        zero_shot=[0.25, 0.2, 0.3],
    )
    summary = summary_metrics(matrix, [0.5, 0.5, 0.5])
    assert summary == {
        "average_accuracy": pytest.approx((0.6 + 0.5 + 0.7) / 3),
        "average_incremental_accuracy": pytest.approx((0.8 + (0.2 + 0.9) / 2 + (0.6 + 0.5 + 0.7) / 3) / 3),
        "worst_task": 0.5,
        "learning_accuracy": pytest.approx((0.8 + 0.9 + 0.7) / 3),
        "backward_transfer": pytest.approx(((0.6 - 0.8) + (0.5 - 0.9)) / 2),
        "forward_transfer": pytest.approx(((0.3 - 0.2) + (0.4 - 0.3)) / 2),
        "forgetting": pytest.approx(((0.8 - 0.6) + (0.9 - 0.5)) / 2),
        "subchance_gap": 0.0,
        # The first task falls to 0.2 and comes back to 0.6; the second only falls.
        "rebound": pytest.approx((0.4 + 0.0) / 2),
    }


def test_forgetting_is_measured_from_the_best_score_before_the_last_task() -> None:
    matrix = matrix_of([[0.5, None, None], [0.7, 0.9, None], [0.6, 0.95, 0.7]])
    summary = summary_metrics(matrix, [None] * 3)
    assert summary["forgetting"] == pytest.approx(((0.7 - 0.6) + (0.9 - 0.95)) / 2)
    assert summary["backward_transfer"] == pytest.approx(((0.6 - 0.5) + (0.95 - 0.9)) / 2)
    assert summary["forward_transfer"] is None


def test_subchance_gap_counts_only_tasks_with_labels() -> None:
    matrix = matrix_of([[0.5, None, None], [0.5, 0.5, None], [0.1, 0.0, 0.0]])
    assert summary_metrics(matrix, [0.25, None, 0.5])["subchance_gap"] == pytest.approx(0.15)
    assert summary_metrics(matrix, [None, None, 0.5])["subchance_gap"] is None


def test_multi_task_training_fills_the_last_row_alone() -> None:
    matrix = matrix_of([[None] * 3, [None] * 3, [0.9, 0.6, 0.75]])
    summary = summary_metrics(matrix, [None] * 3)
    assert summary.pop("average_accuracy") == pytest.approx(0.75)
    assert summary.pop("worst_task") == 0.6
    assert set(summary.values()) == {None}
    # What is below chance at the end needs no other row.
    assert summary_metrics(matrix, [1.0, 0.5, 0.5])["subchance_gap"] == pytest.approx(0.05)


def test_one_task_has_no_past() -> None:
    summary = summary_metrics(matrix_of([[0.9]], zero_shot=[0.1]), [0.5])
    defined = ("average_accuracy", "average_incremental_accuracy", "worst_task", "learning_accuracy")
    assert {name: value for name, value in summary.items() if value is not None} == dict.fromkeys(defined, 0.9)


def test_an_unfinished_run_has_no_final_numbers() -> None:
    summary = summary_metrics(matrix_of([[0.9, None], [None, None]]), [0.5, 0.5])
    assert set(summary.values()) == {None}


def test_no_tasks() -> None:
    assert set(summary_metrics(EvalMatrix.empty([], {}), []).values()) == {None}


def test_chance_must_be_given_for_every_task() -> None:
    with pytest.raises(ValueError, match="1 chance scores for 2 tasks"):
        summary_metrics(matrix_of([[0.1, None], [0.2, 0.3]]), [0.5])


SCORES = st.integers(1, 6).flatmap(
    lambda size: st.lists(st.lists(st.floats(0, 1), min_size=size, max_size=size), min_size=size, max_size=size)
)


@given(SCORES)
@settings(deadline=None)
def test_relations_between_the_numbers(values: list[list[float]]) -> None:
    size = len(values)
    matrix = matrix_of([list(row) for row in values], zero_shot=[0.0] * size)
    summary = summary_metrics(matrix, [0.5] * size)
    average, worst = summary["average_accuracy"], summary["worst_task"]
    assert worst <= average + 1e-12
    if size == 1:
        return
    backward, forgot = summary["backward_transfer"], summary["forgetting"]
    learning, rebound, gap = summary["learning_accuracy"], summary["rebound"], summary["subchance_gap"]
    # The last task's own share cancels: average - learning accuracy is the summed change of the earlier ones over T.
    assert average - learning == pytest.approx(backward * (size - 1) / size, abs=1e-12)
    # The best past score is at least the one at learning time.
    assert forgot >= -backward - 1e-12
    assert rebound >= max(0.0, backward) - 1e-12
    assert 0 <= gap <= 0.5


@given(SCORES)
@settings(deadline=None)
def test_rebound_against_a_plain_loop(values: list[list[float]]) -> None:
    size = len(values)
    if size < 2:
        return
    rises = []
    for task in range(size - 1):
        best = 0.0
        for low in range(task, size):
            for high in range(low + 1, size):
                best = max(best, values[high][task] - values[low][task])
        rises.append(best)
    summary = summary_metrics(matrix_of([list(row) for row in values]), [None] * size)
    assert summary["rebound"] == pytest.approx(sum(rises) / len(rises), abs=1e-12)


@given(SCORES)
@settings(deadline=None)
def test_values_above_the_diagonal_play_no_part_but_in_forward_transfer(values: list[list[float]]) -> None:
    size = len(values)
    full = summary_metrics(matrix_of([list(row) for row in values]), [0.3] * size)
    lower = [[values[i][j] if j <= i else None for j in range(size)] for i in range(size)]
    triangle = summary_metrics(matrix_of(lower), [0.3] * size)
    assert {**full, "forward_transfer": None} == triangle


@given(SCORES)
@settings(deadline=None)
def test_json_round_trip_is_exact(values: list[list[float]]) -> None:
    matrix = matrix_of([list(row) for row in values])
    assert EvalMatrix.from_json(json.loads(json.dumps(matrix.to_json()))) == matrix


def test_rows_are_filled_by_task_name() -> None:
    empty = EvalMatrix.empty(["a", "b"], {"a": "exact_match", "b": "rougeL"})
    matrix = empty.with_zero_shot({"b": Score(0.1, count=7), "a": Score(0.2, count=9)})
    matrix = matrix.with_row(0, {"a": Score(0.9, count=9, standard_error=0.05, loss=1.5)})
    assert matrix.to_json() == {
        "metric": {"a": "exact_match", "b": "rougeL"},
        "tasks": ["a", "b"],
        "zero_shot": [0.2, 0.1],
        "values": [[0.9, None], [None, None]],
        "count": [9, 7],
        "standard_error": [[0.05, None], [None, None]],
        "loss": [[1.5, None], [None, None]],
    }
    assert list(matrix.to_json()) == ["metric", "tasks", "zero_shot", "values", "count", "standard_error", "loss"]
    assert set(empty.zero_shot) == {None}, "the matrix before it is untouched"
    later = matrix.with_row(1, {"a": Score(0.4), "b": Score(0.5)})
    assert later.values == ((0.9, None), (0.4, 0.5))


def test_a_cell_of_no_task_is_refused() -> None:
    with pytest.raises(KeyError, match="c"):
        EvalMatrix.empty(["a"], {"a": "f1"}).with_row(0, {"c": Score(0.5)})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("values", [[0.1, None]], "`values` has 1 entries for 2 tasks"),
        ("values", [[0.1, None], [0.1]], r"`values\[1\]` has 1 entries for 2 tasks"),
        ("values", [[0.1, None], [0.1, "x"]], r"`values\[1\]` holds 'x' where a number or null belongs"),
        ("values", [[0.1, None], [True, 0.2]], r"`values\[1\]` holds True where a number"),
        ("loss", [[math.nan, None], [0.1, 0.2]], r"`loss\[0\]` holds nan, which is not finite"),
        ("zero_shot", {}, "`zero_shot` must be a list"),
        ("count", [1.5, 2], "`count` must hold numbers of rows"),
        ("tasks", ["a", "a"], "`tasks` must be a list of different names"),
        ("metric", {"a": "f1"}, "`metric` must name the metric of every task"),
        ("colour", "red", "needs the keys metric, tasks"),
    ],
)
def test_damage_is_named(key: str, value: object, message: str) -> None:
    data = EvalMatrix.empty(["a", "b"], {"a": "f1", "b": "f1"}).to_json()
    data[key] = value
    with pytest.raises(CheckpointError, match=message) as caught:
        EvalMatrix.from_json(data, where="runs/x/matrix.json")
    assert str(caught.value).startswith("runs/x/matrix.json: ")


@pytest.mark.parametrize("value", [None, [], "text", {"tasks": []}])
def test_other_json_is_no_matrix(value: object) -> None:
    with pytest.raises(CheckpointError, match="This is not an accuracy matrix"):
        EvalMatrix.from_json(value)
