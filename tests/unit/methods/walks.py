"""A toy model that learns a toy stream stage by stage, as the runner does it, with a look at every stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.methods.base import Context, Method, MethodState
from evertune.training.fit import fit
from evertune.training.job import FitJob
from tests.unit.training.toys import toy_job, toy_model, toy_stream

OPTIONS: dict[str, Any] = {
    "optim": "adamw_torch",
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "num_train_epochs": 6.0,
    "max_grad_norm": 1.0,
}


@dataclass
class Walked:
    """A stage, before its first step or after its last."""

    job: FitJob
    bank: AdapterBank
    state: MethodState

    @property
    def context(self) -> Context:
        return self.job.context


def walk(
    folder: Path,
    method: Method,
    *beside: Method,
    tasks: int = 2,
    spec: AdapterSpec | None = None,
    **options: Any,
) -> Iterator[Walked]:
    """Yields every stage twice: before it learns, with its adapters in place, and after it.

    The first method decides on the adapters; the state shown is that of the last one.
    """
    stream = toy_stream(*[10] * tasks)
    bank = AdapterBank(toy_model(), spec or AdapterSpec(r=2, lora_alpha=4), task_type="causal_lm", base_path="toy")
    states: dict[str, MethodState] | None = None
    for stage in method.stages(stream):
        plan = method.adapters(stage)
        bank.open_base(plan.base)
        for name in plan.active:
            if name not in bank.names:
                bank.add(name, seed=stage.index)
        bank.apply(plan)
        job = toy_job(
            folder / str(stage.index), method, *beside, stream=stream, stage=stage, bank=bank, **{**OPTIONS, **options}
        )
        if states is not None:
            job.states.update(states)
        states = job.states
        state = [*states.values()][-1]
        yield Walked(job, bank, state)
        fit(job)
        yield Walked(job, bank, state)


def weights(bank: AdapterBank) -> dict[str, Tensor]:
    """What every linear module multiplies with, adapters and all, in float64: by pushing unit vectors through it."""
    found: dict[str, Tensor] = {}
    with torch.no_grad():
        for path, module in bank.base_model.named_modules():
            if path.endswith(("_proj", "lm_head")) and hasattr(module, "weight"):
                width = module.in_features
                found[path] = module(torch.eye(width)).T.double()
    return found
