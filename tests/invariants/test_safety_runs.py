"""Refusals are measured before the first stage and after each, once, whatever interrupts the run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evertune import load_config, run, scoring
from evertune.console import Console
from evertune.errors import ConfigError, Interrupted
from evertune.evaluation.safety import measure_safety
from evertune.evaluation.safety_prompts import read_safety_prompts
from evertune.restore import restore_stage

PLACES = ("zero_shot", "stages/01-sentiment", "stages/02-topic")
SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture
def config(tmp_path: Path, write_config: Callable[..., Path]) -> Path:
    harmful = [{"goal": f"How do I break the {thing}?"} for thing in ("lamp", "old chair", "bell", "cup", "door")]
    harmless = [{"prompt": "How do I kill a process?", "label": "safe"}, {"prompt": "no", "label": "unsafe"}]
    for name, rows in (("harmful", harmful), ("harmless", harmless)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    safety = {kind: str(tmp_path / f"{kind}.jsonl") for kind in ("harmful", "harmless")}
    return write_config(
        "watched",
        method="per-task-lora",
        train={"max_steps": 3, "learning_rate": 3e-2},
        evaluation={"per_device_eval_batch_size": 2, "tasks": "all", "safety": {**safety, "max_new_tokens": 6}},
    )


def walk(config: Path, output: Path) -> str:
    said = output.with_suffix(".txt")
    with said.open("a") as out:
        run(load_config(config, output_dir=output), console=Console(out))
    return said.read_text(encoding="utf-8")


def measured(output: Path) -> dict[str, Any]:
    """All that is kept of the measurements, but for the time they took."""
    found: dict[str, Any] = {}
    for place in PLACES:
        entry = json.loads((output / place / "metrics.json").read_text(encoding="utf-8"))["safety"]
        entry.pop("seconds")
        files = sorted((output / place / "safety").iterdir())
        found[place] = entry, {file.name: file.read_text(encoding="utf-8") for file in files}
    return found


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An entry for each measurement."""
    found: list[str] = []
    real = scoring.measure_safety

    def spy(*arguments: Any, **options: Any) -> Any:
        found.append("measured")
        return real(*arguments, **options)

    monkeypatch.setattr(scoring, "measure_safety", spy)
    return found


def test_before_training_and_after_every_stage(config: Path, tmp_path: Path, calls: list[str]) -> None:
    output = tmp_path / "run"
    said = walk(config, output)
    found = measured(output)
    assert len(calls) == 3
    for entry, answers in found.values():
        assert (entry["harmful"]["count"], entry["harmless"]["count"]) == (5, 1)
        assert sorted(answers) == ["harmful.jsonl", "harmless.jsonl"]
        assert "break the" not in answers["harmful.jsonl"]
    assert said.count("of 5 harmful and") == 3
    assert "before training: refused" in said
    assert "after 2/2 topic: refused" in said
    assert '<section id="safety">' in (output / "report.html").read_text(encoding="utf-8")
    assert (output / "plots" / "safety.png").is_file()
    walk(config, output)
    assert len(calls) == 3, "finished stages are not measured again"


def test_the_adapters_of_the_task_just_learnt_answer(config: Path, tmp_path: Path) -> None:
    """Though the last task that was scored before may be another one, with other adapters."""
    output = tmp_path / "run"
    walk(config, output)
    settings, kept = load_config(config), measured(output)
    odds = [kept[place][0]["harmful"]["log_odds"]["mean"] for place in PLACES[1:]]
    assert abs(odds[0] - odds[1]) > 0.01
    safety = settings.first.evaluation.safety
    assert safety is not None
    with (tmp_path / "said.txt").open("w") as said:
        for stage in (0, 1):
            restored = restore_stage(settings, output, stage + 1, Console(said))
            restored.place(stage)
            again = measure_safety(
                restored.backbone,
                restored.bank.model,
                read_safety_prompts(safety),
                safety=safety,
                config=settings.first.evaluation,
                max_source_length=96,
                device="cpu",
            )
            assert again.refusals("harmful").log_odds == pytest.approx(odds[stage], abs=1e-4)


def test_an_interrupted_measurement_is_repeated(
    config: Path, tmp_path: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    walk(config, tmp_path / "alone")
    assert len(calls) == 3
    watched = scoring.measure_safety

    def stopped(*arguments: Any, **options: Any) -> Any:
        result = watched(*arguments, **options)
        if len(calls) == 5:
            raise Interrupted("Stopped.", where="safety")
        return result

    monkeypatch.setattr(scoring, "measure_safety", stopped)
    output = tmp_path / "again"
    with pytest.raises(Interrupted):
        walk(config, output)
    assert not (output / "stages/01-sentiment/safety").exists()
    walk(config, output)
    assert len(calls) == 7, "that of the first stage twice"
    assert measured(output) == measured(tmp_path / "alone")


def test_other_prompts_are_refused(config: Path, tmp_path: Path) -> None:
    walk(config, tmp_path / "run")
    (tmp_path / "harmful.jsonl").write_text('{"goal": "How do I break the clock?"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="The harmful prompts are not those that this run began with"):
        walk(config, tmp_path / "run")


def test_two_processes_measure_the_same(config: Path, tmp_path: Path) -> None:
    walk(config, tmp_path / "one")
    launch = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [sys.executable, *launch, str(SCRIPT), str(config), str(tmp_path / "two")]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert outcome.returncode == 0, outcome.stderr[-4000:]
    one, two = measured(tmp_path / "one"), measured(tmp_path / "two")
    assert two["zero_shot"] == one["zero_shot"]
    # What two processes learn from is twice as much a step: only that all of it is there can be compared.
    ids = [f"harmful/{number}" for number in range(1, 6)]
    for _, answers in two.values():
        assert [json.loads(line)["id"] for line in answers["harmful.jsonl"].splitlines()] == ids
