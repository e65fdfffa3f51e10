"""One optimiser step, which owns every scale.

- Data loss = sum over all micro-batches and processes of the step / sum of their scored tokens.
- A method's `batch_loss` terms are divided by the same count.
- A method's `step_loss` enters once per optimiser step, unscaled: its gradient is added to that of the data.

So accumulation 1x8 equals 8x1, and one process equals two. Several processes average their gradients, hence the factor
`world_size` on the counted terms; nothing else in the program knows about scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from evertune import distributed
from evertune.backbones.base import Batch
from evertune.training.job import FitJob
from evertune.training.optimizer import build_optimizer, build_schedule, complete_groups


@dataclass(frozen=True)
class StepOutcome:
    """What one optimiser step did.

    Attributes:
        loss: Sum of the data loss of this process (nats), float32 scalar on the device.
        terms: The methods' terms, as they entered the gradient.
        ratios: 2-norm of the gradient of each `step_loss` term over that of the data loss; empty unless asked for.
        gradient_norm: Global 2-norm before clipping.
        count: Scored tokens of all processes.
        stop: Whether any process was asked to stop.
        broken: Names of what is not finite; if there is any, the weights were not touched.
    """

    loss: Tensor
    terms: dict[str, float]
    ratios: dict[str, float]
    gradient_norm: float
    count: int
    stop: bool
    broken: tuple[str, ...]


class Stepper:
    """Takes optimiser steps on the learning adapters of a stage.

    Args:
        job: The stage; its adapters must be in place.
        total_steps: Steps of the stage, for the schedule.
    """

    def __init__(self, job: FitJob, total_steps: int) -> None:
        self._job = job
        self._device = job.accelerator.device
        self.parameters = job.context.bank.trainable_parameters()
        bank = job.context.bank
        bank.begin(total_steps)
        groups = list(job.methods.param_groups(job.states, job.context) or bank.param_groups(job.config.learning_rate))
        named = {id(parameter) for group in groups for parameter in group["params"]}
        # What no method speaks of: everything, or the heads of an encoder.
        if rest := [parameter for parameter in self.parameters.values() if id(parameter) not in named]:
            groups.append({"params": rest})
        own = job.methods.optimizer(job.states, job.context, complete_groups(job.config, groups))
        self.optimizer = own or build_optimizer(job.config, groups)
        self.schedule = build_schedule(job.config, self.optimizer, total_steps)
        self.scaler = torch.amp.GradScaler(self._device.type, enabled=job.autocast is torch.float16)
        model = bank.model
        self.model = job.accelerator.prepare_model(model) if distributed.world_size() > 1 else model

    def take(self, batches: Sequence[Batch], *, measure: bool = False) -> StepOutcome:
        """Forward, backward, projection, clipping and update for the micro-batches of this process.

        Args:
            batches: The micro-batches.
            measure: Whether to compare the gradients of the terms with that of the data; changes no result.
        """
        job = self._job
        # The stop flag travels with the counts, so that all processes stop at the same step.
        mine = torch.tensor([sum(batch.count for batch in batches), int(job.stop.requested)], dtype=torch.int64)
        count, stop = distributed.all_sum(mine.to(self._device)).tolist()
        loss, terms = self._forward_backward(batches, count)
        self.scaler.unscale_(self.optimizer)
        # float16 alone: whether the scale was too large is seen in the gradient of the data.
        scaled = [self._gradient_norm()] if self.scaler.is_enabled() else []
        once, ratios = self._add_step_loss(measure)
        terms |= once
        job.methods.project(job.states, job.context, self.parameters)
        limit = job.config.max_grad_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        # One transfer from the device: everything that has to be looked at.
        names = ["loss", *terms, "gradient norm"]
        # The loss of all processes: one that is not finite must be seen by every one of them.
        seen = (distributed.all_sum(loss), *terms.values(), norm, *ratios.values(), *scaled)
        values = torch.stack([value.float() for value in seen]).tolist()
        overflowed = bool(scaled) and not math.isfinite(values.pop())
        measured = dict(zip(ratios, values[len(names) :], strict=True))
        del values[len(names) :]
        broken = tuple(name for name, value in zip(names, values, strict=True) if not math.isfinite(value))
        # How float16 finds its scale: a step that overflows is skipped, and the scale halved.
        skipped = broken == ("gradient norm",) and overflowed and self.scaler.get_scale() >= 1
        if skipped:
            broken = ()
        if not broken:
            self._update(skipped)
        shown = dict(zip(terms, values[1:-1], strict=True))
        return StepOutcome(loss, shown, measured, values[-1], count, stop > 0, broken)

    def _forward_backward(self, batches: Sequence[Batch], count: int) -> tuple[Tensor, dict[str, Tensor]]:
        job = self._job
        scale = distributed.world_size() / max(count, 1)
        total = torch.zeros((), device=self._device)
        terms: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            moved = batch.to(self._device)
            with nullcontext() if last else job.accelerator.no_sync(self.model):
                with job.computing():
                    output = job.context.backbone.loss(self.model, moved)
                    counted = job.methods.batch_loss(job.states, job.context, moved, output)
                loss = scale * sum(counted.values(), start=output.sum)
                self.scaler.scale(loss).backward()
            total += output.sum.detach()
            for name, value in counted.items():
                terms[name] = terms.get(name, torch.zeros_like(total)) + value.detach() / max(count, 1)
        return total, terms

    def _add_step_loss(self, measure: bool) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Adds the gradients of every `step_loss`, outside autocast and loss scaling: values and ratios.

        Each term is differentiated by itself, measured or not, so that measuring changes no bit.
        """
        job = self._job
        once = job.methods.step_loss(job.states, job.context) | job.context.bank.step_loss()
        learning = list(self.parameters.values())
        ratios: dict[str, Tensor] = {}
        gradients: list[tuple[Tensor | None, ...]] = []
        sloped = {name: value for name, value in once.items() if value.requires_grad}
        for index, value in enumerate(sloped.values()):
            keep = index < len(sloped) - 1  # terms may share a part of their graph
            gradients.append(torch.autograd.grad(value, learning, retain_graph=keep, allow_unused=True))
        if measure and sloped:
            of_data = self._gradient_norm()
            for name, term in zip(sloped, gradients, strict=True):
                ratios[name] = torch.nn.utils.get_total_norm([g for g in term if g is not None]) / of_data
        for term in gradients:
            for parameter, gradient in zip(learning, term, strict=True):
                if gradient is not None:
                    parameter.grad = gradient if parameter.grad is None else parameter.grad.add_(gradient)
        return {name: value.detach() for name, value in once.items()}, ratios

    def _gradient_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([p.grad for p in self.parameters.values() if p.grad is not None])

    def _update(self, skipped: bool) -> None:
        if not skipped:
            self.scaler.step(self.optimizer)
            self.schedule.step()
            self._job.context.bank.after_step(self.schedule.last_epoch)
            self._job.methods.after_step(self._job.states, self._job.context, self.parameters)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
