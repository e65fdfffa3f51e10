"""Micro averages over rows and their jackknife errors."""

from __future__ import annotations

import math
import random

import pytest
from sklearn.metrics import precision_recall_fscore_support

from evertune.metrics.base import Metric, Row
from evertune.metrics.counts import Counts, counts_error, total


def counted(prediction: str, reference: str, row: Row) -> Counts:
    """Letters that an answer shares with the right one."""
    return Counts(len(set(prediction) & set(reference)), len(set(prediction)), len(set(reference)))


def metric(quantity: str = "f1") -> Metric:
    return Metric(name="letters", counts=counted, quantity=quantity, binary=False)  # type: ignore[arg-type]


ANSWERS = ["abc", "", "xy", "", "aab", "q"]
RIGHT = ["abd", "", "", "z", "ab", "q"]


def test_corpus_scores_are_those_of_scikit_learn() -> None:
    letters = sorted({letter for text in (*ANSWERS, *RIGHT) for letter in text})
    right = [[letter in text for letter in letters] for text in RIGHT]
    found = [[letter in text for letter in letters] for text in ANSWERS]
    expected = precision_recall_fscore_support(right, found, average="micro", zero_division=0.0)[:3]
    rows = [Row()] * len(RIGHT)
    scores = [metric(name).score(ANSWERS, RIGHT, None, rows) for name in ("precision", "recall", "f1")]
    assert scores == pytest.approx(expected)


def test_row_scores() -> None:
    rows = [Row()] * len(RIGHT)
    assert metric().rows(ANSWERS, RIGHT, None, rows) == pytest.approx([2 / 3, 1, 0, 0, 1, 1])
    assert metric("precision").rows(ANSWERS, RIGHT, None, rows) == pytest.approx([2 / 3, 1, 0, 0, 1, 1])
    assert metric("recall").rows(["abc", "a"], ["ab", ""], None, rows[:2]) == [1, 0]
    assert metric().score([], [], None, []) is None
    with pytest.raises(ValueError, match="shorter"):
        metric().score(["a"], ["a"])


@pytest.mark.parametrize("quantity", ["precision", "recall", "f1"])
def test_the_error_is_that_of_a_loop(quantity: str) -> None:
    numbers = random.Random(3)
    rows = []
    for _ in range(40):
        correct = numbers.randrange(4)
        rows.append(Counts(correct, correct + numbers.randrange(3), correct + numbers.randrange(3)))
    left_out = []
    for index in range(len(rows)):
        others = rows[:index] + rows[index + 1 :]
        correct, found, present = (
            sum(getattr(row, name) for row in others) for name in ("correct", "found", "present")
        )
        left_out.append(
            {"precision": correct / found, "recall": correct / present}.get(quantity, 2 * correct / (found + present))
        )
    average = sum(left_out) / len(left_out)
    expected = math.sqrt((len(rows) - 1) / len(rows) * sum((value - average) ** 2 for value in left_out))
    assert expected > 0
    assert counts_error(rows, quantity) == pytest.approx(expected, rel=1e-9)  # type: ignore[arg-type]
    assert metric().standard_error(["a"], ["a"], None, [Row()]) is None


def test_sums() -> None:
    assert total([]) == Counts(0, 0, 0)
    assert total([Counts(1, 2, 3), Counts(4, 5, 6)]) - Counts(1, 2, 3) == Counts(4, 5, 6)
    assert Counts(0, 0, 0).value("f1") == 1
    assert [Counts(0, 0, 2).value(name) for name in ("precision", "recall", "f1")] == [0, 0, 0]  # type: ignore[arg-type]


def test_rows_of_another_kind_are_named() -> None:
    from evertune.metrics import METRICS

    assert list(METRICS.get("entity_f1").lacking({})) == [("entities", "It is no row of {tokens, tags}.")]
    assert list(METRICS.get("squad_f1").lacking({"passage": {"answers": ()}})) == []
    assert list(METRICS.get("argument_f1").lacking({"passage": {}})) == [("event", "It is no row of an event.")]
