"""MIGU: only the output units that answer most strongly to a batch may change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Gt, Le

from evertune import distributed
from evertune.methods.base import Context, Method, MethodState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evertune.backbones.base import Batch, LossOutput

_SEEN, _TOTALS = "migu seen", "migu totals"


@dataclass(frozen=True, kw_only=True)
class MIGU(Method):
    """Gradients of the rows of B are kept only for the output units of largest magnitude, and zero for the others.

    The magnitude of a unit of an adapted module is its share ``|h_i| / ||h||_1`` of the module's output, averaged over
    the tokens of an optimiser step. Different tasks excite different units, so they write into different rows. It needs
    no labels of tasks and no memory, and goes with any arrangement of adapters (``method: [inc-lora, migu]``). Momentum
    of the optimiser still moves rows that an earlier batch had chosen.

    Attributes:
        kept_share: Share of the output units whose gradients are kept.

    Source: Du et al. (2024), "Unlocking Continual Learning Abilities in Language Models", arXiv:2406.17245.
    """

    kept_share: Annotated[float, Gt(0), Le(1)] = 0.4

    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    @contextmanager
    def watch(self, state: MethodState, context: Context) -> Iterator[None]:
        """Looks at what the modules give."""
        with context.bank.observed() as seen:
            context.derived[_SEEN], context.derived[_TOTALS] = seen, {}
            yield

    @torch.no_grad()
    def batch_loss(
        self, state: MethodState, context: Context, batch: Batch, output: LossOutput
    ) -> Mapping[str, Tensor]:
        """Adds up the magnitudes of one micro-batch; no term."""
        totals: dict[str, Tensor] = context.derived[_TOTALS]
        seen: dict[str, tuple[Tensor, Tensor]] = context.derived[_SEEN]
        for path, (_, hidden) in seen.items():
            tokens = batch.real_tokens(hidden, path).float().abs()
            share = (tokens / tokens.sum(1, keepdim=True).clamp_min(1e-12)).sum(0)
            totals[path] = totals[path] + share if path in totals else share
        seen.clear()
        return {}

    @torch.no_grad()
    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Zeroes the gradients of the weaker units."""
        totals: dict[str, Tensor] = context.derived[_TOTALS]
        summed = distributed.all_sum(torch.cat(list(totals.values())))
        shares = dict(zip(totals, summed.split([len(total) for total in totals.values()]), strict=True))
        for name in context.bank.trainable:
            for path, factors in context.bank.factors(name).items():
                if factors.B.grad is not None:
                    factors.B.grad.mul_(strongest(shares[path], self.kept_share)[:, None])
        totals.clear()
        context.derived[_SEEN].clear()


def strongest(magnitudes: Tensor, share: float) -> Tensor:
    """1 for the ``ceil(share * n)`` largest of ``(n,)`` magnitudes, 0 for the others, float32."""
    count = max(1, -int(-share * len(magnitudes) // 1))
    kept = torch.zeros_like(magnitudes)
    kept[magnitudes.topk(count).indices] = 1.0
    return kept
