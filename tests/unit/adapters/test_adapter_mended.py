"""What adapters mean on the way through files, from stage to stage and into the weights."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.errors import CheckpointError, ConfigError
from tests.unit.adapters.kinds_models import script

ONE = AdapterPlan(("one",), ("one",))


def _bank(spec, task="causal_lm", base_path="models/tiny"):
    return AdapterBank(script().build(task), spec, task_type=task, base_path=base_path)


def _learning(spec, task="causal_lm"):
    bank = _bank(spec, task)
    bank.add("one", seed=1)
    bank.apply(ONE)
    return bank


def _begin(bank, task="causal_lm"):
    bank.begin_from(lambda: [script().batch(task)], lambda model, batch: model(**batch).loss)


def _outputs(model, task="causal_lm"):
    with torch.no_grad():
        return script().outputs(model, script().batch(task))


@pytest.mark.parametrize("rslora", [False, True])
def test_patterns_of_rank_and_alpha_count_when_the_scaling_here_is_another(tmp_path, rslora):
    patterns = {"rank_pattern": {"q_proj": 2, "layers.1.self_attn.v_proj": 6}, "alpha_pattern": {"v_proj": 5}}
    config = LoraConfig(r=4, lora_alpha=12, use_rslora=rslora, target_modules=["q_proj", "v_proj"], **patterns)
    model = get_peft_model(script().build("causal_lm"), config)
    generator = torch.Generator().manual_seed(3)
    for key, held in model.named_parameters():
        if "lora_" in key:
            held.data = torch.randn(held.shape, generator=generator) * 0.1
    model.save_pretrained(tmp_path)
    bank = _bank(AdapterSpec(r=4, lora_alpha=8, options=patterns), base_path="")
    bank.start_from("one", tmp_path)
    bank.apply(ONE)
    assert (_outputs(model) - _outputs(script().build("causal_lm"))).abs().max() > 0.01
    torch.testing.assert_close(_outputs(bank.model), _outputs(model), rtol=0, atol=1e-5)


def test_modules_of_the_user_are_saved_beside_the_heads(tmp_path):
    task = "sequence_classification"
    spec = AdapterSpec(r=4, target=("query", "value"), options={"modules_to_save": ["pooler"]})
    bank = _learning(spec, task)
    heads = {name: held for name, held in bank.base_model.named_parameters() if name.startswith("classifier.")}
    bank.learn_heads(heads)
    script().learn(bank, script().batch(task), 4)
    wanted = _outputs(bank.model, task)
    bank.save("one", tmp_path, heads=heads)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["modules_to_save"] == ["pooler", "classifier"]
    plain = script().build(task)
    torch.nn.init.zeros_(plain.classifier.weight)
    torch.testing.assert_close(_outputs(PeftModel.from_pretrained(plain, tmp_path), task), wanted, rtol=0, atol=1e-5)
    again = _bank(spec, task)
    again.load("one", tmp_path)
    kept = bank.adapter_tensors("one")
    assert any("pooler" in key for key in kept)
    assert all(torch.equal(held, kept[key]) for key, held in again.adapter_tensors("one").items())


def test_the_steps_of_the_stage_count_for_adalora():
    bank = _learning(AdapterSpec(kind="adalora", options={"init_r": 6, "target_r": 2, "tinit": 4, "total_step": 3}))
    _begin(bank)
    bank.begin(12)
    (config,) = bank.model.peft_config.values()
    assert config.total_step == 12
    with pytest.raises(ConfigError, match="take all of the 4 steps of the stage"):
        bank.begin(4)


def test_adalora_saves_no_ranks_of_an_earlier_stage(tmp_path):
    bank = _learning(AdapterSpec(kind="adalora", options={"init_r": 6, "target_r": 2, "tinit": 2}))
    script().learn(bank, script().batch("causal_lm"), 12)
    bank.save("one", tmp_path / "first")
    state = bank.adapter_tensors("one")
    goes_on = _learning(AdapterSpec(kind="adalora", options={"init_r": 6, "target_r": 2, "tinit": 2}))
    goes_on.load_adapter_tensors("one", state)
    goes_on.begin(12)  # without `begin_from`, as where a stage goes on
    goes_on.save("one", tmp_path / "on")
    _begin(bank)
    bank.begin(12)
    bank.save("one", tmp_path / "second")
    ranks = {
        name: json.loads((tmp_path / name / "adapter_config.json").read_text(encoding="utf-8"))["rank_pattern"]
        for name in ("first", "on", "second")
    }
    assert ranks["first"]
    assert ranks["on"] == ranks["first"]
    assert ranks["second"] is None
    read = PeftModel.from_pretrained(script().build("causal_lm"), tmp_path / "second")
    torch.testing.assert_close(_outputs(read), _outputs(bank.model), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("begin", "name"), [("corda", "cache_file"), ("corda", "covariance_file"), ("lora_ga", "cache_file")]
)
def test_files_of_what_adapters_begin_with_are_refused(tmp_path, begin, name):
    options = {"init_lora_weights": begin, f"{begin}_config": {name: str(tmp_path / "held.pt")}}
    with pytest.raises(ConfigError, match=rf"adapter\.{begin}_config\.{name}: would be written and read as a pickle"):
        _bank(AdapterSpec(options=options)).add("one", seed=1)


def test_what_virtual_tokens_began_with_does_not_matter_once_they_are_learnt(tmp_path):
    bank = _learning(AdapterSpec(kind="prompt_tuning", options={"num_virtual_tokens": 4}))
    bank.save("one", tmp_path)
    path = tmp_path / "adapter_config.json"
    text = {"prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "x", "tokenizer_name_or_path": "/elsewhere/tiny"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **text, "tokenizer_kwargs": {"use_fast": True}}))
    again = _bank(AdapterSpec(kind="prompt_tuning", options={"num_virtual_tokens": 4}))
    again.load("one", tmp_path)
    kept = bank.adapter_tensors("one")
    assert all(torch.equal(held, kept[key]) for key, held in again.adapter_tensors("one").items())


def test_no_folder_of_a_tokenizer_is_written(tmp_path):
    options = {"num_virtual_tokens": 4, "tokenizer_name_or_path": str(tmp_path / "tokenizer")}
    spec = AdapterSpec(kind="prompt_tuning", options=options)
    bank = _learning(spec)
    bank.save("one", tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["tokenizer_name_or_path"] == saved["base_model_name_or_path"] == "models/tiny"
    again = _bank(spec)
    again.load("one", tmp_path / "saved")
    assert again.names == ("one",)


def test_another_rank_says_what_to_write(tmp_path):
    bank = _learning(AdapterSpec(r=4, lora_alpha=8, options={"init_lora_weights": "pissa"}))
    bank.save("one", tmp_path)
    with pytest.raises(CheckpointError) as caught:
        _bank(AdapterSpec(r=4, lora_alpha=8)).start_from("one", tmp_path)
    for text in ("`r` is 8 there and 4 here", "`adapter.r: 8` and `adapter.lora_alpha: 16`", "twice its rank"):
        assert text in str(caught.value)
    other = _bank(AdapterSpec(r=8, lora_alpha=16))
    other.start_from("one", tmp_path)
    assert other.names == ("one",)


@pytest.mark.parametrize("kind", ["oft", "hra"])
def test_several_rotations_merge_to_what_they_compute(kind):
    bank = _bank(AdapterSpec(kind=kind, options=dict(script().SIZES.get(kind, {}))))
    generator = torch.Generator().manual_seed(1)
    for name in ("one", "two", "three"):
        bank.add(name, seed=1)
        drawn = {k: t + torch.randn(t.shape, generator=generator) * 0.2 for k, t in bank.adapter_tensors(name).items()}
        bank.load_adapter_tensors(name, drawn)
    bank.apply(AdapterPlan(bank.names))
    wanted = _outputs(bank.model)
    assert (wanted - _outputs(script().build("causal_lm"))).abs().max() > 0.01
    torch.testing.assert_close(_outputs(bank.merge_active()), wanted, rtol=0, atol=1e-5)
