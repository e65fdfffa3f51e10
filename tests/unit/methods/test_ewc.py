"""EWC on a toy: what it measures, what it holds, and that it needs no row of earlier tasks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from evertune.adapters.spec import AdapterSpec
from evertune.methods.base import Context, MethodState
from evertune.methods.ds_lora import DSLoRA
from evertune.methods.ewc import EWC
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.seq_lora import SeqLoRA
from evertune.streams.task import Stream, Task
from tests.unit.methods.walks import Walked, walk


def walked(folder: Path, *methods: Any, **options: Any) -> list[tuple[Walked, dict[str, Tensor], MethodState]]:
    """Every stage after it: with copies of what learnt and of the state."""
    found = []
    for number, stage in enumerate(walk(folder, *methods, **options)):
        if number % 2:
            learnt = {name: p.detach().clone() for name, p in stage.bank.trainable_parameters().items()}
            found.append((stage, learnt, MethodState(dict(stage.state.tensors), dict(stage.state.values))))
    return found


def row_gradients(context: Context, stage: Walked) -> list[dict[str, Tensor]]:
    """Of each row of the stage alone, by a loop of its own: gradient of the mean loss of the reference answer."""
    model, found = stage.bank.model, []
    parameters = stage.bank.trainable_parameters()
    backbone = context.backbone
    for task in context.tasks:
        for encoded in backbone.encode(list(task.train), max_source_length=99, max_target_length=99):
            ids = torch.tensor([encoded.prompt + encoded.target])
            scored = len(encoded.target)
            logits = model(input_ids=ids).logits[0, -scored - 1 : -1]
            loss = functional.cross_entropy(logits, torch.tensor(encoded.target))
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            found.append(dict(zip(parameters, gradients, strict=True)))
    return found


def test_given_labels_are_measured_row_by_row(tmp_path: Path) -> None:
    ((stage, learnt, state),) = walked(tmp_path, EWC(labels="data"), tasks=1)
    stage.bank.model.eval()
    rows = row_gradients(stage.context, stage)
    assert set(state.tensors) == {f"{kind} {name}" for name in learnt for kind in ("fisher", "anchor")}
    for name, parameter in learnt.items():
        wanted = torch.stack([row[name].square() for row in rows]).mean(0)
        assert torch.allclose(state.tensors[f"fisher {name}"], wanted, rtol=1e-3, atol=1e-9)
        assert torch.equal(state.tensors[f"anchor {name}"], parameter)
        assert state.tensors[f"fisher {name}"].dtype == torch.float32
    assert max(tensor.max() for key, tensor in state.tensors.items() if key.startswith("fisher")) > 1e-6


def remeasured(stage: Walked, **options: Any) -> dict[str, Tensor]:
    """F of the weights as they are, from no state."""
    state, method = MethodState(), EWC(**options)
    backbone = stage.context.backbone

    def batch(rows: Any) -> Any:
        return backbone.collate(backbone.encode(rows, max_source_length=99, max_target_length=99))

    method.end_task(state, dataclasses.replace(stage.context, batch=batch))
    return {key: tensor for key, tensor in state.tensors.items() if key.startswith("fisher")}


def test_drawn_labels_are_measured_as_often_as_the_model_says(tmp_path: Path) -> None:
    """Against the expectation over every token of the vocabulary, on a task of one row with an answer of one letter."""
    ((stage, learnt, _),) = walked(tmp_path, EWC(), tasks=1)
    (row, *_) = stage.context.tasks[0].train
    stage.bank.model.eval()
    backbone, parameters = stage.context.backbone, stage.bank.trainable_parameters()
    (encoded,) = backbone.encode([row], max_source_length=99, max_target_length=99)
    scored = len(encoded.target)
    logits = stage.bank.model(input_ids=torch.tensor([encoded.prompt + encoded.target])).logits[0, -scored - 1 : -1]
    log_p = logits.log_softmax(-1)
    wanted = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    scores = torch.zeros(scored, log_p.shape[1], sum(p.numel() for p in parameters.values()))
    for position in range(scored):
        for token in range(log_p.shape[1]):
            gradients = torch.autograd.grad(log_p[position, token], list(parameters.values()), retain_graph=True)
            scores[position, token] = torch.cat([gradient.flatten() for gradient in gradients])
    # Tokens are independent and their scores have the mean 0: the squares of the mean over positions add up.
    expected = torch.einsum("tv,tvn->n", log_p.exp(), scores.square()) / scored**2
    sizes = [p.numel() for p in parameters.values()]
    wanted = torch.cat([part.flatten() for part in expected.split(sizes)])

    many = tuple(dataclasses.replace(row, id=f"a/train/{number}") for number in range(500))
    copies = dataclasses.replace(
        stage, job=dataclasses.replace(stage.job, context=dataclasses.replace(stage.context, stream=_stream(many)))
    )
    found = torch.cat([t.flatten() for t in remeasured(copies, fisher_rows=500).values()])
    assert (found - wanted).norm() < 0.12 * wanted.norm()
    data = torch.cat([t.flatten() for t in remeasured(copies, fisher_rows=1, labels="data").values()])
    assert (data - wanted).norm() > 0.3 * wanted.norm()
    assert len(learnt) == len(sizes)


def _stream(rows: tuple[Any, ...]) -> Stream:
    return Stream("toy", (Task("a", rows, (), ()),))


def test_measuring_leaves_no_trace(tmp_path: Path) -> None:
    """Neither in the global generators, nor in gradients, nor in the mode of the model; and it is the same twice."""
    spec = AdapterSpec(r=2, lora_alpha=4, lora_dropout=0.5)
    ((stage, _, _),) = walked(tmp_path, EWC(), tasks=1, spec=spec)
    stage.bank.model.train()
    before = torch.get_rng_state()
    first, second = remeasured(stage, fisher_rows=4), remeasured(stage, fisher_rows=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert stage.bank.model.training
    assert all(p.grad is None for p in stage.bank.trainable_parameters().values())
    assert all(torch.equal(first[key], second[key]) for key in first)
    other = remeasured(stage, fisher_rows=5)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("decay", [1.0, 0.25])
def test_tasks_add_up(tmp_path: Path, decay: float) -> None:
    options = {"fisher_rows": 10, "labels": "data", "decay": decay}
    stages = walked(tmp_path, EWC(**options), tasks=2)
    (_, _, first), (stage, learnt, second) = stages
    alone = remeasured(stage, **options)
    for name, parameter in learnt.items():
        key = f"fisher {name}"
        assert torch.allclose(second.tensors[key], decay * first.tensors[key] + alone[key], rtol=1e-5)
        assert torch.equal(second.tensors[f"anchor {name}"], parameter)


def test_the_penalty_enters_from_the_second_task_on(tmp_path: Path) -> None:
    method = EWC(lambda_penalty=30.0)
    stages = walk(tmp_path, method, tasks=2)
    first = next(stages)
    assert method.step_loss(first.state, first.context) == {}
    next(stages)
    second = next(stages)
    assert method.step_loss(second.state, second.context)["fisher"].item() == 0.0  # the weights are at the anchor
    learning = second.bank.trainable_parameters()
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.1)
    term = method.step_loss(second.state, second.context)["fisher"]
    fisher = {name: second.state.tensors[f"fisher {name}"] for name in learning}
    assert term.item() == pytest.approx(
        sum(30.0 / 2 * 0.01 * tensor.sum().item() for tensor in fisher.values()), rel=1e-4
    )
    for (name, _), gradient in zip(learning.items(), torch.autograd.grad(term, list(learning.values())), strict=True):
        assert torch.allclose(gradient, 30.0 * 0.1 * fisher[name], rtol=1e-4, atol=1e-9)


def moved(stages: list[tuple[Walked, dict[str, Tensor], MethodState]]) -> float:
    """How far the second task moved what the first had learnt, where it mattered."""
    (_, first, state), (_, second, _) = stages
    weights = {name: state.tensors[f"fisher {name}"] for name in first}
    return sum((weight * (second[name] - first[name]).square()).sum().item() for name, weight in weights.items())


def test_a_stiffness_of_zero_is_seq_lora_and_a_large_one_holds(tmp_path: Path) -> None:
    plain = walked(tmp_path / "plain", SeqLoRA())
    off = walked(tmp_path / "off", EWC(lambda_penalty=0.0))
    for (_, wanted, _), (_, found, _) in zip(plain, off, strict=True):
        assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())
    # Plain descent: AdamW would take steps of its own size.
    options = {"optim": "sgd", "learning_rate": 0.05, "weight_decay": 0.0}
    free, held = (walked(tmp_path / str(size), EWC(lambda_penalty=size), **options) for size in (0.0, 5e3))
    assert moved(held) < 0.3 * moved(free)


def test_of_two_adapters_the_slow_one_is_held(tmp_path: Path) -> None:
    method = EWC()
    stages = walk(tmp_path, DSLoRA(), method, tasks=2)
    next(stages)
    next(stages)
    second = next(stages)
    learning = second.bank.trainable_parameters()
    with torch.no_grad():
        for parameter in learning.values():
            parameter.add_(0.1)
    term = method.step_loss(second.state, second.context)["fisher"]
    gradients = torch.autograd.grad(term, list(learning.values()), allow_unused=True)
    held = {name for name, gradient in zip(learning, gradients, strict=True) if gradient is not None}
    assert held == {name for name in learning if ".slow." in name}
    assert 0 < len(held) < len(learning)
    last = next(stages)
    assert not [key for key in last.state.tensors if "task-01" in key], "an adapter of one task does not return"


def test_what_holds_nothing_is_said(tmp_path: Path) -> None:
    method, said = EWC(), []
    stages = walk(tmp_path, IncLoRA(), method, tasks=2)
    next(stages)
    next(stages)
    second = next(stages)
    method.begin_task(second.state, dataclasses.replace(second.context, warn=said.append))
    assert method.step_loss(second.state, second.context) == {}
    assert [text.split(",")[0] for text in said] == ["b: ewc holds nothing"]
    assert "seq-lora or ds-lora" in said[0]


def test_facts(tmp_path: Path) -> None:
    method = EWC()
    ((stage, _, state),) = walked(tmp_path, method, tasks=1)
    values = torch.cat([tensor.flatten() for key, tensor in state.tensors.items() if key.startswith("fisher")])
    facts = method.facts(state, stage.context)
    assert facts["fisher_mean"] == pytest.approx(values.mean().item())
    assert facts["fisher_max"] == values.max().item()
    assert facts["fisher_in_top_1_percent"] == pytest.approx(
        (values.sort().values[-(len(values) // 100) :].sum() / values.sum()).item()
    )
    assert method.facts(MethodState(), stage.context) == {}
