"""Runs of encoders over streams that mix classification, names and questions."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from evertune import load_config, run
from evertune.console import Console
from tests.invariants.test_resume import killed, uninterrupted
from tests.invariants.test_scale import SCRIPT
from tests.unit.backbones.encoder_tasks import labelled, passages, tagged


def _write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def mixed(tmp_path: Path, write_config: Callable[..., Path]) -> Callable[..., Path]:
    """A configuration of three tasks of three kinds."""
    notes = [{"text": row.prompt_text, "label": row.target} for row in labelled("notes", ["good", "bad"], 40).train]
    names = [{"tokens": [*row.content.tokens], "tags": [*row.content.tags]} for row in tagged("names", 40).train]
    for number, row in enumerate(names):
        row["tokens"][-1] = f"again{number}"  # rows that differ, or there is nothing to carve
    questions = [
        {
            "question": row.content.question,
            "context": f"{row.content.context} Row {number}.",
            "answers": {"text": [*row.content.answers], "answer_start": [*row.content.starts]},
        }
        for number, row in enumerate(passages("questions", 40).train)
    ]
    tasks = [
        {"name": "notes", "train": _write(tmp_path / "notes.jsonl", notes)},
        {"name": "names", "train": _write(tmp_path / "names.jsonl", names)},
        {"name": "questions", "train": _write(tmp_path / "questions.jsonl", questions)},
    ]

    def config(name: str, **change: object) -> Path:
        change = {
            "backbone": {"path": "builtin:tiny-bert", "task_type": "sequence_classification"},
            "stream": {
                "name": "instructions",
                "tasks": tasks,
                "max_test_samples": 6,
                "train_rows": "left out",
                "test_rows": "left out",
            },
            **change,
        }
        return write_config(name, **change)

    return config


@pytest.mark.parametrize("method", ["inc-lora", {"name": "replay", "ratio": 0.5, "buffer_size": 10}])
def test_kinds_of_tasks_mix_and_a_killed_run_ends_in_the_same_bytes(
    method: object, tmp_path: Path, mixed: Callable[..., Path]
) -> None:
    config = mixed("mixed", method=method)
    alone = uninterrupted(config, tmp_path / "alone")
    again = killed(config, tmp_path / "killed", ["step:0:3", "step:1:5", "step:2:2", "cell:2:1"])
    assert alone.keys() == again.keys()
    assert [file for file in alone if alone[file] != again[file]] == []
    heads = load_file(tmp_path / "alone" / "stages" / "03-questions" / "heads.safetensors")
    assert {name.split("/")[0] for name in heads} == {"notes", "names", "questions"}


def _learnt(output: Path) -> dict:
    files = [*output.glob("stages/*/adapter/adapter_model.safetensors"), *output.glob("stages/*/heads.safetensors")]
    return {f"{file.relative_to(output)}:{name}": value for file in files for name, value in load_file(file).items()}


def test_how_the_rows_of_a_step_are_split_changes_nothing(tmp_path: Path, mixed: Callable[..., Path]) -> None:
    """Micro-batches, and two processes of which each meets other tasks, and other heads, than the other."""
    # Rounding would decide the sign of the smallest gradients, and Adam's step, without the larger epsilon.
    train = {"max_steps": 6, "learning_rate": 1e-3, "save_steps": 0, "logging_steps": 10, "adam_epsilon": 1e-4}
    replay = {"name": "replay", "ratio": 0.5, "buffer_size": 10}
    split = [("whole", 8, 1), ("ones", 1, 8), ("processes", 2, 2)]
    configs = {
        name: mixed(
            name,
            method=replay,
            train={**train, "per_device_train_batch_size": size, "gradient_accumulation_steps": times},
        )
        for name, size, times in split
    }
    for name in ("whole", "ones"):
        uninterrupted(configs[name], tmp_path / f"run-{name}")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *launch, str(SCRIPT), str(configs["processes"]), str(tmp_path / "run-processes")]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    whole = _learnt(tmp_path / "run-whole")
    for name in ("ones", "processes"):
        other = _learnt(tmp_path / f"run-{name}")
        assert whole.keys() == other.keys()
        worst = max(float((whole[key] - other[key]).abs().max()) for key in whole)
        assert max(float(value.abs().max()) for key, value in whole.items() if "lora_B" in key) > 1e-4
        assert worst < 1e-5, f"{name}: {worst:.1e}"


def test_heads_of_earlier_tasks_learn_only_where_their_rows_are_mixed_in(
    tmp_path: Path, mixed: Callable[..., Path]
) -> None:
    moved = {}
    for name, method in (("alone", "seq-lora"), ("mixed", {"name": "replay", "ratio": 0.5, "buffer_size": 10})):
        output = tmp_path / name
        uninterrupted(mixed(f"config-{name}", method=method), output)
        before, after = (
            load_file(output / "stages" / stage / "heads.safetensors") for stage in ("01-notes", "02-names")
        )
        moved[name] = float((before["notes/classifier.weight"] - after["notes/classifier.weight"]).abs().max())
    assert moved["alone"] == 0
    assert moved["mixed"] > 0


def test_frozen_heads_stay_as_they_were_drawn(tmp_path: Path, mixed: Callable[..., Path]) -> None:
    change = {"path": "builtin:tiny-bert", "task_type": "sequence_classification", "train_heads": False}
    uninterrupted(mixed("frozen", backbone=change), tmp_path / "run")
    first, last = (
        load_file(tmp_path / "run" / "stages" / stage / "heads.safetensors") for stage in ("01-notes", "03-questions")
    )
    assert all((first[name] == last[name]).all() for name in first)


def test_what_learns_is_said(tmp_path: Path, mixed: Callable[..., Path]) -> None:
    with (tmp_path / "said.txt").open("w") as said:
        run(load_config(mixed("said"), output_dir=tmp_path / "run"), console=Console(said))
    assert "heads trained: 2, 258 parameters" in (tmp_path / "said.txt").read_text()
