"""Collision rates against sets of changed entries."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evertune.functional.collisions import average_collision_rate, collision_rates


def sparse(*shape: int, seed: int, density: float = 0.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * (torch.rand(shape, generator=generator) < density)


def plain_rates(modules: list[tuple[Tensor, Tensor]], threshold: float) -> list[list[float]]:
    """Sets of (module, row, column), entry by entry."""
    tasks = len(modules[0][0])
    changed: list[set[tuple[int, int, int]]] = [set() for _ in range(tasks)]
    for module, (B, A) in enumerate(modules):
        for task in range(tasks):
            change = (B[task] @ A[task]).tolist()
            largest = max(abs(entry) for row in change for entry in row)
            changed[task] |= {
                (module, i, j)
                for i, row in enumerate(change)
                for j, entry in enumerate(row)
                if abs(entry) > threshold * largest
            }
    entries = sum(B.shape[1] * A.shape[2] for B, A in modules)
    return [[len(one & other) / entries for other in changed] for one in changed]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-6, 0.1, 0.5]), st.integers(1, 300))
def test_rates_are_those_of_sets_of_entries(seed: int, threshold: float, chunk: int) -> None:
    shapes = ((7, 5), (3, 8))
    modules = [(sparse(4, m, 2, seed=seed), sparse(4, 2, n, seed=seed + 1)) for m, n in shapes]
    rates = collision_rates(modules, threshold=threshold, chunk=chunk)
    expected = plain_rates(modules, threshold)
    torch.testing.assert_close(rates, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-15)
    pairs = [expected[i][j] for i, j in itertools.combinations(range(4), 2)]
    assert average_collision_rate(rates) == pytest.approx(sum(pairs) / len(pairs))


def test_tasks_that_change_other_rows_never_collide() -> None:
    B = torch.zeros(2, 4, 1)
    B[0, :2], B[1, 2:] = 1.0, 1.0
    A = torch.ones(2, 1, 3)
    assert collision_rates([(B, A)]).tolist() == [[0.5, 0.0], [0.0, 0.5]]
    assert average_collision_rate(collision_rates([(B, A)])) == 0
    assert collision_rates([(torch.ones(2, 4, 1), A)]).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_rounding_noise_is_no_change_and_nothing_at_all_is_none_either() -> None:
    B = torch.tensor([[[1.0], [1e-9]], [[1.0], [1.0]], [[0.0], [0.0]]])
    rates = collision_rates([(B, torch.ones(3, 1, 5))])
    assert rates.tolist() == [[0.5, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 0.0]]
    assert collision_rates([(B, torch.ones(3, 1, 5))], threshold=0)[0].tolist() == [1.0, 1.0, 0.0]
