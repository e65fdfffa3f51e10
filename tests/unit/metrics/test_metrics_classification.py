from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.metrics.classification import ACCURACY, F1, accuracy, f1, f1_error, label_of, precision, recall

LABELS = ("very negative", "neutral", "Very Positive")


@pytest.mark.parametrize(
    ("answer", "index"),
    [
        ("neutral", 1),
        (" Neutral.\n", 1),
        ("very  positive", 2),
        ("positive", None),
        ("neutral neutral", None),
        ("", None),
    ],
)
def test_label_of(answer: str, index: int | None) -> None:
    assert label_of(answer, LABELS) == index


def test_labels_that_only_punctuation_tells_apart_are_met_as_written() -> None:
    labels = ("C", "C++", "Java")
    assert [label_of(answer, labels) for answer in ("C", " C++ ", "c++", "java.")] == [0, 1, None, 2]
    assert accuracy("C", "C++", labels) == 0.0


def test_accuracy_needs_a_valid_reference() -> None:
    assert accuracy("NEUTRAL", "neutral", LABELS) == 1.0
    assert accuracy("-", "-", LABELS) == 0.0
    assert accuracy("", "-", LABELS) == 0.0
    assert accuracy("anything!", "Anything", None) == 1.0


def plain_macro(expected: list[int | None], answered: list[int | None]) -> tuple[float, float, float]:
    classes = sorted({index for index in [*expected, *answered] if index is not None})
    pairs = list(zip(expected, answered, strict=True))
    sums = np.zeros(3)
    for index in classes:
        hits = sum(pair == (index, index) for pair in pairs)
        said, was = answered.count(index), expected.count(index)
        sums += (hits / said if said else 0, hits / was if was else 0, 2 * hits / (said + was))
    return tuple(sums / len(classes)) if classes else (0.0, 0.0, 0.0)


ROW = st.tuples(st.sampled_from(["a", "b", "c", "x", ""]), st.sampled_from(["a", "b", "c", "odd"]))


@given(st.lists(ROW, min_size=1, max_size=12))
@settings(deadline=None)
def test_macro_averages_against_a_plain_loop(rows: list[tuple[str, str]]) -> None:
    labels = ["a", "b", "c"]
    answered, expected = [[label_of(row[side], labels) for row in rows] for side in (0, 1)]
    predictions, references = [row[0] for row in rows], [row[1] for row in rows]
    scores = [function(predictions, references, labels) for function in (precision, recall, f1)]
    assert scores == pytest.approx(plain_macro(expected, answered))


def test_an_answer_that_is_no_label_is_not_dropped() -> None:
    references = ["a", "a", "b", "b"]
    # Dropping the two others would leave two right answers and an F1 of 1.
    assert f1(["a", "gibberish", "b", ""], references, ["a", "b"]) == pytest.approx(2 / 3)
    assert recall(["a", "gibberish", "b", ""], references, ["a", "b"]) == 0.5
    assert precision(["a", "gibberish", "b", ""], references, ["a", "b"]) == 1.0


def test_f1_without_labels_takes_the_references_as_classes() -> None:
    assert f1(["yes", "no", "perhaps"], ["Yes", "no", "no"]) == pytest.approx((1 + 2 / 3) / 2)


@given(st.lists(ROW, min_size=2, max_size=8))
@settings(deadline=None)
def test_f1_error_against_leaving_out_every_row(rows: list[tuple[str, str]]) -> None:
    predictions, references, labels = [row[0] for row in rows], [row[1] for row in rows], ["a", "b", "c"]
    count = len(rows)
    left_out = [
        f1(predictions[:row] + predictions[row + 1 :], references[:row] + references[row + 1 :], labels)
        for row in range(count)
    ]
    expected = math.sqrt((count - 1) / count * sum((value - np.mean(left_out)) ** 2 for value in left_out))
    assert f1_error(predictions, references, labels) == pytest.approx(expected, abs=1e-9)


def test_metrics_of_rows_and_of_all() -> None:
    predictions, references, labels = ["a", "b", "b"], ["a", "b", "a"], ["a", "b"]
    assert ACCURACY.score(predictions, references, labels) == pytest.approx(2 / 3)
    assert F1.rows(predictions, references, labels) == [1.0, 1.0, 0.0]
    assert F1.score(predictions, references, labels) == pytest.approx(2 / 3)
    assert F1.standard_error(["a"], ["a"], labels) is None
