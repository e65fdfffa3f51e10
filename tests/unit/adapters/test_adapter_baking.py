"""Frozen adapters: the sum is right, however it is computed, and the base comes back bit by bit."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from peft import LoraConfig, get_peft_model

from evertune.adapters.baking import STACKED
from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec

NAMES = ("first", "second", "third")
MODELS = ["llama", "gpt2", "bloom", "t5"]
SPEC = AdapterSpec(r=4, lora_alpha=8)


def _weights(bank, names=NAMES):
    """Weights of adapters that change something, the same for every bank of the same model."""
    weights = {}
    for index, name in enumerate(names):
        bank.add(name, seed=index)
        generator = torch.Generator().manual_seed(100 + index)
        shapes = {key: tensor.shape for key, tensor in bank.adapter_tensors(name).items()}
        weights[name] = {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
        bank.load_adapter_tensors(name, weights[name])
    return weights


def _bank(model, spec=SPEC):
    task_type = "seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm"
    return AdapterBank(model, spec, task_type=task_type, base_path="models/tiny")


def _base_weights(bank):
    return {key: tensor.clone() for key, tensor in bank.base_model.state_dict().items() if "lora_" not in key}


def _with_changes(model, weights, names, scaling):
    """A copy of a base model with the changes added by plain matrix products: peft takes no part."""
    changed = copy.deepcopy(model)
    transposed = type(model).__name__.startswith("GPT2")
    with torch.no_grad():
        for key in weights[names[0]]:
            if ".lora_A." not in key:
                continue
            path = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = changed.get_submodule(path).weight
            for name in names:
                change = scaling * weights[name][key.replace("lora_A", "lora_B")] @ weights[name][key]
                weight += change.T if transposed else change
    return changed


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("trainable", [(), ("third",), ("second",), ("first", "third")])
def test_the_forward_pass_is_the_base_plus_each_change(build, inputs, name, trainable):
    model = build(name)
    base = copy.deepcopy(model)
    bank = _bank(model)
    weights = _weights(bank)
    bank.apply(AdapterPlan(NAMES, trainable))
    oracle = _with_changes(base, weights, NAMES, scaling=2.0)(**inputs(model)).logits
    plain = base(**inputs(model)).logits
    assert (oracle - plain).abs().max() > 0.01
    torch.testing.assert_close(bank.model(**inputs(model)).logits, oracle, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_baked_equals_native_several_active_adapters(build, inputs, name):
    model = build(name)
    native_base = copy.deepcopy(model)
    bank = _bank(model)
    weights = _weights(bank)
    bank.apply(AdapterPlan(NAMES, NAMES[-1:]))

    targets = sorted({key.split(".lora_")[0].rpartition(".")[2] for key in weights["first"]})
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, fan_in_fan_out=name == "gpt2")
    native = get_peft_model(native_base, config, adapter_name="first")
    for other in NAMES[1:]:
        native.add_adapter(other, config)
    native.base_model.set_adapter(list(NAMES))
    native.set_requires_grad(list(NAMES[:-1]), False)
    named = dict(native.named_parameters())
    with torch.no_grad():
        for adapter, key in itertools.product(NAMES, weights["first"]):
            named[key.replace(".weight", f".{adapter}.weight")].copy_(weights[adapter][key])

    ours, theirs = bank.model(**inputs(model)).logits, native(**inputs(model)).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    for logits in (ours, theirs):
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.arange(logits[..., 0].numel()) % 64).backward()
    gradients = {key: parameter.grad for key, parameter in bank.trainable_parameters().items()}
    assert gradients
    for key, gradient in gradients.items():
        assert gradient.abs().max() > 1e-5
        torch.testing.assert_close(gradient, named[key].grad, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_changing_the_plan_restores_the_base_bit_by_bit(build, name):
    bank = _bank(build(name))
    _weights(bank)
    pristine = _base_weights(bank)
    seen = {}
    plans = [AdapterPlan(order, order[-1:]) for n in (1, 2, 3) for order in itertools.permutations(NAMES, n)]
    for plan in [*plans, *reversed(plans)]:
        bank.apply(plan)
        baked = _base_weights(bank)
        # A pure function of the plan: the way to it leaves no trace.
        assert all(torch.equal(tensor, seen.setdefault(plan, baked)[key]) for key, tensor in baked.items())
        assert all(torch.equal(baked[key], pristine[key]) for key in baked) == (len(plan.active) == 1)
        if len(plan.active) == 1:
            assert "base copies float32" not in bank.summary().bytes
    bank.apply(AdapterPlan(()))
    assert all(torch.equal(tensor, pristine[key]) for key, tensor in _base_weights(bank).items())


def test_another_bank_bakes_the_same_bits(build, tmp_path):
    one, two = _bank(build("t5")), _bank(build("t5"))
    _weights(one)
    for name in NAMES:
        one.save(name, tmp_path / name)
    one.apply(AdapterPlan(NAMES, ("third",)))
    for name in reversed(NAMES):
        two.load(name, tmp_path / name)
    two.apply(AdapterPlan(NAMES[:1], NAMES[:1]))
    two.apply(AdapterPlan(NAMES, ("third",)))
    theirs = _base_weights(two)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in _base_weights(one).items())


def test_the_plan_gives_the_order_of_addition(build):
    """W = ((W0 + d1) + d2) + d3, in float32: computed here by a loop."""
    bank = _bank(build("llama"))
    weights = _weights(bank)
    pristine = _base_weights(bank)
    for order in itertools.permutations(NAMES):
        bank.apply(AdapterPlan(order))
        baked = _base_weights(bank)
        for key in weights["first"]:
            if ".lora_A." not in key:
                continue
            weight = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".base_layer.weight")
            total = pristine[weight].clone()
            for name in order[:-1]:
                total = total + (weights[name][key.replace("lora_A", "lora_B")] @ weights[name][key]) * 2.0
            assert torch.equal(baked[weight], total)
    bank.apply(AdapterPlan(("first", "second", "third"), ("third",)))
    ordered = _base_weights(bank)
    bank.apply(AdapterPlan(("second", "first", "third"), ("third",)))
    swapped = _base_weights(bank)
    assert any(not torch.equal(tensor, swapped[key]) for key, tensor in ordered.items())


def test_new_weights_of_a_baked_adapter_are_baked(build, inputs):
    model = build("llama")
    base = copy.deepcopy(model)
    bank = _bank(model)
    weights = _weights(bank)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    weights["first"] = {key: tensor * -3 for key, tensor in weights["first"].items()}
    bank.load_adapter_tensors("first", weights["first"])
    assert bank.trainable == ("third",)
    oracle = _with_changes(base, weights, NAMES, scaling=2.0)(**inputs(model)).logits
    torch.testing.assert_close(bank.model(**inputs(model)).logits, oracle, rtol=0, atol=1e-5)
    assert all(torch.equal(tensor, weights["first"][k]) for k, tensor in bank.adapter_tensors("first").items())


def test_an_adapter_that_trained_is_baked_as_it_has_become(build):
    bank = _bank(build("llama"))
    _weights(bank)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    bank.apply(AdapterPlan(NAMES, ("first",)))
    with torch.no_grad():
        for parameter in bank.trainable_parameters().values():
            parameter.add_(0.5)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    fresh = _bank(build("llama"))
    for name in NAMES:
        fresh.add(name, seed=0)
        fresh.load_adapter_tensors(name, bank.adapter_tensors(name))
    fresh.apply(AdapterPlan(NAMES, ("third",)))
    theirs = _base_weights(fresh)
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in _base_weights(bank).items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_and_adapters_are_float32(build, dtype):
    model = build("llama").to(dtype)
    bank = _bank(model)
    weights = _weights(bank)
    pristine = _base_weights(bank)
    assert {t.dtype for name in NAMES for t in bank.adapter_tensors(name).values()} == {torch.float32}
    bank.apply(AdapterPlan(NAMES, ("third",)))
    assert {parameter.dtype for parameter in bank.trainable_parameters().values()} == {torch.float32}
    baked = _base_weights(bank)
    twice_differs = False
    for key in weights["first"]:
        if ".lora_A." not in key:
            continue
        weight = key.removeprefix("base_model.model.").replace(".lora_A.weight", ".base_layer.weight")
        changes = [(weights[n][key.replace("lora_A", "lora_B")] @ weights[n][key]) * 2.0 for n in NAMES[:2]]
        assert baked[weight].dtype == dtype
        assert torch.equal(baked[weight], (pristine[weight].float() + changes[0] + changes[1]).to(dtype))
        twice = ((pristine[weight].float() + changes[0]).to(dtype).float() + changes[1]).to(dtype)
        twice_differs |= not torch.equal(baked[weight], twice)
    assert twice_differs
    bank.apply(AdapterPlan(()))
    assert all(torch.equal(tensor, pristine[key]) for key, tensor in _base_weights(bank).items())


def test_without_trainable_ones_the_last_computes_as_in_training(build, inputs):
    model = build("llama")
    bank = _bank(model)
    _weights(bank)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    training = bank.model(**inputs(model)).logits
    bank.apply(AdapterPlan(NAMES))
    assert not bank.trainable_parameters()
    assert torch.equal(bank.model(**inputs(model)).logits, training)


def test_tied_weights_are_stacked_and_not_written_to(build, inputs):
    """Below a tied output head lies the embedding: baking would change that too."""
    model = build("gpt2")
    base = copy.deepcopy(model)
    bank = _bank(model, AdapterSpec(r=4, lora_alpha=8, target=("lm_head",)))
    weights = _weights(bank)
    pristine = _base_weights(bank)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    assert STACKED in bank.model.peft_config
    assert all(torch.equal(tensor, pristine[key]) for key, tensor in _base_weights(bank).items())
    hidden = base.transformer(**inputs(model)).last_hidden_state
    A, B = "base_model.model.lm_head.lora_A.weight", "base_model.model.lm_head.lora_B.weight"
    oracle = hidden @ (base.lm_head.weight + sum(2.0 * weights[n][B] @ weights[n][A] for n in NAMES)).T
    torch.testing.assert_close(bank.model(**inputs(model)).logits, oracle, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("target", "stacked"), [("c_attn", False), ("lm_head", True)])
def test_frozen_adapters_have_no_dropout(build, inputs, target, stacked):
    """What is frozen is added exactly, while the input of the adapter that learns is dropped here and there."""
    model = build("gpt2")
    bank = _bank(model, AdapterSpec(r=4, lora_alpha=8, lora_dropout=0.5, target=(target,)))
    weights = _weights(bank)
    bank.apply(AdapterPlan(NAMES, ("third",)))
    assert (STACKED in bank.model.peft_config) == stacked
    bank.model.train()
    noisy = [bank.model(**inputs(model)).logits for _ in range(2)]
    assert (noisy[0] - noisy[1]).abs().max() > 1e-3
    bank.load_adapter_tensors("third", {key: tensor * 0 for key, tensor in weights["third"].items()})
    quiet = [bank.model(**inputs(model)).logits for _ in range(2)]
    assert torch.equal(*quiet)
    assert (quiet[0] - noisy[0]).abs().max() > 1e-3
