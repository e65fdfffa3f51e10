"""The folder of a run: what stands in it, which run it belongs to, and how far that run has come."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from evertune import dialect
from evertune.errors import CheckpointError, ConfigError, InputError, Problem
from evertune.files import read_json, sha256, sha256_of_folder, write_json, write_text
from evertune.settings import RunSettings
from evertune.streams.task import Stage

Mode = Literal["auto", "resume", "fresh"]

# What changes no result, and so may be changed while a run is under way: where the folder is and what it is called, how
# much memory is taken, how often something is written.
_NOT_COMPARED = (
    "output_dir",
    "run_name",
    "backbone.gradient_checkpointing",
    "evaluation.per_device_eval_batch_size",
    "train.logging_steps",
    "train.save_steps",
)
# Only their product matters: how the rows of a step are split changes nothing.
_ROWS_OF_A_STEP = ("train.per_device_train_batch_size", "train.gradient_accumulation_steps")
_SHOWN_DIFFERENCES = 12


def flattened(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, and lists of mappings, as dotted keys; other lists and scalars are leaves."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        value = dict(enumerate(value))
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= flattened(item, f"{prefix}.{key}" if prefix else str(key))
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines ``key: old -> new`` for the options that can change a result and differ between resolved configurations."""
    before, after = _compared(old), _compared(new)
    keys = [*after, *(key for key in before if key not in after)]
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} -> {after.get(key, missing)}"
        for key in keys
        if before.get(key, missing) != after.get(key, missing)
    ]


