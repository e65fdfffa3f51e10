"""What the model makes of the answers of rows, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

from torch import Tensor
from torch.nn import functional

from evertune.backbones.base import IGNORED, Batch, LossOutput
from evertune.backbones.language_model import evaluating
from evertune.functional.divergence import entropy
from evertune.methods.base import Context


@dataclass(frozen=True)
class BatchAnswers:
    """The answers of a batch of rows, one row behind the other.

    Attributes:
        places: Which tokens belong to a row, by its id.
        logits: What predicts each token, ``(tokens, vocabulary)``.
        labels: The tokens, ``(tokens,)``.
    """

    places: dict[str, slice]
    logits: Tensor
    labels: Tensor


def answer_logits(output: LossOutput) -> Tensor:
    """What predicts each token of the answers of a batch, one row behind the other, ``(tokens, vocabulary)``."""
    return output.logits[output.extra["labels"] != IGNORED]


def row_answers(context: Context, batches: Iterable[Batch] | None = None) -> Iterator[BatchAnswers]:
    """Asks the model as it is now, in evaluation mode and without gradients.

    Args:
        context: Of the stage.
        batches: The rows; None for all of the stage.
    """
    model = context.bank.model
    for batch in context.batches() if batches is None else batches:
        with evaluating(model), context.computing():
            output = context.backbone.loss(model, batch)
        labels = output.extra["labels"]
        scored = labels != IGNORED
        bounds = pairwise(accumulate(scored.sum(1).tolist(), initial=0))
        places = {id: slice(*bound) for id, bound in zip(batch.ids, bounds, strict=True)}
        yield BatchAnswers(places, answer_logits(output), labels[scored])


def mean_entropies(context: Context) -> dict[str, float]:
    """How unsure the model is: mean entropy (nats) over the tokens of an answer, by row id."""
    return _means(context, lambda logits, _: entropy(logits))


def mean_losses(context: Context) -> dict[str, float]:
    """How unlikely the model finds an answer: mean negative log-likelihood (nats) of its tokens, by row id."""
    return _means(context, lambda logits, labels: functional.cross_entropy(logits.float(), labels, reduction="none"))


def _means(context: Context, measure: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    means: dict[str, float] = {}
    for batch in row_answers(context):
        measured = measure(batch.logits, batch.labels).cpu()
        means |= {id: measured[place].mean().item() for id, place in batch.places.items()}
    return means
