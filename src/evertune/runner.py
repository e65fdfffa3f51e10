"""The walk over the stream: learn a task, score the tasks, keep what came of it; resume anywhere."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune import distributed
from evertune.adapters.spec import BASE_CHANGE, HEADS_FILE, AdapterPlan
from evertune.assembly import Parts, assemble
from evertune.checking import check_adapter, check_rows, check_safety_prompts
from evertune.closing import say_results
from evertune.console import Console, duration
from evertune.environment import describe_environment
from evertune.evaluation.cell import Cell, row_summary
from evertune.evaluation.safety import SafetyResult, with_safety
from evertune.files import atomic_folder, read_json, sha256, write_json, write_json_lines, write_tensors
from evertune.manifest import adapter_folders, new_manifest, training_record
from evertune.methods.base import Context
from evertune.methods.stack import MethodStack, States
from evertune.metrics.matrix import EvalMatrix, summary_metrics
from evertune.optim.projected_adamw import projected_bytes
from evertune.reporting.html import write_report
from evertune.reporting.load import load_run
from evertune.reporting.plots import write_plots
from evertune.run_folder import Mode, RunFolder
from evertune.scoring import DevScorer, Scorer
from evertune.settings import RunSettings
from evertune.streams.task import Stage
from evertune.training.checkpoint import load_method_states, save_method_states
from evertune.training.config import TrainConfig
from evertune.training.fit import fit
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob, FitResult
from evertune.training.memory import MemoryPhase
from evertune.training.preflight import Preflight
from evertune.training.tracking import EventLog


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        run_dir: Its folder.
        matrix: The accuracy matrix.
        summary: Content of ``summary.json``.
        report: Path of the report.
    """

    run_dir: Path
    matrix: EvalMatrix
    summary: dict[str, Any]
    report: Path


def run(settings: RunSettings, *, console: Console | None = None, mode: Mode = "auto") -> RunResult:
    """Walks the stream, from where the run in the output folder stopped, if one of this configuration is there.

    Args:
        settings: The configuration, from `evertune.load_config`.
        console: Where to speak.
        mode: ``auto`` resumes or starts; ``resume`` only resumes; ``fresh`` moves an old run aside.

    Raises:
        InputError: If anything given is wrong; finished stages are kept.
        RunError: If training fails; finished stages and the last checkpoint are kept.
        Interrupted: If the user stopped it; it can be continued.
    """
    console = console or Console()
    folder = RunFolder(settings.output_dir)
    resuming = folder.check(settings, mode)
    with StopRequest() as stop:
        if not resuming:
            check_adapter(settings)
        with MemoryPhase() as loading:
            parts = assemble(settings, console)
        if not resuming:
            check_rows(settings, parts.stream, parts.backbone)
            check_safety_prompts(settings, parts.backbone)
        if mode == "fresh":
            aside = distributed.on_main(folder.move_aside)
            if aside is not None:
                console.say(f"the old run is now {aside}")
        with ExitStack() as held:
            distributed.on_main(lambda: held.enter_context(folder.locked()))
            return _Walk(parts, folder, console, stop, loading).run(resuming)


