"""What is scored without learning: constant answers, the majority label, and lists of words seen in training."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from evertune.evaluation.measuring import known_rows, metrics_of
from evertune.metrics.arguments import argument_answer
from evertune.metrics.base import Metric
from evertune.metrics.entities import entities_of, entity_answer
from evertune.metrics.spans import NO_ANSWER
from evertune.streams.content_formats import iob2
from evertune.streams.contents import Event, Passage, Picture, TaggedTokens
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
_MOST_CONSTANTS = 10
# What is scored within a second: rows, times the answers that are tried.
_QUICK_ROWS, _QUICK_SCORES = 5000, 50_000

Answer = Callable[[PromptTarget], str]
"""What a baseline answers to a row."""


def constant_baselines(task: Task) -> dict[str, float]:
    """Scores on the test rows of answers that need no model, under the task's own metric.

    Args:
        task: The task; everything that is learnt is learnt from its training rows.

    Returns:
        Scores by name of the baseline; nothing without test rows, and for metrics that run programs or compare answers.
        The best constant is chosen by its score on the test rows: no constant does better.
    """
    metric = metrics_of(task)[0]
    if not task.test or metric.program is not None or metric.compares:
        return {}
    content = task.test[0].content
    if isinstance(content, Picture) and content.caption:
        return {"no noise predicted": 0.0}
    scores = {name: _score(task, metric, answer) for name, answer in _answers(task, content)}
    if content is None or isinstance(content, Picture):
        constants = task.labels or [text for text, _ in Counter(_train_answers(task)).most_common(_MOST_CONSTANTS)]
        scores["best constant answer"] = max((_score(task, metric, _always(each)) for each in constants), default=0.0)
    return scores


def baseline_lines(tasks: Sequence[Task]) -> list[str]:
    """The baselines of every task in a line, as far as they are quick: not of free text, nor of very many rows."""
    lines: list[str] = []
    for task in tasks:
        closed = task.labels is not None or any(row.content is not None for row in task.test[:1])
        few = len(task.test) <= _QUICK_ROWS and len(task.test) * len(task.labels or "1") <= _QUICK_SCORES
        found = constant_baselines(task) if closed and few else {}
        if found:
            lines.append(
                f"baselines of {task.name}: {', '.join(f'{name} {value:.3f}' for name, value in found.items())}"
            )
    return lines


def _score(task: Task, metric: Metric, answer: Answer) -> float:
    predictions = [answer(row) for row in task.test]
    references = [row.target for row in task.test]
    return metric.score(predictions, references, task.labels, known_rows(task.test, {})) or 0.0


def _train_answers(task: Task) -> list[str]:
    return [row.target for row in task.train]


def _always(answer: str) -> Answer:
    return lambda row: answer


def _answers(task: Task, content: object) -> Iterator[tuple[str, Answer]]:
    if isinstance(content, TaggedTokens):
        yield "no entities", _always("[]")
        yield "words seen in training", _known_words(task.train)
    elif isinstance(content, Passage):
        yield "no answer", _always(NO_ANSWER)
        yield "first sentence", _first_sentence
    elif isinstance(content, Event):
        yield "no arguments", _always("{}")
        yield "sentence of the trigger", _trigger_sentence
    elif task.train:
        common = Counter(_train_answers(task)).most_common(1)[0][0]
        yield "majority label" if task.labels else "most frequent answer", _always(common)


def _known_words(train: Sequence[PromptTarget]) -> Answer:
    """Every word that was part of an entity in training has its most frequent tag of those."""
    seen: dict[str, Counter[str]] = {}
    for row in train:
        if isinstance(row.content, TaggedTokens):
            for token, tag in zip(row.content.tokens, row.content.tags, strict=True):
                if tag != "O":
                    seen.setdefault(token, Counter())[tag] += 1
    tags = {token: counts.most_common(1)[0][0] for token, counts in seen.items()}

    def answer(row: PromptTarget) -> str:
        assert isinstance(row.content, TaggedTokens)
        tokens = row.content.tokens
        return entity_answer(tokens, entities_of(iob2([tags.get(token, "O") for token in tokens])), places=True)

    return answer


def _first_sentence(row: PromptTarget) -> str:
    assert isinstance(row.content, Passage)
    return _SENTENCE_END.split(row.content.context.lstrip(), maxsplit=1)[0]


def _trigger_sentence(row: PromptTarget) -> str:
    """The sentence around the trigger, for every role."""
    assert isinstance(row.content, Event)
    event = row.content
    ends = [match.span() for match in _SENTENCE_END.finditer(event.text)]
    start = max((end for _, end in ends if end <= event.trigger[0]), default=0)
    stop = min((place for place, _ in ends if place >= event.trigger[1]), default=len(event.text))
    spans = [(role, start, stop) for role in event.roles]
    return argument_answer(event.text, spans, event.roles, places=True)
