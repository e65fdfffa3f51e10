"""What the command line shows of adapters, and runs with kinds of every sort; killed ones go on with the same bits."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM

from evertune.adapters.kinds import KINDS
from evertune.backbones.builtin import builtin_folder
from tests.e2e.conftest import Cli

KINDS_RUN = {
    "adalora": {"kind": "adalora", "target_r": 4, "tinit": 1},
    "ia3": {"kind": "ia3"},
    "oft": {"kind": "oft", "oft_block_size": 16},
    "prompt_tuning": {"kind": "prompt_tuning", "num_virtual_tokens": 4},
    "p_tuning": {"kind": "p_tuning", "num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "prefix_tuning": {"kind": "prefix_tuning", "num_virtual_tokens": 4},
    "full": {"kind": "full"},
    "pissa": {"kind": "lora", "r": 4, "init_lora_weights": "pissa"},
}


def _config(folder: Path, adapter: dict[str, object], method: str = "seq-lora") -> Path:
    file = folder / "stream.yaml"
    settings = {
        "stream": {"name": "synthetic", "tasks": ["sentiment", "topic"], "train_rows": 32, "test_rows": 4},
        "backbone": {"path": "builtin:tiny-llama"},
        "adapter": adapter,
        "method": method,
        "train": {"learning_rate": 5.0e-3, "save_steps": 1, "max_source_length": 96},
        "evaluation": {"zero_shot": False, "decoding": "label_likelihood"},
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return file


def _digests(run: Path) -> dict[str, str]:
    files = [*run.glob("stages/**/*.safetensors"), *run.glob("stages/**/adapter_config.json"), run / "matrix.json"]
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.parametrize("name", KINDS_RUN)
def test_a_run_with_a_kind(cli: Cli, tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, KINDS_RUN[name], "replay" if name in ("ia3", "oft") else "per-task-lora")
    said = cli("run", str(config), "--output-dir", str(tmp_path / "run"))
    assert said.code == 0, said.err
    assert "trainable params:" in said.out
    saved = sorted(path.parent for path in (tmp_path / "run" / "stages").glob("*/adapter/evertune.json"))
    assert len(saved) == 2
    base = AutoModelForCausalLM.from_pretrained(builtin_folder("tiny-llama"))
    if name == "full":
        read = type(base).from_pretrained(saved[0])
        assert (read.get_input_embeddings().weight != base.get_input_embeddings().weight).any()
    else:
        PeftModel.from_pretrained(base, str(saved[0]), is_trainable=name == "adalora")
    settings = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert settings["adapter"]["kind"] == KINDS_RUN[name]["kind"]
    again = cli("run", str(config), "--output-dir", str(tmp_path / "run"))
    assert "2 of 2 stages are complete" in again.out


@pytest.mark.parametrize("name", ["adalora", "p_tuning"])
def test_killed_it_goes_on_with_the_same_bits(tmp_path: Path, name: str) -> None:
    config = _config(tmp_path, KINDS_RUN[name])

    def start(run: str) -> subprocess.Popen[str]:
        words = [sys.executable, "-m", "evertune", "run", str(config), "--output-dir", str(tmp_path / run)]
        settings = {**os.environ, "OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0"}
        return subprocess.Popen(words, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    whole = start("whole")
    assert whole.communicate()[0] is not None
    assert whole.returncode == 0
    killed = start("killed")
    while killed.poll() is None:
        if list((tmp_path / "killed").glob("checkpoint/02-*/step-00000002/checkpoint.json")):
            killed.send_signal(signal.SIGKILL)
            killed.communicate()
        time.sleep(0.01)
    assert killed.returncode == -signal.SIGKILL
    resumed = start("killed")
    said, _ = resumed.communicate()
    assert resumed.returncode == 0, said
    assert "continuing behind step" in said
    assert _digests(tmp_path / "killed") == _digests(tmp_path / "whole")


def test_the_table_of_adapters(cli: Cli) -> None:
    listed = {entry["name"]: entry for entry in cli("list", "adapters", "--json").json}
    assert listed.keys() >= KINDS.keys()
    assert listed["lora"]["tasks"]["token_classification"]["usable"]
    assert "decoder" in listed["shadow"]["tasks"]["seq2seq_lm"]["why"]["trains"]
    assert "trsm" in cli("list", "adapters").out


def test_a_kind_in_detail(cli: Cli) -> None:
    found = cli("describe", "lora", "--json").json
    options = {option["name"]: option for option in found["options"]}
    assert {"r", "lora_alpha", "use_dora", "init_lora_weights", "target", "loraplus_lr_ratio"} <= options.keys()
    assert "4, 8 or 16" in options["r"]["advice"]
    assert "Twice the rank" in options["lora_alpha"]["advice"]
    assert all(option["doc"] for option in options.values())
    assert "attention" in found["targets"]
    shown = cli("describe", "oft").out
    assert "oft_block_size" in shown
    assert "causal_lm: trains, reloads, several, merges" in shown


def test_the_targets_of_a_model(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((builtin_folder("tiny-llama") / "config.json").read_bytes())
    listed = {entry["name"]: entry for entry in cli("list", "targets", "--model", str(tmp_path), "--json").json}
    assert listed["q_proj"]["role"] == "attention query"
    assert listed["q_proj"]["count"] == 3
    assert listed["q_proj"]["targetable"]
    assert not listed["embed_tokens"]["targetable"]
    assert "EncDecAttention" in "".join(cli("list", "targets", "--model", "builtin:tiny-t5").out.split())
    for words, said in ((("--model", "/nowhere"), "Name a folder with a config.json"), ((), "Write `--model PATH`")):
        refused = cli("list", "targets", *words)
        assert refused.code == 2
        assert said in refused.err
