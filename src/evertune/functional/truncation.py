"""Sums of low-rank matrices, cut back to a low rank."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_linalg: Any = torch.linalg


def truncated_sum(B: Tensor, A: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """The best approximation of ``B A`` of a lower rank, without ever making the product.

    Two thin QR decompositions and the SVD of a small matrix (Eckart and Young, 1936): ``O((m + n) k^2 + k^3)``.

    Args:
        B: ``(m, k)``; side by side the output bases of the summands.
        A: ``(k, n)``; on top of each other their input bases.
        rank: At most k.

    Returns:
        ``B'`` (m, rank), columns orthogonal and as long as the singular values; ``A'`` (rank, n), rows orthonormal;
        both float32. And the share of the squared Frobenius norm that is kept, a scalar in [0, 1]; 1 of nothing.
    """
    Q_B, R_B = _linalg.qr(B.float())
    Q_A, R_A = _linalg.qr(A.float().T)
    U, S, V = _linalg.svd(R_B @ R_A.T)
    energy: Tensor = S.square()
    total = energy.sum()
    kept = torch.where(total > 0, energy[:rank].sum() / total, torch.ones_like(total))
    return Q_B @ (U[:, :rank] * S[:rank]), V[:rank] @ Q_A.T, kept
