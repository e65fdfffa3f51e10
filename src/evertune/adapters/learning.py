"""What of a model learns, and that nothing else does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

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
