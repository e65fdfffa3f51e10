"""Metrics on a closed set of answers. What is not one of them is wrong, and is never dropped."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from evertune.metrics.base import Labels, Metric
from evertune.metrics.statistics import jackknife_error
from evertune.metrics.text import normalise

# Stand for "not a label" in references and predictions: equal to no label, and not to each other.
_INVALID_REFERENCE = -1
_UNPARSEABLE = -2


@functools.lru_cache(maxsize=256)
def _label_index(labels: tuple[str, ...]) -> Mapping[str, int]:
    """Normalised label to its index; labels that only punctuation tells apart (``C`` and ``C++``) are left out."""
    normalised = [normalise(label) for label in labels]
    clashes = {text for text, count in Counter(normalised).items() if count > 1}
    return {text: index for index, text in enumerate(normalised) if text not in clashes}


def colliding_labels(labels: Sequence[str]) -> list[str]:
    """Labels that are the same after `normalise` (``C`` and ``C++``): `exact_match` cannot tell them apart."""
    known = _label_index(tuple(labels))
    return [label for label in labels if normalise(label) not in known]


def label_of(answer: str, labels: Sequence[str]) -> int | None:
    """Index of the label that an answer is, None if it is none of them.

    An answer is a label if both are the same after `normalise`. Labels that are the same after it must be met as
    written, up to surrounding white space.
    """
    if answer in labels:
        return list(labels).index(answer)
    stripped = answer.strip()
    alike = [index for index, label in enumerate(labels) if label.strip() == stripped]
    if len(alike) == 1:
        return alike[0]
    return _label_index(tuple(labels)).get(normalise(answer))


def accuracy(prediction: str, reference: str, labels: Labels = None) -> float:
    """1.0 if the prediction is the label of the row, else 0.0; a row whose reference is no label is always wrong.

    Without labels it is `exact_match`.
    """
    if labels is None:
        return float(normalise(prediction) == normalise(reference))
    expected = label_of(reference, labels)
    return float(expected is not None and label_of(prediction, labels) == expected)


def _classes(predictions: Sequence[str], references: Sequence[str], labels: Labels) -> tuple[list[int], list[int]]:
    """References and predictions as class indices; without labels the distinct references are the classes."""
    names = labels if labels is not None else list(dict.fromkeys(normalise(reference) for reference in references))
    expected = [label_of(reference, names) for reference in references]
    answered = [label_of(prediction, names) for prediction in predictions]
    return (
        [_INVALID_REFERENCE if index is None else index for index in expected],
        [_UNPARSEABLE if index is None else index for index in answered],
    )


def _macro(
    quantity: Literal["precision", "recall", "f1"], expected: list[int], answered: list[int], weights: list[int]
) -> float:
    """Macro average over the labels that occur in references or predictions, rows weighted."""
    from sklearn import metrics as sklearn_metrics  # pyright: ignore[reportMissingTypeStubs]

    scorers = cast("Any", sklearn_metrics)
    occurring = sorted(
        {
            index
            for pair, weight in zip(zip(expected, answered, strict=True), weights, strict=True)
            if weight
            for index in pair
        }
        - {_INVALID_REFERENCE, _UNPARSEABLE}
    )
    if not occurring:
        return 0.0
    function = getattr(scorers, f"{quantity}_score")
    return float(
        function(expected, answered, labels=occurring, average="macro", sample_weight=weights, zero_division=0.0)
    )


def precision(predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> float:
    """Macro precision in [0, 1]; 0 for a label that was never predicted."""
    return _macro("precision", *_classes(predictions, references, labels), [1] * len(references))


def recall(predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> float:
    """Macro recall in [0, 1]; 0 for a label that was predicted but never occurs."""
    return _macro("recall", *_classes(predictions, references, labels), [1] * len(references))


def f1(predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> float:
    """Macro F1 in [0, 1], over the labels that occur in references or predictions.

    A prediction that is no label takes away from the recall of its row's label; it is no class of its own in the mean.
    """
    return _macro("f1", *_classes(predictions, references, labels), [1] * len(references))


def f1_error(predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> float | None:
    """Jackknife standard error of `f1`; None for fewer than two rows."""
    counts = Counter(zip(*_classes(predictions, references, labels), strict=True))
    expected = [pair[0] for pair in counts]
    answered = [pair[1] for pair in counts]
    left_out: list[tuple[float, int]] = []
    # Rows with the same class and answer change the score alike, so one evaluation stands for all of them.
    for position, times in enumerate(counts.values()):
        weights = list(counts.values())
        weights[position] -= 1
        left_out.append((_macro("f1", expected, answered, weights), times))
    return jackknife_error(left_out)


ACCURACY = Metric(name="accuracy", per_row=accuracy, binary=True)
F1 = Metric(name="f1", per_row=accuracy, binary=True, corpus=f1, corpus_error=f1_error)
