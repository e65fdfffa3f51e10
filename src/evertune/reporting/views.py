"""The tables of the report, as text that is ready to print."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.metrics.matrix import Row
from evertune.reporting import formats
from evertune.reporting.explain import METRIC_TEXTS
from evertune.reporting.load import Run, StageResult
from evertune.reporting.palette import heat, text_on
from evertune.reporting.series import learnt_position, row_names


@dataclass(frozen=True)
class HeatCell:
    """A cell of the matrix on the page.

    Attributes:
        value: The score at full precision, None if not measured.
        text: The score in percent.
        title: All that is known about it, shown when pointed at.
        background: Its colour.
        colour: Colour of the text on it.
        learnt: Whether the task was learnt just before.
    """

    value: float | None
    text: str
    title: str
    background: str = ""
    colour: str = ""
    learnt: bool = False


@dataclass(frozen=True)
class HeatRow:
    """A row of the matrix on the page: its name and its cells."""

    name: str
    cells: tuple[HeatCell, ...]


@dataclass(frozen=True)
class Card:
    """A number with its name and what it means."""

    title: str
    value: str
    unit: str
    note: str
    main: bool = False


def samples(run: Run) -> list[tuple[str, str]]:
    """What a model of images drew after each stage: name of the stage, and the PNG as a data address."""
    found = ((stage.name, stage.path / "samples.png") for stage in run.stages)
    return [
        (name, f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode('ascii')}")
        for name, file in found
        if file.is_file()
    ]


def heat_rows(run: Run) -> list[HeatRow]:
    """The measured rows of the matrix, the untouched model first."""
    matrix, rows = run.matrix, []
    if any(score is not None for score in matrix.zero_shot):
        entries = run.zero_shot.get("scores", {})
        errors = tuple(entries.get(task, {}).get("standard_error") for task in run.tasks)
        losses = tuple(entries.get(task, {}).get("loss") for task in run.tasks)
        rows.append(HeatRow("no training", _cells(run, None, "without training", matrix.zero_shot, errors, losses)))
    for row, name in enumerate(row_names(run)):
        if any(score is not None for score in matrix.values[row]):
            cells = _cells(run, row, f"after {name}", matrix.values[row], matrix.standard_error[row], matrix.loss[row])
            rows.append(HeatRow(name, cells))
    return rows


def _cells(run: Run, row: int | None, when: str, scores: Row, errors: Row, losses: Row) -> tuple[HeatCell, ...]:
    cells = []
    for column, (task, score) in enumerate(zip(run.tasks, scores, strict=True)):
        if score is None:
            cells.append(HeatCell(None, "", f"{task} {when}: not measured"))
            continue
        error = "" if errors[column] is None else f" ± {formats.percent(errors[column])} (standard error)"
        loss = "" if losses[column] is None else f", loss {formats.number(losses[column], digits=3)}"
        rows = formats.count(run.matrix.count[column])
        title = f"{task} {when}: {formats.percent(score, digits=2)} %{error}, {rows} rows{loss}"
        background = heat(score)
        learnt = row is not None and learnt_position(run, task) == row + 1
        cells.append(HeatCell(score, formats.percent(score), title, background, text_on(background), learnt))
    return tuple(cells)


_MAIN_CARDS = ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting", "worst_task")


def cards(run: Run) -> list[Card]:
    """The summary, the numbers that belong together first; undefined ones are left out."""
    summary, found = run.summary, []
    for text in METRIC_TEXTS:
        value = summary.get(text.key)
        if value is None:
            continue
        note = text.meaning if text.key != "worst_task" else f"{text.meaning}: {_worst(run)}"
        found.append(
            Card(text.title, formats.percent(value, signed=text.signed), text.unit, note, text.key in _MAIN_CARDS)
        )
    zero_shot = [score for score in run.matrix.zero_shot if score is not None]
    if zero_shot and len(zero_shot) == len(run.tasks):
        found.append(Card("Untouched model", formats.percent(sum(zero_shot) / len(zero_shot)), "%", "mean over tasks"))
    return found + _cost_cards(summary)


def _worst(run: Run) -> str:
    scored = [(score, task) for score, task in zip(run.matrix.values[-1], run.tasks, strict=True) if score is not None]
    return min(scored)[1] if scored else formats.NOTHING


def _cost_cards(summary: Mapping[str, Any]) -> list[Card]:
    parameters = summary.get("parameters") or {}
    trainable, total = parameters.get("trainable"), parameters.get("total")
    share = f"{100 * trainable / total:.2f} % of {formats.count(total)}" if trainable and total else ""
    found = [
        (summary.get("seconds"), Card("Time", formats.time(summary.get("seconds")), "", "training and evaluation")),
        (
            summary.get("peak_memory_bytes"),
            Card("Peak memory", formats.size(summary.get("peak_memory_bytes")), "", "over the run"),
        ),
        (trainable, Card("Trained parameters", formats.count(trainable), "", share)),
        (summary.get("tokens"), Card("Tokens", formats.count(summary.get("tokens")), "", "seen in training")),
    ]
    return [card for value, card in found if value is not None]


def facts(run: Run) -> list[tuple[str, str]]:
    """What was run: name and value."""
    backbone, stream = run.manifest["backbone"], run.manifest["stream"]
    done = len(run.finished_stages)
    state = "complete" if run.complete else f"{done} of {len(run.stages)} stages complete"
    # Where a built-in model was installed says nothing to a reader on another machine.
    built_in = backbone.get("source") == "built in"
    model = Path(str(backbone.get("path"))).name if built_in else backbone.get("path")
    revision = f", revision {backbone['revision'][:12]}" if backbone.get("revision") else ""
    return [
        ("Model", f"{model} ({backbone.get('source')}{revision})"),
        ("Method", " + ".join(run.manifest["method"])),
        ("Stream", f"{stream['name']}: {' → '.join(run.tasks)}"),
        ("State", state),
    ]


def stamps(run: Run) -> list[str]:
    """What a reader must know before comparing the numbers; each said once."""
    found = list(run.manifest.get("stamps", []))
    said = " ".join(found).lower()
    if run.manifest.get("tuned_per_task") and "per task" not in said:
        found.append("Tuned per task.")
    if run.manifest["stream"].get("task_identity_in_prompt") and "prompt" not in said:
        found.append("Prompts name the task: the model knows at test which task it is.")
    return found


@dataclass(frozen=True)
class StageRow:
    """A line of the table of stages.

    Attributes:
        name: Name of the stage.
        status: Its status.
        values: Ready texts, one a column of `STAGE_COLUMNS`.
        time_share: Its time over the longest stage's, 0 to 1.
        memory_share: Its peak memory over the highest, 0 to 1.
    """

    name: str
    status: str
    values: tuple[str, ...]
    time_share: float
    memory_share: float


STAGE_COLUMNS = ("epochs", "steps", "rows", "tokens", "tokens/s", "final loss", "training", "evaluation", "peak memory")


def stage_rows(run: Run) -> list[StageRow]:
    """Time, memory and work of every stage."""
    longest = max((_seconds(stage) for stage in run.stages), default=0.0) or 1.0
    highest = max((stage.training.get("peak_memory_bytes") or 0 for stage in run.stages), default=0) or 1
    return [
        StageRow(
            stage.name,
            stage.status,
            _stage_values(stage),
            _seconds(stage) / longest,
            (stage.training.get("peak_memory_bytes") or 0) / highest,
        )
        for stage in run.stages
    ]


def _seconds(stage: StageResult) -> float:
    return stage.training.get("seconds") or 0.0


def _stage_values(stage: StageResult) -> tuple[str, ...]:
    training = stage.training
    epochs = training.get("epochs")
    return (
        formats.NOTHING if epochs is None else f"{round(epochs, 2):g}",
        formats.count(training.get("steps")),
        formats.count(training.get("samples")),
        formats.count(training.get("tokens")),
        formats.count(training.get("tokens_per_second")),
        formats.number(training.get("final_loss"), digits=3),
        formats.time(training.get("seconds")),
        formats.time(stage.metrics.get("evaluation_seconds")),
        formats.size(training.get("peak_memory_bytes")),
    )


def trained_parts(run: Run) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What trained by role, and bytes by what holds them, both of the last complete stage."""
    training = run.finished_stages[-1].training if run.finished_stages else {}
    parts = [(name, formats.count(number)) for name, number in training.get("trains", {}).items()]
    sizes = [(name, formats.size(number)) for name, number in training.get("bytes", {}).items()]
    return parts, sizes


