"""Orthogonal subspace fine-tuning: the next task is learnt in the small singular directions of the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evertune.adapters.spec import AdapterPlan, BaseWeights
from evertune.methods.base import SHARED, Context, Method, MethodState
from evertune.streams.task import Stage


@dataclass(frozen=True, kw_only=True)
class OSF(Method):
    """Keeps the large singular directions of every adapted weight and trains the small ones; new ones for every task.

    At the start of a task each weight ``W = U S V^T`` is split at `adapter.effective_rank`; gradients of the trained
    part are kept orthogonal to the other one (peft's tuner ``osf``). At its end the trained part is merged into the
    weight, and the next task splits the new weight: no task is lost. What is saved is the change of the weights,
    ``delta.safetensors``. Needs ``adapter: {kind: osf}``.

    Source: Nayak et al. (2025), "Sculpting Subspaces", arXiv:2504.07097. There the rank differs from layer to layer by
    the similarity of a layer's input and output; here, as in peft, it is one share of every weight. peft's own tuner is
    the stricter in its projection: it removes the kept directions from either factor.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    requires: ClassVar[frozenset[str]] = frozenset({"trainable_base"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"osf"})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """A fresh split of the weights as earlier tasks left them."""
        return AdapterPlan((SHARED,), (SHARED,), base=BaseWeights())

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """The merged weights alone."""
        return AdapterPlan((), base=BaseWeights())

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """None: what was learnt is in the weights."""
        return ()

    def end_task(self, state: MethodState, context: Context) -> None:
        """Merges."""
        context.bank.merge(SHARED)
