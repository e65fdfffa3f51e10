"""The result files of the published CL benchmark: ``predict_results.json`` and ``predict_eval_predictions.jsonl``.

Its scores are percentages over all rows (not means over tasks), as its own evaluation writes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from evertune.files import write_json, write_json_lines
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

_PUBLISHED_METRICS = ("exact_match", "rouge1", "rougeL")


class ScoredAnswer(Protocol):
    """One answer of a cell."""

    @property
    def id(self) -> str:
        """The row's id."""
        ...

    @property
    def prediction(self) -> str:
        """The answer."""
        ...

    @property
    def reference(self) -> str:
        """What would have been right."""
        ...


class ScoredTask(Protocol):
    """A cell of the matrix, as evaluation returns it."""

    @property
    def count(self) -> int:
        """Rows scored."""
        ...

    @property
    def loss(self) -> float | None:
        """Mean negative log-likelihood per answer token."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metrics in [0, 1] by name, ``exact_match``, ``rouge1`` and ``rougeL`` among them."""
        ...

    @property
    def predictions(self) -> Sequence[ScoredAnswer]:
        """The answers, in row order."""
        ...

    @property
    def seconds(self) -> float:
        """Time it took."""
        ...

    @property
    def generated_tokens(self) -> float | None:
        """Mean number of tokens of an answer."""
        ...


Cells = Mapping[str, ScoredTask]


def predict_results(cells: Cells, tasks: Sequence[Task], *, extra: Mapping[str, float] | None = None) -> dict[str, Any]:
    """The content of ``predict_results.json``.

    Args:
        cells: Cells by task name.
        tasks: The tasks, for their order and groups; those without a cell are left out.
        extra: What the caller knows beside: ``epoch``, ``predict_global_step``.

    Returns:
        ``predict_exact_match``, ``predict_rouge1`` and ``predict_rougeL`` in percent over all rows, each also
        ``_for_<group>`` and ``_for_<data set>``; ``predict_loss``, ``predict_gen_len`` (tokens of the answer alone),
        ``predict_samples``, ``predict_runtime`` and ``predict_samples_per_second``. Sorted by key.

    Source: the CL benchmark's published evaluation, which rounds to four digits as we do.
    """
    scored = [(task, cells[task.name]) for task in tasks if task.name in cells and cells[task.name].count]
    everything = [cell for _, cell in scored]
    result: dict[str, Any] = dict(extra or {})
    for metric in _PUBLISHED_METRICS:
        result[f"predict_{metric}"] = _percent(everything, metric)
        for name, members in _named(scored).items():
            result[f"predict_{metric}_for_{name}"] = _percent(members, metric)
    rows, seconds = sum(cell.count for cell in everything), sum(cell.seconds for cell in everything)
    result["predict_samples"] = rows
    result["predict_runtime"] = round(seconds, 4)
    result["predict_samples_per_second"] = round(rows / seconds, 3) if seconds else None
    result["predict_loss"] = _weighted(everything, lambda cell: cell.loss)
    result["predict_gen_len"] = _weighted(everything, lambda cell: cell.generated_tokens)
    return {key: result[key] for key in sorted(result)}


def _named(scored: Iterable[tuple[Task, ScoredTask]]) -> dict[str, list[ScoredTask]]:
    """Cells by group and by data set; where both have one name the data set's stand, which is all the group has."""
    named: dict[str, list[ScoredTask]] = {}
    pairs = list(scored)
    for task, cell in pairs:
        if task.group:
            named.setdefault(task.group, []).append(cell)
    return {**named, **{task.name: [cell] for task, cell in pairs}}


def _percent(cells: Sequence[ScoredTask], metric: str) -> float | None:
    value = _weighted(cells, lambda cell: cell.metrics[metric])
    return None if value is None else round(100 * value, 4)


def _weighted(cells: Sequence[ScoredTask], pick: Callable[[ScoredTask], float | None]) -> float | None:
    """Mean over rows of what every cell has a mean of."""
    known = [(value, cell.count) for cell in cells if (value := pick(cell)) is not None]
    rows = sum(count for _, count in known)
    return round(sum(value * count for value, count in known) / rows, 6) if rows else None


def prediction_rows(
    cells: Cells, tasks: Sequence[Task], *, rows: Mapping[str, Sequence[PromptTarget]] | None = None
) -> list[dict[str, Any]]:
    """The lines of ``predict_eval_predictions.jsonl``.

    Args:
        cells: Cells by task name.
        tasks: The tasks.
        rows: The rows that were scored, by task name; the tasks' test rows by default.

    Returns:
        Objects with ``Task`` (the group), ``Dataset``, ``Instance`` (id, sentence, instruction, label, ground_truth)
        and ``Prediction``, tasks in stream order.
    """
    lines = []
    for task in tasks:
        if task.name not in cells:
            continue
        by_id = {row.id: row for row in (rows or {}).get(task.name, task.test)}
        for answer in cells[task.name].predictions:
            lines.append(
                {
                    "Task": task.group or task.name,
                    "Dataset": task.name,
                    "Instance": _instance(answer, by_id.get(answer.id)),
                    "Prediction": answer.prediction,
                }
            )
    return lines


def _instance(answer: ScoredAnswer, row: PromptTarget | None) -> dict[str, str]:
    """The row in the published words: the sentence is the input text, the instruction the whole prompt."""
    instance = {"id": answer.id, "label": answer.reference, "ground_truth": answer.reference}
    if row is None:
        return instance
    sentence = "".join(segment.text for segment in row.prompt if segment.cut)
    return {**instance, "sentence": sentence, "instruction": row.prompt_text}


def write_predict_results(
    folder: Path,
    cells: Cells,
    tasks: Sequence[Task],
    *,
    rows: Mapping[str, Sequence[PromptTarget]] | None = None,
    extra: Mapping[str, float] | None = None,
) -> tuple[Path, Path]:
    """Writes both files into `folder`; see `predict_results` and `prediction_rows`. Returns their paths."""
    results, predictions = folder / "predict_results.json", folder / "predict_eval_predictions.jsonl"
    write_json(results, predict_results(cells, tasks, extra=extra))
    write_json_lines(predictions, prediction_rows(cells, tasks, rows=rows))
    return results, predictions
