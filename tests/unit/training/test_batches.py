"""Every row exactly once, the same rows in a step however it is split, and the longest first."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.training.batches import (
    STEPS_SORTED_TOGETHER,
    epoch_steps,
    micro_batches,
    rows_per_step,
    steps_per_epoch,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=150)


def steps_of(
    lengths: list[int], step_rows: int, grouped: bool = True, seed: int = 1, epoch: int = 0
) -> list[list[int]]:
    return epoch_steps(lengths, step_rows=step_rows, group_by_length=grouped, seed=seed, stage=0, epoch=epoch)


@given(LENGTHS, st.integers(1, 9), st.booleans(), st.integers(0, 99), st.integers(0, 3))
def test_every_row_comes_exactly_once(lengths: list[int], step_rows: int, grouped: bool, seed: int, epoch: int) -> None:
    steps = steps_of(lengths, step_rows, grouped, seed, epoch)
    assert sorted(itertools.chain.from_iterable(steps)) == list(range(len(lengths)))
    assert len(steps) == steps_per_epoch(len(lengths), step_rows)
    sizes = sorted((len(step) for step in steps), reverse=True)
    assert sizes[:-1] == [step_rows] * (len(steps) - 1)  # only one step may be smaller
    assert steps == steps_of(lengths, step_rows, grouped, seed, epoch)


@given(LENGTHS, st.integers(1, 9), st.integers(0, 99))
def test_the_step_with_the_longest_row_comes_first(lengths: list[int], step_rows: int, seed: int) -> None:
    first = steps_of(lengths, step_rows, seed=seed)[0]
    assert max(lengths[row] for row in first) == max(lengths)


def test_later_epochs_begin_anywhere_and_are_ordered_otherwise() -> None:
    lengths = list(range(1, 101))
    epochs = [steps_of(lengths, 4, epoch=epoch) for epoch in range(8)]
    assert len({str(steps) for steps in epochs}) == 8
    assert any(100 not in (lengths[row] for row in steps[0]) for steps in epochs[1:])


@pytest.mark.parametrize("grouped", [True, False])
def test_order_depends_on_seed_stage_and_epoch(grouped: bool) -> None:
    lengths = [5] * 40
    orders = {
        str(epoch_steps(lengths, step_rows=4, group_by_length=grouped, seed=seed, stage=stage, epoch=epoch))
        for seed in (0, 1)
        for stage in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8


def test_grouping_saves_padding_and_keeps_neighbourhoods_random() -> None:
    """Lengths vary within a step far less than over the data; steps of like length do not follow each other."""
    lengths = [1 + (index * 37) % 500 for index in range(2000)]
    grouped, plain = steps_of(lengths, 8), steps_of(lengths, 8, grouped=False)

    def spread(steps: list[list[int]]) -> float:
        return statistics.mean(max(lengths[row] for row in step) - min(lengths[row] for row in step) for step in steps)

    assert spread(grouped) < 0.05 * spread(plain)
    means = [statistics.mean(lengths[row] for row in step) for step in grouped[1:]]
    assert abs(statistics.correlation(means[:-1], means[1:])) < 0.3


def test_rows_are_sorted_only_within_a_stretch() -> None:
    """More rows than one stretch: a step of the longest rows of all would need a sort over everything."""
    step_rows = 2
    lengths = list(range(4 * step_rows * STEPS_SORTED_TOGETHER))
    top = set(sorted(lengths)[-step_rows:])
    assert all({lengths[row] for row in step} != top for step in steps_of(lengths, step_rows, seed=3))


def test_a_row_is_as_likely_in_any_step() -> None:
    lengths = [1 + index % 10 for index in range(20)]
    trials, places = 3000, [0] * 5
    for seed in range(trials):
        steps = steps_of(lengths, 4, seed=seed, epoch=1)
        places[next(place for place, step in enumerate(steps) if 7 in step)] += 1
    deviation = (trials * 0.2 * 0.8) ** 0.5
    assert max(abs(count - trials / 5) for count in places) < 4.5 * deviation


@given(
    st.lists(st.integers(1, 60), min_size=8, max_size=120),
    st.sampled_from([(8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2), (1, 2, 4), (2, 1, 4), (1, 1, 8)]),
    st.integers(0, 9),
)
def test_steps_hold_the_same_rows_however_they_are_split(
    lengths: list[int], split: tuple[int, int, int], seed: int
) -> None:
    per_device, accumulation, processes = split
    step_rows = rows_per_step(per_device, accumulation, processes)
    assert step_rows == 8
    for step in steps_of(lengths, step_rows, seed=seed):
        parts = [
            micro_batches(step, lengths, per_device=per_device, processes=processes, rank=rank)
            for rank in range(processes)
        ]
        merged = [row for part in parts for batch in part for row in batch]
        assert sorted(merged) == sorted(step)
        assert len({len(part) for part in parts}) == 1  # nobody waits for a process that has nothing to do
        assert 1 <= len(parts[0]) <= accumulation
        assert all(len(batch) <= per_device for part in parts for batch in part)
        assert all(part[0] for part in parts[:1])  # the main process always has rows


@given(st.lists(st.integers(1, 60), min_size=1, max_size=16), st.integers(1, 4), st.integers(1, 4))
def test_processes_get_like_amounts_of_work(lengths: list[int], per_device: int, processes: int) -> None:
    """In every round the rows of all processes are neighbours in length."""
    step = list(range(len(lengths)))
    parts = [
        micro_batches(step, lengths, per_device=per_device, processes=processes, rank=rank) for rank in range(processes)
    ]
    rounds = [[row for part in parts for row in part[index]] for index in range(len(parts[0]))]
    for earlier, later in itertools.pairwise(rounds):
        assert min(lengths[row] for row in earlier) >= max(lengths[row] for row in later)


def test_an_example_by_hand() -> None:
    lengths = [3, 9, 1, 7, 5]
    split = {rank: micro_batches([0, 1, 2, 3, 4], lengths, per_device=1, processes=2, rank=rank) for rank in (0, 1)}
    assert split == {0: [[1], [4], [2]], 1: [[3], [0], []]}
