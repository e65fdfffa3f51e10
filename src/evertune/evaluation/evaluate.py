"""Scores rows of a task: answers by generation or by the likelihood of the labels, and their loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from evertune.backbones.base import Backbone, Encoded
from evertune.backbones.text_ids import unframed
from evertune.errors import ConfigError
from evertune.evaluation.cell import Cell, Prediction, read_cell, row_summary, write_cell, write_predictions
from evertune.evaluation.config import EvaluationConfig
from evertune.evaluation.dealing import Found, OnProgress, deal, scoring, unwrapped_of_processes
from evertune.evaluation.measuring import execution_problem, known_rows, metrics_of, run_programs, shares
from evertune.metrics import METRICS
from evertune.metrics.base import TARGET, Labels, Likelihood, Metric, Row
from evertune.metrics.classification import label_of, precision, recall
from evertune.metrics.statistics import mean
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task
from evertune.training.config import TrainConfig

__all__ = ["Cell", "Prediction", "evaluate_rows", "read_cell", "row_summary", "write_cell", "write_predictions"]

_ALWAYS = ("exact_match", "rouge1", "rougeL")
_WITH_LABELS = ("accuracy", "f1")
# Stands in the place of a reference that is not one of the labels: no answer is equal to it or shares a token with it.
_NO_ANSWER = "\x00"


@dataclass(frozen=True)
class _Answer:
    """What the model said about one row: the text, and how likely it finds the right answer."""

    text: str
    right: Likelihood


@dataclass(frozen=True)
class _Answered:
    """All that metrics score.

    Attributes:
        texts: The answers.
        references: The right answers.
        labels: The closed set of answers, None for free text.
        rows: What else is known of every row, by name of a metric.
    """

    texts: Sequence[str]
    references: Sequence[str]
    labels: tuple[str, ...] | None
    rows: Mapping[str, Sequence[Row]]

    def of(self, metric: Metric) -> tuple[Sequence[str], Sequence[str], Labels, Sequence[Row] | None]:
        """The arguments of a metric."""
        return self.texts, self.references, self.labels, self.rows.get(metric.name)


@dataclass(frozen=True)
class _Answerer:
    """Answers rows of a task.

    Attributes:
        backbone: The model family.
        model: The module to call.
        task: The task.
        config: Options of evaluation.
        train: Options of training: how long prompts and answers may be.
        device: Where to compute.
    """

    backbone: Backbone
    model: nn.Module
    task: Task
    config: EvaluationConfig
    train: TrainConfig
    device: torch.device | str

    def answers(self, rows: Sequence[PromptTarget], on_progress: OnProgress | None) -> list[_Answer]:
        """The answer to every row; the same in every process."""
        return self._examine(rows, self._answer, on_progress)

    def likelihoods(self, rows: Sequence[PromptTarget], on_progress: OnProgress | None) -> list[Likelihood]:
        """How likely the right answer of every row is; the same in every process."""
        return self._examine(rows, self._likelihoods, on_progress)

    def _examine(
        self,
        rows: Sequence[PromptTarget],
        examine: Callable[[Sequence[Encoded]], Sequence[Found]],
        on_progress: OnProgress | None,
    ) -> list[Found]:
        encoded = self.backbone.encode(
            rows, max_source_length=self.train.max_source_length, max_target_length=self.train.max_target_length
        )
        return deal(encoded, examine, size=self.config.per_device_eval_batch_size, on_progress=on_progress)

    def _answer(self, rows: Sequence[Encoded]) -> list[_Answer]:
        texts = self._texts(rows)
        return [_Answer(text, right) for text, right in zip(texts, self._likelihoods(rows), strict=True)]

    def _likelihoods(self, rows: Sequence[Encoded]) -> list[Likelihood]:
        losses, tokens = self.backbone.answer_loss(self.model, self.backbone.collate(rows).to(self.device))
        pairs = zip(losses.tolist(), tokens.tolist(), strict=True)
        return [Likelihood(float(loss), int(count)) for loss, count in pairs]

    def _texts(self, rows: Sequence[Encoded]) -> list[str]:
        labels = self.task.labels
        if labels and self.config.decoding == "label_likelihood":
            scores = self.backbone.label_scores(self.model, rows, self.backbone.label_ids(labels))
            return [labels[index] for index in scores.argmax(dim=1).tolist()]
        return self.backbone.generate(
            self.model, rows, max_new_tokens=self._max_new_tokens(), num_beams=self.config.num_beams
        )

    def _max_new_tokens(self) -> int:
        """No right answer of a classification task is longer than its longest label."""
        if not self.task.labels:
            return self.train.max_target_length
        longest = max(len(ids) for ids in self.backbone.label_ids(self.task.labels))
        return min(self.train.max_target_length, longest)


def evaluate_rows(
    backbone: Backbone,
    model: nn.Module,
    task: Task,
    rows: Sequence[PromptTarget],
    *,
    config: EvaluationConfig,
    train: TrainConfig,
    device: torch.device | str,
    autocast_dtype: torch.dtype | None = None,
    on_progress: OnProgress | None = None,
) -> Cell:
    """Answers rows of a task with the adapters that are active on the model, and scores the answers.

    The result does not depend on how many processes there are; every process returns the whole cell.

    Args:
        backbone: The model family.
        model: The module to call; it is in evaluation mode meanwhile and comes back as it was.
        task: The task: its labels, its metrics and its invalid rows.
        rows: Rows to answer, of whatever split.
        config: Options of evaluation.
        train: Options of training: how long prompts and answers may be.
        device: Where to compute.
        autocast_dtype: Type of autocast, None for none.
        on_progress: Called after every batch with (rows done, rows in all) of this process.

    Raises:
        ConfigError: If a metric of the task runs code, and that is not allowed or not possible.
        DataError: If a row cannot be encoded.
        MemoryExhaustedError: If memory runs out.
    """
    start = time.perf_counter()
    metrics = metrics_of(task)
    problem = execution_problem(task, config)
    if problem is not None:
        raise ConfigError(problem)
    module = unwrapped_of_processes(model)
    answerer = _Answerer(backbone, module, task, config, train, device)
    compared = sorted({fact for metric in metrics for fact in metric.compares})
    programs = {metric.name: metric.program for metric in metrics if metric.program is not None}
    told = shares(on_progress, 1 + len(compared) + len(programs))
    with scoring(f"scoring {task.name}", module, config, device=device, autocast_dtype=autocast_dtype):
        answers = answerer.answers(rows, next(told))
        likelihoods = {TARGET: [answer.right for answer in answers]}
        for fact in compared:
            others = [replace(row, target=row.facts[fact]) for row in rows]
            likelihoods[fact] = answerer.likelihoods(others, next(told))
    texts = [answer.text for answer in answers]
    references = [row.target if _valid(task, row) else _NO_ANSWER for row in rows]
    known = known_rows(rows, likelihoods)
    ran = {name: run_programs(program, texts, known, next(told)) for name, program in programs.items()}
    by_metric = {metric.name: ran.get(metric.name, known) for metric in metrics}
    answered = _Answered(texts, references, task.labels, by_metric)
    return _cell(backbone, rows, metrics, answered, likelihoods[TARGET], task=task, start=start)


def _valid(task: Task, row: PromptTarget) -> bool:
    """Whether the row's reference is an answer that the task knows."""
    if task.labels is None:
        return True
    return row.id not in task.audit.get("invalid_labels", ()) and label_of(row.target, task.labels) is not None


