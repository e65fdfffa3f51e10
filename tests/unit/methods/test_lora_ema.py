"""LoRA-EMA on a toy: the average against a plain loop, and what begins, answers and is resumed."""

from __future__ import annotations

import copy
import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from evertune.adapters.spec import AdapterPlan
from evertune.errors import Interrupted
from evertune.methods.base import Context, MethodState
from evertune.methods.lora_ema import LoRAEMA
from evertune.methods.seq_lora import SeqLoRA
from evertune.streams.task import Stage
from evertune.training.fit import fit
from tests.unit.methods.walks import walk


def fast_weights(context: Context) -> dict[str, Tensor]:
    """The fast adapter in float64."""
    return {key: tensor.double() for key, tensor in context.bank.adapter_tensors("fast").items()}


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[list[dict[str, Tensor]]]:
    """Of every stage: the fast weights as it begins, then after each optimiser step."""
    found: list[list[dict[str, Tensor]]] = []
    begin, after = LoRAEMA.begin_task, LoRAEMA.after_step

    def beginning(self: LoRAEMA, state: MethodState, context: Context) -> None:
        begin(self, state, context)
        found.append([fast_weights(context)])

    def stepping(self: LoRAEMA, state: MethodState, context: Context, parameters: Any) -> None:
        found[-1].append(fast_weights(context))
        after(self, state, context, parameters)

    monkeypatch.setattr(LoRAEMA, "begin_task", beginning)
    monkeypatch.setattr(LoRAEMA, "after_step", stepping)
    return found


@pytest.mark.parametrize("restart", [True, False])
@pytest.mark.parametrize("decay", [0.9, 0.4])
def test_the_slow_adapter_is_the_average(
    tmp_path: Path, paths: list[list[dict[str, Tensor]]], decay: float, restart: bool
) -> None:
    method, slow, last = LoRAEMA(decay=decay, restart=restart), {}, {}
    for number, stage in enumerate(walk(tmp_path, method, tasks=3)):
        if number % 2 == 0:
            continue
        start, *steps = paths[-1]
        wanted_start = (slow if restart else last) or start
        assert all(torch.allclose(start[key], tensor, atol=1e-6) for key, tensor in wanted_start.items())
        slow = slow or dict(start)
        assert len(steps) == 18
        for fast in steps:
            slow = {key: decay * tensor + (1 - decay) * fast[key] for key, tensor in slow.items()}
        found = stage.bank.adapter_tensors("slow")
        assert found.keys() == slow.keys()
        assert all(torch.allclose(found[key].double(), tensor, atol=1e-6) for key, tensor in slow.items())
        last = fast_weights(stage.context)
        assert max((last[key] - slow[key]).abs().max().item() for key in slow) > 1e-3
        assert method.facts(stage.state, stage.context) == {"older_share": pytest.approx(decay**18)}


def test_without_decay_the_slow_adapter_is_the_fast_one_and_this_is_seq_lora(tmp_path: Path) -> None:
    plain = [s.bank.adapter_tensors("shared") for s in list(walk(tmp_path / "plain", SeqLoRA()))[-1:]]
    (stage,) = list(walk(tmp_path / "ema", LoRAEMA(decay=0.0)))[-1:]
    fast, slow = stage.bank.adapter_tensors("fast"), stage.bank.adapter_tensors("slow")
    for key, tensor in plain[0].items():
        assert torch.equal(fast[key], tensor)
        assert torch.equal(slow[key], tensor)


def test_the_slow_adapter_answers_and_both_are_kept() -> None:
    method, stage = LoRAEMA(), Stage(1, "b", (1,), 1)
    assert method.adapters(stage) == AdapterPlan(("fast",), ("fast",))
    assert method.eval_adapters(stage, 0) == AdapterPlan(("slow",))
    assert method.kept_adapters(stage) == ("fast", "slow")
    assert method.slow_adapters(stage) == ()


@pytest.mark.parametrize("task", [0, 1])
def test_a_stage_that_is_resumed_ends_in_the_same_average(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: int
) -> None:
    whole = [*walk(tmp_path / "whole", LoRAEMA(decay=0.8), tasks=task + 1)][-1]
    *_, stage = islice(walk(tmp_path / "stopped", LoRAEMA(decay=0.8), tasks=task + 1), 2 * task + 1)
    job, before = stage.job, copy.deepcopy(stage.state)
    after = LoRAEMA.after_step

    def stopping(self: LoRAEMA, state: MethodState, context: Context, parameters: Any) -> None:
        after(self, state, context, parameters)
        job.stop.requested = state.values["step"] == 7

    monkeypatch.setattr(LoRAEMA, "after_step", stopping)
    with pytest.raises(Interrupted, match="step 8 of 18"):
        fit(job)
    job.stop.requested = False
    # What a new process has: the state of the stage before, nothing derived, and only the adapter of the plan.
    job.states.update({"method-0": before})
    if "slow" in stage.bank.names:
        stage.bank.remove("slow")
    fit(dataclasses.replace(job, context=dataclasses.replace(job.context, derived={})))
    wanted, found = whole.bank.adapter_tensors("slow"), stage.bank.adapter_tensors("slow")
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    (state,) = job.states.values()
    assert state.values == whole.state.values == {"step": 18}
    assert all(torch.equal(state.tensors[key], tensor) for key, tensor in whole.state.tensors.items())


@pytest.mark.parametrize(("decay", "said"), [(0.999, True), (0.9, False)])
def test_a_task_too_short_for_the_average_is_said(tmp_path: Path, decay: float, said: bool) -> None:
    job = next(walk(tmp_path, LoRAEMA(decay=decay), tasks=1)).job
    heard: list[str] = []
    fit(dataclasses.replace(job, context=dataclasses.replace(job.context, warn=heard.append)))
    wanted = "a: 98% of the slow adapter is still what it was before the 18 steps of this task; lower method.decay"
    assert heard == ([wanted] if said else [])