@dataclass(frozen=True)
class DataRow:
    """What is known about the rows of one task, ready to print."""

    task: str
    group: str
    metric: str
    splits: tuple[tuple[str, str, str], ...]
    findings: tuple[str, ...]


def data_rows(run: Run) -> list[DataRow]:
    """Splits and audit findings of every task."""
    cut = {task: stage.training.get("truncation", {}) for stage in run.finished_stages for task in stage.tasks}
    rows = []
    for task in run.tasks:
        record = run.task_records[task]
        splits = tuple(
            (
                f"{name}: {formats.count(split.get('count'))} of {formats.count(split.get('available'))}",
                str(split.get("rule", "")),
                str(split.get("sha256", ""))[:12],
            )
            for name, split in record.get("splits", {}).items()
        )
        findings = (*_audit(record.get("audit") or {}), *_truncation(cut.get(task, {})))
        rows.append(DataRow(task, str(record.get("group", "")), str(record.get("metric", "")), splits, findings))
    return rows


def _audit(audit: Mapping[str, Any]) -> list[str]:
    found = []
    duplicates = audit.get("duplicates") or {}
    if isinstance(duplicates, Mapping):
        duplicates = {where: number for where, number in duplicates.items() if number}
    if duplicates:
        found.append(f"duplicates: {formats.plain(duplicates)}")
    invalid = audit.get("invalid_labels") or []
    if invalid:
        shown = f"{', '.join(map(str, invalid[:5]))}{', …' if len(invalid) > 5 else ''}"
        found.append(f"{len(invalid)} test rows with a label that the task does not have, scored wrong: {shown}")
    return found + [str(note) for note in audit.get("notes") or []]


def _truncation(truncation: Mapping[str, Any]) -> list[str]:
    rows, source, target = (truncation.get(key) or 0 for key in ("rows", "source_cut", "target_cut"))
    named = [(source, "inputs"), (target, "answers")]
    return [f"{formats.count(cut)} of {formats.count(rows)} {what} cut to fit" for cut, what in named if cut]
