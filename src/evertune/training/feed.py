"""The rows of every optimiser step, encoded and padded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from evertune import distributed
from evertune.backbones.base import Batch, Encoded
from evertune.streams.examples import PromptTarget
from evertune.training.batches import epoch_steps, micro_batches, rows_per_step, steps_per_epoch
from evertune.training.job import FitJob


@dataclass(frozen=True)
class StepRows:
    """The rows of one optimiser step.

    Attributes:
        batches: The micro-batches of this process, on the CPU.
        ids: Ids of the rows of all processes.
        tokens: Tokens of all processes, padding not counted.
    """

    batches: list[Batch]
    ids: list[str]
    tokens: int


class Feed:
    """Gives the rows of any step of a stage; every row is encoded once.

    Args:
        job: The stage.
    """

    def __init__(self, job: FitJob) -> None:
        self._job = job
        self._encoded: dict[str, Encoded] = {}
        self._epoch: int | None = None
        self._rows: list[Encoded] = []
        self._lengths: list[int] = []
        self._steps: list[list[int]] = []
        config, context = job.config, job.context
        self._step_rows = rows_per_step(
            config.per_device_train_batch_size, config.gradient_accumulation_steps, distributed.world_size()
        )
        self.steps_per_epoch = steps_per_epoch(len(self._rows_of_epoch(0)), self._step_rows)
        if config.max_steps > 0:
            self.total_steps = config.max_steps * len(context.stage.tasks)
        else:
            epochs = min(context.num_train_epochs.values(), default=config.num_train_epochs)
            self.total_steps = max(1, math.ceil(epochs * self.steps_per_epoch))

    def step(self, step: int) -> StepRows:
        """The rows of optimiser step `step` (0 is the first)."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._start_epoch(epoch)
        indices, backbone = self._steps[place], self._job.context.backbone
        micro = micro_batches(
            indices,
            self._lengths,
            per_device=self._job.config.per_device_train_batch_size,
            processes=distributed.world_size(),
            rank=distributed.rank(),
        )
        filler = [backbone.filler(self._rows[indices[0]])]
        batches = [backbone.collate([self._rows[row] for row in rows] or filler) for rows in micro]
        step_rows = [self._rows[row] for row in indices]
        return StepRows(batches, [row.id for row in step_rows], sum(row.length for row in step_rows))

    def batch(self, rows: Sequence[PromptTarget]) -> Batch:
        """Rows of any task as one batch on the device."""
        self._encode(rows)
        encoded = [self._encoded[row.id] for row in rows]
        return self._job.context.backbone.collate(encoded).to(self._job.accelerator.device)

    def own_batches(self) -> Iterator[Batch]:
        """The stage's own rows once, those of like length together, on the device; the same on every process."""
        job = self._job
        self._encode(job.rows)
        rows = sorted((self._encoded[row.id] for row in job.rows), key=lambda row: (row.length, row.id))
        size = job.config.per_device_train_batch_size
        for start in range(0, len(rows), size):
            yield job.context.backbone.collate(rows[start : start + size]).to(job.accelerator.device)

    def truncation(self) -> dict[str, int]:
        """How many of the stage's own rows there are, and how many lost input text or a part of the answer."""
        self._encode(self._job.rows)
        own = [self._encoded[row.id] for row in self._job.rows]
        return {
            "rows": len(own),
            "source_cut": sum(row.source_cut for row in own),
            "target_cut": sum(row.target_cut for row in own),
        }

    def foreign_ids(self, steps: int) -> list[list[str]]:
        """Ids of the rows that methods mixed in, by epoch, in the order in which the first `steps` steps took them."""
        own = {row.id for row in self._job.rows}
        found: list[list[str]] = []
        for epoch in range(math.ceil(steps / self.steps_per_epoch)):
            self._start_epoch(epoch)
            taken = self._steps[: steps - epoch * self.steps_per_epoch]
            ids = [self._rows[row].id for indices in taken for row in indices]
            found.append([id for id in ids if id not in own])
        return found

    def _rows_of_epoch(self, epoch: int) -> Sequence[PromptTarget]:
        job = self._job
        return job.methods.train_data(job.states, job.context, job.rows, epoch)

    def _start_epoch(self, epoch: int) -> None:
        rows = self._rows_of_epoch(epoch)
        self._encode(rows)
        self._rows = [self._encoded[row.id] for row in rows]
        self._lengths = [row.length for row in self._rows]
        self._steps = epoch_steps(
            self._lengths,
            step_rows=self._step_rows,
            group_by_length=self._job.config.group_by_length,
            seed=self._job.context.seed,
            stage=self._job.context.stage.index,
            epoch=epoch,
        )
        self._epoch = epoch

    def _encode(self, rows: Sequence[PromptTarget]) -> None:
        missing = list({row.id: row for row in rows if row.id not in self._encoded}.values())
        if missing:
            config = self._job.config
            encoded = self._job.context.backbone.encode(
                missing, max_source_length=config.max_source_length, max_target_length=config.max_target_length
            )
            self._encoded |= {row.id: row for row in encoded}
