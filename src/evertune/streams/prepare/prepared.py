"""The folder of a prepared stream: its files, and the manifest that says how they came about.

``<folder>/<task>/{train,dev,test}.jsonl``, ``<folder>/tiny/<task>/{train,dev,test}.jsonl``, ``<folder>/manifest.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evertune.errors import DataError, InputError
from evertune.files import atomic_folder, sha256, write_json, write_json_lines
from evertune.streams.prepare.splitting import SIZES, SplitPart
from evertune.streams.readers import shown_path
from evertune.streams.task import Split

FORMAT = 1
MANIFEST = "manifest.json"
_ANOTHER = "Choose another `--output-dir`."


def split_file(size: str, task: str, split: Split) -> str:
    """Where the rows of a split are, relative to the folder."""
    return f"{'tiny/' if size == 'tiny' else ''}{task}/{split}.jsonl"


def command(stream: str, folder: Path | str) -> str:
    """The command that prepares a stream."""
    return f"evertune prepare {stream} --output-dir {folder}"


def write_prepared(
    folder: Path, manifest: Mapping[str, Any], parts: Mapping[str, Mapping[str, Mapping[Split, SplitPart]]]
) -> dict[str, Any]:
    """Writes the rows and the manifest, all or nothing.

    Args:
        folder: Where to; nothing is there yet.
        manifest: What it says beside the splits.
        parts: Task to size to split to rows.

    Returns:
        The whole manifest.
    """
    whole = {"format": FORMAT, **manifest}
    with atomic_folder(folder) as temporary:
        for task, sizes in parts.items():
            for size, splits in sizes.items():
                records: dict[str, Any] = {}
                for split, part in splits.items():
                    name = split_file(size, task, split)
                    write_json_lines(temporary / name, [row.to_json() for row in part.rows])
                    digest = sha256(temporary / name)
                    records[split] = {"file": name, "rows": len(part.rows), "sha256": digest, "rule": part.rule}
                whole["tasks"][task][size] = records
        write_json(temporary / MANIFEST, whole)
    return whole


def read_manifest(folder: Path, stream: str, *, where: str = "") -> dict[str, Any]:
    """The manifest of a prepared folder.

    Args:
        folder: The folder.
        stream: Which stream it must be of.
        where: Key of the configuration that names the folder, for errors.

    Raises:
        InputError: If there is no such folder, or it was not prepared for this stream.
    """
    path = folder / MANIFEST
    place = where or shown_path(folder)
    if not folder.is_dir():
        instead = f"Run `{command(stream, shown_path(folder))}`."
        raise InputError(f"There is no folder {shown_path(folder)}.", where=place, instead=instead)
    instead = f"Run `{command(stream, 'DIR')}`, and write that folder."
    if not path.is_file():
        what = f"The folder {shown_path(folder)} was not prepared: it has no {MANIFEST}."
        raise InputError(what, where=place, instead=instead)
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{shown_path(path)} is damaged: {error}.", where=place, instead=instead) from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("stream")) != (FORMAT, stream):
        what = f"{shown_path(path)} is not of a prepared stream `{stream}`."
        raise InputError(what, where=place, instead=instead)
    try:
        whole = bool(manifest["inputs"].keys()) and all(
            {"file", "rows", "sha256", "rule"} <= record.keys() for record in all_records(manifest)
        )
    except (AttributeError, KeyError, TypeError):
        whole = False
    if not whole or not manifest["tasks"]:
        raise InputError(f"{shown_path(path)} is damaged: parts of it are missing.", where=place, instead=instead)
    return manifest


def check_file(folder: Path, record: Mapping[str, Any], stream: str) -> Path:
    """The file of a split, after a check that it is as it was prepared.

    Raises:
        DataError: If it is missing or was changed.
    """
    path = folder / record["file"]
    found = sha256(path) if path.is_file() else None
    if found != record["sha256"]:
        what = "This file was changed since it was prepared." if found else "This file is missing."
        instead = f"Restore it, or prepare again into a new folder: `{command(stream, 'DIR')}`."
        raise DataError(what, where=shown_path(path), instead=instead)
    return path


def all_records(manifest: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The record of every file that the manifest names."""
    for task in manifest["tasks"].values():
        for size in SIZES:
            yield from task[size].values()


def prepared_before(folder: Path, stream: str) -> dict[str, Any] | None:
    """The manifest of a folder that was prepared for this stream; None if nothing is there.

    Raises:
        InputError: If something else is there.
    """
    if folder.resolve() == Path.cwd():
        what = "This is the current folder, which cannot be put in place as a whole."
        raise InputError(what, where=shown_path(folder), instead=_ANOTHER)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    if folder.is_dir() and (folder / MANIFEST).is_file():
        return read_manifest(folder, stream)
    what = "This folder holds something else." if folder.is_dir() else "This is a file."
    raise InputError(what, where=shown_path(folder), instead=_ANOTHER)


def check_same(folder: Path, stream: str, manifest: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Checks that a folder holds what these inputs give.

    Args:
        folder: The folder.
        stream: The stream.
        manifest: Its manifest.
        inputs: Seed, numbers and source files that the rows are made of.

    Raises:
        InputError: If it was made of others.
        DataError: If files were changed since.
    """
    before = manifest["inputs"]
    different = [
        key if key == "sources" else f"{key} was {before.get(key)}, not {value}"
        for key, value in inputs.items()
        if before.get(key) != value
    ]
    if different:
        what = f"This folder was prepared from other inputs ({', '.join(different)})."
        raise InputError(what, where=shown_path(folder), instead=_ANOTHER)
    for record in all_records(manifest):
        check_file(folder, record, stream)
