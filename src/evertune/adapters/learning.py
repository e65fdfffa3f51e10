"""What of a model learns, and that nothing else does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from evertune.errors import RunError


def check_learning(model: nn.Module, wanted: Iterable[nn.Parameter]) -> None:
    """Checks that exactly these parameters require gradients.

    Raises:
        RunError: Naming the others.
    """
    ids = {id(parameter) for parameter in wanted}
    stray = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in ids]
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad and id(p) in ids]
    problems = [f"{len(stray)} parameters train that must not: {', '.join(stray[:3])}."] if stray else []
    problems += [f"{len(frozen)} parameters must train and do not: {', '.join(frozen[:3])}."] if frozen else []
    if problems:
        raise RunError(" ".join(problems))


@contextmanager
def held_constant(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Held open around a forward pass that these parameters, which learn, take part in as constants."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def grouped(learning: Mapping[str, nn.Parameter], learning_rate: float, ratio: float | None) -> list[dict[str, Any]]:
    """What learns as groups for an optimiser: one, or with LoRA+ two of which B's is the faster.

    Args:
        learning: Parameters by their names in the model.
        learning_rate: Of all but B.
        ratio: How many times faster B learns; None for one group.
    """
    if ratio is None:
        return [{"params": list(learning.values())}]
    faster = {key for key in learning if ".lora_B." in key or ".lora_embedding_B." in key}
    groups = [
        {"params": [held for key, held in learning.items() if key not in faster]},
        {"params": [held for key, held in learning.items() if key in faster], "lr": learning_rate * ratio},
    ]
    return [group for group in groups if group["params"]]
