"""The section `adapter`: keys of every kind, peft's files as they are, and what is wrong with either."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from evertune.adapters.spec import AdapterSpec
from evertune.config.load import dump_config, load_config
from evertune.errors import ConfigError

LORA_FILE = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "auto_mapping": None,
    "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
    "inference_mode": True,
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.05,
    "target_modules": ["q_proj", "v_proj"],
    "layers_to_transform": [0, 1],
    "modules_to_save": None,
    "bias": "none",
    "use_dora": True,
    "a_field_of_another_version": None,
}


def _read(folder: Path, adapter: dict[str, Any], method: str = "seq-lora", **backbone: Any) -> Any:
    settings = {
        "stream": {"name": "synthetic"},
        "backbone": {"path": "builtin:tiny-llama", **backbone},
        "adapter": adapter,
        "method": method,
    }
    file = folder / "stream.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return load_config(file)


def _refused(folder: Path, adapter: dict[str, Any], **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(folder, adapter, **more)
    return str(caught.value)


def _again(folder: Path, settings: Any) -> Any:
    file = folder / "again.yaml"
    file.write_text(dump_config(settings), encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize(
    ("adapter", "spec"),
    [
        ({}, AdapterSpec()),
        ({"r": 4, "use_dora": True}, AdapterSpec(r=4, options={"use_dora": True})),
        ({"bias": "none", "use_dora": False}, AdapterSpec()),
        ({"init_lora_weights": "pissa_niter_7"}, AdapterSpec(options={"init_lora_weights": "pissa_niter_7"})),
        ({"target_modules": ["q_proj"], "layers_to_transform": 1}, AdapterSpec(target=("q_proj",), layers=(1,))),
        ({"loraplus_lr_ratio": 16, "lora_fa": False}, AdapterSpec(loraplus_lr_ratio=16.0)),
        (
            {"kind": "oft", "oft_block_size": 8, "use_cayley_neumann": False},
            AdapterSpec(kind="oft", options={"oft_block_size": 8, "use_cayley_neumann": False}),
        ),
        ({"kind": "loha", "r": 4}, AdapterSpec(kind="loha", options={"r": 4})),
        ({"kind": "ia3"}, AdapterSpec(kind="ia3", target="attention_key_value_mlp_down")),
        ({"kind": "ln_tuning"}, AdapterSpec(kind="ln_tuning", target="norms")),
        ({"kind": "prompt_tuning", "num_virtual_tokens": 20}, AdapterSpec(kind="prompt_tuning")),
        (
            {"kind": "p_tuning", "num_virtual_tokens": 8, "encoder_reparameterization_type": "LSTM"},
            AdapterSpec(kind="p_tuning", options={"num_virtual_tokens": 8, "encoder_reparameterization_type": "LSTM"}),
        ),
        ({"kind": "full"}, AdapterSpec(kind="full")),
        (
            {"rank_pattern": {"q_proj": 4}, "eva_config": {"rho": 1.0}, "init_lora_weights": "eva"},
            AdapterSpec(
                options={"rank_pattern": {"q_proj": 4}, "eva_config": {"rho": 1.0}, "init_lora_weights": "eva"}
            ),
        ),
    ],
)
def test_what_is_written_is_what_is_meant_and_reads_back(tmp_path, adapter, spec):
    settings = _read(tmp_path, adapter)
    assert settings.adapter == spec
    again = _again(tmp_path, settings)
    assert again.adapter == spec
    assert again.resolved == settings.resolved


def test_the_keys_of_plain_lora_are_written_as_ever(tmp_path):
    keys = ["kind", "r", "lora_alpha", "lora_dropout", "use_rslora", "target", "layers", "num_frozen_layers"]
    assert list(_read(tmp_path, {}).resolved["adapter"]) == [*keys, "effective_rank", "start_from"]


def test_other_kinds_are_written_with_all_their_defaults(tmp_path):
    resolved = _read(tmp_path, {"kind": "adalora"}).resolved["adapter"]
    assert (resolved["init_r"], resolved["target_r"], resolved["orth_reg_weight"]) == (12, 8, 0.5)
    assert "target_modules" not in resolved


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        ({"kind": "adalroa"}, "adapter.kind: there is no adapter kind `adalroa`. Did you mean `adalora`?"),
        ({"kind": "P-Tuning"}, "there is no adapter kind `P-Tuning`. Did you mean `p_tuning`?"),
        ({"use_doraa": True}, "adapter.use_doraa: is not an option of `adapter`. Did you mean `use_dora`?"),
        ({"kind": "oft", "lora_alpha": 3}, "Adapters of the kind `oft` have no such option; these have: lora, adalora"),
        ({"quantization": "nf4"}, "Did you mean `backbone.quantization`?"),
        ({"task_type": "CAUSAL_LM"}, "adapter.task_type: is not written here. It follows from `backbone.task_type`."),
        ({"inference_mode": True}, "adapter.inference_mode: is not written here. What learns is decided by the method"),
        ({"target": "mlp", "target_modules": ["q"]}, "adapter.target_modules: says the same as `target`. Keep one"),
        ({"use_dora": "yes"}, 'adapter.use_dora: must be true or false, got the text "yes". Write true.'),
        ({"bias": "som"}, 'adapter.bias: "som" is not one of: none, all, lora_only.'),
        ({"init_lora_weights": "pisa"}, "adapter.init_lora_weights:"),
        ({"eva_config": {"rhoo": 1.0}}, "is not an option of `adapter.eva_config`. Did you mean `rho`?"),
        ({"layers_pattern": "h"}, "adapter.layers_pattern: is not supported. Write the layers that are meant"),
        (
            {"kind": "prompt_tuning", "target": "mlp"},
            "adapter.target: has no effect on adapters of the kind `prompt_tu",
        ),
        ({"kind": "shadow", "lora_fa": True}, "adapter.lora_fa: has no effect on adapters of the kind `shadow`."),
        (
            {"kind": "xlora"},
            "adapters of the kind `xlora` with these options cannot be used for causal_lm: what peft",
        ),
        ({"kind": "none"}, "nothing learns but the heads of an encoder"),
        ({"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "its quantisation needs a CUDA device"),
    ],
)
def test_what_is_wrong_is_said_with_the_way_out(tmp_path, adapter, said):
    assert said in _refused(tmp_path, adapter)


def test_a_method_that_sets_learning_rates_goes_with_no_other(tmp_path):
    found = _refused(tmp_path, {"loraplus_lr_ratio": 16.0}, method="gorp")
    assert "adapter.loraplus_lr_ratio: has no effect: method gorp decides on the learning rates." in found


def test_what_quantised_weights_do_not_allow(tmp_path):
    assert "quantised weights cannot learn" in _refused(tmp_path, {"kind": "full"}, quantization="nf4")
    assert "which are packed here" in _refused(tmp_path, {"init_lora_weights": "pissa"}, quantization="nf4")
    assert _read(tmp_path, {"kind": "ia3"}, quantization="nf4").adapter.kind == "ia3"


@pytest.mark.parametrize("named", ["adapter_config.json", "."])
def test_a_file_of_peft_is_read_as_it_is(tmp_path, named):
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA_FILE), encoding="utf-8")
    settings = _read(tmp_path, {"config": named, "r": 4})
    assert settings.adapter == AdapterSpec(
        r=4,
        lora_alpha=32.0,
        lora_dropout=0.05,
        target=("q_proj", "v_proj"),
        layers=(0, 1),
        options={"use_dora": True},
    )
    assert "`inference_mode: true` is left out, the adapter learns" in settings.adapter.notes[0]
    assert "made for the base model meta-llama/Llama-2-7b-hf" in settings.adapter.notes[1]
    (tmp_path / "adapter_config.json").unlink()  # a run's own configuration holds all of it
    assert _again(tmp_path, settings).adapter == settings.adapter


def test_what_peft_leaves_out_has_its_defaults_not_ours(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    adapter = _read(tmp_path, {"config": "adapter_config.json"}).adapter
    assert (adapter.r, adapter.lora_alpha, adapter.target) == (8, 8.0, "attention_query_value")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"task_type": "SEQ_2_SEQ_LM"},
            "is for the task SEQ_2_SEQ_LM, but `backbone.task_type` is causal_lm.",
        ),
        ({"peft_type": "LORRA"}, "names no kind of adapter that there is: LORRA."),
        ({"use_dorra": True}, "peft here has no such field for `lora`. Did you mean `use_dora`?"),
        ({"r": "8"}, "adapter.r: must be a whole number"),
        ({"layers_pattern": "layers"}, "adapter.layers_pattern: is not supported."),
    ],
)
def test_a_file_that_does_not_fit(tmp_path, changes, said):
    (tmp_path / "adapter_config.json").write_text(json.dumps({**LORA_FILE, **changes}), encoding="utf-8")
    assert said in _refused(tmp_path, {"config": "adapter_config.json"})


def test_a_file_that_is_not_there(tmp_path):
    assert "Name an `adapter_config.json`, or the folder" in _refused(tmp_path, {"config": "nowhere.json"})
    (tmp_path / "adapter_config.json").write_text(json.dumps(LORA_FILE), encoding="utf-8")
    found = _refused(tmp_path, {"config": "adapter_config.json", "kind": "oft"})
    assert "adapter.kind: the file is of the kind `lora`. Remove the key." in found
