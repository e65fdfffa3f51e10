"""``evertune export``: what others load computes what the run computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from evertune.backbones.builtin import builtin_folder
from evertune.cli.app import main
from tests.invariants.conftest import BASE, merged, needs

SHORT = {
    "stream": {"train_rows": 24, "test_rows": 4, "dev_fraction": 0.0},
    "train": {"max_steps": 3, "save_steps": 0},
    "evaluation": {"zero_shot": False},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for method in ("inc-lora", "gorp", "osf", "slao", "per-task-lora"):
        config = folder / f"{method}.yaml"
        config.write_text(yaml.safe_dump(merged(merged(BASE, needs(method)), SHORT)), encoding="utf-8")
        made[method] = folder / method
        assert main(["run", str(config), "--output-dir", str(made[method])]) == 0
    return made


def answers(model: torch.nn.Module, text: str) -> torch.Tensor:
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tiny-llama"))
    with torch.no_grad():
        return model.eval()(**tokenizer(text, return_tensors="pt")).logits


def base() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(builtin_folder("tiny-llama"))


@pytest.mark.parametrize("method", ["inc-lora", "slao"])
def test_an_adapter_and_a_merged_model_say_the_same(method: str, runs: dict[str, Path], tmp_path: Path) -> None:
    assert main(["export", str(runs[method]), str(tmp_path / "adapter")]) == 0
    assert main(["export", str(runs[method]), str(tmp_path / "merged"), "--as", "merged"]) == 0
    adapted = answers(PeftModel.from_pretrained(base(), tmp_path / "adapter"), "a b c")
    whole = answers(AutoModelForCausalLM.from_pretrained(tmp_path / "merged"), "a b c")
    assert torch.allclose(adapted, whole, atol=1e-4)
    assert (adapted - answers(base(), "a b c")).abs().max() > 1e-3


def test_all_adapters_of_a_sum_are_in_it(runs: dict[str, Path], tmp_path: Path) -> None:
    assert main(["export", str(runs["inc-lora"]), str(tmp_path / "both")]) == 0
    assert main(["export", str(runs["inc-lora"]), str(tmp_path / "first"), "--stage", "1"]) == 0
    ranks = [json.loads((tmp_path / name / "adapter_config.json").read_text())["r"] for name in ("first", "both")]
    assert ranks == [4, 8]
    # The same sum by hand: the two adapters that the run kept, on the base weight of one module.
    path = "model.layers.0.self_attn.q_proj"
    summed = base().get_submodule(path).weight.detach().double()
    for stage in sorted(runs["inc-lora"].glob("stages/*/adapter")):
        one = PeftModel.from_pretrained(base(), stage).base_model.model.get_submodule(path)
        summed = summed + one.get_delta_weight("default").double()
    both = PeftModel.from_pretrained(base(), tmp_path / "both").merge_and_unload().get_submodule(path).weight
    assert torch.allclose(both.double(), summed, atol=1e-6)


@pytest.mark.parametrize("method", ["gorp", "osf"])
def test_changed_base_weights_are_exported_merged(method: str, runs: dict[str, Path], tmp_path: Path, capsys) -> None:
    assert main(["export", str(runs[method]), str(tmp_path / "adapter")]) == 2
    assert "changed weights of the base model" in capsys.readouterr().err
    assert not (tmp_path / "adapter").exists()
    assert main(["export", str(runs[method]), str(tmp_path / "merged"), "--as", "merged"]) == 0
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (answers(whole, "a b c") - answers(base(), "a b c")).abs().max() > 1e-4
    card = (tmp_path / "merged" / "README.md").read_text()
    assert f"method: {method}" in card
    assert "sentiment, topic" in card


def test_whose_adapters_must_be_said_where_tasks_have_their_own(runs: dict[str, Path], tmp_path: Path, capsys) -> None:
    assert main(["export", str(runs["per-task-lora"]), str(tmp_path / "x")]) == 2
    assert (
        "--task: Every task of this run has adapters of its own. Name one of: sentiment, topic."
        in capsys.readouterr().err
    )
    assert main(["export", str(runs["per-task-lora"]), str(tmp_path / "x"), "--task", "topic", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["form"] == "adapter"
    assert told["difference"] < 1e-4
    assert main(["export", str(runs["per-task-lora"]), str(tmp_path / "x"), "--task", "topic"]) == 2
    assert "This exists already" in capsys.readouterr().err
