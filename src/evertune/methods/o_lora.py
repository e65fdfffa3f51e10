"""O-LoRA: every task learns in input directions that are orthogonal to those of earlier tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from evertune.functional.penalties import frobenius_norms, overlap_l1, overlap_squared, same_shapes
from evertune.methods.base import Context, MethodState
from evertune.methods.inc_lora import IncLoRA

if TYPE_CHECKING:
    from torch import Tensor

    from evertune.adapters.layers import Factors

_PAST = "o-lora past"


@dataclass(frozen=True, kw_only=True)
class OLoRA(IncLoRA):
    """A new adapter for every task as in inc-lora, kept away from the input directions of the frozen ones.

    Two terms are added to the loss of a step, summed over the adapted modules; A is (r, inputs) and B (outputs, r).

    `orthogonality` is lambda_1 times the sum over past tasks of ``||A_past A_new^T||_F^2`` (paper) or of
    ``sum_jk |A_past A_new^T|_jk`` (released).

    `adapter_norm` is lambda_2 times ``||A_new||_F + ||B_new||_F``; it is in the released code and not in the paper.

    Only A is constrained. The first task has no orthogonality term; a lambda of 0 leaves its term out, and with both at
    0 this is inc-lora. As sums over modules the terms grow with the size of the model (144 adapted projections on
    T5-large, 64 on LLaMA-2-7B) and over the stream; `normalize` makes a lambda mean the same everywhere.

    Attributes:
        lambda_1: Weight of the orthogonality term.
        lambda_2: Weight of the norms of the new factors.
        variant: ``paper``: squared entries, which pull less the smaller the overlap; ``released``: absolute values, as
            in the published code and its lambdas, which pull with the same force down to zero.
        normalize: Divide the orthogonality term by the numbers of modules and of past tasks, and the norms by the
            number of modules.

    Source: Wang et al. (2023), arXiv:2310.14152; the defaults are those of the released scripts for T5-large, orders
    1 to 3.
    """

    lambda_1: Annotated[float, Ge(0)] = 0.5
    lambda_2: Annotated[float, Ge(0)] = 0.0
    variant: Literal["paper", "released"] = "paper"
    normalize: bool = False

    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})
    term_keys: ClassVar[Mapping[str, str]] = {"orthogonality": "lambda_1", "adapter_norm": "lambda_2"}

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        """The terms whose lambda is not 0."""
        terms: dict[str, Tensor] = {}
        past = len(context.bank.active) - 1
        if self.lambda_1 and past:
            terms["orthogonality"] = self.lambda_1 * self._orthogonality(context, past)
        if self.lambda_2:
            terms["adapter_norm"] = self.lambda_2 * self._adapter_norm(context)
        return terms

    def _orthogonality(self, context: Context, past: int) -> Tensor:
        overlap = overlap_squared if self.variant == "paper" else overlap_l1
        new = learning_factors(context)
        sums = [overlap(old, torch.stack([new[path].A for path in paths])) for paths, old in _past_directions(context)]
        return sum_of(sums) / (len(new) * past if self.normalize else 1)

    def _adapter_norm(self, context: Context) -> Tensor:
        new = learning_factors(context)
        sums: list[Tensor] = []
        for paths in same_shapes({path: (factors.A, factors.B) for path, factors in new.items()}):
            sums.append(frobenius_norms(torch.stack([new[path].A for path in paths])))
            sums.append(frobenius_norms(torch.stack([new[path].B for path in paths])))
        return sum_of(sums) / (len(new) if self.normalize else 1)


def learning_factors(context: Context) -> dict[str, Factors]:
    """The factors of the adapter that learns, by module path."""
    (name,) = context.bank.trainable
    return context.bank.factors(name)


def sum_of(terms: list[Tensor]) -> Tensor:
    """The sum of scalars; there is at least one."""
    return torch.stack(terms).sum()


def _past_directions(context: Context) -> list[tuple[tuple[str, ...], Tensor]]:
    """Paths of same-shaped modules with their past A, ``(modules, past tasks * r, inputs)``.

    They are frozen while a stage is learnt: stacked once, when the first step asks.
    """
    if _PAST not in context.derived:
        past = context.bank.past_factors()
        groups = same_shapes({path: (factors.A,) for path, factors in past.items()})
        context.derived[_PAST] = [(paths, torch.stack([past[path].A for path in paths])) for paths in groups]
    return context.derived[_PAST]
