"""How the rows of a step are split over micro-batches and processes changes nothing, for every method."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evertune import load_config, run
from evertune.console import Console
from evertune.methods import METHODS

SCRIPT = Path(__file__).with_name("two_processes.py")
TRAIN = {"max_steps": 10, "learning_rate": 3e-4, "save_steps": 0, "logging_steps": 10}
STREAM = {"test_rows": 4, "train_rows": 80}  # two tasks: 20 steps
EVALUATION = {"zero_shot": False}


def weights(output: Path) -> dict[str, torch.Tensor]:
    """Every tensor that the run trained."""
    files = sorted(output.glob("stages/*/adapter*/**/adapter_model.safetensors"))
    files += sorted(output.glob("stages/*/delta.safetensors"))
    return {f"{file.relative_to(output)}:{name}": value for file in files for name, value in load_file(file).items()}


def assert_close(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    assert len(left) > 0
    worst = max((left[name] - right[name]).abs().max().item() for name in left)
    assert worst < 1e-5, f"largest difference {worst:.1e}"
    moved = max(value.abs().max().item() for name, value in left.items() if "lora_B" in name or "delta" in name)
    assert moved > 1e-4, "nothing was learnt: the comparison would be empty"


def trained(config: Path, output: Path) -> dict[str, torch.Tensor]:
    with open(os.devnull, "w") as silence:
        run(load_config(config, output_dir=output), console=Console(silence))
    return weights(output)


@pytest.fixture(scope="module")
def configurations(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], Path]:
    import yaml

    from tests.invariants.conftest import BASE, merged, needs

    folder = tmp_path_factory.mktemp("configurations")

    def write(method: str, per_device: int, accumulation: int) -> Path:
        split = {"per_device_train_batch_size": per_device, "gradient_accumulation_steps": accumulation}
        common = {"train": {**TRAIN, **split}, "stream": STREAM, "evaluation": EVALUATION}
        path = folder / f"{method}-{per_device}x{accumulation}.yaml"
        path.write_text(yaml.safe_dump(merged(merged(BASE, needs(method)), common)), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="module")
def whole(configurations: Callable[[str, int, int], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Every method with the step as one batch of eight in one process."""
    folder = tmp_path_factory.mktemp("whole")
    return {name: trained(configurations(name, 8, 1), folder / name) for name in METHODS.names()}


@pytest.mark.parametrize("method", METHODS.names())
def test_accumulation_1x8_equals_8x1(method: str, whole: dict, configurations: Callable, tmp_path: Path) -> None:
    assert_close(trained(configurations(method, 1, 8), tmp_path / "run"), whole[method])


def test_two_processes_equal_one(whole: dict, configurations: Callable, tmp_path: Path) -> None:
    """Two gloo processes with batches of two, accumulated twice."""
    pairs = [part for name in METHODS.names() for part in (str(configurations(name, 2, 2)), str(tmp_path / name))]
    # `--cpu` would start one process only; on a machine without GPUs `--multi_gpu` means gloo on the CPU.
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *launch, str(SCRIPT), *pairs]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    for name in METHODS.names():
        assert_close(weights(tmp_path / name), whole[name])
