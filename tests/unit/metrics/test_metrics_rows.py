"""Metrics that must know more of a row than two texts."""

from __future__ import annotations

import pytest

from evertune.errors import ConfigError
from evertune.metrics import METRICS
from evertune.metrics.base import TARGET, Likelihood, Metric, Row
from evertune.metrics.chosen import with_companions
from evertune.metrics.preference import PREFERENCE_ACCURACY, PREFERENCE_ACCURACY_SUM


def instruction_length(prediction: str, reference: str, row: Row) -> float:
    """Whether the answer is as long as the instruction."""
    return float(len(prediction) == len(row.instruction))


LENGTH = Metric(name="length", row_score=instruction_length, binary=True)


def test_every_metric_says_what_it_is() -> None:
    for name in METRICS.names():
        metric: Metric = METRICS.get(name)
        assert (metric.name, metric.range, metric.higher_is_better) == (name, (0.0, 1.0), True)
        assert metric.function.__doc__
        assert metric.score([], [], None, []) is None
        # What is reported beside a metric can be scored wherever the metric can.
        for beside in metric.beside:
            assert METRICS.get(beside).needs <= metric.needs
            assert METRICS.get(beside).beside == ()


def test_a_metric_reads_its_row() -> None:
    rows = [Row(instruction="abc"), Row(instruction="x")]
    assert LENGTH.rows(["123", "45"], ["", ""], None, rows) == [1, 0]
    assert LENGTH.score(["123", "45"], ["", ""], None, rows) == 0.5
    assert LENGTH.standard_error(["123", "45"], ["", ""], None, rows) == pytest.approx((0.25 / 2) ** 0.5)
    with pytest.raises(ValueError, match="shorter"):
        LENGTH.score(["123"], [""], None)


def test_a_metric_has_one_function() -> None:
    with pytest.raises(ValueError, match="one of per_row, row_score and counts"):
        Metric(name="none", binary=True)
    with pytest.raises(ValueError, match="compares facts that it does not need"):
        Metric(name="odd", binary=True, row_score=instruction_length, compares=frozenset({"rejected"}))


def test_metrics_come_with_their_companions_once() -> None:
    names = [metric.name for metric in with_companions(["code_parses", "gsm8k_strict", "gsm8k_flexible"])]
    assert names == ["code_parses", "gsm8k_strict", "gsm8k_flexible"]
    assert [metric.name for metric in with_companions(["preference_accuracy"])] == [
        "preference_accuracy",
        "preference_accuracy_sum",
    ]
    with pytest.raises(ConfigError, match=r"t1: There is no metric `gsm8k_strikt`\. Did you mean `gsm8k_strict`\?"):
        with_companions(["gsm8k_strikt"], where="t1")


@pytest.mark.parametrize(
    ("right", "rejected", "per_token", "whole"),
    [
        (Likelihood(4.0, 4), Likelihood(6.0, 4), 1, 1),
        (Likelihood(4.0, 4), Likelihood(3.0, 2), 1, 0),  # longer, but likelier a token
        (Likelihood(3.0, 2), Likelihood(4.0, 4), 0, 1),
        (Likelihood(4.0, 4), Likelihood(4.0, 4), 0, 0),
        (Likelihood(float("nan"), 4), Likelihood(4.0, 4), 0, 0),
    ],
)
def test_preference(right: Likelihood, rejected: Likelihood, per_token: float, whole: float) -> None:
    row = Row(likelihoods={TARGET: right, "rejected": rejected})
    assert PREFERENCE_ACCURACY.rows(["any"], ["thing"], None, [row]) == [per_token]
    assert PREFERENCE_ACCURACY_SUM.rows(["any"], ["thing"], None, [row]) == [whole]


@pytest.mark.parametrize(
    ("metric", "facts", "lacking"),
    [
        ("exact_match", {}, []),
        ("preference_accuracy", {"rejected": "no"}, []),
        ("preference_accuracy", {}, [("rejected", "It has no `rejected`.")]),
        ("preference_accuracy", {"rejected": " "}, [("rejected", "Its `rejected` is blank, or is not text.")]),
        ("preference_accuracy", {"rejected": ["no"]}, [("rejected", "Its `rejected` is blank, or is not text.")]),
        ("code_passes", {"tests": "assert f()"}, []),
        ("code_passes", {"tests": ["assert f()"]}, []),
        ("code_passes", {"tests": []}, [("tests", "Its `tests` is blank, or is not text or a list of texts.")]),
        ("code_passes", {"tests": [1]}, [("tests", "Its `tests` is blank, or is not text or a list of texts.")]),
    ],
)
def test_what_a_row_lacks(metric: str, facts: dict[str, object], lacking: list[tuple[str, str]]) -> None:
    assert list(METRICS.get(metric).lacking(facts)) == lacking
