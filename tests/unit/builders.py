"""Small streams for tests: rows with ids as the readers give them, and the context of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evertune.methods.base import Context
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task, sequential_stages


def row(task: str, number: int, text: str = "", target: str = "yes") -> PromptTarget:
    """A training row."""
    return PromptTarget(f"{task}/train/{number}", (Segment(text or f"{task} {number}", cut=True),), target)


def task(name: str, train: int | Sequence[PromptTarget], **fields: Any) -> Task:
    """A task with so many training rows, or with these."""
    rows = tuple(row(name, number) for number in range(train)) if isinstance(train, int) else tuple(train)
    return Task(name, rows, (), (), **fields)


def stream(*sizes: int) -> Stream:
    """A stream of tasks ``a``, ``b``, ... with so many training rows."""
    return Stream("letters", tuple(task("abcdefgh"[index], size) for index, size in enumerate(sizes)))


def context(
    of: Stream,
    stage: int | Stage,
    *,
    seed: int = 7,
    epochs: Mapping[str, float] | None = None,
    bank: Any = None,
    backbone: Any = None,
) -> Context:
    """The context of a stage, which most methods read without touching model or adapters."""
    chosen = sequential_stages(of.tasks)[stage] if isinstance(stage, int) else stage
    return Context(of, chosen, bank, backbone, seed, epochs or {of.names[index]: 1.0 for index in chosen.tasks})
