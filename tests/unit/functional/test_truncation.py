"""Truncated sums against the singular value decomposition of the whole matrix."""

import numpy as np
import pytest
import torch

from evertune.functional.truncation import truncated_sum


@pytest.mark.parametrize(("m", "n", "k", "rank"), [(12, 20, 6, 3), (7, 5, 6, 4), (20, 12, 4, 4)])
def test_it_is_the_best_approximation_of_its_rank(m: int, n: int, k: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(k)
    B, A = torch.randn(m, k, generator=generator), torch.randn(k, n, generator=generator)
    U, S, V = np.linalg.svd((B.double() @ A.double()).numpy(), full_matrices=False)
    best = (U[:, :rank] * S[:rank]) @ V[:rank]
    new_B, new_A, kept = truncated_sum(B, A, rank)
    np.testing.assert_allclose((new_B @ new_A).numpy(), best, atol=1e-4)
    assert kept.item() == pytest.approx((S[:rank] ** 2).sum() / (S**2).sum(), rel=1e-5)
    torch.testing.assert_close(new_A @ new_A.T, torch.eye(rank), atol=1e-5, rtol=0)


def test_nothing_stays_nothing_and_its_rows_can_still_learn() -> None:
    B, A, kept = truncated_sum(torch.zeros(8, 4), torch.randn(4, 6), 2)
    assert kept.item() == 1.0
    assert not B.any()
    torch.testing.assert_close(A @ A.T, torch.eye(2), atol=1e-5, rtol=0)
