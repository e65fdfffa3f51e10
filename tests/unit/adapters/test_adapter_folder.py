"""Adapters on disk: what is written is standard, what is read is checked."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.errors import CheckpointError, RunError

SPEC = AdapterSpec(r=4, lora_alpha=8.0)
MODELS = ["llama", "gpt2", "bloom", "t5"]


def _bank(model, spec=SPEC, base_path="models/tiny", fingerprint=""):
    task_type = "seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm"
    return AdapterBank(model, spec, task_type=task_type, base_path=base_path, fingerprint=fingerprint)


def _filled(model, **more):
    bank = _bank(model, **more)
    bank.add("x", seed=1)
    generator = torch.Generator().manual_seed(5)
    shapes = {key: tensor.shape for key, tensor in bank.adapter_tensors("x").items()}
    bank.load_adapter_tensors(
        "x", {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
    )
    return bank


@pytest.fixture
def saved(build, tmp_path) -> Path:
    """An adapter of the tiny Llama, with the fingerprint of its base."""
    _filled(build("llama"), fingerprint="f" * 64).save("x", tmp_path / "adapter")
    return tmp_path / "adapter"


def _edit(folder, **values):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize("name", MODELS)
def test_saved_and_loaded_bit_by_bit_and_peft_computes_the_same(build, inputs, name, tmp_path):
    model = build(name)
    untouched = copy.deepcopy(model)
    bank = _filled(model)
    bank.save("x", tmp_path)
    again = _bank(build(name))
    again.load("y", tmp_path)
    kept, loaded = bank.adapter_tensors("x"), again.adapter_tensors("y")
    assert kept.keys() == loaded.keys()
    assert all(torch.equal(kept[key], loaded[key]) for key in kept)

    bank.apply(AdapterPlan(("x",)))
    with torch.no_grad():
        ours = bank.model(**inputs(model)).logits
        base = untouched(**inputs(model)).logits
        peft_model = PeftModel.from_pretrained(untouched, tmp_path)
        theirs = peft_model(**inputs(model)).logits
    assert torch.equal(ours, theirs)
    assert (ours - base).abs().max() > 0.005
    assert not any(parameter.requires_grad for parameter in peft_model.parameters())


def test_the_written_configuration(saved):
    config = json.loads((saved / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/tiny"
    assert config["inference_mode"] is True
    assert (config["peft_type"], config["task_type"], config["bias"]) == ("LORA", "CAUSAL_LM", "none")
    assert config["target_modules"] == ["q_proj", "v_proj"]
    assert (config["r"], repr(config["lora_alpha"])) == (4, "8")
    assert sorted(path.name for path in saved.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "evertune.json",
    ]


def test_an_alpha_that_is_not_whole_stays(build, tmp_path):
    bank = _filled(build("llama"), spec=AdapterSpec(r=4, lora_alpha=2.5))
    bank.save("x", tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_alpha"] == 2.5


def test_sets_are_written_in_order(build, tmp_path):
    """peft keeps targets in sets, whose order changes from process to process."""
    bank = _filled(build("llama"), spec=AdapterSpec(r=4, target="all-linear"))
    bank.save("x", tmp_path)
    names = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert len(names) == 7
    assert names == sorted(names)


def test_bytes_do_not_depend_on_the_way_an_adapter_came(build, saved, tmp_path):
    bank = _bank(build("llama"), fingerprint="f" * 64)
    bank.add("other", seed=9)
    bank.load("y", saved)
    bank.apply(AdapterPlan(("y", "other"), ("other",)))
    bank.save("y", tmp_path / "again")
    for path in saved.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def _refused(bank, folder, *messages):
    with pytest.raises(CheckpointError) as caught:
        bank.load("y", folder)
    text = str(caught.value)
    for message in messages:
        assert message in text
    assert "y" not in bank.names
    return caught.value.problems


def test_another_base_model_names_both(build, saved):
    bank = _bank(build("llama"), base_path="models/other")
    _refused(
        bank,
        saved,
        "adapter_config.json: This adapter belongs to the base model `models/tiny`, ",
        "but the model here is `models/other`.",
        "Use the adapter with its own base model.",
    )


def test_another_version_of_the_base_model(build, saved):
    bank = _bank(build("llama"), fingerprint="e" * 64)
    _refused(
        bank,
        saved,
        "another version of `models/tiny` (fingerprint ffffffffffff) than the model here, `models/tiny` (eeee",
    )


@pytest.mark.parametrize(
    ("path", "fingerprint"),
    [("/elsewhere/tiny", "f" * 64), ("other-name", "f" * 64), ("/elsewhere/tiny", ""), ("models/tiny", "")],
)
def test_the_same_base_model_elsewhere(build, saved, path, fingerprint):
    bank = _bank(build("llama"), base_path=path, fingerprint=fingerprint)
    bank.load("y", saved)
    assert bank.names == ("y",)


@pytest.mark.parametrize(
    ("spec", "messages"),
    [
        (AdapterSpec(r=8, lora_alpha=8), ["`r` is 4 there and 8 here."]),
        (AdapterSpec(r=4, lora_alpha=16), ["`lora_alpha` is 8 there and 16 here."]),
        (
            AdapterSpec(r=2, lora_alpha=3, use_rslora=True),
            ["`r` is 4", "`lora_alpha` is 8", "`use_rslora` is False there"],
        ),
        (
            AdapterSpec(r=4, lora_alpha=8, target="attention"),
            [
                "These tensors are missing: ",
                "self_attn.k_proj.lora_A.weight",
                "and 2 more",
                "Set `adapter.r`, `adapter.target`",
            ],
        ),
        (
            AdapterSpec(r=4, lora_alpha=8, layers=(0,)),
            [
                "These tensors belong to modules without an adapter here: ",
                "layers.1.self_attn.q_proj.lora_A.weight",
            ],
        ),
    ],
)
def test_other_shapes_say_what_differs(build, saved, spec, messages):
    bank = _bank(build("llama"), spec)
    _refused(bank, saved, *messages)
    assert bank.model is bank.base_model


def test_shapes_of_another_size(build, saved):
    weights = saved / "adapter_model.safetensors"
    tensors = load_file(weights)
    key = next(iter(tensors))
    tensors[key] = torch.zeros(4, 5)
    save_file(tensors, weights)
    _refused(_bank(build("llama")), saved, f"{weights}: The shapes differ (there, here): {key} (4, 5), (4, 32).")


def test_another_kind(build, saved):
    _edit(saved, peft_type="IA3")
    _refused(_bank(build("llama")), saved, "This adapter is of the kind `ia3`; here it is `lora`.")


def test_options_that_change_what_an_adapter_computes(build, saved):
    _edit(saved, use_dora=True, rank_pattern={"q_proj": 2}, init_lora_weights="pissa", r=2)
    problems = _refused(
        _bank(build("llama")),
        saved,
        "`use_dora` is True there and False here.",
        "`rank_pattern` is {'q_proj': 2} there and {} here.",
        "`init_lora_weights: pissa` also changed the base model's weights.",
        "`r` is 2 there and 4 here.",
    )
    assert len(problems) == 4


def test_options_that_peft_did_not_have_yet_or_has_since(build, saved):
    config = json.loads((saved / "adapter_config.json").read_text())
    needed = ("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path")
    (saved / "adapter_config.json").write_text(json.dumps({**{key: config[key] for key in needed}, "new": None}))
    bank = _bank(build("llama"))
    bank.load("y", saved)
    _edit(saved, brand_new=True)
    _refused(_bank(build("llama")), saved, "`brand_new` is True there and None here.")


def test_damaged_folders(build, saved, tmp_path):
    bank = _bank(build("llama"))
    _refused(bank, tmp_path / "none", "none: There is no such folder.")
    weights, config = saved / "adapter_model.safetensors", saved / "adapter_config.json"
    whole = weights.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        weights.write_bytes(whole[:length])
        _refused(bank, saved, f"{weights}: This file cannot be read:")
    weights.unlink()
    _refused(bank, saved, str(weights))
    (saved / "adapter_model.bin").write_bytes(b"")
    _refused(
        bank,
        saved,
        "The weights are in `adapter_model.bin`; only safetensors are read, because such a file can run code.",
    )
    weights.write_bytes(whole)
    for text in ("[]", "{}", '{"peft_type": 3}'):
        config.write_text(text)
        _refused(bank, saved, f"{config}: This is no adapter configuration: `peft_type` is missing.")
    config.write_text('{"peft_type": "LORA"')
    _refused(bank, saved, f"{config}: This file is damaged")
    config.unlink()
    _refused(bank, saved, f"{config}: This file is missing.")
    assert bank.model is bank.base_model


def test_loading_over_an_adapter_replaces_its_weights_or_nothing(build, saved):
    bank = _bank(build("llama"), fingerprint="f" * 64)
    bank.add("y", seed=8)
    bank.add("z", seed=9)
    bank.apply(AdapterPlan(("y", "z"), ("z",)))
    before = bank.adapter_tensors("y")
    weights = saved / "adapter_model.safetensors"
    whole = load_file(weights)
    save_file(dict(list(whole.items())[:-1]), weights)
    with pytest.raises(CheckpointError, match="These tensors are missing"):
        bank.load("y", saved)
    assert all(torch.equal(tensor, before[key]) for key, tensor in bank.adapter_tensors("y").items())
    save_file(whole, weights)
    bank.load("y", saved)
    assert (bank.names, bank.active, bank.trainable) == (("y", "z"), ("y", "z"), ("z",))
    assert all(torch.equal(tensor, whole[key]) for key, tensor in bank.adapter_tensors("y").items())


@pytest.mark.parametrize(("alpha", "rslora"), [(8, False), (12, False), (8, True)])
def test_start_from_computes_what_the_folder_does(build, inputs, tmp_path, alpha, rslora):
    """Written by peft itself, in bfloat16 and under another name of the base; the scaling here is another."""
    model = build("llama")
    config = LoraConfig(r=4, lora_alpha=alpha, use_rslora=rslora, target_modules=["q_proj", "v_proj"], lora_dropout=0.1)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        peft_model = get_peft_model(build("llama"), config).to(torch.bfloat16)
        for key, parameter in peft_model.named_parameters():
            if "lora_" in key:
                torch.nn.init.normal_(parameter, std=0.1)
    peft_model.save_pretrained(tmp_path)
    _edit(tmp_path, base_model_name_or_path="someone/tiny")
    bank = _bank(model)
    bank.start_from("y", tmp_path)
    assert {tensor.dtype for tensor in bank.adapter_tensors("y").values()} == {torch.float32}
    bank.apply(AdapterPlan(("y",), ("y",)))
    oracle = PeftModel.from_pretrained(build("llama"), tmp_path)
    with torch.no_grad():
        ours, theirs = bank.model(**inputs(model)).logits, oracle(**inputs(model)).logits
        assert (theirs - build("llama")(**inputs(model)).logits).abs().max() > 0.005
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_start_from_a_stage_of_a_run(build, saved, tmp_path):
    bank = _bank(build("llama"))
    bank.start_from("y", saved.parent)
    assert bank.names == ("y",)
    with pytest.raises(RunError, match="There is an adapter `y` already"):
        bank.start_from("y", saved.parent)
    for name in ("slow", "fast"):
        (tmp_path / "stage" / "adapters" / name).mkdir(parents=True)
        (tmp_path / "stage" / "adapters" / name / "adapter_config.json").write_text("{}")
    with pytest.raises(
        CheckpointError, match=re.escape("several adapters: `adapters/fast`, `adapters/slow`. Name one")
    ):
        bank.start_from("z", tmp_path / "stage")
    with pytest.raises(CheckpointError, match="There is no such folder"):
        bank.start_from("z", tmp_path / "nothing")
    other = _bank(build("llama"), base_path="models/large")
    with pytest.raises(
        CheckpointError, match="belongs to the base model `models/tiny`, but the model here is `models/large`"
    ):
        other.start_from("y", saved)


def test_an_adapter_that_was_learnt_on_top_of_others_is_no_start(build, tmp_path):
    """Alone it computes something else: whoever starts from it would silently lose the earlier tasks."""
    bank = _bank(build("llama"))
    for number, name in enumerate(("task-01", "task-02")):
        bank.add(name, seed=number)
        bank.apply(AdapterPlan(bank.names, (name,)))
        bank.save(name, tmp_path / name)
    _bank(build("llama")).start_from("x", tmp_path / "task-01")
    with pytest.raises(CheckpointError, match=r"learnt on top of others \(task-01\).*evertune export") as caught:
        _bank(build("llama")).start_from("x", tmp_path / "task-02")
    assert str(tmp_path / "task-02" / "adapter_config.json") in str(caught.value)
    again = _bank(build("llama"))
    again.add("task-02", seed=5)
    again.load("task-02", tmp_path / "task-02")  # a run that goes on has the others beside it
    bank.save_sum(tmp_path / "both")
    with pytest.raises(CheckpointError, match="`r` is"):  # of twice the rank, but not refused for what it lacks
        _bank(build("llama")).start_from("x", tmp_path / "both")
