"""The section `adapter`: what the model or the method decides on, names that match nothing, and names of methods."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evertune.adapters.spec import AdapterSpec
from evertune.backbones.builtin import builtin_folder
from evertune.checking import check_adapter
from evertune.cli.app import main
from evertune.cli.describe import _found
from evertune.cli.targets import target_entries
from evertune.config.load import dump_config, load_config
from evertune.errors import BackboneError, ConfigError, InputError
from tests.unit.backbones.chatglm_folder import write_chatglm

LLAMA = {"path": "builtin:tiny-llama"}
BERT = {"path": "builtin:tiny-bert", "task_type": "sequence_classification"}


def _written(folder: Path, adapter: dict[str, Any], backbone: dict[str, Any] = LLAMA, method: str = "seq-lora") -> Path:
    file = folder / "stream.yaml"
    settings = {"stream": {"name": "synthetic"}, "backbone": backbone, "adapter": adapter, "method": method}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def _read(folder: Path, adapter: dict[str, Any], backbone: dict[str, Any] = LLAMA, method: str = "seq-lora") -> Any:
    return load_config(_written(folder, adapter, backbone, method))


def _refused(folder: Path, adapter: dict[str, Any], *more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        _read(folder, adapter, *more)
    return str(caught.value)


def _of_file(folder: Path, fields: dict[str, Any], *more: Any) -> Any:
    (folder / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    return _read(folder, {"config": "adapter_config.json"}, *more).adapter


def test_heads_in_a_file_are_left_out_and_said(tmp_path):
    fields = {"peft_type": "LORA", "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]}
    adapter = _of_file(tmp_path, fields, BERT)
    assert adapter.options == {}
    assert "`modules_to_save` without classifier, score: heads are trained anyway" in adapter.notes[-1]
    more = _of_file(tmp_path, {**fields, "modules_to_save": ["bert.pooler.dense", "word_embeddings"]}, BERT)
    assert more.options == {"modules_to_save": ["word_embeddings"]}


def test_heads_that_are_written_are_refused(tmp_path):
    found = _refused(tmp_path, {"modules_to_save": ["classifier"]}, BERT)
    assert "adapter.modules_to_save: names classifier, and heads are trained anyway. Remove the key." in found
    spec = _read(tmp_path, {"modules_to_save": ["lm_head"]}).adapter
    assert spec == AdapterSpec(options={"modules_to_save": ["lm_head"]})


def test_sizes_of_another_model_are_left_out_and_said(tmp_path):
    sizes = {"token_dim": 768, "num_layers": 12, "num_attention_heads": 12, "num_transformer_submodules": 1}
    fields = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 4}
    adapter = _of_file(tmp_path, {**fields, **sizes})
    assert adapter == AdapterSpec(kind="prefix_tuning", options={"num_virtual_tokens": 4})
    assert "token_dim, num_layers, num_attention_heads, num_transformer_submodules left out" in adapter.notes[-1]
    assert _of_file(tmp_path, {**fields, "token_dim": None}).notes == ()


def test_sizes_that_are_written_are_refused(tmp_path):
    found = _refused(tmp_path, {"kind": "p_tuning", "token_dim": 768})
    assert "adapter.token_dim: follows from the model. Remove the key." in found


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("o-lora", "keeps tasks apart by moving A, which `lora_fa` holds"),
        ("n-lora", "makes A and B sparse together, and `lora_fa` holds A"),
        ("inf-lora", "has no effect: method inf-lora sets A itself"),
    ],
)
def test_methods_that_move_a_go_with_no_held_one(tmp_path, method, said):
    found = _refused(tmp_path, {"lora_fa": True}, LLAMA, method)
    assert "adapter.lora_fa: " in found
    assert said in found
    assert _read(tmp_path, {"lora_fa": True}, LLAMA, "inc-lora").adapter.lora_fa


@pytest.mark.parametrize(
    ("begin", "values"),
    [
        ("eva", {"rho": 1.5}),
        ("corda", {"corda_method": "kpm"}),
        ("lora_ga", {"scale": "stable"}),
        ("loftq", {"loftq_bits": 4}),
    ],
)
def test_options_of_a_beginning_need_it(tmp_path, begin, values):
    found = _refused(tmp_path, {f"{begin}_config": values, "init_lora_weights": "pissa"})
    said = f"has no effect without `init_lora_weights: {begin}`. Write `init_lora_weights: {begin}`."
    assert f"adapter.{begin}_config: {said}" in found


@pytest.mark.parametrize(
    ("adapter", "said"),
    [
        (
            {"modules_to_save": ["nonsense"]},
            "adapter.modules_to_save: No module of this model is called `nonsense`. There are: model, embed_tokens,",
        ),
        (
            {"kind": "prompt_tuning", "modules_to_save": ["lm_haed"]},
            "No module of this model is called `lm_haed`. Did you mean `lm_head`? There are: model,",
        ),
        (
            {"rank_pattern": {"q_porj": 2}},
            "adapter.rank_pattern: No target is matched by `q_porj`. Did you mean `q_proj`? There are: q_proj, v_proj.",
        ),
        ({"alpha_pattern": {"k_proj": 2}}, "adapter.alpha_pattern: No target is matched by `k_proj`."),
        ({"kind": "loha", "rank_pattern": {"(": 2}}, "adapter.rank_pattern: No target is matched by `(`."),
    ],
)
def test_names_that_match_nothing(tmp_path, adapter, said):
    settings = _read(tmp_path, adapter)
    with pytest.raises(InputError) as caught:
        check_adapter(settings)
    assert said in str(caught.value)


def test_names_that_match(tmp_path):
    adapter = {
        "modules_to_save": ["lm_head", "embed_tokens"],
        "rank_pattern": {r"layers\.0\..*q_proj": 2, "v_proj": 4},
        "alpha_pattern": {"model.layers.1.self_attn.v_proj": 2},
    }
    check_adapter(_read(tmp_path, adapter))


TEXT = {"kind": "prompt_tuning", "prompt_tuning_init": "TEXT", "prompt_tuning_init_text": "Name the topic"}


def test_a_tokenizer_is_found_as_a_model_is(tmp_path):
    name = "tokenizer_name_or_path"
    folder = builtin_folder("tiny-t5")
    (tmp_path / "words").symlink_to(folder)
    for written, meant in (("builtin:tiny-t5", str(folder)), ("./words", str(folder.resolve()))):
        settings = _read(tmp_path, {**TEXT, name: written})
        assert settings.adapter.options[name] == meant
        check_adapter(settings)
    settings = _read(tmp_path, {**TEXT, name: "builtin:tiny-llama"})
    assert name not in settings.adapter.options
    (tmp_path / "again.yaml").write_text(dump_config(settings), encoding="utf-8")
    assert load_config(tmp_path / "again.yaml").adapter == settings.adapter


def test_a_tokenizer_that_is_not_there(tmp_path):
    name = "tokenizer_name_or_path"
    found = _refused(tmp_path, {**TEXT, name: "./nowhere"})
    assert f"adapter.{name}: there is no folder {tmp_path / 'nowhere'}. Leave it out to use" in found
    assert f"adapter.{name}: There is no built-in model `tiny`." in _refused(tmp_path, {**TEXT, name: "builtin:tiny"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=f"adapter.{name}: no tokenizer can be read from"):
        check_adapter(_read(tmp_path, {**TEXT, name: "empty"}))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("pissa", "Write `kind: lora` with `init_lora_weights: pissa`."),
        ("DoRA", "Write `kind: lora` with `use_dora: true`."),
        ("olora", "Write `kind: lora` with `init_lora_weights: olora`."),
        ("eva", "Write `kind: lora` with `init_lora_weights: eva`."),
        ("rslora", "Write `kind: lora` with `use_rslora: true`."),
        ("qlora", "Write `kind: lora`, and `quantization: nf4` under `backbone`."),
        ("lora+", "Write `kind: lora` with `loraplus_lr_ratio: 16`."),
        ("loraplus", "Write `kind: lora` with `loraplus_lr_ratio: 16`."),
        ("lora-fa", "Write `kind: lora` with `lora_fa: true`."),
        ("lorafa", "Write `kind: lora` with `lora_fa: true`."),
        ("bitfit", "`kind: beft` for biases alone."),
    ],
)
def test_methods_that_are_options_are_said_to_be(tmp_path, kind, said):
    assert f"there is no adapter kind `{kind}`. Write `kind: lora`" in _refused(tmp_path, {"kind": kind})
    assert said in _refused(tmp_path, {"kind": kind})
    with pytest.raises(InputError) as caught:
        _found(kind)
    assert said in str(caught.value)


def test_a_method_that_is_a_kind_too_shows_both(capsys):
    found = _found("osf")
    assert (found["kind"], found["adapter"]["kind"]) == ("method", "adapter kind")
    assert "effective_rank" in {option["name"] for option in found["adapter"]["options"]}
    assert main(["describe", "osf"]) == 0
    shown = capsys.readouterr().out
    assert "adapter kind osf" in shown
    assert "effective_rank" in shown
    assert "causal_lm: trains" in shown


def test_validate_says_what_was_left_out(tmp_path, capsys):
    fields = {"peft_type": "LORA", "inference_mode": True, "target_modules": ["q_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields), encoding="utf-8")
    file = str(_written(tmp_path, {"config": "adapter_config.json"}))
    said = "`inference_mode: true` is left out, the adapter learns"
    assert main(["validate", file]) == 0
    shown = capsys.readouterr()
    assert said in " ".join((shown.out + shown.err).split())
    assert main(["validate", file, "--json"]) == 0
    assert said in json.loads(capsys.readouterr().out)["notes"][-1]


def test_code_that_comes_with_a_model_runs_only_when_told(tmp_path):
    write_chatglm(tmp_path)
    with pytest.raises(BackboneError, match="Write `--trust-remote-code` to run it"):
        target_entries(str(tmp_path))
    # In a process of its own: code of models stays imported, and other tests import some too.
    code = "import sys; from evertune.cli.targets import target_entries; "
    code += "print([one['name'] for one in target_entries(sys.argv[1], trust_remote_code=True)])"
    settings = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", code, str(tmp_path)]
    said = subprocess.run(command, env=settings, capture_output=True, text=True, check=False)
    assert "query_key_value" in said.stdout, said.stderr
