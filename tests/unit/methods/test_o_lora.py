"""O-LoRA's terms against loops over what would be saved; without its lambdas it is inc-lora."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from evertune.methods.base import MethodState
from evertune.methods.o_lora import OLoRA
from tests.unit.methods.penalised_adapters import at_stage, filled_bank, gradients, plain_factors, short_run

STATE = MethodState()
MODULES = 2 * (2 + 2 + 2) + 2 + 2  # q and v: encoder, decoder, cross attention; wi: encoder, decoder; two layers each


def oracle(bank, stage: int, variant: str) -> tuple[float, float]:
    """Both terms without their lambdas: pair by pair of tasks, module by module."""
    new = list(plain_factors(bank, f"task-{stage + 1:02d}"))
    overlap = 0.0
    for past in range(stage):
        for (old, _), (A, _) in zip(plain_factors(bank, f"task-{past + 1:02d}"), new, strict=True):
            product = old @ A.T
            overlap += float(product.square().sum() if variant == "paper" else product.abs().sum())
    return overlap, sum(float(A.square().sum().sqrt() + B.square().sum().sqrt()) for A, B in new)


@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_terms_are_the_formula(variant: str, stage: int, normalize: bool) -> None:
    method = OLoRA(lambda_1=0.5, lambda_2=0.25, variant=variant, normalize=normalize)
    bank = filled_bank()
    terms = method.step_loss(STATE, at_stage(method, bank, stage))
    overlap, norms = oracle(bank, stage, variant)
    assert len(list(plain_factors(bank, "task-01"))) == MODULES
    modules, past = (MODULES, stage) if normalize else (1, 1)
    assert terms.keys() == {"orthogonality", "adapter_norm"}
    assert terms["orthogonality"].item() == pytest.approx(0.5 * overlap / modules / past, rel=1e-5)
    assert terms["adapter_norm"].item() == pytest.approx(0.25 * norms / modules, rel=1e-5)


def test_the_gradient_goes_to_the_new_directions_only() -> None:
    method, bank = OLoRA(lambda_1=0.5), filled_bank()
    found = gradients(dict(method.step_loss(STATE, at_stage(method, bank, 2))), bank)
    assert len(found) == MODULES
    assert all("lora_A.task-03" in name for name in found)
    pasts = [[A for A, _ in plain_factors(bank, name)] for name in ("task-01", "task-02")]
    for module, (gradient, (A, _)) in enumerate(zip(found.values(), plain_factors(bank, "task-03"), strict=True)):
        expected = sum(2 * 0.5 * A @ past[module].T @ past[module] for past in pasts)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-4)


def test_the_first_task_has_nothing_to_be_orthogonal_to() -> None:
    method, bank = OLoRA(lambda_2=0.1), filled_bank()
    terms = method.step_loss(STATE, at_stage(method, bank, 0))
    assert terms.keys() == {"adapter_norm"}
    assert terms["adapter_norm"].item() == pytest.approx(0.1 * oracle(bank, 0, "paper")[1], rel=1e-5)


def test_a_lambda_of_zero_leaves_its_term_out() -> None:
    bank = filled_bank()
    here = at_stage(OLoRA(), bank, 2)
    assert OLoRA().step_loss(STATE, here).keys() == {"orthogonality"}
    assert OLoRA(lambda_1=0, lambda_2=1).step_loss(STATE, here).keys() == {"adapter_norm"}
    assert OLoRA(lambda_1=0).step_loss(STATE, here) == {}


def test_the_past_is_stacked_once_a_stage_and_belongs_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    method, bank, state = OLoRA(), filled_bank(), MethodState()
    asked: list[int] = []
    past_factors = bank.past_factors
    monkeypatch.setattr(bank, "past_factors", lambda: asked.append(1) or past_factors())
    second = at_stage(method, bank, 1)
    values = [method.step_loss(state, second)["orthogonality"].item() for _ in range(3)]
    assert len(asked) == 1
    assert len(set(values)) == 1
    second.derived.clear()  # as in a resumed stage
    assert method.step_loss(state, second)["orthogonality"].item() == values[0]
    third = at_stage(method, bank, 2)
    assert method.step_loss(state, third)["orthogonality"].item() == pytest.approx(0.5 * oracle(bank, 2, "paper")[0])
    assert len(asked) == 3
    assert (state.tensors, state.values) == ({}, {})


def test_the_newest_weights_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The past is kept from step to step; what learns is read again."""
    method, bank = OLoRA(), filled_bank()
    here = at_stage(method, bank, 1)
    before = method.step_loss(STATE, here)["orthogonality"].item()
    with torch.no_grad():
        for parameter in bank.trainable_parameters().values():
            parameter *= 2
    assert method.step_loss(STATE, here)["orthogonality"].item() == pytest.approx(4 * before)


def test_a_task_may_have_a_name_that_peft_cannot_use() -> None:
    bank = filled_bank()
    bank.add("train", seed=1)
    factors = bank.factors("train")
    held = bank.adapter_tensors("train")
    assert len(factors) == MODULES
    for path, pair in factors.items():
        assert torch.equal(pair.A, held[f"base_model.model.{path}.lora_A.weight"])
        assert torch.equal(pair.B, held[f"base_model.model.{path}.lora_B.weight"])


def test_every_term_names_the_option_that_scales_it() -> None:
    method = OLoRA(lambda_1=1, lambda_2=1)
    terms = method.step_loss(STATE, at_stage(method, filled_bank(), 1))
    assert terms.keys() == method.term_keys.keys()
    assert all(hasattr(method, key) for key in method.term_keys.values())


@pytest.fixture(scope="module")
def inc_lora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return short_run(tmp_path_factory.mktemp("runs"), "inc-lora", "inc-lora")


def test_without_lambdas_it_is_inc_lora_bit_for_bit(tmp_path: Path, inc_lora: dict[str, bytes]) -> None:
    assert len(inc_lora) >= 2
    assert short_run(tmp_path, "zero", {"name": "o-lora", "lambda_1": 0, "lambda_2": 0}) == inc_lora


def test_with_a_lambda_only_later_tasks_differ_and_the_term_is_logged(
    tmp_path: Path, inc_lora: dict[str, bytes]
) -> None:
    ours = short_run(tmp_path, "o-lora", "o-lora")
    assert ours.keys() == inc_lora.keys()
    changed = sorted({file.split("/")[1] for file in ours if ours[file] != inc_lora[file]})
    assert changed == ["02-topic"]
    events = [json.loads(line) for line in (tmp_path / "o-lora/events.jsonl").read_text().splitlines()]
    logged = [(event["stage"], list(event["terms"])) for event in events if event["event"] == "step"]
    assert logged == [(0, [])] * 3 + [(1, ["orthogonality"])] * 3
