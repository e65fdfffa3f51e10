"""From settings to loaded parts: the stream, the model with its adapters, the methods and the stages."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import KwargsHandler

from evertune.adapters.bank import BASE, HEADS, AdapterBank
from evertune.adapters.released import RELEASED
from evertune.adapters.spec import BASE_CHANGE, HEADS_FILE, AdapterPlan
from evertune.backbones import BACKBONES
from evertune.backbones.base import Backbone
from evertune.console import Console
from evertune.errors import ConfigError, Problem, did_you_mean
from evertune.evaluation.measuring import execution_problem
from evertune.files import read_tensors
from evertune.methods.stack import MethodStack
from evertune.randomness import derive_seed
from evertune.run_folder import RunFolder
from evertune.settings import RunSettings, StageSettings
from evertune.streams.task import Stage, Stream
from evertune.training.device import autocast_dtype, choose_device


@dataclass(frozen=True)
class Parts:
    """Everything a run works with.

    Attributes:
        settings: The configuration.
        stream: The tasks.
        backbone: The model family, loaded, on the device.
        bank: The adapters.
        accelerator: Device and processes.
        gpus: Every GPU as ``(name, free bytes, total bytes)`` when the device was chosen.
        stages: The stages of the run.
        sources: Where the weights of the bank's adapters were read, by name.
    """

    settings: RunSettings
    stream: Stream
    backbone: Backbone
    bank: AdapterBank
    accelerator: Accelerator
    gpus: list[tuple[str, int, int]]
    stages: tuple[Stage, ...]
    sources: dict[str, Path] = field(default_factory=dict)

    @property
    def autocast(self) -> torch.dtype | None:
        """Type that forward passes compute in, None for float32."""
        return autocast_dtype(self.settings.backbone.dtype)

    def stage_settings(self, stage: Stage) -> StageSettings:
        """What holds in a stage: the settings of its task; those of no task in particular where it learns several."""
        if len(stage.tasks) > 1:
            return self.settings.first
        return self.settings.for_task(stage.name, stage.index)

    def task_settings(self, task: int) -> StageSettings:
        """What holds for a task wherever it is scored."""
        return self.settings.for_task(self.stream.tasks[task].name, task)

    def methods(self, stage: Stage) -> MethodStack:
        """The composed methods of a stage."""
        return MethodStack(self.stage_settings(stage).methods)

    def place_adapters(self, plan: AdapterPlan, folder: RunFolder, before: int) -> None:
        """Puts a plan's adapters on the model, with the newest weights saved before a stage, or else new ones.

        Below them comes the frozen adapter of a released code that the run starts from, if it does: no plan names it.

        Args:
            plan: The plan.
            folder: The run.
            before: Only stages with a smaller index are read; 0 is the beginning, where `start_from` counts.
        """
        self._place_base(plan, folder, before)
        self._place_heads(folder, before)
        self._place_released(folder)
        for name in plan.active:
            saved = folder.adapter_folder(name, before)
            if saved is not None:
                # What the bank holds may be older or newer: stages can be scored again in a resumed run.
                if name not in self.bank.names or self.sources.get(name) != saved:
                    folder.verify_files(saved)
                    self.bank.load(name, saved)
                    self.sources[name] = saved
            elif name not in self.bank.names:
                self._add(name, first=before == 0 and not self.bank.names)
        below = (RELEASED,) if RELEASED in self.bank.names else ()
        self.bank.apply(dataclasses.replace(plan, active=(*below, *plan.active)))

    def _place_heads(self, folder: RunFolder, before: int) -> None:
        """Gives heads what the newest stage before `before` saved; those of later tasks are as they were drawn."""
        self.bank.learn_heads({})
        saved = folder.stage_file(HEADS_FILE, before)
        if saved is not None and self.sources.get(HEADS) != saved:
            folder.verify_files(saved)
            self.backbone.load_heads(read_tensors(saved))
            self.sources[HEADS] = saved

    def learn_heads(self, stage: Stage) -> None:
        """Lets the heads of all tasks up to a stage learn: those of earlier ones do where their rows are mixed in."""
        tasks = self.stream.names[: max(stage.tasks) + 1] if self.settings.backbone.train_heads else []
        self.bank.learn_heads(self.backbone.head_parameters(tasks))

    def _place_released(self, folder: RunFolder) -> None:
        if folder.manifest.get("start_from") is not None and RELEASED not in self.bank.names:
            assert self.settings.adapter.start_from is not None
            self.bank.start_from(RELEASED, self.settings.adapter.start_from)

    def _place_base(self, plan: AdapterPlan, folder: RunFolder, before: int) -> None:
        """Changes base weights by what stages before `before` learnt; first of all: adapters may build on it."""
        held = self.bank.change
        self.bank.open_base(plan.base)
        change = self.bank.change
        if change is not held:
            self.sources.pop(BASE, None)
        if change is None:
            return
        saved = folder.stage_file(BASE_CHANGE, before)
        if saved is None:
            change.clear()
            self.sources.pop(BASE, None)
        elif self.sources.get(BASE) != saved:
            folder.verify_files(saved)
            change.load(read_tensors(saved), str(saved))
            self.sources[BASE] = saved

    def _add(self, name: str, *, first: bool) -> None:
        if first and self.settings.adapter.start_from is not None:
            self.bank.start_from(name, self.settings.adapter.start_from)
        else:
            self.bank.add(name, seed=derive_seed(self.settings.seed, "adapter", name))


def assemble(settings: RunSettings, console: Console) -> Parts:
    """Loads the parts of a run, the cheap and the likely wrong ones first.

    Raises:
        InputError: If rows, keys, paths or capabilities are wrong.
    """
    stream = settings.stream.load(seed=settings.seed, console=console)
    check_tasks(settings, stream)
    device, gpus = choose_device()
    family = BACKBONES.get(settings.backbone.task_type)
    # Not every process meets rows of every task in each step, so that some heads have no part in it.
    handlers: list[KwargsHandler] = []
    if not family.answers_in_text:
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=True))
    accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu", kwargs_handlers=handlers)
    backbone = family.load(settings.backbone)
    for note in (*backbone.identity.notes, *settings.adapter.notes):
        console.say(note)
    if settings.backbone.quantization is None:  # quantised weights are placed when they are loaded
        backbone.model.to(accelerator.device)
    backbone.prepare(stream.tasks, seed=settings.seed)
    bank = AdapterBank(
        backbone.model,
        settings.adapter,
        task_type=settings.backbone.task_type,
        base_path=backbone.identity.path,
        fingerprint=backbone.identity.fingerprint,
    )
    stages = MethodStack(settings.first.methods).stages(stream)
    return Parts(settings, stream, backbone, bank, accelerator, gpus, stages)


def check_tasks(settings: RunSettings, stream: Stream) -> None:
    """Checks what can only be checked with the tasks known.

    Raises:
        ConfigError: If `per_task` names an unknown task, rows that are needed are missing, a metric runs code where
            that is not allowed, or multi-task training is given options of single tasks that it cannot follow.
    """
    problems = [
        Problem(
            settings.where(f"per_task.{name}"),
            f"The stream has no task `{name}`.",
            did_you_mean(name, stream.names),
        )
        for name in settings.per_task
        if name not in stream.names
    ]
    for index, task in enumerate(stream.tasks):
        if not task.train:
            problems.append(Problem(settings.where("stream"), f"Task `{task.name}` has no training rows."))
        evaluation = settings.for_task(task.name, index).evaluation
        problem = execution_problem(task, evaluation)
        if problem is not None:
            problems.append(dataclasses.replace(problem, where=settings.where(problem.where)))
        if evaluation.during_training != "none" and not task.dev:
            problems.append(
                Problem(
                    settings.where("evaluation.during_training"),
                    f"Task `{task.name}` has no dev rows to score while training.",
                    "Raise `stream.dev_fraction`, or write `none`.",
                )
            )
    if settings.first.evaluation.safety is not None and not BACKBONES.get(settings.backbone.task_type).answers_in_text:
        what = f"A model for {settings.backbone.task_type} refuses nothing: it does not answer in text."
        problems.append(Problem(settings.where("evaluation.safety"), what, "Leave it out."))
    if len(MethodStack(settings.first.methods).stages(stream)) < len(stream.tasks):
        problems += _joint_training_problems(settings, stream)
    if problems:
        raise ConfigError(problems)


def _joint_training_problems(settings: RunSettings, stream: Stream) -> list[Problem]:
    """All tasks at once share one loop: only the number of epochs, and how answers are scored, may differ."""
    common = _of_stage(settings.first)
    problems = []
    for index, name in enumerate(stream.names):
        if _of_stage(settings.for_task(name, index)) != common:
            where = f"per_task.{name}" if name in settings.per_task else "after_first"
            problems.append(
                Problem(
                    settings.where(where),
                    f"Multi-task training learns all tasks at once and cannot train `{name}` with options of its own.",
                    "Only `train.num_train_epochs` and how answers are scored may differ between tasks.",
                )
            )
    return problems


def _of_stage(settings: StageSettings) -> tuple[object, ...]:
    """What holds for a whole stage, and not for each of its tasks."""
    evaluation = settings.evaluation
    train = dataclasses.replace(settings.train, num_train_epochs=1)
    return train, settings.methods, evaluation.tasks, evaluation.during_training, evaluation.keep
