"""The bank: what is added, what trains, what is saved."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from peft import PeftModel

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec, BaseWeights
from evertune.errors import ConfigError, RunError

SPEC = AdapterSpec(r=4, lora_alpha=8)


def _bank(model, spec=SPEC, **more):
    task_type = "seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm"
    return AdapterBank(model, spec, task_type=task_type, base_path="models/tiny", **more)


def _fill(bank, name, seed):
    """Gives an adapter weights that change something: peft's own start with B = 0."""
    generator = torch.Generator().manual_seed(seed)
    tensors = bank.adapter_tensors(name)
    bank.load_adapter_tensors(name, {k: torch.randn(t.shape, generator=generator) * 0.2 for k, t in tensors.items()})


def _require_grad(bank):
    return {name for name, parameter in bank.model.named_parameters() if parameter.requires_grad}


def test_before_the_first_adapter_it_is_the_base_model(build):
    model = build("llama")
    bank = _bank(model)
    assert bank.model is model
    assert (bank.names, bank.active, bank.trainable) == ((), (), ())
    assert len(bank.trainable_parameters()) == sum(1 for _ in model.parameters())
    bank.add("a", seed=1)
    assert isinstance(bank.model, PeftModel)
    assert bank.base_model is model
    assert not _require_grad(bank)


def test_an_adapter_depends_on_its_seed_alone(build):
    first, second = _bank(build("llama")), _bank(build("llama"))
    first.add("a", seed=5)
    first.add("b", seed=6)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    second.add("b", seed=6)
    assert torch.equal(torch.get_rng_state(), before)
    ours, theirs = first.adapter_tensors("b"), second.adapter_tensors("b")
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    other = first.adapter_tensors("a")
    assert not any(torch.equal(ours[key], other[key]) for key in ours if "lora_A" in key)
    assert not any(tensor.any() for key, tensor in ours.items() if "lora_B" in key)


def test_a_new_adapter_changes_nothing_until_it_is_planned(build, inputs):
    model = build("t5")
    bank = _bank(model)
    with torch.no_grad():
        before = model(**inputs(model)).logits
        bank.add("a", seed=1)
        _fill(bank, "a", 2)
        assert torch.equal(bank.model(**inputs(model)).logits, before)
        bank.apply(AdapterPlan(("a",)))
        assert not torch.allclose(bank.model(**inputs(model)).logits, before, atol=1e-2)


PLANS = [
    AdapterPlan(("x",), ("x",)),
    AdapterPlan(("x", "y"), ("y",)),
    AdapterPlan(("x", "y", "z"), ("y", "z")),
    AdapterPlan(("x", "y", "z")),
    AdapterPlan(("y", "x"), ("x",)),
    AdapterPlan(()),
]


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "t5"])
def test_only_planned_adapters_train_after_every_operation(build, name, tmp_path):
    bank = _bank(build(name))

    def expect(*trainable):
        wanted = {n for n, _ in bank.model.named_parameters() if any(f".{t}." in n for t in trainable)}
        assert _require_grad(bank) == wanted
        assert list(bank.trainable_parameters()) == [n for n, _ in bank.model.named_parameters() if n in wanted]

    for index, adapter in enumerate("xyz"):
        bank.add(adapter, seed=index)
        _fill(bank, adapter, index)
        expect()
    bank.save("z", tmp_path)
    for before, after in itertools.permutations(PLANS, 2):
        bank.apply(before)
        expect(*before.trainable)
        bank.apply(after)
        expect(*after.trainable)
    bank.apply(AdapterPlan(("x", "y", "z"), ("z",)))
    bank.add("d", seed=4)
    expect("z")
    bank.load("e", tmp_path)
    expect("z")
    bank.load("x", tmp_path)
    expect("z")
    bank.start_from("f", tmp_path)
    expect("z")
    _fill(bank, "y", 9)
    expect("z")
    bank.remove("x")
    expect("z")
    assert (bank.names, bank.active, bank.trainable) == (("y", "z", "d", "e", "f"), ("y", "z"), ("z",))
    bank.remove("z")
    expect()
    assert bank.active == ("y",)


