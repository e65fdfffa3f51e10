from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from evertune.config.load import load_config
from evertune.errors import ConfigError
from evertune.settings import RunSettings

MINIMAL = """\
stream:
  name: synthetic
backbone:
  path: builtin:tiny-llama
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes `stream.yaml` into the current folder, a fresh one, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def write_file(text: str) -> str:
        (tmp_path / "stream.yaml").write_text(text, encoding="utf-8")
        return "stream.yaml"

    return write_file


@pytest.fixture
def load(write: Callable[[str], str]) -> Callable[..., RunSettings]:
    """Loads what is appended to the smallest configuration."""

    def load_text(text: str = "", *overrides: str, whole: bool = False) -> RunSettings:
        return load_config(write(text if whole else MINIMAL + text), overrides)

    return load_text


@pytest.fixture
def refusal(load: Callable[..., RunSettings]) -> Callable[..., list[str]]:
    """The problems, one a line, of what is appended to the smallest configuration."""

    def refused(text: str = "", *overrides: str, whole: bool = False) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, *overrides, whole=whole)
        return str(caught.value).splitlines()

    return refused
