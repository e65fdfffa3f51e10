"""What a result depends on besides the configuration: versions, device, threads, state of the repository."""

from __future__ import annotations

import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import evertune
from evertune import distributed

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "datasets",
    "safetensors",
    "numpy",
    "scikit-learn",
    "rouge-score",
    "bitsandbytes",
)


def package_versions() -> dict[str, str]:
    """Version of every package that can change a result, where it is installed."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path) -> dict[str, Any]:
    """Commit of the repository that holds `folder`, and whether it has changes; nulls outside a repository."""

    def ask(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    status = ask("status", "--porcelain", "--untracked-files=no") if commit else None
    return {"commit": commit, "dirty": None if status is None else bool(status)}


def describe_environment(device: str) -> dict[str, Any]:
    """The content of ``environment.json``.

    Args:
        device: Name of the device that computes.
    """
    import torch

    return {
        "evertune": evertune.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": distributed.world_size(),
        "git": git_state(Path.cwd()),
        "command": list(sys.argv),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