def test_a_stray_parameter_is_named(build):
    bank = _bank(build("llama"))
    bank.add("a", seed=1)
    bank.add("b", seed=2)
    bank.apply(AdapterPlan(("a", "b"), ("b",)))
    bank.base_model.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(
        RunError, match=r"1 parameters train that must not: base_model\.model\.model\.embed_tokens\.weight\."
    ):
        bank.check()
    bank.base_model.get_input_embeddings().weight.requires_grad_(False)
    bank.check()
    next(iter(bank.trainable_parameters().values())).requires_grad_(False)
    with pytest.raises(RunError, match=r"1 parameters must train and do not: .*lora_A\.b\.weight"):
        bank.check()


def test_wrong_names(build):
    bank = _bank(build("llama"))
    with pytest.raises(RunError, match=re.escape("`../x` cannot name an adapter")):
        bank.add("../x", seed=1)
    with pytest.raises(RunError, match=re.escape("The bank has no adapter `a`, `b`. It holds none.")):
        bank.apply(AdapterPlan(("a", "b")))
    bank.add("a", seed=1)
    with pytest.raises(RunError, match="There is an adapter `a` already"):
        bank.add("a", seed=1)
    with pytest.raises(RunError, match=re.escape("The bank has no adapter `b`. It holds: a.")):
        bank.apply(AdapterPlan(("a", "b"), ("b",)))
    for call in (bank.adapter_tensors, bank.remove, lambda name: bank.past_factors([name])):
        with pytest.raises(RunError, match="The bank has no adapter `b`"):
            call("b")


def test_a_failed_plan_changes_nothing(build):
    bank = _bank(build("llama"))
    bank.add("a", seed=1)
    bank.apply(AdapterPlan(("a",), ("a",)))
    with pytest.raises(RunError):
        bank.apply(AdapterPlan(("zzz",)))
    assert bank.trainable == ("a",)
    bank.check()


@pytest.mark.parametrize("name", ["type", "train", "lora", "a_", "keys", "default", "0", "weight"])
def test_any_task_name_will_do(build, name, tmp_path):
    bank = _bank(build("llama"))
    bank.add(name, seed=1)
    _fill(bank, name, 2)
    bank.add("other", seed=2)
    bank.apply(AdapterPlan((name, "other"), ("other",)))
    bank.save(name, tmp_path)
    again = _bank(build("llama"))
    again.load(name, tmp_path)
    assert again.names == (name,)
    for key, tensor in bank.adapter_tensors(name).items():
        assert torch.equal(again.adapter_tensors(name)[key], tensor)
    bank.remove(name)
    assert bank.names == ("other",)


def test_removing_the_last_adapter_gives_the_base_model_back(build, inputs):
    model = build("gpt2")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    bank = _bank(model)
    for _ in range(2):
        bank.add("a", seed=1)
        bank.add("b", seed=2)
        _fill(bank, "a", 3)
        _fill(bank, "b", 4)
        bank.apply(AdapterPlan(("a", "b"), ("b",)))
        bank.remove("b")
        bank.remove("a")
        assert bank.model is model
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.isfinite(model(**inputs(model)).logits).all()


def test_a_wrong_target_leaves_the_model_alone(build):
    model = build("llama")
    bank = _bank(model, AdapterSpec(target="c_attn"))
    with pytest.raises(ConfigError, match="The model has: q_proj"):
        bank.add("a", seed=1)
    assert bank.model is model
    assert bank.names == ()


def test_an_unknown_kind(build):
    with pytest.raises(ConfigError, match=r"adapter\.kind: There is no adapter kind `looora`\. Did you mean `lora`\?"):
        _bank(build("llama"), AdapterSpec(kind="looora")).add("a", seed=1)


def test_a_new_adapter_takes_over_the_mode_of_the_model(build):
    bank = _bank(build("llama"), AdapterSpec(r=4, lora_dropout=0.5))
    bank.add("a", seed=1)
    assert not any(module.training for module in bank.model.modules())
    bank.model.train()
    bank.add("b", seed=2)
    assert all(module.training for module in bank.model.modules())


