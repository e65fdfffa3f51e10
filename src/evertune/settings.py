"""The whole of a run's configuration, as finished values: what the runner receives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evertune.adapters.spec import AdapterSpec
from evertune.backbones.base import BackboneConfig
from evertune.console import Console
from evertune.evaluation.config import EvaluationConfig
from evertune.methods.base import Method
from evertune.streams.task import Stream
from evertune.training.config import TrainConfig


class StreamConfig(Protocol):
    """Options of a stream; loading it reads and checks every row."""

    def load(self, *, seed: int, console: Console) -> Stream:
        """Reads the stream.

        Raises:
            DataError: With the first 20 bad rows.
            ConfigError: If an option names what does not exist.
        """
        ...


@dataclass(frozen=True)
class StageSettings:
    """What holds while one task is learnt.

    Attributes:
        train: Options of the loop.
        methods: The composed methods, ``(name, method)`` in the order written.
        evaluation: Options of evaluation.
    """

    train: TrainConfig
    methods: tuple[tuple[str, Method], ...]
    evaluation: EvaluationConfig


@dataclass(frozen=True)
class RunSettings:
    """A run.

    Attributes:
        seed: The one seed.
        output_dir: Where the run folder is (absolute).
        run_name: Name shown in reports.
        stream: The stream's options.
        backbone: The model's options.
        adapter: Kind and size of the adapters.
        first: What holds for the first task.
        later: What holds for the others (``after_first`` applied).
        per_task: Task name to (first, later) with that task's own keys applied.
        resolved: Everything as plain JSON values with all defaults: what ``config.yaml`` holds. All but `output_dir`
            and `run_name` decides whether two configurations are the same.
        locations: Dotted key to ``file:line:column``, for errors found after the configuration was read.
    """

    seed: int
    output_dir: Path
    run_name: str
    stream: StreamConfig
    backbone: BackboneConfig
    adapter: AdapterSpec
    first: StageSettings
    later: StageSettings
    per_task: Mapping[str, tuple[StageSettings, StageSettings]] = field(default_factory=dict)
    resolved: Mapping[str, Any] = field(default_factory=dict)
    locations: Mapping[str, str] = field(default_factory=dict)

    def for_task(self, name: str, index: int) -> StageSettings:
        """What holds for the task `name`, which comes at place `index` (0 is the first)."""
        first, later = self.per_task.get(name, (self.first, self.later))
        return first if index == 0 else later

    def where(self, key: str) -> str:
        """Place of a dotted key in the user's file; the key itself if it was not written there."""
        written = key
        while written and written not in self.locations:
            written = written.rpartition(".")[0]
        return self.locations.get(written, key)
