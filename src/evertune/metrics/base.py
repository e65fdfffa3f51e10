"""What a metric is: a score of every row, and one of all rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evertune.metrics.statistics import mean, standard_error

Labels = Sequence[str] | None
RowScore = Callable[[str, str, Labels], float]
CorpusScore = Callable[[Sequence[str], Sequence[str], Labels], float]
CorpusError = Callable[[Sequence[str], Sequence[str], Labels], "float | None"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric on texts.

    Attributes:
        name: Name in `evertune.metrics.METRICS`.
        per_row: Score of one (prediction, reference, labels).
        binary: Whether `per_row` is 0 or 1, so that a row is right or wrong.
        corpus: Score of all rows where it is not the mean of `per_row`.
        corpus_error: Standard error that belongs to `corpus`.
        range: Lowest and highest score.
        higher_is_better: Direction.
    """

    name: str
    per_row: RowScore
    binary: bool
    corpus: CorpusScore | None = None
    corpus_error: CorpusError | None = None
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True

    def rows(self, predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> list[float]:
        """Score of every row, in order.

        Raises:
            ValueError: If there are not as many predictions as references.
        """
        return [self.per_row(*pair, labels) for pair in zip(predictions, references, strict=True)]

    def score(self, predictions: Sequence[str], references: Sequence[str], labels: Labels = None) -> float | None:
        """Score of all rows; None without rows.

        Raises:
            ValueError: If there are not as many predictions as references.
        """
        rows = self.rows(predictions, references, labels)
        if not rows or self.corpus is None:
            return mean(rows)
        return self.corpus(predictions, references, labels)

    def standard_error(
        self, predictions: Sequence[str], references: Sequence[str], labels: Labels = None
    ) -> float | None:
        """Standard error of `score` under sampling of the rows; None where it is undefined."""
        if self.corpus_error is not None:
            return self.corpus_error(predictions, references, labels)
        return standard_error(self.rows(predictions, references, labels), binary=self.binary)