def test_copies_of_weights_are_copies(build):
    bank = _bank(build("llama"))
    bank.add("a", seed=1)
    kept = bank.adapter_tensors("a")
    _fill(bank, "a", 2)
    assert not any(torch.equal(kept[key], tensor) for key, tensor in bank.adapter_tensors("a").items())
    bank.load_adapter_tensors("a", kept)
    assert all(torch.equal(kept[key], tensor) for key, tensor in bank.adapter_tensors("a").items())


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_past_factors_equal_a_plain_loop(build, name):
    bank = _bank(build(name), AdapterSpec(r=4, lora_alpha=6, use_rslora=True))
    for index, adapter in enumerate("abc"):
        bank.add(adapter, seed=index)
        _fill(bank, adapter, index)
    assert bank.past_factors() == {}
    bank.apply(AdapterPlan(("b", "a", "c"), ("c",)))
    factors = bank.past_factors()
    raw = {adapter: bank.adapter_tensors(adapter) for adapter in "abc"}
    seen = set()
    for path, past in factors.items():
        key = f"base_model.model.{path}"
        rows = [row for n in "ba" for row in raw[n][f"{key}.lora_A.weight"]]
        columns = [column * 6 / 4**0.5 for n in "ba" for column in raw[n][f"{key}.lora_B.weight"].T]
        torch.testing.assert_close(past.A, torch.stack(rows), rtol=0, atol=0)
        torch.testing.assert_close(past.B, torch.stack(columns, dim=1))
        assert not past.A.requires_grad
        assert not past.B.requires_grad
        seen |= {f"{key}.lora_A.weight", f"{key}.lora_B.weight"}
    assert seen == set(raw["a"])
    assert torch.equal(bank.past_factors(["c"])[path].A, raw["c"][f"{key}.lora_A.weight"])


@pytest.mark.parametrize("name", ["llama", "t5", "gpt2"])
def test_the_summary_agrees_with_peft(build, name, capsys):
    bank = _bank(build(name))
    base = sum(parameter.numel() for parameter in bank.base_model.parameters())
    bank.add("a", seed=1)
    bank.add("b", seed=2)
    bank.apply(AdapterPlan(("a", "b"), ("b",)))
    summary = bank.summary()
    bank.model.print_trainable_parameters()
    assert summary.line() == capsys.readouterr().out.strip()
    size = sum(tensor.numel() for tensor in bank.adapter_tensors("b").values())
    assert (summary.trainable, summary.total) == (size, base + 2 * size)
    assert sum(summary.trains.values()) == size
    touched = sum(weight.numel() for weight in _touched(bank).values())
    assert summary.bytes == {"base float32": 4 * base, "adapters float32": 8 * size, "base copies float32": 4 * touched}


def test_the_summary_by_role(build):
    bank = _bank(build("llama"), AdapterSpec(r=4, target="attention"))
    assert bank.summary().total == sum(parameter.numel() for parameter in bank.base_model.parameters())
    bank.add("a", seed=1)
    assert bank.summary().trains == {}
    bank.apply(AdapterPlan(("a",), ("a",)))
    wide, narrow = 2 * 4 * (32 + 32), 2 * 4 * (32 + 16)  # layers x rank x (in + out)
    assert bank.summary().trains == {
        "attention query": wide,
        "attention key": narrow,
        "attention value": narrow,
        "attention output": wide,
    }


def _touched(bank):
    return {
        name: module.get_base_layer().weight
        for name, module in bank.base_model.named_modules()
        if hasattr(module, "get_base_layer")
    }


@pytest.mark.parametrize(("name", "target"), [("gpt2", "mlp"), ("t5", ("lm_head",))])
def test_base_weights_that_cannot_change_are_found_without_touching_them(build, name, target):
    model = build(name)
    if name == "t5":
        model.lm_head.weight = model.shared.weight
    bank = AdapterBank(model, AdapterSpec(), task_type="causal_lm", base_path="x")
    with pytest.raises(ConfigError, match="is quantised, shared or transposed, and cannot learn"):
        bank.check_base(BaseWeights(target, learn=True, key="method.full_rank"))
    assert bank.change is None
