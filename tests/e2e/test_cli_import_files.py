"""`evertune init --from` of configurations of other programs, from the command line to a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evertune.config.load import load_config
from tests.e2e.conftest import Cli

FACTORY = """\
model_name_or_path: builtin:tiny-llama
stage: sft
finetuning_type: lora
lora_target: q_proj,v_proj
dataset: mine
dataset_dir: .
template: alpaca
cutoff_len: 128
num_train_epochs: 1.0
learning_rate: 1.0e-3
plot_loss: true
unheard_of: [1, 2]
"""
INFO = {"mine": {"file_name": "rows.jsonl", "columns": {"prompt": "text", "response": "label"}}}
ADAPTER = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"row {number}", "label": ["neg", "pos"][number % 2]} for number in range(24)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "dataset_info.json").write_text(json.dumps(INFO))
    (tmp_path / "theirs.yaml").write_text(FACTORY)
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return tmp_path


def test_llama_factory_to_a_run(cli: Cli, here: Path) -> None:
    said = cli("init", "own.yaml", "--from", "theirs.yaml")
    assert said.code == 0, said.err
    assert "theirs.yaml: training configuration of LLaMA-Factory" in said.out
    assert "  unheard_of: [1, 2]: nothing here is known by this name" in said.out.splitlines()
    assert "#   unheard_of: [1, 2]: nothing here is known by this name" in Path("own.yaml").read_text().splitlines()
    assert cli("validate", "own.yaml").code == 0
    done = cli("run", "own.yaml", "--set", "evaluation.zero_shot=false", "--json")
    assert done.code == 0, done.err
    (written,) = Path("runs/own").glob("stages/01-mine/adapter/adapter_config.json")
    assert sorted(json.loads(written.read_text())["target_modules"]) == ["q_proj", "v_proj"]


def test_the_same_as_json(cli: Cli, here: Path) -> None:
    said = cli("init", "own.yaml", "--from", "theirs.yaml", "--json", "--method", "replay").json
    assert (said["kind"], said["tasks"]) == ("training configuration of LLaMA-Factory", ["mine"])
    assert {"key": "unheard_of", "value": [1, 2], "why": "nothing here is known by this name"} in said["left"]
    assert {"key": "method.name", "value": "replay", "from": "--method"} in said["keys"]
    assert [name for name, _ in load_config("own.yaml").first.methods] == ["replay"]


def test_options_of_scripts_have_no_effect_and_nothing_is_overwritten(cli: Cli, here: Path) -> None:
    said = cli("init", "own.yaml", "--from", "theirs.yaml", "--script-args", "x")
    assert said.code == 2
    assert said.err == "evertune init: `--script-args` has no effect on theirs.yaml: it is no launch script.\n"
    Path("own.yaml").write_text("kept")
    assert cli("init", "own.yaml", "--from", "theirs.yaml").code == 2
    assert Path("own.yaml").read_text() == "kept"


def test_an_adapter_file_of_peft(cli: Cli, here: Path) -> None:
    assert cli("init", "conf/peft.yaml", "--from", "adapter_config.json").code == 0
    text = Path("conf/peft.yaml").read_text()
    assert "  config: ../adapter_config.json # read as it is" in text
    adapter = load_config("conf/peft.yaml").adapter
    assert (adapter.r, adapter.lora_alpha, adapter.target) == (3, 6, ("q_proj",))


def test_train_with_an_adapter_file(cli: Cli, here: Path) -> None:
    words = ["--adapter", "adapter_config.json", "--epochs", "1", "--set", "evaluation.zero_shot=false", "--execute"]
    done = cli("train", "--model", "builtin:tiny-llama", "--dataset", "rows.jsonl", "--output-dir", "out/x", *words)
    assert done.code == 0, done.err
    (written,) = Path("out/x").glob("stages/01-rows/adapter/adapter_config.json")
    found = json.loads(written.read_text())
    assert {key: found[key] for key in ADAPTER} == ADAPTER
