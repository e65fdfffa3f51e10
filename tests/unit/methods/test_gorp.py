"""GORP on a toy: what it protects stays, what it learns is kept, and without its parts it is inc-lora."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evertune.methods import protected
from evertune.methods.gorp import GORP
from evertune.methods.inc_lora import IncLoRA
from tests.unit.methods.walks import walk, weights

FULL = {"full_rank_learning_rate": 1e-2, "projection_rank": 4, "refresh_gap": 3, "sketch_rows": 8}


@pytest.mark.parametrize("space", ["gradients", "inputs"])
def test_either_source_of_directions_is_kept_out_of(tmp_path: Path, space: str) -> None:
    found = leaks(tmp_path, GORP(space=space, energy_threshold=0.8, **FULL))  # type: ignore[arg-type]
    assert {path.rpartition(".")[2] for path in found} == {"q_proj", "v_proj", "gate_proj"}
    assert max(found.values()) < 1e-4


def leaks(folder: Path, method: GORP) -> dict[str, float]:
    """By module: share of the second task's change that lies in what the first one left protected."""
    stages = walk(folder, method)
    next(stages)
    next(stages)
    second = next(stages)
    before, held = weights(second.bank), dict(protected.bases(second.state))
    after = weights(next(stages).bank)
    found = {}
    for path, basis in held.items():
        change = after[path] - before[path]
        assert change.norm() > 1e-3, f"{path} has learnt nothing"
        found[path] = float((change @ basis.double()).norm() / change.norm())
    return found


@pytest.mark.parametrize("kind", ["right", "left", "std", "reverse_std", "full"])
def test_the_second_task_leaves_the_protected_inputs_alone(tmp_path: Path, kind: str) -> None:
    found = leaks(tmp_path, GORP(projection_kind=kind, **FULL))  # type: ignore[arg-type]
    assert {path.rpartition(".")[2] for path in found} == {"q_proj", "v_proj", "gate_proj"}
    assert max(found.values()) < 1e-4


def test_without_the_shared_space_nothing_is_protected(tmp_path: Path) -> None:
    """The comparison above would see a leak: the same change, measured on what would have been protected."""
    stages = walk(tmp_path / "with", GORP(**FULL))
    next(stages)
    held = protected.bases(next(stages).state)
    stages = walk(tmp_path / "without", GORP(shared_space=False, **FULL))
    next(stages)
    next(stages)
    second = next(stages)
    before = weights(second.bank)
    last = next(stages)
    changes = {path: weights(last.bank)[path] - before[path] for path in held}
    assert not protected.bases(last.state)
    assert min(float((changes[path] @ held[path].double()).norm() / changes[path].norm()) for path in held) > 0.05


def test_outputs_for_protected_inputs_stay(tmp_path: Path) -> None:
    stages = walk(tmp_path, GORP(**FULL))
    next(stages)
    next(stages)
    second = next(stages)
    path = "model.layers.0.mlp.gate_proj"
    basis = protected.bases(second.state)[path]
    inside = (basis @ torch.randn(basis.shape[1], 5)).T
    module = second.bank.base_model.get_submodule(path)
    before = module(inside).detach()
    next(stages)
    assert torch.allclose(module(inside), before, atol=1e-5)
    outside = torch.randn(5, basis.shape[0])
    assert (module(outside) - module(outside - outside @ basis @ basis.T)).abs().max() > 0.01  # it is no zero matrix


def test_bases_are_orthonormal_and_hold_the_energy_that_was_asked_for(tmp_path: Path) -> None:
    method = GORP(energy_threshold=0.9, max_protected_share=1.0, **FULL)
    stages = walk(tmp_path, method)
    next(stages)
    first = next(stages)
    facts = method.facts(first.state, first.context)["protected_space"]
    for path, basis in protected.bases(first.state).items():
        assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
        assert facts[path]["directions"] == basis.shape[1] == facts[path]["new"]
        assert facts[path]["energy"] >= 0.9
        assert facts[path]["free"] == 1 - basis.shape[1] / basis.shape[0]
    next(stages)
    second = next(stages)
    grown = method.facts(second.state, second.context)["protected_space"]
    assert all(grown[path]["directions"] == facts[path]["directions"] + grown[path]["new"] for path in grown)


def test_growth_is_capped_and_said(tmp_path: Path) -> None:
    stages = walk(tmp_path, GORP(energy_threshold=1.0, max_protected_share=0.25, **FULL))
    warned: list[str] = []
    first = next(stages)
    object.__setattr__(first.job.context, "warn", warned.append)
    last = next(stages)
    assert all(basis.shape[1] <= basis.shape[0] // 4 for basis in protected.bases(last.state).values())
    assert len(warned) == 1
    assert "protect as many directions as they may" in warned[0]
    assert warned[0].endswith("raise method.max_protected_share")


def test_hardly_any_room_is_said(tmp_path: Path) -> None:
    stages = walk(tmp_path, GORP(energy_threshold=1.0, max_protected_share=1.0, **{**FULL, "sketch_rows": 24}))
    warned: list[str] = []
    object.__setattr__(next(stages).job.context, "warn", warned.append)
    next(stages)
    assert len(warned) == 1
    assert "less than 10% of their input directions left" in warned[0]
    assert warned[0].endswith("lower method.energy_threshold or method.max_protected_share")


def test_the_change_of_full_weights_goes_on_over_tasks(tmp_path: Path) -> None:
    stages = walk(tmp_path, GORP(**FULL))
    next(stages)
    first = next(stages).bank.change
    assert first is not None
    after_first = first.tensors()
    second = next(stages).bank.change
    assert second is not None
    assert all(torch.equal(tensor, after_first[name]) for name, tensor in second.tensors().items())
    next(stages)
    assert any(not torch.equal(tensor, after_first[name]) for name, tensor in second.tensors().items())


def test_with_neither_part_it_is_inc_lora_bit_for_bit(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    bare = [stage.bank for stage in walk(tmp_path / "a", GORP(full_rank=None, shared_space=False))][-1]
    plain = [stage.bank for stage in walk(tmp_path / "b", IncLoRA())][-1]
    for name in ("task-01", "task-02"):
        ours, theirs = bare.adapter_tensors(name), plain.adapter_tensors(name)
        assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())


def test_sketches_are_gone_when_a_task_ends(tmp_path: Path) -> None:
    last = list(walk(tmp_path, GORP(**FULL)))[-1]
    assert all(name.startswith("basis/") for name in last.state.tensors)
