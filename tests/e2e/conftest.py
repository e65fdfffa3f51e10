from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from evertune.cli.app import main


@dataclass(frozen=True)
class Outcome:
    """What one command came to.

    Attributes:
        code: Its exit code.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
    """

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which must be JSON and nothing else."""
        return json.loads(self.out)


Cli = Callable[..., Outcome]

SMALL = [
    "--set=stream.tasks=[sentiment, topic]",
    "--set=stream.train_rows=12",
    "--set=stream.test_rows=4",
    "--set=train.per_device_train_batch_size=4",
]
"""Makes of the recipe `demo` a run of seconds."""


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""

    def call(*words: str) -> Outcome:
        capsys.readouterr()
        code = main(list(words))
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished run of the recipe `demo`; not to be changed."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    assert main(["run", "demo", *SMALL, "--output-dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run_dir(finished: Path, tmp_path: Path) -> Path:
    """A copy of that run, free to be damaged."""
    copy = tmp_path / "small"
    shutil.copytree(finished, copy)
    return copy
