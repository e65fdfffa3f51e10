"""Collisions: entries of a weight that several tasks change."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 1 << 20
"""Entries of the changes that exist at a time, of all tasks together: 4 MiB of float32."""


@torch.no_grad()
def collision_rates(modules: Sequence[tuple[Tensor, Tensor]], *, threshold: float = 1e-6, chunk: int = CHUNK) -> Tensor:
    r"""How often two tasks change the same entries: ``CR_ij = #(both are not 0) / #(entries)``.

    Trained entries are hardly ever exactly zero. So an entry counts as changed if it is larger in size than `threshold`
    times the largest of the same task in the same module.

    Args:
        modules: Factors ``B (tasks, m, r)`` and ``A (tasks, r, n)`` of every module; the change of a task is ``B A``.
        threshold: Relative size below which an entry counts as zero; 0 counts everything that is not exactly zero.
        chunk: Entries at a time, at least one row of every task.

    Returns:
        ``(tasks, tasks)``, float64, symmetric, over the entries of all modules; the diagonal is the density of a task.

    Source: N-LoRA, arXiv:2410.10179; the threshold is ours.
    """
    assert modules, "no modules"
    tasks = len(modules[0][0])
    both, entries = torch.zeros(tasks, tasks, dtype=torch.float64), 0
    for B, A in modules:
        rows, columns = B.shape[1], A.shape[2]
        height = max(chunk // (tasks * columns), 1)
        parts = [B[:, start : start + height] for start in range(0, rows, height)]
        largest = torch.stack([torch.bmm(part, A).abs().amax((1, 2)) for part in parts]).amax(0)
        for part in parts:
            changed = torch.bmm(part, A).abs() > threshold * largest[:, None, None]
            # Counts below 2^24 are exact in float32: a chunk has fewer entries.
            flat = changed.flatten(1).float()
            both += (flat @ flat.T).double().cpu()
        entries += rows * columns
    return both / entries


def average_collision_rate(rates: Tensor) -> float:
    """``ACR = 2 / (T (T - 1)) * sum_{i<j} CR_ij``, the mean over all pairs of tasks.

    Args:
        rates: ``(T, T)`` with T at least 2, as `collision_rates` returns.
    """
    tasks = len(rates)
    assert tasks > 1, "a pair needs two tasks"
    return float(rates.triu(1).sum()) * 2 / (tasks * (tasks - 1))
