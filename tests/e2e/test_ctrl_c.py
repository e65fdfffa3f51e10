"""Ctrl-C on the real command: the state is saved, the exit code is 130, and the same command goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = ["stream.tasks=[sentiment]", "stream.train_rows=200", "stream.test_rows=40", "train.max_steps=120"]
OPTIONS += ["train.logging_steps=1", "train.save_steps=0", "evaluation.per_device_eval_batch_size=1"]


def command(output: Path) -> list[str]:
    settings = [part for option in OPTIONS for part in ("--set", option)]
    return [sys.executable, "-m", "evertune", "run", "demo", "--output-dir", str(output), *settings]


def interrupted_when(output: Path, event: str) -> tuple[int, str]:
    """Starts the command, sends SIGINT once an event of this kind is logged, and returns exit code and errors."""
    process = subprocess.Popen(command(output), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, until = output / "events.jsonl", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        if log.exists() and f'"event": "{event}"' in log.read_text(encoding="utf-8"):
            process.send_signal(signal.SIGINT)
            break
        time.sleep(0.01)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@pytest.mark.slow
def test_ctrl_c_while_training_and_again(tmp_path: Path) -> None:
    output = tmp_path / "run"

    code, errors = interrupted_when(output, "step")
    assert code == 130, errors
    assert "1/1 sentiment: Stopped at step" in errors
    assert "Run the same command again to continue." in errors
    assert "Traceback" not in errors
    [checkpoint] = output.glob("checkpoint/01-sentiment/step-*")
    step = json.loads((checkpoint / "checkpoint.json").read_text())["step"]
    assert 1 <= step < 120

    again = subprocess.run(command(output), capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    assert f"continuing behind step {step} of 120" in again.stdout
    assert not (output / "checkpoint").exists()
    steps = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in steps if event["event"] == "step"] == list(range(1, 121))
