"""The diagonal of the Fisher information, and the quadratic penalty that it weighs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def diagonal_fisher(losses: Iterable[Tensor], parameters: Sequence[Tensor]) -> list[Tensor]:
    """Mean over examples of the squared gradient of each one's loss.

    With losses at labels that the model draws itself it estimates the Fisher information, with given labels the
    empirical one. The square of a batch's mean gradient is neither: the gradients of its rows cancel.

    Args:
        losses: One scalar per example, at least one; differentiated as it comes, so that one graph exists at a time.
        parameters: What they depend on.

    Returns:
        For every parameter its diagonal, of its shape, float32, without graph.

    Source: Kirkpatrick et al. (2017), arXiv:1612.00796; on the kinds, Kunstner et al. (2019), arXiv:1905.12558.
    """
    totals = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    count = 0
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        for total, gradient in zip(totals, gradients, strict=True):
            total.add_(gradient.float().square())
        count += 1
    return [total / count for total in totals]


@torch.no_grad()
def drawn_tokens(logits: Tensor, draw: torch.Generator) -> Tensor:
    """One token for each distribution, by inverting its distribution function.

    Args:
        logits: ``(positions, vocabulary)``, any float type.
        draw: A generator of the CPU: whatever the device, the same numbers are drawn.

    Returns:
        Tokens ``(positions,)``, int64; never one whose probability is 0.
    """
    below = logits.float().softmax(-1).cumsum(-1)
    place = torch.rand(len(logits), 1, generator=draw).to(logits.device) * below[:, -1:]
    # Rounding can carry a place to the very end, behind the last token that is possible.
    last = (below < below[:, -1:]).sum(-1)
    return torch.searchsorted(below, place, right=True)[:, 0].minimum(last)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors end to end, ``(numbers in all,)``; at least one."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def quadratic_penalty(parameters: Sequence[Tensor], importance: Tensor, anchor: Tensor) -> Tensor:
    """``1/2 sum F (theta - theta*)^2``.

    Args:
        parameters: theta, with gradient.
        importance: F, `flat` in the order of the parameters.
        anchor: theta*, likewise.

    Returns:
        A scalar; its gradient is ``F (theta - theta*)``.
    """
    return 0.5 * (importance * (flat(parameters) - anchor).square()).sum()


def top_share(values: Tensor, fraction: float) -> float:
    """Share of a sum that the largest numbers hold.

    Args:
        values: ``(n,)``, none below 0.
        fraction: How many of them, as a part of n; at least one number.

    Returns:
        Between `fraction` (all alike) and 1; 0 if the sum is 0.
    """
    count = max(1, int(fraction * len(values)))
    total = values.sum()
    return (values.topk(count).values.sum() / total).item() if total > 0 else 0.0
