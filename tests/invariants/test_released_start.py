"""Runs that start from an adapter folder of the released O-LoRA, N-LoRA or GORP code: it is there, and stays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evertune import load_config
from evertune.adapters.released import RELEASED
from evertune.adapters.spec import AdapterPlan
from evertune.console import Console
from evertune.errors import InputError
from evertune.restore import restore_stage
from tests.invariants.test_resume import killed, uninterrupted


@pytest.fixture
def released(tmp_path: Path, write_config: Callable[..., Path]) -> Path:
    """A folder with two finished tasks of rank 3 and the newest apart, on the modules of a small run's adapter."""
    config = write_config(
        "source", stream={"tasks": ["topic"]}, train={"max_steps": 1}, evaluation={"zero_shot": False}
    )
    uninterrupted(config, tmp_path / "source")
    draw = torch.Generator().manual_seed(1)
    tensors = {}
    for key, tensor in load_file(tmp_path / "source/stages/01-topic/adapter/adapter_model.safetensors").items():
        for part, rank in (("lora", 6), ("loranew", 3)):
            shape = (rank, tensor.shape[1]) if ".lora_A." in key else (tensor.shape[0], rank)
            tensors[key.replace("lora_", f"{part}_")] = 0.05 * torch.randn(shape, generator=draw)
    folder = tmp_path / "released"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": "", "r": 3, "r_sum": 6, "lora_alpha": 12}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def scores(output: Path) -> dict[str, list]:
    return json.loads((output / "matrix.json").read_text(encoding="utf-8"))


def test_it_takes_part_in_every_stage_and_survives_a_kill(
    released: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    shared = {"train": {"max_steps": 3}, "method": {"name": "o-lora", "lambda_1": 0.1}}
    config = write_config("started", adapter={"start_from": str(released)}, **shared)
    alone = uninterrupted(config, tmp_path / "alone")
    again = killed(config, tmp_path / "killed", ["step:0:2", "step:1:2", "cell:1:1"])
    assert [file for file in alone if alone[file] != again.get(file)] == []
    assert not [file for file in alone if RELEASED in file], "it is read where it lies, and not copied"

    without = uninterrupted(write_config("without", **shared), tmp_path / "without")
    predictions = [file for file in alone if file.endswith(".jsonl")]
    zero_shot = [file for file in predictions if file.startswith("zero_shot/")]
    assert len(zero_shot) == 2
    assert [file for file in zero_shot if alone[file] != without[file]] == []
    assert any(alone[file] != without[file] for file in predictions)

    # A past task from the first stage on: the penalty has something to keep away from.
    events = [json.loads(line) for line in (tmp_path / "alone" / "events.jsonl").read_text().splitlines()]
    assert all(event["terms"]["orthogonality"] > 0 for event in events if event["event"] == "step")
    manifest = json.loads((tmp_path / "alone" / "manifest.json").read_text())
    assert manifest["start_from"]["folder"] == str(released)
    assert f"A frozen adapter from {released} takes part in every stage" in manifest["stamps"][-1]


def test_a_finished_stage_answers_with_it(released: Path, tmp_path: Path, write_config: Callable[..., Path]) -> None:
    config = write_config(
        "placed", method="per-task-lora", adapter={"start_from": str(released)}, train={"max_steps": 1}
    )
    output = tmp_path / "run"
    uninterrupted(config, output)
    stage = restore_stage(load_config(config, output_dir=output), output, 1, Console(speaks=False))
    paths = stage.bank.base_model.model.layers[0].self_attn.q_proj  # type: ignore[union-attr]
    came = paths.weight.detach().clone()
    stage.place(1)  # not learnt yet: the model as the run began with it
    assert stage.bank.active == (RELEASED,)
    stage.place(0)
    assert stage.bank.active == (RELEASED, "task-01")
    tensors = load_file(released / "adapter_model.safetensors")
    start = "base_model.model.model.layers.0.self_attn.q_proj"
    change = sum(
        4.0 * tensors[f"{start}.{part}_B.weight"] @ tensors[f"{start}.{part}_A.weight"] for part in ("lora", "loranew")
    )
    layer = stage.bank.base_model.model.layers[0].self_attn.q_proj  # type: ignore[union-attr]
    torch.testing.assert_close(layer.base_layer.weight.detach(), came + change, rtol=0, atol=1e-6)
    stage.bank.apply(AdapterPlan(()))
    assert torch.equal(layer.base_layer.weight, came)


def test_another_folder_than_the_run_began_with(
    released: Path, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    config = write_config(
        "kept", stream={"tasks": ["topic"]}, adapter={"start_from": str(released)}, train={"max_steps": 1}
    )
    output = tmp_path / "run"
    uninterrupted(config, output)
    weights = released / "adapter_model.safetensors"
    kept = weights.read_bytes()
    for change in (lambda: weights.write_bytes(kept[:-1] + b"\x01"), weights.unlink):
        change()
        text = f"{released}: The frozen adapter here is not the one that this run began with"
        with pytest.raises(InputError) as caught:
            uninterrupted(config, output)
        assert text in str(caught.value)
        with pytest.raises(InputError) as caught:
            restore_stage(load_config(config, output_dir=output), output, None, Console(speaks=False))
        assert text in str(caught.value)
        assert caught.value.exit_code == 2
    weights.write_bytes(kept)
    uninterrupted(config, output)
