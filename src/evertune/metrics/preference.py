"""Whether a model finds the right answer likelier than one that was rejected."""

from __future__ import annotations

from evertune.metrics.base import TARGET, Metric, Row

REJECTED = "rejected"


def preference_accuracy(prediction: str, reference: str, row: Row) -> float:
    """1.0 if the right answer is likelier per token than the row's ``rejected`` one, else 0.0.

    Both are answers to the same prompt, cut to the same length as in training, with their end token. A tie is wrong.
    What the model generates plays no part.

    Source: Bai et al. (2022), arXiv:2204.05862, for the pairs; length-normalised log-likelihood as usual in multiple
    choice.
    """
    return float(row.likelihoods[TARGET].mean_loss < row.likelihoods[REJECTED].mean_loss)


def preference_accuracy_sum(prediction: str, reference: str, row: Row) -> float:
    """1.0 if the right answer is likelier as a whole than the row's ``rejected`` one, else 0.0; favours short answers.

    Source: as for `preference_accuracy`, without normalisation by length.
    """
    return float(row.likelihoods[TARGET].loss < row.likelihoods[REJECTED].loss)


_FACTS = frozenset({REJECTED})

PREFERENCE_ACCURACY = Metric(
    name="preference_accuracy",
    row_score=preference_accuracy,
    binary=True,
    needs=_FACTS,
    compares=_FACTS,
    beside=("preference_accuracy_sum",),
)
PREFERENCE_ACCURACY_SUM = Metric(
    name="preference_accuracy_sum", row_score=preference_accuracy_sum, binary=True, needs=_FACTS, compares=_FACTS
)
