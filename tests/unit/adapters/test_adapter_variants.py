"""Adapters that change the base model at first, their rank on the way, or are more than one file."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import transformers as hf
from peft import PeftModel

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.errors import CapabilityError, CheckpointError, ConfigError
from tests.unit.adapters.kinds_models import script

ONE = AdapterPlan(("one",), ("one",))


def _bank(model, spec, task="causal_lm"):
    return AdapterBank(model, spec, task_type=task, base_path="models/tiny")


def _learnt(spec, task="causal_lm", steps=6):
    bank = _bank(script().build(task), spec, task)
    bank.add("one", seed=1)
    bank.apply(ONE)
    torch.manual_seed(0)
    script().learn(bank, script().batch(task), steps)
    return bank


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("begin", ["pissa", "olora"])
def test_what_is_saved_means_the_same_on_the_untouched_model(tmp_path, begin, rslora):
    """Against the sum written out: W + s (B A - B0 A0), with s as the paper of rsLoRA or of LoRA has it."""
    options = {"init_lora_weights": begin}
    spec = AdapterSpec(r=4, lora_alpha=8, use_rslora=rslora, options=options)
    bank = _bank(script().build("causal_lm"), spec)
    bank.add("one", seed=1)
    bank.apply(ONE)
    first = {key: held.clone() for key, held in bank.trainable_parameters().items()}
    script().learn(bank, script().batch("causal_lm"), 6)
    now = bank.trainable_parameters()
    untouched = dict(script().build("causal_lm").named_parameters())
    bank.save("one", tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert (saved["r"], saved["init_lora_weights"], saved["use_rslora"]) == (8, True, rslora)
    read = PeftModel.from_pretrained(script().build("causal_lm"), tmp_path).merge_and_unload()
    scaling = 8 / (2 if rslora else 4)
    for name, weight in read.named_parameters():
        keys = [key for key in now if ".lora_A." in key and name.removesuffix(".weight") in key]
        change = torch.zeros(())
        for a in keys:
            b = a.replace(".lora_A.", ".lora_B.")
            change = scaling * (now[b] @ now[a] - first[b] @ first[a])
        torch.testing.assert_close(weight, untouched[name] + change, rtol=0, atol=1e-5)


def test_adalora_comes_down_to_its_budget_and_keeps_its_directions_apart():
    spec = AdapterSpec(kind="adalora", options={"init_r": 6, "target_r": 2})
    bank = _bank(script().build("causal_lm"), spec)
    bank.add("one", seed=1)
    bank.apply(ONE)
    learning = bank.trainable_parameters()
    factors = [held for key, held in learning.items() if ".lora_A." in key or ".lora_B." in key]
    grams = [held @ held.T if held.shape[0] == 6 else held.T @ held for held in factors]
    wanted = 0.5 * sum((gram - torch.eye(6)).norm() for gram in grams) / len(grams)
    (penalty,) = bank.step_loss().values()
    torch.testing.assert_close(penalty, wanted)
    script().learn(bank, script().batch("causal_lm"), 12)
    values = [held for key, held in bank.trainable_parameters().items() if ".lora_E." in key]
    assert sum(int((held != 0).sum()) for held in values) <= 2 * len(values)


def test_adalora_says_when_its_schedule_does_not_fit():
    bank = _bank(script().build("causal_lm"), AdapterSpec(kind="adalora", options={"tinit": 5, "tfinal": 5}))
    bank.add("one", seed=1)
    bank.apply(ONE)
    with pytest.raises(ConfigError, match="take all of the 10 steps of the stage"):
        bank.begin(10)


def test_lora_plus_and_lora_fa():
    bank = _bank(script().build("causal_lm"), AdapterSpec(r=2, loraplus_lr_ratio=16.0))
    bank.add("one", seed=1)
    bank.apply(ONE)
    slow, fast = bank.param_groups(1e-3)
    learning = bank.trainable_parameters()
    assert {id(held) for held in fast["params"]} == {id(held) for key, held in learning.items() if ".lora_B." in key}
    assert fast["lr"] == pytest.approx(16e-3)
    assert "lr" not in slow
    assert len(slow["params"]) + len(fast["params"]) == len(learning)
    frozen = _bank(script().build("causal_lm"), AdapterSpec(r=2, lora_fa=True))
    frozen.add("one", seed=1)
    frozen.apply(ONE)
    assert all(".lora_B." in key for key in frozen.trainable_parameters())


def test_one_at_a_time_is_said_before_anything_is_computed():
    bank = _bank(script().build("causal_lm"), AdapterSpec(kind="prompt_tuning", options={"num_virtual_tokens": 4}))
    for name in ("one", "two"):
        bank.add(name, seed=1)
    with pytest.raises(CapabilityError, match="2 adapters of the kind `prompt_tuning` cannot take part together"):
        bank.apply(AdapterPlan(("one", "two"), ("two",)))


def test_what_writes_virtual_tokens_is_needed_to_learn_on(tmp_path):
    spec = AdapterSpec(kind="p_tuning", options={"num_virtual_tokens": 4})
    _learnt(spec).save("one", tmp_path)
    other = _bank(script().build("causal_lm"), spec)
    other.start_from("begun", tmp_path)
    (tmp_path / "training.safetensors").unlink()
    with pytest.raises(CheckpointError, match="not all that is needed to learn on"):
        other.start_from("again", tmp_path)
    assert other.names == ("begun",)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("lora", {}),
        ("ia3", {}),
        ("prompt_tuning", {"num_virtual_tokens": 4}),
        ("prefix_tuning", {"num_virtual_tokens": 4}),
    ],
)
def test_the_head_lies_where_peft_looks_for_it(tmp_path, kind, options):
    task = "sequence_classification"
    spec = AdapterSpec(kind=kind, options=options)
    bank = _bank(script().build(task), spec, task)
    bank.add("one", seed=1)
    bank.apply(ONE)
    heads = {name: held for name, held in bank.base_model.named_parameters() if name.startswith("classifier")}
    bank.learn_heads(heads)
    script().learn(bank, script().batch(task), 4)
    with torch.no_grad():
        wanted = script().outputs(bank.model, script().batch(task))
    bank.save("one", tmp_path, heads=heads)
    plain = script().build(task)
    torch.nn.init.zeros_(plain.classifier.weight)
    with torch.no_grad():
        read = PeftModel.from_pretrained(plain, tmp_path)(**script().batch(task)).logits
    torch.testing.assert_close(read, wanted, rtol=0, atol=1e-5)
    bank.load("one", tmp_path)  # our own heads are elsewhere: the file's are left out
    again = _bank(script().build(task), spec, task)
    again.load("one", tmp_path)
    assert again.names == ("one",)


def test_full_fine_tuning_counts_and_gives_everything_back(tmp_path):
    bank = _learnt(AdapterSpec(kind="full"), "seq2seq_lm")
    summary = bank.summary()
    assert summary.trainable == summary.total == sum(held.numel() for held in bank.base_model.parameters())
    assert summary.bytes["base copies float32"] == summary.bytes["base float32"]
    bank.save("one", tmp_path)
    read = hf.T5ForConditionalGeneration.from_pretrained(tmp_path)
    for (name, now), theirs in zip(bank.base_model.named_parameters(), read.parameters(), strict=True):
        assert torch.equal(now, theirs), name
    bank.remove("one")
    for now, came in zip(bank.base_model.parameters(), script().build("seq2seq_lm").parameters(), strict=True):
        assert torch.equal(now, came)


@pytest.mark.parametrize("kind", ["adamss", "p_tuning", "full", "shira", "adalora", "oft"])
def test_a_model_without_weights_says_what_can_be_said(kind):
    options = dict(script().SIZES.get(kind, {}))
    with torch.device("meta"):
        model = script().MODELS["causal_lm"]()
    bank = _bank(model, AdapterSpec(kind=kind, options=options))
    bank.add("check", seed=1)
    assert bank.names == (), "it was only tried"
    assert all(parameter.is_meta for parameter in model.parameters())


def test_a_model_without_weights_refuses_sizes_that_do_not_fit():
    with torch.device("meta"):
        model = script().MODELS["causal_lm"]()
    with pytest.raises(ConfigError, match="peft cannot put adapters of the kind `c3a` on this model"):
        _bank(model, AdapterSpec(kind="c3a", options={"block_size": 7})).add("check", seed=1)


def test_modules_that_are_left_out():
    spec = AdapterSpec(target="attention", options={"exclude_modules": ["o_proj"]})
    bank = _bank(script().build("causal_lm"), spec)
    bank.add("one", seed=1)
    bank.apply(ONE)
    assert not any("o_proj" in key for key in bank.trainable_parameters())
    with pytest.raises(ConfigError, match="leaves out no target"):
        _bank(script().build("causal_lm"), AdapterSpec(options={"exclude_modules": "o_proj"})).add("one", seed=1)


def test_a_bfloat16_model_learns_in_float32():
    model = script().build("causal_lm").to(torch.bfloat16)
    came = copy.deepcopy(model)
    bank = _bank(model, AdapterSpec(kind="full"))
    bank.add("one", seed=1)
    bank.apply(ONE)
    assert {held.dtype for held in bank.trainable_parameters().values()} == {torch.float32}
    bank.remove("one")
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), came.parameters(), strict=True))
