"""OSF, SLAO, InfLoRA and MIGU on a toy, each against its formula."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from evertune.adapters.spec import AdapterSpec
from evertune.methods import protected
from evertune.methods.inf_lora import InfLoRA, free_directions
from evertune.methods.migu import MIGU, strongest
from evertune.methods.osf import OSF
from evertune.methods.slao import SLAO, orthonormal_rows
from evertune.training.step import Stepper
from tests.unit.methods.walks import walk, weights

# OSF


def test_osf_loses_no_task(tmp_path: Path) -> None:
    """What a plain `unload` would do: the weights of the second task begin where the first one came."""
    stages = walk(tmp_path, OSF(), spec=AdapterSpec(kind="osf"), tasks=3)
    came = weights(next(stages).bank)
    path = "model.layers.0.self_attn.q_proj"
    previous = came[path]
    for _ in range(3):
        after = weights(next(stages).bank)[path]  # the adapter is merged and gone
        assert (after - previous).norm() > 1e-3
        beginning = next(stages, None)
        if beginning is not None:
            assert torch.allclose(weights(beginning.bank)[path], after, atol=1e-5)
        previous = after


def test_merging_changes_no_output(tmp_path: Path) -> None:
    method = OSF()
    stages = walk(tmp_path, method, spec=AdapterSpec(kind="osf"))
    seen = []
    beginning = next(stages)
    end = method.end_task
    object.__setattr__(method, "end_task", lambda s, c: (seen.append(weights(beginning.bank)), end(s, c)))
    after = weights(next(stages).bank)
    assert after.keys() == seen[0].keys()
    assert all(torch.allclose(seen[0][path], weight, atol=1e-5) for path, weight in after.items())
    assert beginning.bank.names == ()


def test_osf_keeps_the_large_directions(tmp_path: Path) -> None:
    """Neither what goes into the kept output directions nor what comes from the kept input directions changes."""
    stages = walk(tmp_path, OSF(), spec=AdapterSpec(kind="osf", effective_rank=4), weight_decay=0.0)
    path = "model.layers.0.self_attn.q_proj"
    before = weights(next(stages).bank)[path]
    change = weights(next(stages).bank)[path] - before
    left, _, right = torch.linalg.svd(before)
    kept = left[:, :4].T @ change @ right[:4].T
    assert kept.norm() < 0.05 * change.norm()


# SLAO


def test_slao_follows_its_formula(tmp_path: Path) -> None:
    stages = walk(tmp_path, SLAO(), tasks=3)
    merged: dict[str, torch.Tensor] = {}
    for task in (1, 2, 3):
        next(stages)
        bank = next(stages).bank
        tuned, found = bank.adapter_tensors("tuned"), bank.adapter_tensors("merged")
        for key in tuned:
            if "lora_A" in key:
                merged[key] = tuned[key].double()
            else:
                before = merged.get(key, torch.zeros_like(tuned[key]).double())
                merged[key] = before + (tuned[key].double() - before) / math.sqrt(task)
            assert torch.allclose(found[key].double(), merged[key], atol=1e-6)
    assert any(tensor.norm() > 1e-3 for key, tensor in merged.items() if "lora_B" in key)


def test_slao_begins_a_task_with_an_orthonormal_input_basis(tmp_path: Path) -> None:
    method = SLAO()
    stages = walk(tmp_path, method)
    next(stages)
    before = next(stages).bank.adapter_tensors("tuned")
    second = next(stages)
    method.begin_task(second.state, second.context)
    after = second.bank.adapter_tensors("tuned")
    for key, tensor in after.items():
        if "lora_A" in key:
            assert torch.allclose(tensor @ tensor.T, torch.eye(len(tensor)), atol=1e-5)
            Q, R = np.linalg.qr(before[key].double().numpy().T)
            assert np.allclose(tensor.numpy(), (Q * np.sign(np.diag(R))).T, atol=1e-5)
        else:
            assert torch.equal(tensor, before[key])


def test_rows_of_no_length_do_not_break_the_start() -> None:
    assert torch.isfinite(orthonormal_rows(torch.zeros(2, 5))).all()


# InfLoRA


def test_inf_lora_leaves_the_protected_inputs_alone_and_a_as_it_was_chosen(tmp_path: Path) -> None:
    method = InfLoRA(energy_threshold=0.7)
    stages = walk(tmp_path, method)
    next(stages)
    next(stages)
    second = next(stages)
    before, held = weights(second.bank), dict(protected.bases(second.state))
    last = next(stages)
    after = weights(last.bank)
    assert held
    for path, basis in held.items():
        change = after[path] - before[path]
        assert change.norm() > 1e-3
        assert (change @ basis.double()).norm() < 1e-4 * change.norm()
    for key, A in last.bank.adapter_tensors("task-02").items():
        if "lora_A" in key:
            assert torch.allclose(A @ A.T, torch.eye(len(A)) / 3, atol=1e-4)


def test_inf_lora_chooses_the_directions_in_which_inputs_vary_most(tmp_path: Path) -> None:
    stages = walk(tmp_path, InfLoRA())
    first = next(stages)
    path, rows = "model.layers.0.self_attn.q_proj", []
    model = first.bank.model
    layer = first.bank.base_model.get_submodule(path)
    hook = layer.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0].detach().double()))
    backbone = first.context.backbone
    with torch.no_grad():
        for row in first.job.rows:  # one at a time: nothing is padded
            backbone.loss(model, backbone.collate(backbone.encode([row], max_source_length=99, max_target_length=99)))
    hook.remove()
    tokens = torch.cat([row[0] for row in rows])
    _, vectors = np.linalg.eigh((tokens.T @ tokens).numpy())
    wanted = vectors[:, ::-1][:, :2].T
    last = next(stages)
    A = last.bank.adapter_tensors("task-01")[f"base_model.model.{path}.lora_A.weight"].double().numpy() * math.sqrt(3)
    assert np.allclose(np.abs((A * wanted).sum(1)), 1, atol=1e-4)


def test_where_nothing_is_free_nothing_is_chosen() -> None:
    moment = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    assert torch.equal(free_directions(moment, torch.eye(3), 2), torch.zeros(2, 3))
    found = free_directions(moment, torch.eye(3)[:, :1], 2)
    assert torch.allclose(found.abs(), torch.eye(3)[1:], atol=1e-6)


# MIGU


def test_migu_keeps_the_rows_of_the_strongest_units(tmp_path: Path) -> None:
    method = MIGU(kept_share=0.25)
    job = next(walk(tmp_path, method)).job
    path = "model.layers.0.self_attn.v_proj"
    layer = job.context.bank.base_model.get_submodule(path)
    backbone = job.context.backbone
    encoded = backbone.encode(list(job.rows), max_source_length=99, max_target_length=99)
    shares = []
    with torch.no_grad():
        for row in encoded:  # by hand, without padding
            seen: list[torch.Tensor] = []
            hook = layer.register_forward_hook(lambda _, inputs, output, seen=seen: seen.append(output[0].double()))
            backbone.loss(job.context.bank.model, backbone.collate([row]))
            hook.remove()
            shares += [(token.abs() / token.abs().sum()).numpy() for token in seen[0]]
    magnitudes = np.mean(shares, axis=0)
    kept = set(np.argsort(magnitudes)[::-1][: math.ceil(len(magnitudes) / 4)].tolist())

    gradients: dict[str, torch.Tensor] = {}
    project = method.project

    def watching(state, context, parameters):
        project(state, context, parameters)
        gradients.update({name: parameter.grad.clone() for name, parameter in parameters.items()})

    object.__setattr__(method, "project", watching)
    with job.methods.watch(job.states, job.context):
        job.context.bank.model.train()
        Stepper(job, 1).take([backbone.collate(encoded[:6]), backbone.collate(encoded[6:])])
    (name,) = [name for name in gradients if f"{path}.lora_B" in name]
    rows = {index for index, row in enumerate(gradients[name]) if row.abs().max() > 0}
    assert rows == kept


@pytest.mark.parametrize(("share", "count"), [(0.5, 2), (0.26, 2), (0.25, 1), (1e-9, 1), (1.0, 4)])
def test_the_strongest(share: float, count: int) -> None:
    kept = strongest(torch.tensor([0.1, 4.0, 2.0, 3.0]), share)
    assert kept.sum() == count
    assert kept[1] == 1