class _Walk:
    """A run under way."""

    def __init__(
        self, parts: Parts, folder: RunFolder, console: Console, stop: StopRequest, loading: MemoryPhase
    ) -> None:
        self.parts, self.folder, self.console, self.stop, self.loading = parts, folder, console, stop, loading
        self.settings, self.stream = parts.settings, parts.stream
        self.events = EventLog(folder.path / "events.jsonl")
        self.scorer = Scorer(parts, folder, self.events, console, stop)
        self.matrix = EvalMatrix.empty(self.stream.names, {task.name: task.metric for task in self.stream.tasks})
        self.spoken = False

    def run(self, resuming: bool) -> RunResult:
        self._open(resuming)
        try:
            self._zero_shot()
            for stage in self.parts.stages:
                self._stage(stage)
            return self._finish()
        finally:
            self.events.close()
            self.console.detach_log()

    # Beginning -------------------------------------------------------------------------------------------------------

    def _open(self, resuming: bool) -> None:
        distributed.on_main(lambda: self._open_files(resuming))
        self.folder.load()
        name = "log.txt" if distributed.is_main() else f"logs/rank-{distributed.rank()}.log"
        self.console.attach_log(self.folder.path / name)
        done = sum(entry["status"] == "complete" for entry in self.folder.manifest["stages"])
        verb = f"continuing, {done} of {len(self.parts.stages)} stages are complete" if resuming else "starting"
        self.console.say(f"{self.settings.run_name}: {verb}; folder {self.folder.path}")
        for line in self._task_lines():
            self.console.say(line)
        if resuming:
            self._say_changed_threads()

    def _open_files(self, resuming: bool) -> None:
        if not resuming:
            self.folder.create(self.settings)
        self.folder.sweep()
        environment = self.folder.path / "environment.json"
        if not environment.exists():
            write_json(environment, describe_environment(str(self.parts.accelerator.device)))
        written = sha256(self.folder.path / "config.yaml")
        self.folder.start({**new_manifest(self.parts), "configuration": written})
        self.folder.verify()
        self.scorer.check_safety_prompts()

    def _task_lines(self) -> list[str]:
        lines = []
        for index, task in enumerate(self.stream.tasks):
            labels = f", {len(task.labels)} labels" if task.labels else ""
            counts = f"{len(task.train)} train, {len(task.dev)} dev, {len(task.test)} test rows"
            lines.append(f"task {index + 1}/{len(self.stream.tasks)} {task.name}: {counts}{labels}, {task.metric}")
        return lines

    def _say_changed_threads(self) -> None:
        now = describe_environment(str(self.parts.accelerator.device))
        before = read_json(self.folder.path / "environment.json")
        for key in ("threads", "processes", "device"):
            if before[key] != now[key]:
                change = f"this run began with {key} {before[key]} and goes on with {now[key]}"
                self.events.warn(self.console, f"{change}: results may differ in the last digits")

    # Scores ----------------------------------------------------------------------------------------------------------

    def _zero_shot(self) -> None:
        if self.folder.manifest["zero_shot"] == "off":
            return
        path = self.folder.path / "zero_shot"
        tasks = range(len(self.stream.tasks))
        cells = self.scorer.row(None, tasks, path)
        self.matrix = self.matrix.with_zero_shot(cells)
        if self.folder.manifest["zero_shot"] != "complete":
            safety = self.scorer.safety(None, path)
            distributed.on_main(lambda: self._commit_zero_shot(path, cells, safety))
            self.folder.load()
            self._say_safety("before training", safety)

    def _commit_zero_shot(self, path: Path, cells: Mapping[str, Cell], safety: SafetyResult | None) -> None:
        write_json(path / "metrics.json", with_safety(row_summary(cells, self.stream.tasks), safety))
        write_json(self.folder.path / "matrix.json", self.matrix.to_json())
        self.folder.manifest["zero_shot"] = "complete"
        self.folder.save()

    # Stages ----------------------------------------------------------------------------------------------------------

    def _stage(self, stage: Stage) -> None:
        if self.folder.status(stage) == "pending":
            self._train(stage)
        path = self.folder.stage_folder(stage)
        if self.parts.stage_settings(stage).evaluation.tasks == "all":
            tasks = list(range(len(self.stream.tasks)))
        else:
            tasks = list(range(stage.row + 1))
        with MemoryPhase() as scoring:
            cells = self.scorer.row(stage, tasks, path)
        self.matrix = self.matrix.with_row(stage.row, cells)
        if self.folder.status(stage) != "complete":
            safety = self.scorer.safety(stage, path)
            self.scorer.draw(stage, path)
            distributed.on_main(lambda: self._commit_scores(stage, cells, safety, scoring))
            self.folder.load()
            self.events.write("stage", stage=stage.index, name=stage.name, status="complete")
            self._say_row(stage, cells)
            self._say_safety(f"after {stage.index + 1}/{len(self.parts.stages)} {stage.name}", safety)

    def _context(self, stage: Stage) -> Context:
        epochs = {
            self.stream.names[task]: self.parts.task_settings(task).train.num_train_epochs for task in stage.tasks
        }
        return Context(
            self.stream,
            stage,
            self.parts.bank,
            self.parts.backbone,
            self.settings.seed,
            epochs,
            slow=self.parts.methods(stage).slow_adapters(stage),
            warn=lambda text: self.events.warn(self.console, text),
        )

    def _states_before(self, stage: Stage, methods: MethodStack) -> States:
        if stage.index == 0:
            return methods.init_state()
        return load_method_states(self.folder.stage_folder(self.parts.stages[stage.index - 1]))

    def _train(self, stage: Stage) -> None:
        parts, settings = self.parts, self.parts.stage_settings(stage)
        methods = parts.methods(stage)
        plan = methods.adapters(stage)
        parts.place_adapters(plan, self.folder, stage.index)
        parts.learn_heads(stage)
        context, states = self._context(stage), self._states_before(stage, methods)
        preflight = self._preflight(settings.train, methods.param_groups(states, context))
        evaluation = settings.evaluation
        job = FitJob(
            title=f"{stage.index + 1}/{len(parts.stages)} {stage.name}",
            context=context,
            methods=methods,
            states=states,
            config=settings.train,
            rows=[row for task in stage.tasks for row in self.stream.tasks[task].train],
            accelerator=parts.accelerator,
            autocast=parts.autocast,
            checkpoint_root=self.folder.path / "checkpoint" / stage.folder,
            events=self.events,
            console=self.console,
            stop=self.stop,
            dev=DevScorer(parts, stage, evaluation) if evaluation.during_training != "none" else None,
            keep="best" if evaluation.keep == "best" else "last",
            save_evaluated=(lambda step: self._save_evaluated(stage, plan, step)) if evaluation.keep == "all" else None,
        )
        self.events.write("stage", stage=stage.index, name=stage.name, status="training")
        with MemoryPhase() as learning:
            result = fit(job)
        memory = {
            "load": self.loading.to_json(),
            "train": learning.to_json(seen=result.counters.peak_memory_bytes),
        }
        training = training_record(parts, stage, result, preflight, methods.facts(states, context))
        kept = methods.kept_adapters(stage)
        distributed.on_main(lambda: self._commit_training(stage, kept, states, result, training, memory))
        self.folder.load()
        self.events.write("stage", stage=stage.index, name=stage.name, status="trained")

    def _preflight(self, train: TrainConfig, groups: Sequence[Mapping[str, Any]] | None) -> Preflight:
        parts = self.parts
        groups = groups or [{"params": list(parts.bank.trainable_parameters().values())}]
        shapes = [tuple(weight.shape) for group in groups if "rank" not in group for weight in group["params"]]
        preflight = Preflight(
            parts.accelerator.device,
            parts.gpus,
            parts.autocast,
            parts.bank.summary(),
            shapes,
            train,
            projected_bytes(groups),
            parts.bank.heads,
        )
        if not self.spoken:
            for line in preflight.lines():
                self.console.say(line)
            self.spoken = True
        return preflight

    # What is kept ----------------------------------------------------------------------------------------------------

    def _commit_training(
        self,
        stage: Stage,
        kept: Sequence[str],
        states: States,
        result: FitResult,
        training: dict[str, Any],
        memory: dict[str, Any],
    ) -> None:
        """Keeps what a stage learnt; the stage counts as trained when the manifest says so, last of all."""
        path = self.folder.stage_folder(stage)
        folders = adapter_folders(stage, kept)
        # A head belongs to one task: what learns several at once is kept in the file of all heads alone.
        heads = self.parts.backbone.head_in_model(self.stream.names[stage.tasks[0]]) if len(stage.tasks) == 1 else {}
        for name, folder in folders.items():
            with atomic_folder(self.folder.path / folder) as temporary:
                self.parts.bank.save(name, temporary, heads=heads)
        self._save_beside_adapters(path, stage)
        save_method_states(path, states)
        if any(result.foreign_ids):
            rows = [{"epoch": epoch, "ids": ids} for epoch, ids in enumerate(result.foreign_ids)]
            write_json_lines(path / "replayed.jsonl", rows)
        tasks = [self.stream.names[task] for task in stage.tasks]
        entry = {"stage": stage.index, "name": stage.name, "tasks": tasks, "row": stage.row}
        write_json(path / "metrics.json", {**entry, "memory": memory, "training": training})
        self.folder.set_status(stage, "trained", folders)
        shutil.rmtree(self.folder.path / "checkpoint", ignore_errors=True)

    def _save_evaluated(self, stage: Stage, plan: AdapterPlan, step: int) -> None:
        def save() -> None:
            place = self.folder.stage_folder(stage) / "evaluated" / f"step-{step:08d}"
            for name in plan.trainable:
                with atomic_folder(place / name) as temporary:
                    self.parts.bank.save(name, temporary)
            self._save_beside_adapters(place, stage)

        distributed.on_main(save)

    def _save_beside_adapters(self, place: Path, stage: Stage) -> None:
        """Changes of base weights, and heads."""
        if self.parts.bank.change is not None:
            write_tensors(place / BASE_CHANGE, self.parts.bank.change.tensors())
        heads = self.parts.backbone.head_parameters(self.stream.names[: max(stage.tasks) + 1])
        if heads:
            write_tensors(place / HEADS_FILE, {name: head.detach().cpu() for name, head in heads.items()})

    def _commit_scores(
        self, stage: Stage, cells: Mapping[str, Cell], safety: SafetyResult | None, scoring: MemoryPhase
    ) -> None:
        path = self.folder.stage_folder(stage)
        metrics = read_json(path / "metrics.json")
        training = metrics.pop("training")
        metrics["memory"] = {**metrics.get("memory", {}), "eval": scoring.to_json()}
        scores = with_safety(row_summary(cells, self.stream.tasks), safety)
        write_json(path / "metrics.json", {**metrics, **scores, "training": training})
        write_json(self.folder.path / "matrix.json", self.matrix.to_json())
        self.folder.set_status(stage, "complete")
        write_plots(self.folder.path, redraw=False)

    def _say_row(self, stage: Stage, cells: Mapping[str, Cell]) -> None:
        scores = "  ".join(f"{name} {cell.score:.3f}" for name, cell in cells.items() if cell.score is not None)
        self.console.say(f"after {stage.index + 1}/{len(self.parts.stages)} {stage.name}: {scores}")

    def _say_safety(self, when: str, safety: SafetyResult | None) -> None:
        if safety is not None:
            self.console.say(f"{when}: {safety.line}")

    # End -------------------------------------------------------------------------------------------------------------

    def _finish(self) -> RunResult:
        report = distributed.on_main(self._write_results)
        summary = read_json(self.folder.path / "summary.json")
        say_results(load_run(self.folder.path), self.parts, self.console)
        self.console.say(f"time {duration(summary['seconds'])}; report {report}")
        return RunResult(self.folder.path, self.matrix, summary, report)

    def _write_results(self) -> Path:
        # A kill just after the last stage was saved leaves its checkpoint behind.
        shutil.rmtree(self.folder.path / "checkpoint", ignore_errors=True)
        write_json(self.folder.path / "matrix.json", self.matrix.to_json())
        write_json(self.folder.path / "summary.json", self._summary())
        write_plots(self.folder.path)
        return write_report(self.folder.path)

    def _summary(self) -> dict[str, Any]:
        records = [read_json(self.folder.stage_folder(stage) / "metrics.json") for stage in self.parts.stages]
        training = [record["training"] for record in records]
        seconds = sum(record["evaluation_seconds"] + record["training"]["seconds"] for record in records)
        if self.folder.manifest["zero_shot"] == "complete":
            seconds += read_json(self.folder.path / "zero_shot" / "metrics.json")["evaluation_seconds"]
        return {
            **summary_metrics(self.matrix, [task.chance for task in self.stream.tasks]),
            "seconds": seconds,
            "peak_memory_bytes": max(record["peak_memory_bytes"] for record in training),
            "parameters": training[-1]["parameters"],
            "tokens": sum(record["tokens"] for record in training),
        }
