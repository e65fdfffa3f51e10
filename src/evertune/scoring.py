"""Scores the tasks of a run: after a stage, before the first, and while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evertune import distributed
from evertune.adapters.spec import AdapterPlan
from evertune.assembly import Parts
from evertune.console import Console, Progress
from evertune.errors import ConfigError, Problem
from evertune.evaluation.cell import Cell, read_cell, write_cell
from evertune.evaluation.config import EvaluationConfig, EverySteps
from evertune.evaluation.dealing import OnProgress
from evertune.evaluation.evaluate import evaluate_rows
from evertune.evaluation.safety import SafetyResult, hashes, measure_safety, write_safety_answers
from evertune.evaluation.safety_prompts import KINDS, SafetyPrompt, read_safety_prompts
from evertune.files import read_json
from evertune.run_folder import RunFolder
from evertune.streams.task import Stage
from evertune.training.failures import interrupted
from evertune.training.interrupt import StopRequest
from evertune.training.tracking import EventLog

DRAWN = 8
"""Images that are sampled after a stage of a model that draws."""
SAMPLES = "samples.png"


@dataclass(frozen=True)
class Scorer:
    """Scores tasks on their test rows and keeps every finished cell.

    Attributes:
        parts: The parts of the run.
        folder: The run's folder.
        events: Event log.
        console: Where progress is shown.
        stop: Set when the user asks to stop.
    """

    parts: Parts
    folder: RunFolder
    events: EventLog
    console: Console
    stop: StopRequest

    def row(self, stage: Stage | None, tasks: Sequence[int], into: Path) -> dict[str, Cell]:
        """Scores `tasks` after `stage` (None: the untouched model); cells that stand in `into` are taken as they are.

        Raises:
            Interrupted: If the user asked to stop; finished cells are kept.
        """
        title = self._title(stage)
        cells: dict[str, Cell] = {}
        for number, task in enumerate(tasks):
            name = self.parts.stream.tasks[task].name
            cell = distributed.on_main(lambda name=name: read_cell(into, name))
            if cell is None:
                self._place(stage, task)
                scoring = f"{title}: scoring {number + 1}/{len(tasks)} {name}"
                cell = self._score(task, scoring)
                distributed.on_main(lambda cell=cell: write_cell(into, cell))
                self._record(stage, cell)
                if distributed.agreed(self.stop.requested):
                    raise interrupted(scoring, "while scoring")
            cells[name] = cell
        return cells

    def safety(self, stage: Stage | None, into: Path) -> SafetyResult | None:
        """Measures refusals after `stage` with the adapters that answer for its last task; None if it is not asked for.

        Raises:
            Interrupted: If the user asked to stop; nothing is kept.
        """
        settings = self.parts.settings.first
        if settings.evaluation.safety is None:
            return None
        self._place(stage, 0 if stage is None else stage.tasks[-1])
        title = f"{self._title(stage)}: safety prompts"
        with self.console.progress(title, len(self._safety_prompts)) as progress:
            result = measure_safety(
                self.parts.backbone,
                self.parts.bank.model,
                self._safety_prompts,
                safety=settings.evaluation.safety,
                config=settings.evaluation,
                # That of the first task in every stage, or prompts would be cut in one and not in another.
                max_source_length=settings.train.max_source_length,
                device=self.parts.accelerator.device,
                autocast_dtype=self.parts.autocast,
                on_progress=self._on_progress(title, len(self._safety_prompts), progress),
            )
        if distributed.agreed(self.stop.requested):
            raise interrupted(title, "while scoring")
        distributed.on_main(lambda: write_safety_answers(into, result))
        return result

    def draw(self, stage: Stage, into: Path) -> None:
        """Draws what the model makes of the first test rows of a stage's last task, where answers are pictures."""
        if self.parts.settings.backbone.task_type != "text_to_image":
            return
        task = stage.tasks[-1]
        self._place(stage, task)
        rows = self.parts.stream.tasks[task].test[:DRAWN]
        distributed.on_main(lambda: self.parts.backbone.draw(self.parts.bank.model, rows, into / SAMPLES))

    @cached_property
    def _safety_prompts(self) -> tuple[SafetyPrompt, ...]:
        safety = self.parts.settings.first.evaluation.safety
        return () if safety is None else read_safety_prompts(safety)

    def check_safety_prompts(self) -> None:
        """Compares the prompts with those to which this run has answers already.

        Raises:
            ConfigError: If they are others: refusals could not be compared.
        """
        safety = self.parts.settings.first.evaluation.safety
        folders = [self.folder.path / "zero_shot", *map(self.folder.stage_folder, self.parts.stages)]
        files = [folder / "metrics.json" for folder in folders]
        records = (read_json(file).get("safety") for file in files if file.is_file())
        known = next((record for record in records if record is not None), None)
        if safety is None or known is None:
            return
        now = hashes(self._safety_prompts)
        problems = [
            Problem(
                str(getattr(safety, kind)),
                f"The {kind} prompts are not those that this run began with.",
                "Restore the file, or use `--fresh`.",
            )
            for kind in KINDS
            if known[kind]["prompts_sha256"] != now[kind]
        ]
        if problems:
            raise ConfigError(problems)

    def _title(self, stage: Stage | None) -> str:
        return "zero-shot" if stage is None else f"{stage.index + 1}/{len(self.parts.stages)} {stage.name}"

    def _place(self, stage: Stage | None, task: int) -> None:
        if stage is None:
            self.parts.bank.apply(AdapterPlan(()))
        else:
            plan = self.parts.methods(stage).eval_adapters(stage, task)
            self.parts.place_adapters(plan, self.folder, stage.index + 1)

    def _score(self, task: int, title: str) -> Cell:
        settings, rows = self.parts.task_settings(task), self.parts.stream.tasks[task].test
        with self.console.progress(title, len(rows)) as progress:
            return evaluate_rows(
                self.parts.backbone,
                self.parts.bank.model,
                self.parts.stream.tasks[task],
                rows,
                config=settings.evaluation,
                train=settings.train,
                device=self.parts.accelerator.device,
                autocast_dtype=self.parts.autocast,
                on_progress=self._on_progress(title, len(rows), progress),
            )

    def _on_progress(self, title: str, total: int, progress: Progress) -> OnProgress:
        def on_progress(done: int, _: int) -> None:
            progress.update(min(done * distributed.world_size(), total))
            # One of several processes must not leave alone: the others would wait for its answers.
            if self.stop.requested and distributed.world_size() == 1:
                raise interrupted(title, "while scoring")

        return on_progress

    def _record(self, stage: Stage | None, cell: Cell) -> None:
        self.events.write(
            "cell",
            stage=None if stage is None else stage.index,
            row=None if stage is None else stage.row,
            task=cell.task,
            score=cell.score,
            loss=cell.loss,
            count=cell.count,
            seconds=cell.seconds,
        )


