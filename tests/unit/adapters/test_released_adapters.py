"""Adapter folders of the released O-LoRA, N-LoRA and GORP codes, made by hand, against weights changed by hand."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers.pytorch_utils import Conv1D

from evertune.adapters.bank import AdapterBank
from evertune.adapters.released import RELEASED, is_released, read_released, released_record
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.adapters.targets import resolve_targets
from evertune.errors import CheckpointError
from evertune.files import sha256

SPEC = AdapterSpec(r=4, lora_alpha=8.0)
RANK, ALPHA = 2, 6  # of a task in the folder, other than here


def _bank(model, spec=SPEC, base_path="models/tiny"):
    task_type = "seq2seq_lm" if model.config.is_encoder_decoder else "causal_lm"
    return AdapterBank(model, spec, task_type=task_type, base_path=base_path)


def _factors(model, old: int, *, newest: bool, spec=SPEC) -> dict[str, torch.Tensor]:
    """``PATH.part`` to tensor: `old` rows of finished tasks, and one task apart."""
    generator = torch.Generator().manual_seed(2)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    tensors = {}
    modules = dict(model.named_modules())
    for path in resolve_targets(model, spec).paths:
        d_in, d_out = (
            modules[path].weight.shape if isinstance(modules[path], Conv1D) else reversed(modules[path].weight.shape)
        )
        tensors[f"{path}.lora_A"], tensors[f"{path}.lora_B"] = drawn(old, d_in), drawn(d_out, old)
        if newest:
            tensors[f"{path}.loranew_A"], tensors[f"{path}.loranew_B"] = drawn(RANK, d_in), drawn(d_out, RANK)
    return tensors


def _written(folder: Path, factors, *, prefix="base_model.model.", name="", pickled=False, **config) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    r_sum = next(tensor.shape[1] for key, tensor in factors.items() if key.endswith("lora_B"))
    values = {
        **{"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "initial_model/tiny"},
        **{"r": RANK, "lora_alpha": ALPHA, "lora_dropout": 0.1, "bias": "none", "modules_to_save": None},
        **{"inference_mode": True, "fan_in_fan_out": False, "target_modules": ["q", "v"], "r_sum": r_sum},
        **{"save_loranew": any("loranew" in key for key in factors), **config},
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    tensors = {f"{prefix}{key}{name}.weight": tensor for key, tensor in factors.items()}
    if pickled:
        torch.save(tensors, folder / "adapter_model.bin")
    else:
        save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def _changes(factors) -> dict[str, torch.Tensor]:
    """The change of every weight, ``(d_out, d_in)``, in float64: both pairs count alpha / r times."""
    changes: dict[str, torch.Tensor] = {}
    for key in factors:
        path, part = key.rsplit(".", 1)
        if part.endswith("_A"):
            product = factors[f"{path}.{part[:-1]}B"].double() @ factors[key].double()
            changes[path] = changes.get(path, 0) + ALPHA / RANK * product
    return changes


@torch.no_grad()
def _changed(model, factors):
    """The model with the changes added to its weights, by hand."""
    modules = dict(model.named_modules())
    for path, change in _changes(factors).items():
        weight = modules[path].weight
        weight += (change.T if isinstance(modules[path], Conv1D) else change).to(weight.dtype)
    return model


def _logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.mark.parametrize("name", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize(
    ("old", "newest", "options"),
    [
        (6, False, {}),
        (6, True, {"name": ".default"}),
        (0, True, {"prefix": "", "pickled": True}),
        (2, True, {"pickled": True, "name": ".default", "peft_version": "0.3.0.dev0"}),
    ],
)
def test_the_sum_of_all_tasks_is_computed(build, inputs, tmp_path, name, old, newest, options):
    model = build(name)
    factors = _factors(model, old, newest=newest)
    folder = _written(tmp_path / "old", factors, **options)
    assert is_released(folder)
    oracle = _logits(_changed(build(name), factors), inputs(model))
    untouched = _logits(model, inputs(model))
    assert (oracle - untouched).abs().max() > 0.005

    bank = _bank(model)
    bank.start_from(RELEASED, folder)
    bank.apply(AdapterPlan((RELEASED,)))  # computed by peft
    torch.testing.assert_close(_logits(bank.model, inputs(model)), oracle, rtol=0, atol=1e-5)
    bank.add("task-01", seed=1)
    bank.apply(AdapterPlan((RELEASED, "task-01"), ("task-01",)))  # baked; B of a new adapter is zero
    torch.testing.assert_close(_logits(bank.model, inputs(model)), oracle, rtol=0, atol=1e-5)
    trained = {name for name, parameter in bank.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("task-01" in name for name in trained)
    bank.apply(AdapterPlan(()))
    assert torch.equal(_logits(bank.model, inputs(model)), untouched)


def test_its_factors_are_past_ones(build, tmp_path):
    """Of any rank, unscaled A, and B times its scaling; beside those of adapters of the run."""
    model = build("llama")
    factors = _factors(model, 6, newest=True)
    bank = _bank(model)
    bank.start_from(RELEASED, _written(tmp_path, factors))
    for name in ("task-01", "task-02"):
        bank.add(name, seed=1)
    bank.apply(AdapterPlan((RELEASED, "task-01", "task-02"), ("task-02",)))
    past = bank.past_factors()
    changes = _changes(factors)
    assert past.keys() == changes.keys()
    for path, change in changes.items():
        A = torch.cat([factors[f"{path}.lora_A"], factors[f"{path}.loranew_A"]])
        assert past[path].A.shape == (6 + RANK + SPEC.r, change.shape[1])
        assert torch.equal(past[path].A[: len(A)], A)
        torch.testing.assert_close((past[path].B @ past[path].A).double(), change, rtol=1e-4, atol=1e-6)


def test_stacked_where_weights_cannot_be_written(build, inputs, tmp_path):
    """Below the tied output head of GPT-2 lies the embedding; adapters of two ranks are stacked into one."""
    spec = replace(SPEC, target=("lm_head",))
    model = build("gpt2")
    factors = _factors(model, 3, newest=False, spec=spec)
    bank = _bank(model, spec)
    bank.start_from(RELEASED, _written(tmp_path, factors))
    bank.add("task-01", seed=1)
    fresh = bank.adapter_tensors("task-01")
    change = {key: torch.randn_like(tensor) * 0.1 for key, tensor in fresh.items()}
    bank.load_adapter_tensors("task-01", change)
    bank.add("task-02", seed=1)
    bank.apply(AdapterPlan((RELEASED, "task-01", "task-02"), ("task-02",)))
    with torch.no_grad():
        hidden = build("gpt2").transformer(**inputs(model)).last_hidden_state
        own = 2.0 * change["base_model.model.lm_head.lora_B.weight"] @ change["base_model.model.lm_head.lora_A.weight"]
        weight = model.get_input_embeddings().weight + own + _changes(factors)["lm_head"].float()
        oracle = hidden @ weight.T
    torch.testing.assert_close(_logits(bank.model, inputs(model)), oracle, rtol=0, atol=1e-5)


def test_it_is_saved_as_a_plain_adapter(build, inputs, tmp_path):
    from peft import PeftModel

    model = build("llama")
    factors = _factors(model, 6, newest=True)
    bank = _bank(model)
    bank.start_from(RELEASED, _written(tmp_path / "old", factors))
    bank.save(RELEASED, tmp_path / "new")
    peft_model = PeftModel.from_pretrained(build("llama"), tmp_path / "new")
    oracle = _logits(_changed(build("llama"), factors), inputs(model))
    torch.testing.assert_close(_logits(peft_model, inputs(model)), oracle, rtol=0, atol=1e-5)


def _refused(build, folder, text, base_path="models/tiny", spec=SPEC):
    bank = _bank(build("llama"), spec, base_path)
    with pytest.raises(CheckpointError, match=text):
        bank.start_from(RELEASED, folder)
    assert bank.names == ()
    bank.add(RELEASED, seed=1)  # nothing of the other one is left
    assert (
        bank.adapter_tensors(RELEASED)["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"].shape[0] == 4
    )


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"base_model_name_or_path": "initial_model/large"}, "base model `initial_model/large`, but the model here is"),
        ({"r_sum": 4}, r"lora_A has 6 rows, but `r_sum` is 4 in adapter_config\.json"),
        ({"r": 3}, r"loranew_A has 2 rows, but `r` is 3"),
        ({"r": 0}, "`r` is 0, which is no number of directions"),
        ({"r_sum": None}, "`r_sum` is None, which is no number of directions"),
        ({"lora_alpha": "much"}, "`lora_alpha` is 'much', which is not a number"),
        ({"use_dora": True}, "`use_dora` is True there and"),
        ({"peft_type": "ADALORA"}, "of the kind `adalora`; here it is `lora`"),
    ],
)
def test_a_configuration_that_does_not_fit(build, tmp_path, config, text):
    _refused(build, _written(tmp_path, _factors(build("llama"), 6, newest=True), **config), text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda key, t: t[:-1] if key.endswith("0.self_attn.q_proj.lora_B") else t, "The shapes differ"),
        (lambda key, t: t[:, :-1] if key.endswith("q_proj.lora_B") else t, r"fit: lora_A \(6, 32\), lora_B \(32, 5\)"),
        (lambda key, t: None if key.endswith("loranew_B") else t, "has no loranew_B"),
        (lambda key, t: t[:, :-2] if key.endswith("loranew_A") else t, r"other sizes: \(32, 32\), \(30, 32\)"),
        (lambda key, t: None if ".v_proj." in key else t, "These tensors are missing"),
        (lambda key, t: t[0, 0] if key.endswith("lora_A") else t, r"do not fit: lora_A \(\), lora_B"),
        (lambda key, t: None if "1.self_attn.v_proj.loranew" in key else t, "Modules have different ranks: 6, 8"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(build, tmp_path, change, text):
    factors = {key: change(key, tensor) for key, tensor in _factors(build("llama"), 6, newest=True).items()}
    if text.startswith("The shapes differ"):
        factors = {
            key: t[:-1] if t is not None and "0.self_attn.q_proj.loranew_B" in key else t for key, t in factors.items()
        }
    _refused(build, _written(tmp_path, {k: t.contiguous() for k, t in factors.items() if t is not None}), text)


def test_other_tensors_and_none(build, tmp_path):
    factors = _factors(build("llama"), 6, newest=True)
    odd = {**factors, "model.layers.0.self_attn.q_proj.lora_magnitude_vector": torch.ones(3)}
    _refused(
        build, _written(tmp_path / "odd", odd), "1 tensors are not those of a single low-rank adapter: .*magnitude"
    )
    _refused(build, _written(tmp_path / "empty", _factors(build("llama"), 0, newest=False)), "holds no task")


def test_other_modules_than_adapters_have_here(build, tmp_path):
    folder = _written(tmp_path, _factors(build("llama"), 6, newest=True))
    spec = replace(SPEC, target=("q_proj",))
    bank = _bank(build("llama"), spec)
    with pytest.raises(CheckpointError, match=r"modules without an adapter here: .*v_proj.*Set `adapter\.target`"):
        bank.start_from(RELEASED, folder)


class _Runs:
    """What a pickle can hold: a call."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


