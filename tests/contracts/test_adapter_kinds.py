"""What every kind of adapter must do: a new line in the table is held to this without a new test."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers as hf
from peft import PeftModel

from evertune.adapters.bank import AdapterBank
from evertune.adapters.kinds import ADAPTERS, build_config
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.adapters.targets import resolve_targets

BATCH = {"input_ids": torch.arange(3, 15).reshape(2, 6), "use_cache": False}


@pytest.fixture
def model():
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        return hf.LlamaForCausalLM(hf.LlamaConfig(**sizes, num_attention_heads=2)).eval()


@pytest.fixture(params=ADAPTERS.names())
def kind(request):
    return request.param


def _bank(model, kind):
    return AdapterBank(model, AdapterSpec(kind=kind, r=2, lora_alpha=4), task_type="causal_lm", base_path="models/tiny")


def _train(bank, steps=3):
    """A few steps of plain gradient descent; returns the losses."""
    losses = []
    for _ in range(steps):
        logits = bank.model(**BATCH).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), BATCH["input_ids"][:, 1:].flatten())
        loss.backward()
        with torch.no_grad():
            for parameter in bank.trainable_parameters().values():
                parameter -= 1.0 * parameter.grad
                parameter.grad = None
        losses.append(loss.item())
    return losses


def test_a_new_adapter_changes_nothing(model, kind):
    with torch.no_grad():
        before = model(**BATCH).logits
        bank = _bank(model, kind)
        bank.add("one", seed=1)
        bank.apply(AdapterPlan(("one",), ("one",)))
        torch.testing.assert_close(bank.model(**BATCH).logits, before, rtol=0, atol=1e-6)


def test_it_learns_and_the_next_one_starts_from_what_it_learnt(model, kind):
    bank = _bank(model, kind)
    bank.add("one", seed=1)
    bank.apply(AdapterPlan(("one",), ("one",)))
    losses = _train(bank, steps=5)
    assert losses[-1] < losses[0]
    with torch.no_grad():
        learnt = bank.model(**BATCH).logits
    bank.add("two", seed=2)
    bank.apply(AdapterPlan(("one", "two"), ("two",)))
    with torch.no_grad():
        torch.testing.assert_close(bank.model(**BATCH).logits, learnt, rtol=0, atol=1e-5)
    kept = bank.adapter_tensors("one")
    _train(bank)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in bank.adapter_tensors("one").items())


def test_saved_it_loads_in_peft(model, kind, tmp_path):
    untouched = copy.deepcopy(model)
    bank = _bank(model, kind)
    bank.add("one", seed=1)
    bank.apply(AdapterPlan(("one",), ("one",)))
    _train(bank)
    bank.save("one", tmp_path)
    bank.apply(AdapterPlan(("one",)))
    with torch.no_grad():
        theirs = PeftModel.from_pretrained(untouched, tmp_path)(**BATCH).logits
        torch.testing.assert_close(bank.model(**BATCH).logits, theirs, rtol=0, atol=1e-6)


def test_its_configuration_follows_the_spec(model, kind):
    spec = AdapterSpec(kind=kind, r=3, target=("q_proj",))
    targets = resolve_targets(model, spec)
    config = build_config(spec, targets, "causal_lm")
    assert config.peft_type.value.lower() == kind
    assert set(config.target_modules) == {"q_proj"}
    assert build_config(spec, targets, "sequence_classification").task_type is None


def test_the_options_of_lora(model):
    spec = AdapterSpec(r=3, lora_alpha=7.5, lora_dropout=0.25, use_rslora=True)
    config = build_config(spec, resolve_targets(model, spec), "seq2seq_lm")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (3, 7.5, 0.25, True)
    assert (config.bias, config.task_type.value, config.fan_in_fan_out) == ("none", "SEQ_2_SEQ_LM", False)
    assert isinstance(
        build_config(AdapterSpec(lora_alpha=16.0), resolve_targets(model, spec), "causal_lm").lora_alpha, int
    )
