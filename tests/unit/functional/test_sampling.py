"""Uniform buffers and fair shares, against brute force."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.functional.sampling import fair_shares, lowest_priorities

ROWS = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=15)


@given(ROWS, st.integers(0, 60))
def test_the_chosen_are_the_longest_run_by_priority_that_fits(rows: list[tuple[int, int]], budget: int) -> None:
    priorities, sizes = [p for p, _ in rows], [s for _, s in rows]
    by_priority = [index for _, index in sorted((priority, index) for index, priority in enumerate(priorities))]
    fitting = [n for n in range(len(rows) + 1) if sum(sizes[index] for index in by_priority[:n]) <= budget]
    assert lowest_priorities(priorities, sizes, budget) == sorted(by_priority[: max(fitting)])


@given(st.lists(st.floats(0, 1), unique=True, max_size=30), st.integers(0, 35), st.integers(1, 5))
def test_rows_that_stream_in_give_the_same_buffer_as_all_at_once(
    priorities: list[float], budget: int, chunks: int
) -> None:
    kept: list[int] = []
    for chunk in range(chunks):
        pool = kept + [index for index in range(len(priorities)) if index % chunks == chunk]
        chosen = lowest_priorities([priorities[index] for index in pool], [1] * len(pool), budget)
        kept = [pool[index] for index in chosen]
    at_once = lowest_priorities(priorities, [1] * len(priorities), budget)
    assert sorted(kept) == at_once
    assert len(at_once) == min(budget, len(priorities))


def test_every_row_and_every_pair_is_as_likely_as_the_others() -> None:
    """5 of 12 rows: a row is kept with probability 5/12, a pair with 5*4 / (12*11)."""
    draw, rows, budget, trials = random.Random(0), 12, 5, 20_000
    single, pairs = [0] * rows, dict.fromkeys(itertools.combinations(range(rows), 2), 0)
    for _ in range(trials):
        chosen = lowest_priorities([draw.random() for _ in range(rows)], [1] * rows, budget)
        for row in chosen:
            single[row] += 1
        for pair in itertools.combinations(chosen, 2):
            pairs[pair] += 1
    for counts, chance in ((single, 5 / 12), (pairs.values(), 20 / 132)):
        deviation = (trials * chance * (1 - chance)) ** 0.5
        assert max(abs(count - trials * chance) for count in counts) < 4.5 * deviation


def test_shares_are_equal_and_the_remainder_goes_to_the_first() -> None:
    assert fair_shares([9, 9, 9], 9) == [3, 3, 3]
    assert fair_shares([9, 9, 9], 8) == [3, 3, 2]
    assert fair_shares([9, 9, 9], 2) == [1, 1, 0]
    assert fair_shares([1, 9, 9], 9) == [1, 4, 4]
    assert fair_shares([1, 2, 3, 2], 7) == [1, 2, 2, 2]
    assert fair_shares([1, 9, 2], 100) == [1, 9, 2]
    assert fair_shares([0, 0], 5) == [0, 0]
    assert fair_shares([], 5) == []


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 16))
def test_shares_are_max_min_fair(demands: list[int], budget: int) -> None:
    """No allocation within the demands has a better worst-off claimant, then second-worst, and so on."""
    shares = fair_shares(demands, budget)
    total = min(budget, sum(demands))
    assert sum(shares) == total
    allocations = itertools.product(*(range(demand + 1) for demand in demands))
    fairest = max((sorted(allocation) for allocation in allocations if sum(allocation) == total), default=[])
    assert sorted(shares) == fairest
    assert all(0 <= share <= demand for share, demand in zip(shares, demands, strict=True))


@given(st.lists(st.integers(0, 10**9), max_size=50), st.integers(0, 10**11))
def test_large_budgets_are_split_quickly_and_wholly(demands: list[int], budget: int) -> None:
    assert sum(fair_shares(demands, budget)) == min(budget, sum(demands))
