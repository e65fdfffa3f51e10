"""How sure a score is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def mean(values: Sequence[float]) -> float | None:
    """Mean with exact summation, so that the order of the values does not matter; None without values."""
    return math.fsum(values) / len(values) if values else None


def standard_error(scores: Sequence[float], *, binary: bool) -> float | None:
    """Standard error of the mean of independent scores.

    Args:
        scores: One score a row.
        binary: Whether scores are 0 or 1.

    Returns:
        ``sqrt(p (1 - p) / n)`` for binary scores; the sample standard deviation (divisor n - 1) over ``sqrt(n)`` for
        others. None without scores, and for a single score that is not binary.
    """
    count, average = len(scores), mean(scores)
    if average is None or (count == 1 and not binary):
        return None
    if binary:
        return math.sqrt(average * (1 - average) / count)
    variance = math.fsum((score - average) ** 2 for score in scores) / (count - 1)
    return math.sqrt(variance / count)


def wilson_interval(successes: float, count: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a proportion that stays within [0, 1] and is sensible for few rows.

    Args:
        successes: How many of `count` rows were right.
        count: Rows; at least 1.
        confidence: Two-sided coverage, between 0 and 1.

    Returns:
        Lower and upper limit.

    Raises:
        ValueError: If `count` is not positive, `successes` lies outside [0, count] or `confidence` outside (0, 1).

    Source: Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    """
    if count < 1 or not 0 <= successes <= count or not 0 < confidence < 1:
        raise ValueError(f"no interval for {successes} of {count} at confidence {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    # At 0 and at `count` successes a limit equals the share, but for rounding.
    return min(share, max(0.0, (centre - spread) / scale)), max(share, min(1.0, (centre + spread) / scale))


def difference_interval(
    first: tuple[float, int], second: tuple[float, int], *, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two independent proportions, from the Wilson interval of each.

    Args:
        first: Successes and count.
        second: Successes and count of what is subtracted.
        confidence: Two-sided coverage, between 0 and 1.

    Returns:
        Lower and upper limit, within [-1, 1].

    Raises:
        ValueError: As `wilson_interval` does.

    Source: Newcombe (1998), "Interval estimation for the difference between independent proportions", method 10.
    """
    (low, high), (other_low, other_high) = (wilson_interval(*each, confidence=confidence) for each in (first, second))
    share, other = first[0] / first[1], second[0] / second[1]
    below = math.hypot(share - low, other_high - other)
    above = math.hypot(high - share, other - other_low)
    return share - other - below, share - other + above


def jackknife_error(leave_one_out: Sequence[tuple[float, int]]) -> float | None:
    """Standard error of any smooth statistic from its values with one row left out.

    Args:
        leave_one_out: Pairs (value without such a row, number of such rows).

    Returns:
        ``sqrt((n - 1) / n * sum (value - mean)^2)``; None for fewer than two rows.

    Source: Tukey (1958), "Bias and confidence in not quite large samples".
    """
    count = sum(times for _, times in leave_one_out)
    if count < 2:
        return None
    average = math.fsum(value * times for value, times in leave_one_out) / count
    squares = math.fsum(times * (value - average) ** 2 for value, times in leave_one_out)
    return math.sqrt((count - 1) / count * squares)
