from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from evertune.metrics.statistics import jackknife_error, mean, standard_error, wilson_interval


@given(st.lists(st.floats(0, 1), min_size=2, max_size=50))
@settings(deadline=None)
def test_standard_error_of_real_scores_against_scipy(scores: list[float]) -> None:
    assert standard_error(scores, binary=False) == pytest.approx(stats.sem(scores), rel=1e-9, abs=1e-12)


@given(st.integers(0, 30), st.integers(0, 30))
@settings(deadline=None)
def test_standard_error_of_right_and_wrong(right: int, wrong: int) -> None:
    scores = [1.0] * right + [0.0] * wrong
    if not scores:
        assert standard_error(scores, binary=True) is None
        return
    share = right / len(scores)
    expected = stats.binom(len(scores), share).std() / len(scores)
    assert standard_error(scores, binary=True) == pytest.approx(expected, abs=1e-12)


def test_one_score() -> None:
    assert standard_error([1.0], binary=True) == 0.0
    assert standard_error([0.3], binary=False) is None


@given(st.integers(1, 200), st.integers(0, 200), st.sampled_from([0.8, 0.95, 0.99]))
@settings(deadline=None)
def test_wilson_against_scipy(count: int, successes: int, confidence: float) -> None:
    successes = min(successes, count)
    expected = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    low, high = wilson_interval(successes, count, confidence=confidence)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0 <= low <= successes / count <= high <= 1


@pytest.mark.parametrize("arguments", [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_of_nonsense(arguments: tuple[int, int, float]) -> None:
    with pytest.raises(ValueError, match="no interval for"):
        wilson_interval(arguments[0], arguments[1], confidence=arguments[2])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
@settings(deadline=None)
def test_jackknife_of_a_mean_is_its_standard_error(scores: list[float]) -> None:
    total, count = math.fsum(scores), len(scores)
    left_out = [((total - score) / (count - 1), 1) for score in scores]
    assert jackknife_error(left_out) == pytest.approx(stats.sem(scores), rel=1e-6, abs=1e-9)


def test_jackknife_needs_two_rows() -> None:
    assert jackknife_error([(0.5, 1)]) is None
    assert jackknife_error([]) is None
    assert jackknife_error([(0.5, 3)]) == 0.0


def test_the_mean_does_not_depend_on_the_order() -> None:
    values = list(np.random.default_rng(0).random(1000))
    shuffled = values.copy()
    random.Random(1).shuffle(shuffled)
    assert mean(values) == mean(shuffled) == pytest.approx(np.mean(values))
    assert mean([]) is None