def test_a_pickle_runs_nothing(build, tmp_path):
    folder = _written(tmp_path / "old", _factors(build("llama"), 6, newest=True), pickled=True)
    torch.save({"weights": _Runs(tmp_path / "ran")}, folder / "adapter_model.bin")
    _refused(build, folder, r"adapter_model\.bin: This file is damaged, or holds more than tensors")
    assert not (tmp_path / "ran").exists()
    torch.save({"rank": 8}, folder / "adapter_model.bin")
    _refused(build, folder, "something else than tensors by name")
    (folder / "adapter_model.bin").write_bytes(b"PK\x03\x04 cut off")
    _refused(build, folder, "This file is damaged, or holds")
    (folder / "adapter_model.bin").unlink()
    _refused(build, folder, r"adapter_model\.safetensors: This file cannot be read")


def test_safetensors_come_before_a_pickle(build, tmp_path):
    factors = _factors(build("llama"), 6, newest=True)
    folder = _written(tmp_path, factors)
    (folder / "adapter_model.bin").write_bytes(b"not looked at")
    assert read_released(folder).rank == 8
    assert released_record(folder) == {
        "folder": str(folder),
        "files": {name: sha256(folder / name) for name in ("adapter_config.json", "adapter_model.safetensors")},
    }


def test_what_is_no_such_folder(build, tmp_path):
    bank = _bank(build("llama"))
    bank.add("x", seed=1)
    bank.save("x", tmp_path / "plain")
    assert released_record(None) is None
    assert released_record(tmp_path / "plain") is None
    assert released_record(tmp_path / "nothing") is None


@pytest.mark.parametrize("place", ["", "adapter", "adapters/slow"])
def test_a_stage_that_changed_the_base_model(build, tmp_path, place):
    """Its adapter was learnt on other weights than the base model has."""
    stage = tmp_path / "02-topic"
    bank = _bank(build("llama"))
    bank.add("x", seed=1)
    bank.save("x", stage / (place or "adapter"))
    save_file({"w": torch.zeros(1)}, stage / "delta.safetensors")
    text = re.escape(str(stage)) + r": This stage also changed weights of the base model \(`delta\.safetensors`\)"
    with pytest.raises(CheckpointError, match=text) as caught:
        _bank(build("llama")).start_from("y", stage / place)
    assert caught.value.exit_code == 2
    (stage / "delta.safetensors").unlink()
    _bank(build("llama")).start_from("y", stage / place)
