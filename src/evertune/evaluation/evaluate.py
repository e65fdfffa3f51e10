"""Scores rows of a task: answers by generation or by the likelihood of the labels, and their loss."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from evertune import distributed
from evertune.backbones.base import Backbone, Encoded
from evertune.backbones.language_model import evaluating
from evertune.evaluation.cell import Cell, Prediction, read_cell, row_summary, write_cell, write_predictions
from evertune.evaluation.config import EvaluationConfig
from evertune.metrics import METRICS
from evertune.metrics.base import Metric
from evertune.metrics.classification import label_of, precision, recall
from evertune.metrics.statistics import mean
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task
from evertune.training.config import TrainConfig
from evertune.training.device import is_out_of_memory
from evertune.training.failures import memory_exhausted_scoring

__all__ = ["Cell", "Prediction", "evaluate_rows", "read_cell", "row_summary", "write_cell", "write_predictions"]

OnProgress = Callable[[int, int], None]

_ALWAYS = ("exact_match", "rouge1", "rougeL")
_WITH_LABELS = ("accuracy", "f1")
# Stands in the place of a reference that is not one of the labels: no answer is equal to it or shares a token with it.
_NO_ANSWER = "\x00"


@dataclass(frozen=True)
class _Answer:
    """What the model said about one row: the text, and the summed loss (nats) and token count of the right answer."""

    text: str
    loss: float
    tokens: int


@dataclass(frozen=True)
class _Answerer:
    """Answers batches of encoded rows.

    Attributes:
        backbone: The model family.
        model: The module to call.
        labels: The closed set of answers, None for free text.
        config: Options of evaluation.
        max_new_tokens: Tokens an answer may have, with its end.
    """

    backbone: Backbone
    model: nn.Module
    labels: tuple[str, ...] | None
    config: EvaluationConfig
    max_new_tokens: int

    def __call__(self, rows: Sequence[Encoded], device: torch.device | str) -> list[_Answer]:
        texts = self._texts(rows)
        losses, tokens = self.backbone.answer_loss(self.model, self.backbone.collate(rows).to(device))
        return [
            _Answer(text, float(loss), int(count))
            for text, loss, count in zip(texts, losses.tolist(), tokens.tolist(), strict=True)
        ]

    def _texts(self, rows: Sequence[Encoded]) -> list[str]:
        if self.labels and self.config.decoding == "label_likelihood":
            scores = self.backbone.label_scores(self.model, rows, self.backbone.label_ids(self.labels))
            return [self.labels[index] for index in scores.argmax(dim=1).tolist()]
        return self.backbone.generate(
            self.model, rows, max_new_tokens=self.max_new_tokens, num_beams=self.config.num_beams
        )


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

    Batches are formed before they are dealt out to the processes, so that the result does not depend on how many
    processes there are; every process returns the whole cell.

    Args:
        backbone: The model family.
        model: The module to call; it is in evaluation mode meanwhile and comes back as it was.
        task: The task: its labels, its metric and its invalid rows.
        rows: Rows to answer, of whatever split.
        config: Options of evaluation.
        train: Options of training: how long prompts and answers may be.
        device: Where to compute.
        autocast_dtype: Type of autocast, None for none.
        on_progress: Called after every batch with (rows done, rows in all) of this process.

    Raises:
        DataError: If a row cannot be encoded.
        MemoryExhaustedError: If memory runs out.
    """
    start = time.perf_counter()
    # Wrapped for several processes, a forward pass would wait for processes that have fewer batches.
    module = model.module if isinstance(model, DistributedDataParallel) else model
    encoded = backbone.encode(
        rows, max_source_length=train.max_source_length, max_target_length=train.max_target_length
    )
    answerer = _Answerer(backbone, module, task.labels, config, _max_new_tokens(backbone, task, train))
    mine = _batches(encoded, config.per_device_eval_batch_size)[distributed.rank() :: distributed.world_size()]
    answered: dict[int, _Answer] = {}
    with _memory_watched(task, config), evaluating(module), _autocast(device, autocast_dtype):
        for batch in mine:
            answers = answerer([encoded[index] for index in batch], device)
            answered.update(zip(batch, answers, strict=True))
            if on_progress is not None:
                on_progress(len(answered), sum(map(len, mine)))
    parts = distributed.gather(answered)
    merged = {index: answer for part in parts for index, answer in part.items()}
    answers = [merged[index] for index in range(len(rows))]
    return _cell(backbone, task, rows, answers, start)


def _batches(encoded: Sequence[Encoded], size: int) -> list[list[int]]:
    """Indices of rows in batches of like length, the longest first: what does not fit in memory shows at once."""
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].prompt), -encoded[index].length, index))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def _max_new_tokens(backbone: Backbone, task: Task, train: TrainConfig) -> int:
    """No right answer of a classification task is longer than its longest label."""
    if not task.labels:
        return train.max_target_length
    return min(train.max_target_length, max(len(ids) for ids in backbone.label_ids(task.labels)))


@contextlib.contextmanager
def _memory_watched(task: Task, config: EvaluationConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise memory_exhausted_scoring(f"scoring {task.name}", config) from error


def _autocast(device: torch.device | str, dtype: torch.dtype | None) -> contextlib.AbstractContextManager[object]:
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, dtype=dtype)


def _valid(task: Task, row: PromptTarget) -> bool:
    """Whether the row's reference is an answer that the task knows."""
    if task.labels is None:
        return True
    return row.id not in task.audit.get("invalid_labels", ()) and label_of(row.target, task.labels) is not None


def _cell(
    backbone: Backbone, task: Task, rows: Sequence[PromptTarget], answers: Sequence[_Answer], start: float
) -> Cell:
    metric: Metric = METRICS.get(task.metric, where=task.name)
    texts = [answer.text for answer in answers]
    references = [row.target if _valid(task, row) else _NO_ANSWER for row in rows]
    row_scores = metric.rows(texts, references, task.labels)
    return Cell(
        task=task.name,
        metric=metric.name,
        score=metric.score(texts, references, task.labels),
        count=len(rows),
        standard_error=metric.standard_error(texts, references, task.labels),
        loss=_loss(answers),
        metrics=_metrics(metric.name, texts, references, task.labels),
        predictions=tuple(
            Prediction(row.id, text, row.target, bool(score), None)
            if metric.binary
            else Prediction(row.id, text, row.target, None, score)
            for row, text, score in zip(rows, texts, row_scores, strict=True)
        ),
        seconds=time.perf_counter() - start,
        generated_tokens=_mean_length(backbone, texts),
    )


def _loss(answers: Sequence[_Answer]) -> float | None:
    """Mean over all answer tokens; None where it is not finite (an overflow in half precision)."""
    tokens = sum(answer.tokens for answer in answers)
    mean_loss = math.fsum(answer.loss for answer in answers) / tokens if tokens else math.nan
    return mean_loss if math.isfinite(mean_loss) else None


def _metrics(
    name: str, texts: Sequence[str], references: Sequence[str], labels: tuple[str, ...] | None
) -> dict[str, float]:
    """The task's own metric, those of published result files, and those of classification where there are labels."""
    if not texts:
        return {}
    names = dict.fromkeys((*_ALWAYS, *(_WITH_LABELS if labels else ()), name))
    scores = {each: METRICS.get(each).score(texts, references, labels) for each in names}
    if labels:
        scores["precision"] = precision(texts, references, labels)
        scores["recall"] = recall(texts, references, labels)
    return scores


def _mean_length(backbone: Backbone, texts: Sequence[str]) -> float | None:
    if not texts:
        return None
    return mean([len(ids) for ids in backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]])  # type: ignore[arg-type]
