"""What every kind of adapter must do: a new line in the table is held to this without a new test."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from evertune.adapters.bank import AdapterBank
from evertune.adapters.capabilities import unusable
from evertune.adapters.kinds import FULL, KINDS, NONE, not_several
from evertune.adapters.peft_config import build_config
from evertune.adapters.reading import with_adapter
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.adapters.targets import resolve_targets
from tests.unit.adapters.kinds_models import script

USABLE = [kind for kind in KINDS if not unusable(kind, "causal_lm")]
# These begin with a change of their own, and virtual tokens are read from the first step on.
BEGINS_ANEW = {kind for kind in KINDS if KINDS[kind].prompts} | {"c3a", "fourierft", "unilora", "vblora"}


@pytest.fixture
def model():
    return script().build("causal_lm")


@pytest.fixture
def inputs():
    return script().batch("causal_lm")


@pytest.fixture(params=USABLE)
def kind(request):
    return request.param


def _bank(model, kind):
    spec = AdapterSpec(kind=kind, options=dict(script().SIZES.get(kind, {})))
    return AdapterBank(model, spec, task_type="causal_lm", base_path="models/tiny")


def _learnt(model, kind, inputs, name="one"):
    bank = _bank(model, kind)
    bank.add(name, seed=1)
    bank.apply(AdapterPlan((name,), (name,)))
    torch.manual_seed(0)
    before, after = script().learn(bank, inputs, 4)
    assert after < before
    return bank


def _outputs(bank, inputs):
    with torch.no_grad():
        return script().outputs(bank.model, inputs)


def test_a_new_adapter_changes_nothing(model, kind, inputs):
    with torch.no_grad():
        before = model(**inputs).logits
    bank = _bank(model, kind)
    bank.add("one", seed=1)
    bank.apply(AdapterPlan(("one",), ("one",)))
    difference = (_outputs(bank, inputs) - before).abs().max().item()
    assert (difference < 1e-5) == (kind not in BEGINS_ANEW)


def test_its_weights_come_from_the_seed_alone(kind, inputs):
    one, other = (_bank(script().build("causal_lm"), kind) for _ in range(2))
    torch.manual_seed(3)
    one.add("a", seed=5)
    state = torch.get_rng_state()
    torch.manual_seed(4)
    other.add("b", seed=5)
    first, second = one.adapter_tensors("a"), other.adapter_tensors("b")
    assert all(torch.equal(first[key], second[key]) for key in first)
    torch.manual_seed(3)
    assert torch.equal(torch.get_rng_state(), state), "the global generator moved"


def test_exactly_its_own_parameters_learn(model, kind, inputs):
    bank = _learnt(model, kind, inputs)
    bank.check()
    learning = bank.trainable_parameters()
    assert learning
    assert {held.dtype for held in learning.values()} == {torch.float32}
    kept = {name: held.clone() for name, held in bank.model.named_parameters() if name not in learning}
    script().learn(bank, inputs, 2)
    now = dict(bank.model.named_parameters())
    assert all(torch.equal(held, now[name]) for name, held in kept.items() if "rank" not in name)
    bank.apply(AdapterPlan(("one",)))
    assert not bank.trainable_parameters()


@pytest.mark.parametrize("kind", [kind for kind in USABLE if not not_several(AdapterSpec(kind=kind))])
def test_the_next_one_starts_from_what_it_learnt(model, kind, inputs):
    bank = _learnt(model, kind, inputs)
    learnt, kept = _outputs(bank, inputs), bank.adapter_tensors("one")
    bank.add("two", seed=2)
    bank.apply(AdapterPlan(("one", "two"), ("two",)))
    if kind not in BEGINS_ANEW:
        torch.testing.assert_close(_outputs(bank, inputs), learnt, rtol=0, atol=1e-5)
    script().learn(bank, inputs, 2)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in bank.adapter_tensors("one").items())
    bank.apply(AdapterPlan(("one",)))
    torch.testing.assert_close(_outputs(bank, inputs), learnt, rtol=0, atol=1e-5)


def test_each_of_several_answers_alone_and_the_model_comes_back(model, kind, inputs):
    """What per-task adapters need of every kind, also of those of which one is on the model at a time."""
    untouched = copy.deepcopy(model)
    bank = _learnt(model, kind, inputs)
    learnt = _outputs(bank, inputs)
    bank.add("two", seed=2)
    bank.apply(AdapterPlan(("two",), ("two",)))
    script().learn(bank, inputs, 2)
    other = _outputs(bank, inputs)
    assert (other - learnt).abs().max() > 1e-5
    for name, wanted in (("one", learnt), ("two", other), ("one", learnt)):
        bank.apply(AdapterPlan((name,)))
        torch.testing.assert_close(_outputs(bank, inputs), wanted, rtol=0, atol=1e-6)
    bank.apply(AdapterPlan(()))
    with torch.no_grad():
        torch.testing.assert_close(_outputs(bank, inputs), untouched(**inputs).logits, rtol=0, atol=1e-6)
    bank.remove("two")
    bank.remove("one")
    assert bank.model is model
    for (name, now), came in zip(model.named_parameters(), untouched.parameters(), strict=True):
        assert torch.equal(now, came), name


def test_saved_it_loads_in_peft_and_here(model, kind, inputs, tmp_path):
    untouched = copy.deepcopy(model)
    bank = _learnt(model, kind, inputs)
    bank.save("one", tmp_path / "a")
    bank.apply(AdapterPlan(("one",)))
    wanted = _outputs(bank, inputs)
    again = _bank(copy.deepcopy(untouched), kind)
    again.load("other", tmp_path / "a")
    again.apply(AdapterPlan(("other",)))
    torch.testing.assert_close(_outputs(again, inputs), wanted, rtol=0, atol=0)
    again.save("other", tmp_path / "b")
    for file in sorted(path.name for path in (tmp_path / "a").iterdir()):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    if kind == FULL:
        theirs = type(untouched).from_pretrained(tmp_path / "a").eval()
    else:
        theirs = with_adapter(untouched, tmp_path / "a")
    with torch.no_grad():
        torch.testing.assert_close(script().outputs(theirs, inputs), wanted, rtol=0, atol=1e-5)


def test_what_a_checkpoint_keeps_goes_on_with_the_same_bits(kind, inputs):
    bank = _learnt(script().build("causal_lm"), kind, inputs)
    kept = bank.learning_tensors()
    other = _bank(script().build("causal_lm"), kind)
    other.add("one", seed=1)
    other.apply(AdapterPlan(("one",), ("one",)))
    other.load_learning_tensors(kept)
    for one in (bank, other):
        torch.manual_seed(0)
        script().learn(one, inputs, 2)
    first, second = bank.learning_tensors(), other.learning_tensors()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name][key], second[name][key]) for name in first for key in first[name])


def test_its_configuration_follows_the_spec(model, kind):
    if kind in (FULL, NONE):
        return
    spec = AdapterSpec(kind=kind, options=dict(script().SIZES.get(kind, {})))
    config = build_config(spec, resolve_targets(model, spec), "causal_lm")
    assert config.peft_type.value.lower() == kind
    assert config.task_type.value == "CAUSAL_LM"
    assert all(getattr(config, key) == value for key, value in spec.options.items())
    json.dumps({key: sorted(held) if isinstance(held, set) else held for key, held in config.to_dict().items()})


def test_the_options_of_lora(model):
    spec = AdapterSpec(r=3, lora_alpha=7.5, lora_dropout=0.25, use_rslora=True)
    config = build_config(spec, resolve_targets(model, spec), "seq2seq_lm")
    assert (config.r, config.lora_alpha, config.lora_dropout, config.use_rslora) == (3, 7.5, 0.25, True)
    assert (config.bias, config.task_type.value, config.fan_in_fan_out) == ("none", "SEQ_2_SEQ_LM", False)
    assert isinstance(
        build_config(AdapterSpec(lora_alpha=16.0), resolve_targets(model, spec), "causal_lm").lora_alpha, int
    )
    assert build_config(spec, resolve_targets(model, spec), "sequence_classification").task_type is None
