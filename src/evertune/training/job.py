"""What one stage of training is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator

from evertune.console import Console
from evertune.methods.base import Context
from evertune.methods.stack import MethodStack, States
from evertune.streams.examples import PromptTarget
from evertune.training.config import TrainConfig
from evertune.training.interrupt import StopRequest
from evertune.training.tracking import EventLog


class DevEvaluation(Protocol):
    """Evaluation of the carved dev rows while training."""

    def due(self, step: int, *, end_of_epoch: bool) -> bool:
        """Whether to evaluate after this optimiser step."""
        ...

    def score(self) -> tuple[float, float | None, Mapping[str, float]]:
        """Score of the current weights, higher is better, loss, and every metric of the answers by name."""
        ...


@dataclass(frozen=True)
class FitJob:
    """What is to be learnt, with what.

    Attributes:
        title: Shown before the progress: ``1/4 dbpedia``.
        context: Stream, stage, adapters and backbone.
        methods: The composed methods.
        states: Their states; a resumed stage replaces the contents.
        config: Options of the loop.
        rows: The stage's own training rows.
        accelerator: Device and processes.
        autocast: Type that the forward pass computes in, None for float32.
        checkpoint_root: Folder of the run's checkpoints.
        events: Event log.
        console: Where progress is shown.
        stop: Set when the user asks to stop.
        dev: Evaluation while training, None for none.
        keep: Which weights are kept: the last, or those that scored best on dev.
        save_evaluated: Called after each evaluation with the step, to keep its weights; None to keep none.
    """

    title: str
    context: Context
    methods: MethodStack
    states: States
    config: TrainConfig
    rows: Sequence[PromptTarget]
    accelerator: Accelerator
    autocast: torch.dtype | None
    checkpoint_root: Path
    events: EventLog
    console: Console
    stop: StopRequest
    dev: DevEvaluation | None = None
    keep: Literal["last", "best"] = "last"
    save_evaluated: Callable[[int], None] | None = None

    def computing(self) -> AbstractContextManager[Any]:
        """Held open while the model computes: autocast, if there is any."""
        return torch.autocast(self.accelerator.device.type, self.autocast) if self.autocast else nullcontext()


@dataclass
class Counters:
    """What a stage has done so far; part of a checkpoint.

    `strong_terms` were warned of; `loss` is the mean over the last logged window (nats).
    """

    seconds: float = 0.0
    samples: int = 0
    tokens: int = 0
    target_tokens: int = 0
    peak_memory_bytes: int = 0
    loss: float | None = None
    window_loss: float = 0.0
    window_tokens: int = 0
    best_step: int | None = None
    best_score: float | None = None
    strong_terms: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FitResult:
    """What came of it.

    Attributes:
        steps: Optimiser steps.
        epochs: Passes over the rows, as a fraction.
        counters: Time, samples, tokens, memory and losses.
        truncation: ``rows``, ``source_cut`` and ``target_cut`` of the stage's own rows.
        foreign_ids: Ids of rows of other tasks that were mixed in, by epoch.
    """

    steps: int
    epochs: float
    counters: Counters
    truncation: dict[str, int]
    foreign_ids: list[list[str]]
