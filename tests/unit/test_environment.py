"""What a result depends on besides its configuration."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import pytest
import torch

import evertune
from evertune.environment import PACKAGES, describe_environment, git_state, package_versions


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=T", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def test_the_state_of_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}  # no repository
    assert git_state(tmp_path / "absent") == {"commit": None, "dirty": None}
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) == {"commit": None, "dirty": None}  # no commit yet
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    commit = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "untracked").touch()  # results of runs change nothing
    assert git_state(tmp_path / "runs") == {"commit": commit, "dirty": False}
    (tmp_path / "file").write_text("two")
    assert git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_a_machine_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(Path(__file__).parent) == {"commit": None, "dirty": None}


def test_versions_are_those_installed() -> None:
    versions = package_versions()
    assert {"torch", "transformers", "peft", "accelerate", "tokenizers", "safetensors", "numpy"} <= versions.keys()
    for name, version in versions.items():
        assert version == importlib.metadata.version(name)
    assert versions.keys() <= set(PACKAGES)


def test_the_environment_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = datetime.now(timezone.utc).replace(microsecond=0)
    found = describe_environment("cpu")
    assert json.loads(json.dumps(found)) == found
    assert list(found) == [
        "evertune", "python", "platform", "packages", "device", "threads", "processes", "git", "command", "started",
    ]  # fmt: skip
    assert found["evertune"] == evertune.__version__
    assert found["python"] == platform.python_version()
    assert found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads()
    assert found["processes"] == 2
    assert set(found["git"]) == {"commit", "dirty"}
    assert before <= datetime.fromisoformat(found["started"]) <= datetime.now(timezone.utc)
