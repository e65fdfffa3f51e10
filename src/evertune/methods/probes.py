"""Rows whose answers are kept as a model gave them: the most likely tokens at every position of the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from evertune.functional.divergence import TopDistribution, entropy, top_distribution
from evertune.methods.base import Context, MethodState
from evertune.methods.row_answers import row_answers
from evertune.streams.examples import PromptTarget

_TENSORS = ("ids", "log_probs", "rest", "starts")


@dataclass(frozen=True)
class Probe:
    """One row as a model answered it.

    Attributes:
        id: The row's id.
        entropy: Mean entropy (nats) of the model's next-token distributions over the answer.
        answer: Its distributions over the answer and its end token, on the CPU.
    """

    id: str
    entropy: float
    answer: TopDistribution


@dataclass(frozen=True)
class ProbeBuffer:
    """Probes packed into a few tensors: nothing of a vocabulary's size is kept.

    Attributes:
        rows: Ids of the rows.
        starts: Where each row's positions begin in `answers`, and the end of the last, ``(rows + 1,)``, int64.
        answers: The distributions of all rows, one after the other.
    """

    rows: tuple[str, ...]
    starts: Tensor
    answers: TopDistribution

    @classmethod
    def of(cls, probes: Sequence[Probe]) -> ProbeBuffer:
        """Packs probes; there is at least one."""
        lengths = torch.tensor([0, *(len(probe.answer.rest) for probe in probes)])
        held = [(probe.answer.ids, probe.answer.log_probs, probe.answer.rest) for probe in probes]
        answers = TopDistribution(*(torch.cat(parts) for parts in zip(*held, strict=True)))
        return cls(tuple(probe.id for probe in probes), lengths.cumsum(0), answers)

    @classmethod
    def load(cls, state: MethodState) -> ProbeBuffer | None:
        """What `save` left in a state; None if it is empty."""
        if "starts" not in state.tensors:
            return None
        answers = TopDistribution(*(state.tensors[name] for name in _TENSORS[:3]))
        return cls(tuple(state.values["rows"]), state.tensors["starts"], answers)

    def save(self, state: MethodState) -> None:
        """Keeps the buffer in a state: a resumed stage has no other way to the model that made it."""
        held = (self.answers.ids, self.answers.log_probs, self.answers.rest, self.starts)
        state.tensors.update(zip(_TENSORS, held, strict=True))
        state.values["rows"] = list(self.rows)

    @staticmethod
    def clear(state: MethodState) -> None:
        """Takes a buffer out of a state."""
        for name in _TENSORS:
            state.tensors.pop(name, None)
        state.values["rows"] = []

    def take(self, places: Sequence[int]) -> TopDistribution:
        """The distributions of some rows, one after the other."""
        bounds = [(int(self.starts[place]), int(self.starts[place + 1])) for place in places]
        return self.answers[torch.cat([torch.arange(*bound) for bound in bounds])]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.answers.nbytes + self.starts.nbytes


def ask(
    context: Context, rows: Sequence[PromptTarget], *, batch_size: int, top_k: int, temperature: float
) -> Iterator[Probe]:
    """Has the model as it is now answer rows, in evaluation mode, answers forced; batch by batch, in order.

    Args:
        context: Of the stage.
        rows: Of any task.
        batch_size: Rows at once.
        top_k: Tokens kept at each position.
        temperature: Of the kept distributions; the entropy is that of the distribution as it is.
    """
    batches = (context.batch(rows[start : start + batch_size]) for start in range(0, len(rows), batch_size))
    for batch in row_answers(context, batches):
        for id, place in batch.places.items():
            logits = batch.logits[place]
            kept = top_distribution(logits, top_k, temperature).to("cpu")
            yield Probe(id, entropy(logits).mean().item(), kept)


def entropy_bins(candidates: Sequence[float], kept: Sequence[float], count: int = 8) -> list[dict[str, float | int]]:
    """How many rows of each range of entropy were candidates, and how many of them were kept."""
    top = max(candidates, default=0.0)
    edges = [top * step / count for step in range(count + 1)]

    def within(values: Sequence[float], low: float, high: float) -> int:
        return sum(low <= value < high or (value == top == high) for value in values)

    return [
        {"from": low, "to": high, "candidates": within(candidates, low, high), "kept": within(kept, low, high)}
        for low, high in pairwise(edges)
    ]
