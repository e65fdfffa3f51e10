"""Models that come with the package, so that everything can be tried without a download."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from evertune.errors import BackboneError, did_you_mean

PREFIX = "builtin:"


def builtin_root() -> Path:
    """The folder of the package data that holds the built-in models, one folder each."""
    return Path(str(files("evertune"))) / "builtin"


def builtin_names() -> list[str]:
    """Names of the built-in models, without the ``builtin:`` prefix, sorted."""
    root = builtin_root()
    return sorted(entry.name for entry in root.iterdir() if (entry / "config.json").is_file()) if root.is_dir() else []


def builtin_folder(name: str) -> Path:
    """The folder of a built-in model.

    Args:
        name: The name without its prefix: ``tiny-llama``.

    Raises:
        BackboneError: If there is no such model; the message lists those that exist.
    """
    names = builtin_names()
    if name not in names:
        raise BackboneError(
            f"There is no built-in model `{name}`.",
            where=f"{PREFIX}{name}",
            instead=did_you_mean(f"{PREFIX}{name}", [PREFIX + known for known in names]),
        )
    return builtin_root() / name