def _compared(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = {key: value for key, value in flattened(config).items() if key not in _NOT_COMPARED}
    if all(isinstance(flat.get(key), int) for key in _ROWS_OF_A_STEP):
        per_device, accumulation = (flat.pop(key) for key in _ROWS_OF_A_STEP)
        flat["train rows per step and process"] = per_device * accumulation
    return flat


class RunFolder:
    """A run's folder.

    Args:
        path: Where it is.

    Attributes:
        manifest: Content of ``manifest.json``; the status of every stage is in it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest: dict[str, Any] = {}

    # Opening ---------------------------------------------------------------------------------------------------------

    def check(self, settings: RunSettings, mode: Mode) -> bool:
        """Whether a run of this configuration is there to be continued; changes nothing.

        Raises:
            ConfigError: If the folder holds another run, or other files; or nothing, with ``resume``.
            CheckpointError: If its configuration is damaged.
            InputError: If it cannot be read.
        """
        with self._usable("read"):
            return self._check(settings, mode)

    def _check(self, settings: RunSettings, mode: Mode) -> bool:
        config = self.path / "config.yaml"
        if not config.is_file():
            if (self.path / "manifest.json").is_file():
                return self._without_configuration(config, mode)
            if self.path.is_dir() and any(not _is_ours(entry.name) for entry in self.path.iterdir()):
                raise ConfigError(
                    "This folder holds files that do not belong to a run.",
                    where=str(self.path),
                    instead="Choose another `output_dir`.",
                )
            if mode == "resume":
                raise ConfigError(
                    "There is no run to resume.", where=str(self.path), instead="Leave out `--resume` to start one."
                )
            with self._usable("write"):
                self._check_place()
            return False
        if mode == "fresh":
            return False
        # Both from YAML, which does not keep every character (a next-line mark in a template) as it is.
        changed = differences(_read_config(config), yaml.safe_load(_config_text(settings)))
        if changed:
            shown = [f"  {line}" for line in changed[:_SHOWN_DIFFERENCES]]
            if len(changed) > _SHOWN_DIFFERENCES:
                shown.append(f"  and {len(changed) - _SHOWN_DIFFERENCES} more")
            raise ConfigError(
                "This folder holds a run of another configuration (there -> asked for):\n" + "\n".join(shown) + "\n ",
                where=str(self.path),
                instead="Give another `--output-dir`, or `--fresh` to move the old run aside.",
            )
        return True

    def _check_place(self) -> None:
        """Checks that the folder can be made or written to, before minutes are spent on loading a model.

        Raises:
            OSError: If it cannot.
        """
        place = self.path
        while not place.exists() and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def _without_configuration(self, config: Path, mode: Mode) -> bool:
        if mode == "fresh":
            return False
        raise CheckpointError(
            "This file of the run is missing.",
            where=str(config),
            instead="Restore it, give another `--output-dir`, or `--fresh` to move the old run aside.",
        )

    def move_aside(self) -> Path | None:
        """Renames the folder to ``<name>.old-<number>`` and returns the new name; None if nothing stands there.

        Raises:
            InputError: If another process runs in it, or it cannot be renamed.
        """
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return None
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.old-{number}")).exists():
            number += 1
        with self.locked(), self._usable("rename"):
            self.path.rename(aside)
        return aside

    def create(self, settings: RunSettings) -> None:
        """Writes the configuration of a new run."""
        write_text(self.path / "config.yaml", _config_text(settings))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder for this process: a second run in it is refused.

        Raises:
            InputError: If another process runs in it, or it cannot be written to.
        """
        with self._usable("write"):
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise InputError(
                "Another process is running in this folder.", where=str(self.path), instead="Wait for it, or stop it."
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    @contextlib.contextmanager
    def _usable(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise InputError(
                f"Cannot {doing} here: {error.strerror}.", where=str(self.path), instead="Choose another `output_dir`."
            ) from error

    def sweep(self) -> None:
        """Removes what a killed process left half-written."""
        for entry in [*self.path.glob(".*.tmp"), *self.path.glob("*/**/.*.tmp")]:
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)

    # Manifest --------------------------------------------------------------------------------------------------------

    def start(self, manifest: dict[str, Any]) -> None:
        """Writes the manifest of a new run, or takes up the one that is there.

        Raises:
            ConfigError: If rows or base model are not those that the run began with.
        """
        file = self.path / "manifest.json"
        if not file.exists():
            self.manifest = manifest
            self.save()
            return
        self.manifest = read_json(file)
        problems = [
            *self.changed_rows(manifest["stream"]),
            *self._changed_model(manifest),
            *self.changed_start(manifest.get("start_from")),
        ]
        if problems:
            raise ConfigError(problems)

    def load(self) -> None:
        """Reads the manifest.

        Raises:
            CheckpointError: If this is not the folder of a run.
        """
        if not (self.path / "manifest.json").is_file():
            raise CheckpointError(
                "This is not the folder of a run: it has no manifest.json.",
                where=str(self.path),
                instead="Name the `output_dir` of a run.",
            )
        self.manifest = read_json(self.path / "manifest.json")

    def save(self) -> None:
        """Writes the manifest."""
        write_json(self.path / "manifest.json", self.manifest)

    def changed_rows(self, stream: Mapping[str, Any]) -> list[Problem]:
        """Splits whose rows are not those that the run began with.

        Args:
            stream: The stream's section of a manifest that is made from the rows of today.
        """
        now = {task["name"]: task["splits"] for task in stream["tasks"]}
        return [
            Problem(
                str(self.path),
                f"The {split} rows of task {task['name']} are not those that this run began with.",
                "Restore the data, or use `--fresh`.",
            )
            for task in self.manifest["stream"]["tasks"]
            for split, record in task["splits"].items()
            if now.get(task["name"], {}).get(split, {}).get("sha256") != record["sha256"]
        ]

    def _changed_model(self, manifest: Mapping[str, Any]) -> Iterator[Problem]:
        if self.manifest["backbone"]["fingerprint"] != manifest["backbone"]["fingerprint"]:
            yield Problem(
                str(self.path),
                f"The base model at {manifest['backbone']['path']} is not the one that this run began with.",
                "Restore it, or use `--fresh`.",
            )

    def changed_start(self, start: Mapping[str, Any] | None) -> list[Problem]:
        """What is wrong if the frozen adapter that the run began with is not the one of today.

        Args:
            start: As `evertune.adapters.released.released_record` returns.
        """
        began = self.manifest.get("start_from")
        if (began or {}).get("files") == (start or {}).get("files"):
            return []
        what = "The frozen adapter here is not the one that this run began with: its files differ or are missing."
        return [Problem((began or start or {})["folder"], what, "Restore the folder, or use `--fresh`.")]

    # Stages ----------------------------------------------------------------------------------------------------------

    def stage_folder(self, stage: Stage) -> Path:
        """Folder of a stage."""
        return self.path / "stages" / stage.folder

    def status(self, stage: Stage) -> str:
        """``pending``, ``trained`` (saved, not yet scored everywhere) or ``complete``."""
        return self.manifest["stages"][stage.index]["status"]

    def set_status(self, stage: Stage, status: str, adapters: Mapping[str, str] | None = None) -> None:
        """Commits a stage's status, its adapters' folders (relative to the run) and the sha256 of its files."""
        entry = self.manifest["stages"][stage.index]
        entry["status"] = status
        if adapters is not None:
            entry["adapters"] = dict(adapters)
        if status != "pending":
            entry["files"] = sha256_of_folder(self.stage_folder(stage))
        self.save()

    def adapter_folder(self, name: str, before: int) -> Path | None:
        """Where the newest weights of an adapter lie that a stage with an index below `before` saved, if any."""
        for entry in reversed(self.manifest["stages"][:before]):
            if name in entry["adapters"]:
                return self.path / entry["adapters"][name]
        return None

    def stage_file(self, name: str, before: int) -> Path | None:
        """The newest file of this name that a stage with an index below `before` saved, if any."""
        for entry in reversed(self.manifest["stages"][:before]):
            if name in entry["files"]:
                return self.path / entry["folder"] / name
        return None

    def verify(self) -> None:
        """Compares the files of the stages that are done with what was written.

        Cells and their predictions are left out: each knows its own sha256, and one that is missing is scored again. So
        is the record in ``metrics.json``, which is completed when a trained stage is scored, before the manifest is.

        Raises:
            CheckpointError: Naming the first file that is missing or another one.
        """
        for entry in self.manifest["stages"]:
            self._verify(entry, self.path / entry["folder"], but=("cells/", "predictions/", "metrics.json"))

    def verify_files(self, place: Path) -> None:
        """Compares files of a stage with what was written.

        Args:
            place: As `adapter_folder` and `stage_file` return.

        Raises:
            CheckpointError: If a file is missing or another one.
        """
        entry = next(entry for entry in self.manifest["stages"] if place.is_relative_to(self.path / entry["folder"]))
        self._verify(entry, place)

    def _verify(self, entry: Mapping[str, Any], within: Path, but: tuple[str, ...] = ()) -> None:
        for name, digest in entry["files"].items():
            file = self.path / entry["folder"] / name
            if name.startswith(but) or not file.is_relative_to(within):
                continue
            if not (file.is_file() and sha256(file) == digest):
                raise CheckpointError(
                    "This file is missing or is not the one that the run wrote.",
                    where=str(file),
                    instead="Restore it, or start again with `--fresh`.",
                )


def _config_text(settings: RunSettings) -> str:
    return dialect.dump(dict(settings.resolved))


def _read_config(file: Path) -> Mapping[str, Any]:
    problem = CheckpointError("This file is damaged.", where=str(file), instead="Use `--fresh`.")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise problem from error
    if not isinstance(config, Mapping):
        raise problem
    return config


def _is_ours(name: str) -> bool:
    """Whether a file may stand in the folder of a run that was killed before it wrote its configuration."""
    return name == ".lock" or (name.startswith(".") and name.endswith(".tmp"))
