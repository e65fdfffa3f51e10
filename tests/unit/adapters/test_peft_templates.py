"""The adapter_config.json templates beside the recipes: peft reads each, and each learns on a built-in model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftConfig, get_peft_model
from transformers import AutoModelForCausalLM

import evertune
from evertune.backbones.builtin import builtin_folder

TEMPLATES = sorted((Path(evertune.__file__).parent / "recipes" / "peft").glob("*.json"))


def test_the_popular_ones_are_there() -> None:
    names = {file.stem for file in TEMPLATES}
    assert names >= {"lora", "qlora-all-linear", "dora", "rslora", "pissa", "adalora", "ia3", "oft", "boft"}
    assert names >= {"prompt_tuning", "p_tuning", "prefix_tuning"}


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_peft_reads_it(file: Path, tmp_path: Path) -> None:
    written = json.loads(file.read_text())
    read = PeftConfig.from_peft_type(**PeftConfig.from_json_file(str(file)))
    assert set(written) <= {field.name for field in dataclasses.fields(read)}, "no key that peft would drop"
    shutil.copy(file, tmp_path / "adapter_config.json")
    assert PeftConfig.from_pretrained(str(tmp_path)).peft_type == written["peft_type"]


@pytest.mark.parametrize("file", TEMPLATES, ids=lambda file: file.stem)
def test_it_learns_on_a_built_in_model(file: Path) -> None:
    torch.manual_seed(0)
    config = PeftConfig.from_peft_type(**json.loads(file.read_text()))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(builtin_folder("tiny-llama")), config)
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    optimizer = torch.optim.AdamW(learning, lr=1e-3)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
