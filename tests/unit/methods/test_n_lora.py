"""N-LoRA's term against loops over what would be saved; without its lambda it is inc-lora."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evertune.errors import ConfigError
from evertune.methods.base import MethodState
from evertune.methods.n_lora import NLoRA
from tests.unit.methods.penalised_adapters import at_stage, filled_bank, gradients, plain_factors, short_run

STATE = MethodState()


@pytest.mark.parametrize("stage", [0, 1, 2])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_term_is_the_size_of_the_new_change(stage: int, normalize: bool) -> None:
    method, bank = NLoRA(lambda_1=0.4, normalize=normalize), filled_bank()
    terms = method.step_loss(STATE, at_stage(method, bank, stage))
    sums = [float((B @ A).abs().sum()) for A, B in plain_factors(bank, f"task-{stage + 1:02d}")]
    assert terms.keys() == {"sparsity"}
    assert terms["sparsity"].item() == pytest.approx(0.4 * sum(sums) / (len(sums) if normalize else 1), rel=1e-5)


def test_every_term_names_the_option_that_scales_it() -> None:
    method = NLoRA()
    terms = method.step_loss(STATE, at_stage(method, filled_bank(), 1))
    assert terms.keys() == method.term_keys.keys()
    assert all(hasattr(method, key) for key in method.term_keys.values())


@pytest.mark.parametrize("normalize", [False, True])
def test_the_released_form_multiplies_the_other_way_round(normalize: bool) -> None:
    method, bank = NLoRA(lambda_1=0.4, variant="released", normalize=normalize), filled_bank(target=("q", "v"))
    here = at_stage(method, bank, 1)
    method.check_model(bank)
    sums = [float((A @ B).abs().sum()) for A, B in plain_factors(bank, "task-02")]
    expected = 0.4 * sum(sums) / (len(sums) if normalize else 1)
    assert method.step_loss(STATE, here)["sparsity"].item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_goes_to_both_new_factors() -> None:
    method, bank = NLoRA(lambda_1=0.4), filled_bank()
    found = gradients(dict(method.step_loss(STATE, at_stage(method, bank, 2))), bank)
    assert all(".task-03" in name for name in found)
    expected = []
    for A, B in plain_factors(bank, "task-03"):
        signs = torch.sign(B @ A)
        expected += [0.4 * B.T @ signs, 0.4 * signs @ A.T]
    assert len(found) == len(expected)
    for gradient, reference in zip(found.values(), expected, strict=True):
        torch.testing.assert_close(gradient.double(), reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("bank", "said"),
    [
        ({"target": ("q", "v", "wi")}, r"`encoder\.block\.0\.layer\.1\.DenseReluDense\.wi` is 24 x 16, as are 3 more"),
        ({"target": ("q",), "d_kv": 4}, r"`encoder\.block\.0\.layer\.0\.SelfAttention\.q` is 8 x 16, as are 5 more"),
    ],
)
def test_the_released_form_is_refused_where_weights_are_not_square(bank: dict, said: str) -> None:
    filled = filled_bank(**bank)
    with pytest.raises(ConfigError, match=said) as caught:
        NLoRA(variant="released").check_model(filled)
    assert "Write `variant: paper`, or adapt modules" in str(caught.value)
    NLoRA().check_model(filled)
    NLoRA(variant="released", lambda_1=0).check_model(filled)


def test_the_released_form_is_refused_before_a_step_is_taken(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs square weights, and `model\.layers\.0\.mlp\.gate_proj` is"):
        short_run(tmp_path, "released", {"name": "n-lora", "variant": "released"}, target="mlp")
    assert not list((tmp_path / "released").glob("stages/*/**/adapter_model.safetensors"))


def test_without_its_lambda_it_is_inc_lora_bit_for_bit(tmp_path: Path) -> None:
    plain = short_run(tmp_path, "plain", "inc-lora")
    assert len(plain) >= 2
    assert short_run(tmp_path, "zero", {"name": "n-lora", "lambda_1": 0}) == plain
    ours = short_run(tmp_path, "n-lora", {"name": "n-lora", "lambda_1": 0.01})
    assert ours.keys() == plain.keys()
    assert all(ours[file] != plain[file] for file in ours)  # from the first task on
