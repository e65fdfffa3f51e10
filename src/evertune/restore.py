"""A finished stage of a run, loaded again to be scored or to answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from evertune.adapters.bank import AdapterBank
from evertune.adapters.released import released_record
from evertune.adapters.spec import AdapterPlan
from evertune.assembly import Parts, assemble
from evertune.backbones.base import Backbone
from evertune.console import Console
from evertune.errors import ConfigError
from evertune.manifest import stream_manifest
from evertune.run_folder import RunFolder
from evertune.settings import RunSettings
from evertune.streams.task import Stage, Stream


@dataclass(frozen=True)
class RestoredStage:
    """A finished stage of a run, ready to answer.

    Attributes:
        parts: The parts of the run.
        folder: The run's folder.
        stage: The stage.
    """

    parts: Parts
    folder: RunFolder
    stage: Stage

    @property
    def settings(self) -> RunSettings:
        """The configuration."""
        return self.parts.settings

    @property
    def stream(self) -> Stream:
        """The tasks."""
        return self.parts.stream

    @property
    def backbone(self) -> Backbone:
        """The model family."""
        return self.parts.backbone

    @property
    def bank(self) -> AdapterBank:
        """The adapters."""
        return self.parts.bank

    @property
    def device(self) -> torch.device:
        """Where to compute."""
        return self.parts.accelerator.device

    def plan_for(self, task: int) -> AdapterPlan:
        """The adapters that answer for the task with this index."""
        return self.parts.methods(self.stage).eval_adapters(self.stage, task)

    def place(self, task: int) -> None:
        """Puts the adapters of a task on the model."""
        self.parts.place_adapters(self.plan_for(task), self.folder, self.stage.index + 1)


def restore_stage(settings: RunSettings, run_dir: Path, stage: int | None, console: Console) -> RestoredStage:
    """Loads a run as it was after a stage.

    Args:
        settings: Configuration of the run, from its ``config.yaml``.
        run_dir: The run's folder.
        stage: Number of the stage, 1 for the first; None for the last that is trained.
        console: Where notes are said.

    Raises:
        CheckpointError: If the folder is not a run, or is damaged.
        ConfigError: If there is no such stage, or it is not trained.
    """
    folder = RunFolder(run_dir)
    folder.load()
    done = [entry["index"] for entry in folder.manifest["stages"] if entry["status"] != "pending"]
    if not done:
        raise ConfigError("No stage of this run is trained yet.", where=str(run_dir), instead="Run it on.")
    if stage is not None and stage - 1 not in done:
        raise ConfigError(
            f"Stage {stage} is not trained.",
            where="--stage",
            instead=f"Write one of {', '.join(str(index + 1) for index in done)}.",
        )
    parts = assemble(settings, console)
    if folder.manifest["backbone"]["fingerprint"] != parts.backbone.identity.fingerprint:
        raise ConfigError(
            f"The base model at {parts.backbone.identity.path} is not the one that this run was trained on.",
            where=settings.where("backbone.path"),
            instead="Restore it.",
        )
    if changed := folder.changed_start(released_record(settings.adapter.start_from)):
        raise ConfigError(changed)
    for problem in folder.changed_rows(stream_manifest(parts.stream)):
        console.warn(f"{problem.where}: {problem.what}")
    return RestoredStage(parts, folder, parts.stages[stage - 1 if stage is not None else done[-1]])