def _cell(
    backbone: Backbone,
    rows: Sequence[PromptTarget],
    metrics: Sequence[Metric],
    answered: _Answered,
    right: Sequence[Likelihood],
    *,
    task: Task,
    start: float,
) -> Cell:
    metric = metrics[0]
    row_scores = metric.rows(*answered.of(metric))
    return Cell(
        task=task.name,
        metric=metric.name,
        score=metric.score(*answered.of(metric)),
        count=len(rows),
        standard_error=metric.standard_error(*answered.of(metric)),
        loss=_loss(right),
        metrics=_metrics(metrics, answered),
        predictions=tuple(
            Prediction(row.id, text, row.target, bool(score), None)
            if metric.binary
            else Prediction(row.id, text, row.target, None, score)
            for row, text, score in zip(rows, answered.texts, row_scores, strict=True)
        ),
        seconds=time.perf_counter() - start,
        generated_tokens=_mean_length(backbone, answered.texts),
    )


def _loss(right: Sequence[Likelihood]) -> float | None:
    """Mean over all answer tokens; None where it is not finite (an overflow in half precision)."""
    tokens = sum(each.tokens for each in right)
    mean_loss = math.fsum(each.loss for each in right) / tokens if tokens else math.nan
    return mean_loss if math.isfinite(mean_loss) else None


def _metrics(metrics: Sequence[Metric], answered: _Answered) -> dict[str, float]:
    """The task's own metrics, those of published result files, and those of classification where there are labels."""
    if not answered.texts:
        return {}
    # Overlap of words means nothing where answers are JSON with places, or images.
    texts = () if any(metric.content for metric in metrics) else _ALWAYS
    usual = [METRICS.get(name) for name in (*texts, *(_WITH_LABELS if answered.labels else ()))]
    # Of rows there is a number for every metric, so there is one of all of them.
    scores = {each.name: each.score(*answered.of(each)) or 0.0 for each in (*usual, *metrics)}
    if answered.labels:
        scores["precision"] = precision(answered.texts, answered.references, answered.labels)
        scores["recall"] = recall(answered.texts, answered.references, answered.labels)
    return scores


def _mean_length(backbone: Backbone, texts: Sequence[str]) -> float | None:
    if not texts or not backbone.answers_in_text:
        return None
    return mean([len(ids) for ids in unframed(backbone.tokenizer, texts)])
