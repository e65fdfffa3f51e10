"""How well a model of images predicts."""

from __future__ import annotations

from evertune.metrics.base import TARGET, Metric, Row


def noise_explained(prediction: str, reference: str, row: Row) -> float:
    """Share of the variance of the noise in an image that a model predicts given the caption, in [0, 1].

    It is one minus the mean squared error of the predicted noise, whose variance is 1: a model that predicts nothing
    has 0. One that predicts worse than nothing has 0 too, as scores lie in [0, 1]; its loss is reported as it is.

    Source: the loss of Ho, Jain and Abbeel (2020), arXiv:2006.11239, equation 14.
    """
    return min(1.0, max(0.0, 1.0 - row.likelihoods[TARGET].mean_loss))


NOISE_EXPLAINED = Metric(name="noise_explained", row_score=noise_explained, binary=False)
