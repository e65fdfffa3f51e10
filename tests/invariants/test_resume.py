"""A run that is killed anywhere and started again ends in the same bytes as one that was left alone."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from evertune import load_config, run
from evertune.console import Console
from tests.invariants.conftest import needs, results

KILLER = Path(__file__).with_name("killed_run.py")


def uninterrupted(config: Path, output: Path) -> dict[str, bytes]:
    with output.with_suffix(".txt").open("w") as said:
        run(load_config(config, output_dir=output), console=Console(said))
    return results(output)


def killed(config: Path, output: Path, moments: list[str]) -> dict[str, bytes]:
    command = [sys.executable, str(KILLER), str(config), str(output), *moments]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    assert outcome.stdout.count("killed at") == len(moments), outcome.stdout
    return results(output)


CASES = {
    "seq-lora": {"method": "seq-lora"},
    "inc-lora": {"method": "inc-lora"},
    "per-task-lora": {"method": "per-task-lora"},
    "replay": {"method": {"name": "replay", "ratio": 0.5, "buffer_size": 20}},
    "replay surprise": {"method": {"name": "replay", "ratio": 0.5, "buffer_size": 20, "selection": "surprise"}},
    "ds-lora merged": {"method": {"name": "ds-lora", "slow_learning_rate": 1e-4, "fast": "merged"}},
    **{name: needs(name) for name in ("o-lora", "osf", "slao", "inf-lora", "migu", "gorp")},
    **{name: needs(name) for name in ("ds-lora", "slsd", "ewc", "lwf", "a-gem", "lora-ema")},
}


@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_steps_and_in_an_evaluation(
    name: str, tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    draw = random.Random(f"kill {name}")
    config = write_config(name, **CASES[name])
    moments = [
        f"step:0:{draw.randint(1, 5)}",
        f"step:0:{draw.randint(5, 6)}",
        f"step:1:{draw.randint(1, 3)}",
        f"step:1:{draw.randint(4, 6)}",
        "cell:1:1",
    ]
    alone = uninterrupted(config, tmp_path / "alone")
    again = killed(config, tmp_path / "killed", moments)
    assert alone.keys() == again.keys()
    assert [file for file in alone if alone[file] != again[file]] == []
    assert any(file.endswith(("adapter_model.safetensors", "delta.safetensors")) for file in alone)


def test_killed_with_dropout_schedule_and_dev_evaluation(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    """What else has a state: the random generators, the schedule, the best weights so far."""
    config = write_config(
        "stateful",
        adapter={"lora_dropout": 0.2},
        train={"lr_scheduler_type": "cosine", "warmup_ratio": 0.3, "weight_decay": 0.1, "save_steps": 1},
        evaluation={"during_training": {"steps": 2}, "keep": "best", "zero_shot": False},
    )
    alone = uninterrupted(config, tmp_path / "alone")
    again = killed(config, tmp_path / "killed", ["step:0:3", "step:1:5", "cell:1:1"])
    assert [file for file in alone if alone[file] != again.get(file)] == []


def test_a_finished_run_is_left_as_it_is(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    config, output = write_config("finished"), tmp_path / "run"
    first = uninterrupted(config, output)
    times = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/adapter/*")}
    assert uninterrupted(config, output) == first
    assert {path: path.stat().st_mtime_ns for path in output.glob("stages/*/adapter/*")} == times


def test_one_seed_gives_the_same_bytes_and_another_seed_others(
    tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    config = write_config("seeded", train={"max_steps": 3})
    first, second = (uninterrupted(config, tmp_path / name) for name in ("first", "second"))
    other = uninterrupted(write_config("other", seed=4, train={"max_steps": 3}), tmp_path / "third")
    assert first == second
    weights = "stages/01-sentiment/adapter/adapter_model.safetensors"
    assert first[weights] != other[weights]


def begun_again(output: Path, stages: slice) -> None:
    """Takes stages back to before they began, as if the run had been killed there."""
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    for entry in manifest["stages"][stages]:
        shutil.rmtree(output / entry["folder"])
        entry |= {"status": "pending", "adapters": {}, "files": {}}
    (output / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_only_the_first_adapter_of_a_run_starts_from_another_one(
    tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    """A resumed run holds no adapters yet when it comes to a later stage."""
    uninterrupted(write_config("source", train={"max_steps": 2}), tmp_path / "source")
    start = str(tmp_path / "source" / "stages" / "02-topic")
    config = write_config("started", method="per-task-lora", adapter={"start_from": start})
    alone = uninterrupted(config, tmp_path / "run")
    begun_again(tmp_path / "run", slice(1, None))
    again = uninterrupted(config, tmp_path / "run")
    assert [file for file in alone if alone[file] != again.get(file)] == []


def test_a_stage_that_is_scored_again_answers_with_its_own_weights(
    tmp_path: Path, write_config: Callable[..., Path]
) -> None:
    """Also when an earlier stage was scored just before, and put older weights of the same adapter on the model."""
    config, output = write_config("scored", train={"learning_rate": 1e-2, "max_steps": 12}), tmp_path / "run"
    alone = uninterrupted(config, output)
    predictions = [alone[f"stages/{stage}/predictions/sentiment.jsonl"] for stage in ("01-sentiment", "02-topic")]
    assert predictions[0] != predictions[1], "the stages must differ for this to mean anything"
    for cells in output.glob("stages/*/cells"):
        shutil.rmtree(cells)
    again = uninterrupted(config, output)
    assert [file for file in alone if alone[file] != again.get(file)] == []


def test_no_checkpoint_outlasts_a_run(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    """Also where the process was killed between saving a stage and removing its checkpoint."""
    config, output = write_config("leftover", train={"max_steps": 1}), tmp_path / "run"
    uninterrupted(config, output)
    (output / "checkpoint" / "02-topic" / "step-00000001").mkdir(parents=True)
    uninterrupted(config, output)
    assert not (output / "checkpoint").exists()
