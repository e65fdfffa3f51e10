"""Second moments of what modules read over the rows of a task."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from evertune.methods.base import Context


def input_moments(context: Context) -> dict[str, Tensor]:
    """Second moments ``sum x x^T``, ``(d_in, d_in)``, of what modules read over the stage's rows, by module path.

    Of modules with an adapter or with a base weight that changes; padding does not count.
    """
    moments: dict[str, Tensor] = {}
    model = context.bank.model
    was_training = model.training
    model.eval()
    try:
        for path, inputs in _inputs(context):
            moment = inputs.T @ inputs
            moments[path] = moments[path].add_(moment) if path in moments else moment
    finally:
        model.train(was_training)
    return moments


def _inputs(context: Context) -> Iterator[tuple[str, Tensor]]:
    with torch.no_grad(), context.bank.observed() as seen:
        for batch in context.batches():
            with context.computing():
                context.backbone.loss(context.bank.model, batch)
            for path, (inputs, _) in seen.items():
                yield path, batch.real_tokens(inputs, path).float()
            seen.clear()


def square_root(moment: Tensor) -> Tensor:
    """Rows ``(d, d)`` whose second moments are `moment`."""
    values, vectors = torch.linalg.eigh(moment.double())
    return (values.clamp_min(0).sqrt()[:, None] * vectors.T).flip(0).float()
