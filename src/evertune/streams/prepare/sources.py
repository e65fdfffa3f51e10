"""The public data sets: where their files lie, and how they are had from the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.console import Console
from evertune.errors import DataError, Problem
from evertune.files import sha256
from evertune.streams.bad_rows import BadRows
from evertune.streams.prepare.raw_files import read_values
from evertune.streams.prepare.rows import Convert, Dropped, PreparedRow, dumped
from evertune.streams.readers import shown_path
from evertune.streams.task import Split


@dataclass(frozen=True, slots=True)
class Hub:
    """A data set of the Hugging Face hub.

    Attributes:
        name: ``owner/name``.
        subset: Its configuration, where it has several.
        folder: Its folder, where only a part of it is meant.
        has_test: Whether its makers published a test split.
    """

    name: str
    subset: str | None = None
    folder: str | None = None
    has_test: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """A public data set.

    Attributes:
        name: Its name in the manifest.
        folder: Its folder below ``--source``.
        train: Names of its file of training rows, the one that is preferred first.
        test: Names of its file of test rows, which it need not have.
        hub: Where it is on the hub.
        licence: What its makers allow, as far as known.
        convert: One row of its files to rows of a task.
    """

    name: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    hub: Hub
    licence: str
    convert: Convert


@dataclass(frozen=True, slots=True)
class Fetched:
    """The rows of one file of a source.

    Attributes:
        source: The source.
        split: ``train`` or ``test``.
        file: The file relative to ``--source``, or the hub id with its commit.
        sha256: Of the file, or of the canonical JSON of the rows that the hub gave.
        values: The rows; not all need be objects.
    """

    source: Source
    split: Split
    file: str
    sha256: str
    values: Sequence[Any]

    def record(self) -> dict[str, Any]:
        """What the manifest keeps of it."""
        return {
            "source": self.source.name,
            "split": self.split,
            "file": self.file,
            "sha256": self.sha256,
            "rows": len(self.values),
        }

    def convert(self) -> Iterable[PreparedRow | Dropped]:
        """Rows of the task, and why others are none."""
        for value in self.values:
            if isinstance(value, dict):
                yield from self.source.convert(value)
            else:
                yield Dropped("not an object")


def fetch(sources: Sequence[Source], folder: Path | None, console: Console) -> list[Fetched]:
    """Reads all files of the sources, or has them from the hub.

    Args:
        sources: The data sets.
        folder: Folder with the published files; None for the hub.
        console: Shows how far it is.

    Returns:
        Train and test of every source; test only of those that have it.

    Raises:
        DataError: If the folder or files are missing, or rows cannot be parsed: all at once. Or, in one line, if a data
            set cannot be had from the hub.
    """
    fetched: list[Fetched] = []
    bad = BadRows()
    files = None if folder is None else _find_files(sources, folder)
    with console.progress("reading" if files else "downloading", len(sources)) as progress:
        for number, source in enumerate(sources, 1):
            if files is None:
                fetched += _download(source)
            else:
                for split, path in files[source.name]:
                    values = read_values(path, bad)
                    name = path.relative_to(folder or path).as_posix()
                    fetched.append(Fetched(source, split, name, sha256(path), values))
            progress.update(number, source.name)
    bad.raise_if_any()
    return fetched


def _find_files(sources: Sequence[Source], folder: Path) -> dict[str, list[tuple[Split, Path]]]:
    if not folder.is_dir():
        names = ", ".join(f"{source.folder}/{source.train[0]}" for source in sources)
        raise DataError("There is no such folder.", where=shown_path(folder), instead=f"It should hold {names}.")
    problems: list[Problem] = []
    found: dict[str, list[tuple[Split, Path]]] = {}
    for source in sources:
        train, test = (_first(folder / source.folder, names) for names in (source.train, source.test))
        found[source.name] = [("test", test)] if test else []
        if train:
            found[source.name].insert(0, ("train", train))
        else:
            where = shown_path(folder / source.folder)
            what = "There is no such folder." if not (folder / source.folder).is_dir() else _inside(folder, source)
            problems.append(Problem(where, what, f"It should hold {' or '.join(source.train)}."))
    if problems:
        raise DataError(problems)
    return found


def _first(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _inside(folder: Path, source: Source) -> str:
    inside = ", ".join(sorted(entry.name for entry in (folder / source.folder).iterdir())[:12]) or "nothing"
    return f"None of the published files is in this folder; in it: {inside}."


def _download(source: Source) -> list[Fetched]:
    from evertune.streams.hugging_face import read_hub

    hub = source.hub
    wanted: list[Split] = ["train", "test"] if hub.has_test else ["train"]
    fetched: list[Fetched] = []
    for split in wanted:
        try:
            rows, commit = read_hub(
                hub.name, subset=hub.subset, split_name=split, revision=None, split=split, folder=hub.folder
            )
        except DataError as error:
            raise DataError(
                error.problems[0].what,
                where=error.problems[0].where,
                instead="Check the network, or name a folder with the published files: `--source DIR`.",
            ) from error
        place = "/".join(part for part in (hub.name, hub.subset, hub.folder) if part)
        file = f"hub:{place} split={split}{f' commit={commit}' if commit else ''}"
        fetched.append(Fetched(source, split, file, _hash(rows), rows))
    return fetched


def _hash(rows: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(dumped(row).encode(errors="surrogatepass") + b"\n")
    return digest.hexdigest()
