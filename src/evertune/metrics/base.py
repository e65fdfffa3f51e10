"""What a metric is: a score of every row, and one of all rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from evertune.metrics.counts import Counts, Quantity, counts_error, total
from evertune.metrics.statistics import mean, standard_error

Labels = Sequence[str] | None
RowScore = Callable[[str, str, Labels], float]
CorpusScore = Callable[[Sequence[str], Sequence[str], Labels], float]
CorpusError = Callable[[Sequence[str], Sequence[str], Labels], "float | None"]

_CONTENTS = {"entities": "{tokens, tags}", "passage": "{question, context, answers}", "event": "an event"}
TARGET = "target"
"""Name of the right answer in `Row.likelihoods`."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a model finds an answer.

    Attributes:
        loss: Negative log-likelihood of the answer and its end, in nats, summed over the tokens.
        tokens: Number of tokens that were scored, the end among them.
    """

    loss: float
    tokens: int

    @property
    def mean_loss(self) -> float:
        """Negative log-likelihood per token, in nats."""
        return self.loss / self.tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a metric may read of a row beside the answer given and the right one.

    Attributes:
        instruction: What was asked: the prompt without the input text, or the last turn of the user.
        tools: The tool schemas on offer.
        facts: What the row's data hold for scorers, by name.
        likelihoods: Likelihood of the right answer (`TARGET`), and of every fact that a metric compares it with.
        passed: Whether the program that a metric made of the answer ran to its end; None where it makes none.
    """

    instruction: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    likelihoods: Mapping[str, Likelihood] = field(default_factory=dict[str, Likelihood])
    passed: bool | None = None


WholeRowScore = Callable[[str, str, Row], float]
RowCounts = Callable[[str, str, Row], Counts]


@dataclass(frozen=True, slots=True)
class Program:
    """What is run to score an answer.

    Attributes:
        code: Python source that a model wrote.
        tests: Python source that follows it in the same namespace, and fails by an exception.
    """

    code: str
    tests: str


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric on texts, or on what a model makes of texts.

    Attributes:
        name: Name in `evertune.metrics.METRICS`.
        binary: Whether a row's score is 0 or 1, so that a row is right or wrong.
        per_row: Score of one (prediction, reference, labels); None where `row_score` or `counts` is given.
        row_score: Score of one (prediction, reference, row), for a metric that must know more of the row.
        counts: What was found and what is there in one (prediction, reference, row), for a micro average over all rows.
        quantity: What is computed of the counts.
        corpus: Score of all rows where it is not the mean of `per_row`.
        corpus_error: Standard error that belongs to `corpus`.
        range: Lowest and highest score.
        higher_is_better: Direction.
        needs: Facts that every scored row must hold: text that is not blank, or a list of such texts.
        content: Name of the fact that holds what an encoder reads of a row, for a metric on rows of one such kind.
        compares: Those of `needs` that are answers (text), whose likelihood is put into `Row.likelihoods`.
        program: What to run of (prediction, row), whose outcome is put into `Row.passed`; for a metric that executes
            code.
        beside: Names of metrics that are reported wherever this one is.
    """

    name: str
    binary: bool
    per_row: RowScore | None = None
    row_score: WholeRowScore | None = None
    counts: RowCounts | None = None
    quantity: Quantity = "f1"
    corpus: CorpusScore | None = None
    corpus_error: CorpusError | None = None
    range: tuple[float, float] = (0.0, 1.0)
    higher_is_better: bool = True
    needs: frozenset[str] = frozenset()
    content: str = ""
    compares: frozenset[str] = frozenset()
    program: Callable[[str, Row], Program] | None = None
    beside: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.per_row, self.row_score, self.counts)) != 1:
            raise ValueError(f"metric {self.name} must have one of per_row, row_score and counts")
        if not self.compares <= self.needs:
            raise ValueError(f"metric {self.name} compares facts that it does not need")

    @property
    def function(self) -> Callable[..., Any]:
        """The function that says what the metric measures."""
        return cast("Callable[..., Any]", self.corpus or self.per_row or self.row_score or self.counts)

    def lacking(self, facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """What a row with these facts lacks to be scored: the name of a fact, and what is wrong as a sentence."""
        if self.content and self.content not in facts:
            yield self.content, f"It is no row of {_CONTENTS.get(self.content, self.content)}."
        for name in sorted(self.needs):
            kinds = "text" if name in self.compares else "text or a list of texts"
            if name not in facts:
                yield name, f"It has no `{name}`."
            elif not _is_text(facts[name]) and (name in self.compares or not _are_texts(facts[name])):
                yield name, f"Its `{name}` is blank, or is not {kinds}."

    def rows(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Labels = None,
        rows: Sequence[Row] | None = None,
    ) -> list[float]:
        """Score of every row, in order.

        Args:
            predictions: The answers given.
            references: The right answers.
            labels: The closed set of answers.
            rows: What else is known of the rows; may be left out for a metric with `per_row`.

        Raises:
            ValueError: If there are not as many predictions as references or rows.
        """
        if self.per_row is not None:
            return [self.per_row(*pair, labels) for pair in zip(predictions, references, strict=True)]
        if self.counts is not None:
            return [each.value(self.quantity) for each in self._counted(predictions, references, rows)]
        assert self.row_score is not None
        return [self.row_score(*each) for each in zip(predictions, references, rows or (), strict=True)]

    def _counted(
        self, predictions: Sequence[str], references: Sequence[str], rows: Sequence[Row] | None
    ) -> list[Counts]:
        assert self.counts is not None
        return [self.counts(*each) for each in zip(predictions, references, rows or (), strict=True)]

    def score(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Labels = None,
        rows: Sequence[Row] | None = None,
    ) -> float | None:
        """Score of all rows; None without rows. Arguments as for `rows`.

        Raises:
            ValueError: If there are not as many predictions as references or rows.
        """
        if self.counts is not None:
            counted = self._counted(predictions, references, rows)
            return total(counted).value(self.quantity) if counted else None
        scores = self.rows(predictions, references, labels, rows)
        if not scores or self.corpus is None:
            return mean(scores)
        return self.corpus(predictions, references, labels)

    def standard_error(
        self,
        predictions: Sequence[str],
        references: Sequence[str],
        labels: Labels = None,
        rows: Sequence[Row] | None = None,
    ) -> float | None:
        """Standard error of `score` under sampling of the rows; None where it is undefined. Arguments as for `rows`."""
        if self.counts is not None:
            return counts_error(self._counted(predictions, references, rows), self.quantity)
        if self.corpus_error is not None:
            return self.corpus_error(predictions, references, labels)
        return standard_error(self.rows(predictions, references, labels, rows), binary=self.binary)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _are_texts(value: Any) -> bool:
    if not isinstance(value, (list, tuple)):
        return False
    items = cast("Sequence[Any]", value)
    return bool(items) and all(map(_is_text, items))
