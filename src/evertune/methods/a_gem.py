"""A-GEM: no step may raise the loss on what is remembered of earlier tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge

from evertune.backbones.language_model import without_dropout
from evertune.functional.sampling import fair_shares, lowest_priorities
from evertune.methods.base import Context, Method, MethodState
from evertune.randomness import derive_seed, python_generator
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from torch import Tensor, nn

_ROWS = "a-gem rows"


@dataclass(frozen=True, kw_only=True)
class AGEM(Method):
    """Averaged gradient episodic memory: takes out of a gradient what would unlearn rows of earlier tasks.

    At every optimiser step some remembered rows are drawn, and g_ref is the gradient of their mean loss per token. If
    the gradient g of the step, with all terms in it, points against it (``<g, g_ref> < 0``), then
    ``g <- g - <g, g_ref> / <g_ref, g_ref> g_ref``, over all that learns as one vector; otherwise g stays as it is. No
    remembered row is learnt from. g_ref is computed in evaluation mode, so that dropout draws for the task's own rows
    what it would draw without the memory; and in the optimiser's hands only the first step along g is sure not to
    raise that loss: AdamW scales every weight by itself.

    The memory holds ids; rows are read from the stream again. Every task has the same share of it, sampled uniformly. A
    step costs one more forward and backward pass of `batch_size` rows.

    Attributes:
        buffer_size: Rows in memory.
        batch_size: Rows drawn at each step, without putting back; all at once.

    Source: Chaudhry et al. (2019), arXiv:1812.00420.
    """

    buffer_size: Annotated[int, Ge(1)] = 1000
    batch_size: Annotated[int, Ge(1)] = 16

    requires: ClassVar[frozenset[str]] = frozenset({"old_data"})

    def init_state(self) -> MethodState:
        """An empty memory."""
        return MethodState(values={"memory": [], "step": 0, "corrected": 0})

    def begin_task(self, state: MethodState, context: Context) -> None:
        """Counts anew."""
        state.values.update(step=0, corrected=0)

    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Corrects the gradient of a step; one that is not finite is left to the check that follows."""
        if not state.values["memory"]:
            return
        reference = self._reference(state, context, list(parameters.values()))
        state.values["step"] += 1
        # What has no gradient does not move.
        pairs = [
            (parameter.grad, part)
            for parameter, part in zip(parameters.values(), reference, strict=True)
            if parameter.grad is not None and part is not None
        ]
        state.values["corrected"] += remove_conflict_([g for g, _ in pairs], [r for _, r in pairs])

    def end_task(self, state: MethodState, context: Context) -> None:
        """Offers the stage's own rows to the memory."""
        kept = set(state.values["memory"])
        pools = [[row for row in task.train if row.id in kept or task in context.tasks] for task in context.seen]
        shares = fair_shares([len(pool) for pool in pools], self.buffer_size)
        state.values["memory"] = [
            pool[index].id
            for pool, share in zip(pools, shares, strict=True)
            for index in lowest_priorities(
                [derive_seed(context.seed, "a-gem memory", row.id) for row in pool], [1] * len(pool), share
            )
        ]

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """At how many of the stage's steps the gradient was corrected."""
        steps = state.values["step"]
        return {"corrected_share": state.values["corrected"] / steps} if steps else {}

    def _reference(
        self, state: MethodState, context: Context, parameters: Sequence[nn.Parameter]
    ) -> tuple[Tensor | None, ...]:
        """Gradient of the mean loss per token of the rows drawn for this step; the same on every process."""
        model = context.bank.model
        with without_dropout(model):
            with context.computing():
                output = context.backbone.loss(model, context.batch(self._drawn(state, context)))
            return torch.autograd.grad(output.sum / max(output.count, 1), parameters, allow_unused=True)

    def _drawn(self, state: MethodState, context: Context) -> list[PromptTarget]:
        memory: list[str] = state.values["memory"]
        if _ROWS not in context.derived:
            context.derived[_ROWS] = context.stream.train_rows(memory)
        draw = python_generator(context.seed, "a-gem", context.stage.index, state.values["step"])
        return [context.derived[_ROWS][id] for id in draw.sample(memory, min(self.batch_size, len(memory)))]


@torch.no_grad()
def remove_conflict_(gradients: Sequence[Tensor], reference: Sequence[Tensor]) -> bool:
    """Takes the part along a reference out of a gradient in place, if it points against it.

    Args:
        gradients: The parts of one vector.
        reference: The same parts of the other.

    Returns:
        Whether it did; never where one of them is not finite.
    """
    if not gradients:
        return False
    products = torch.stack([(g * r).sum() for g, r in zip(gradients, reference, strict=True)]).sum()
    squares = torch.stack([r.square().sum() for r in reference]).sum()
    against, length = torch.stack([products, squares]).tolist()
    if not (against < 0 and math.isfinite(against) and 0 < length < math.inf):
        return False
    for gradient, part in zip(gradients, reference, strict=True):
        gradient.sub_(part, alpha=against / length)
    return True