@dataclass(frozen=True)
class DevScorer:
    """Scores the carved dev rows of the running stage while it trains.

    Attributes:
        parts: The parts of the run.
        stage: The running stage.
        config: Options of evaluation.
    """

    parts: Parts
    stage: Stage
    config: EvaluationConfig

    def due(self, step: int, *, end_of_epoch: bool) -> bool:
        """Whether to evaluate after this optimiser step."""
        during = self.config.during_training
        if isinstance(during, EverySteps):
            return step % during.steps == 0
        if during in ("none", "epoch"):
            return during == "epoch" and end_of_epoch
        return step in during

    def score(self) -> tuple[float, float | None, dict[str, float]]:
        """Mean score, loss and metrics over the stage's tasks, with the adapters that are being trained."""
        cells = [
            evaluate_rows(
                self.parts.backbone,
                self.parts.bank.model,
                task,
                task.dev,
                config=self.config,
                train=self.parts.task_settings(index).train,
                device=self.parts.accelerator.device,
                autocast_dtype=self.parts.autocast,
            )
            for index, task in ((index, self.parts.stream.tasks[index]) for index in self.stage.tasks)
        ]
        losses = [cell.loss for cell in cells if cell.loss is not None]
        scores = [cell.score for cell in cells if cell.score is not None]
        shared = set[str].intersection(*(set(cell.metrics) for cell in cells))
        metrics = {name: _mean([cell.metrics[name] for cell in cells]) or 0.0 for name in sorted(shared)}
        return _mean(scores) or 0.0, _mean(losses), metrics


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
