"""Shared fixtures. Nothing here needs the network; what needs the real data beside the repository is skipped aloud."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported: small models are fastest, and bitwise repeatable, on one thread; the hub is never asked.
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real public data, or a skip."""
    folder = Path(os.environ.get("EVERTUNE_SHARED", REPOSITORY.parent / "shared")) / "data"
    if not folder.is_dir():
        pytest.skip(f"the real public data is not at {folder} (set EVERTUNE_SHARED)")
    return folder
