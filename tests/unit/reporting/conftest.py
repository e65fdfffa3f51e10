from __future__ import annotations

from pathlib import Path

import pytest
from run_folder import FIFTEEN, write_run


@pytest.fixture(scope="session")
def four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of four tasks. Shared: tests that write copy it first."""
    return write_run(tmp_path_factory.mktemp("runs") / "four")


@pytest.fixture(scope="session")
def fifteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of fifteen tasks. Shared: tests that write copy it first."""
    return write_run(tmp_path_factory.mktemp("runs") / "fifteen", FIFTEEN)
