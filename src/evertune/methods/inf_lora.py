"""InfLoRA: the input basis of every new adapter is chosen, not trained, so that it cannot touch earlier tasks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from evertune.adapters.spec import AdapterPlan
from evertune.functional.subspace import remove
from evertune.methods import protected
from evertune.methods.base import Context, MethodState, task_adapter
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.input_moments import input_moments, square_root
from evertune.streams.task import Stage


@dataclass(frozen=True, kw_only=True)
class InfLoRA(IncLoRA):
    """A new adapter for every task, of which only B learns; the rows of A are directions that are still free.

    Before a task the model reads its training rows once. The rows of A are the directions in which the inputs of a
    module vary most, after the directions of earlier tasks have been taken out, with the length that rows of a fresh
    LoRA have. Afterwards the rows are read again and the leading directions of the inputs join the protected ones, so
    ``B A x = 0`` for every protected x, whatever B learns.

    Second moments of the inputs are exact: ``d_in^2`` float32 numbers per module while the rows are read.

    Attributes:
        energy_threshold: Share of the inputs' energy that is protected after the first task; it rises linearly to 1
            over the stream, as published.
        max_protected_share: At most this share of a module's input directions is ever protected.

    Source: Liang and Li (2024), "InfLoRA", arXiv:2404.00228. The published code keeps the complement of the protected
    space where that is the smaller; the space is the same.
    """

    energy_threshold: Annotated[float, Gt(0), Le(1)] = 0.95
    max_protected_share: Annotated[float, Gt(0), Le(1)] = 0.9

    requires: ClassVar[frozenset[str]] = frozenset({"new_adapters"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """As inc-lora, with A held."""
        plan = super().adapters(stage)
        return AdapterPlan(plan.active, plan.trainable, fixed=("lora_A",))

    @torch.no_grad()
    def begin_task(self, state: MethodState, context: Context) -> None:
        """Chooses A."""
        held = protected.bases(state)
        factors = context.bank.factors(task_adapter(context.stage.index))
        for path, moment in input_moments(context).items():
            A = factors[path].A
            A.copy_(free_directions(moment, held.get(path), len(A)) / math.sqrt(3))

    @torch.no_grad()
    def end_task(self, state: MethodState, context: Context) -> None:
        """Protects the leading directions of the task's inputs."""
        sketches = {path: square_root(moment) for path, moment in input_moments(context).items()}
        done = context.stage.index / max(1, len(context.stream.tasks) - 1)
        threshold = self.energy_threshold + (1 - self.energy_threshold) * done
        protected.grow(state, sketches, threshold=threshold, max_share=self.max_protected_share)
        protected.warn_of_little_room(state, context, "method.energy_threshold")

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """The protected space."""
        return protected.facts(state)


def free_directions(moment: Tensor, basis: Tensor | None, rank: int) -> Tensor:
    """The orthonormal directions outside a basis in which inputs have the most energy.

    Args:
        moment: Second moments ``(d, d)``.
        basis: Protected directions ``(d, k)``, orthonormal.
        rank: How many.

    Returns:
        ``(rank, d)``, float32; rows are zero where nothing is left.
    """
    root = square_root(moment)
    if basis is not None:
        basis = basis.to(root.device)
        root = remove(root, basis)
    _, sizes, directions = torch.linalg.svd(root, full_matrices=False)
    directions = directions[:rank]
    if basis is not None:
        directions = remove(directions, basis)
        directions = torch.linalg.qr(directions.T)[0].T
        directions = remove(directions, basis)  # twice is enough: Kahan, after Parlett
    usable = sizes[:rank] > 1e-6 * sizes[0].clamp_min(1e-30)
    chosen = torch.zeros(rank, moment.shape[0], device=root.device)
    chosen[: len(directions)] = directions * usable[:, None]
    return chosen
