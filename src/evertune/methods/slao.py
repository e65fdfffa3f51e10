"""SLAO: one adapter learns on and on, and is merged into another with a weight that falls over the tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from evertune.adapters.spec import AdapterPlan
from evertune.methods.base import Context, Method, MethodState
from evertune.streams.task import Stage

TUNED, MERGED = "tuned", "merged"


@dataclass(frozen=True, kw_only=True)
class SLAO(Method):
    """Sequential LoRA with an orthogonal start for every task and a merged adapter that answers.

    Before task i > 1 the input basis of the adapter is made orthonormal, ``A <- Q^T`` with ``A^T = Q R`` (the diagonal
    of R positive), and B goes on from where it is. After it ``A_merged = A_i`` and
    ``B_merged <- B_merged + (B_i - B_merged) / sqrt(i)``. Memory and time do not grow: two adapters in all.

    Source: SLAO (2025), arXiv:2512.23017.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """The adapter that goes on learning."""
        return AdapterPlan((TUNED,), (TUNED,))

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """The merged adapter."""
        return AdapterPlan((MERGED,))

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """Both."""
        return (TUNED, MERGED)

    @torch.no_grad()
    def begin_task(self, state: MethodState, context: Context) -> None:
        """Makes the input basis orthonormal, except before the first task."""
        if context.stage.index > 0:
            for factors in context.bank.factors(TUNED).values():
                factors.A.copy_(orthonormal_rows(factors.A))

    @torch.no_grad()
    def end_task(self, state: MethodState, context: Context) -> None:
        """Merges what was learnt."""
        bank = context.bank
        if MERGED not in bank.names:
            bank.add(MERGED, seed=0)
        weight = 1 / math.sqrt(context.stage.index + 1)
        merged = bank.factors(MERGED)
        for path, tuned in bank.factors(TUNED).items():
            # Kept here too: a resumed run places only the adapter that learns.
            before = state.tensors.get(path, torch.zeros_like(tuned.B, device="cpu")).to(tuned.B.device)
            merged[path].A.copy_(tuned.A)
            merged[path].B.copy_(before + weight * (tuned.B - before))
            state.tensors[path] = merged[path].B.detach().to("cpu", copy=True)


def orthonormal_rows(A: Tensor) -> Tensor:
    """``Q^T`` of ``A^T = Q R`` with a positive diagonal of R, ``(r, d_in)``."""
    Q, R = torch.linalg.qr(A.float().T)
    signs = torch.where(R.diagonal() < 0, -1.0, 1.0)
    return (Q * signs).T
