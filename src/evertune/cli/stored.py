"""Runs that are there already: their settings, and one of their stages loaded again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from evertune.errors import CheckpointError, ConfigError, did_you_mean
from evertune.files import read_json, sha256

if TYPE_CHECKING:
    from evertune.settings import RunSettings
    from evertune.streams.task import Stream


def load_settings(run_dir: Path) -> RunSettings:
    """The configuration that a run was made with.

    Raises:
        CheckpointError: If the folder is not that of a run, or its configuration is damaged.
    """
    from evertune.config.load import load_config

    if not run_dir.is_dir():
        raise CheckpointError("There is no such folder.", where=str(run_dir), instead="Name the `output_dir` of a run.")
    missing = [name for name in ("config.yaml", "manifest.json") if not (run_dir / name).is_file()]
    if missing:
        what = f"This is not the folder of a run: it has no {missing[0]}."
        raise CheckpointError(what, where=str(run_dir), instead="Name the `output_dir` of a run.")
    manifest = read_json(run_dir / "manifest.json")
    written = manifest.get("configuration") if isinstance(manifest, dict) else None
    if written is not None and sha256(run_dir / "config.yaml") != written:
        # Half a configuration may still be a valid one, with defaults for the rest.
        what = "This file is not the one that the run wrote."
        raise CheckpointError(what, where=str(run_dir / "config.yaml"), instead="Restore it.")
    try:
        return load_config(run_dir / "config.yaml", output_dir=run_dir)
    except ConfigError as error:
        raise CheckpointError(error.problems) from error


def task_index(stream: Stream, name: str, *, where: str) -> int:
    """Place of a task in a stream.

    Raises:
        ConfigError: If there is none of this name.
    """
    if name not in stream.names:
        raise ConfigError(f"This run has no task `{name}`.", where=where, instead=did_you_mean(name, stream.names))
    return stream.names.index(name)
