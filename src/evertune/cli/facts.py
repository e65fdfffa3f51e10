"""The environment as `doctor` shows it."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import evertune
from evertune.environment import package_versions

SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
"""Environment variables that keep Hugging Face libraries off the network."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "TOKENIZERS_PARALLELISM")

EXTRAS = {"quantization": "bitsandbytes"}
"""Optional extras, and the package that each of them brings."""


def facts() -> dict[str, dict[str, Any]]:
    """Everything that a bug report needs, by section."""
    return {
        "versions": {
            "evertune": evertune.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            **package_versions(),
        },
        "devices": devices(),
        "threads": threads(),
        "folders": folders(),
        "offline switches": {name: os.environ.get(name) for name in SWITCHES},
        "optional extras": {name: _installed(package) for name, package in EXTRAS.items()},
    }


def devices() -> dict[str, Any]:
    """Processors, memory and graphics cards."""
    import psutil
    import torch

    memory = psutil.virtual_memory()
    found: dict[str, Any] = {
        "cpu": f"{usable_cores()} cores usable of {os.cpu_count()}",
        "memory": f"{gigabytes(memory.available)} free of {gigabytes(memory.total)}",
        "torch built for": f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU",
    }
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        found[f"cuda:{index}"] = (
            f"{torch.cuda.get_device_name(index)}, {gigabytes(free)} free of {gigabytes(total)}, "
            f"bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}"
        )
    return found


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> dict[str, Any]:
    """Threads that torch uses, and the variables that decide it."""
    import torch

    return {"torch": torch.get_num_threads(), **{name: os.environ.get(name) for name in THREAD_VARIABLES}}


def watched_folders() -> dict[str, Path]:
    """Folders that must be writable and have space."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return {
        "model cache (HF_HOME)": Path(HF_HUB_CACHE),
        "temporary files (TMPDIR)": Path(os.environ.get("TMPDIR") or tempfile.gettempdir()),
        "current folder": Path.cwd(),
    }


def folders() -> dict[str, Any]:
    """Where things are kept, how much space is left, and whether it can be written to."""
    found: dict[str, Any] = {"python": sys.executable}
    for name, path in watched_folders().items():
        free = free_bytes(path)
        space = f"{gigabytes(free)} free" if free is not None else "space unknown"
        found[name] = f"{path} ({space}, {'writable' if is_writable(path) else 'NOT writable'})"
    return found


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def free_bytes(path: Path) -> int | None:
    """Space left where a folder is or would be."""
    try:
        return shutil.disk_usage(existing(path)).free
    except OSError:
        return None


def is_writable(path: Path) -> bool:
    """Whether a file can be made there, by making one."""
    try:
        with tempfile.TemporaryFile(dir=existing(path)):
            return True
    except OSError:
        return False


def gigabytes(count: float) -> str:
    """``3.2 GB``."""
    return f"{count / 1e9:.1f} GB"


def _installed(package: str) -> str:
    if find_spec(package) is None:
        return "not installed"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package}, version unknown"
