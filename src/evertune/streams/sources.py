"""Where the rows of a written-out task are: files, saved folders, data sets of the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from annotated_types import Predicate

from evertune.streams.bad_rows import BadRows
from evertune.streams.content_formats import Notes
from evertune.streams.hugging_face import read_hub
from evertune.streams.published import pixel_scale, unfold
from evertune.streams.readers import RawRow, read_rows
from evertune.streams.row_formats import CheckedRow, RowFormat, check_rows, recognise
from evertune.streams.task import Split

_HUB = "hub:"


def is_hub_name(text: str) -> bool:
    """Whether a text is ``hub:owner/name``."""
    return text.startswith(_HUB) and len(text) > len(_HUB)


HubName = Annotated[str, Predicate(is_hub_name)]


@dataclass(frozen=True, kw_only=True)
class HubData:
    """A data set of the Hugging Face hub, read through `datasets`.

    Attributes:
        path: ``hub:owner/name``.
        subset: Its configuration, where it has several.
        split: Its split or a slice of one, ``train[:90%]``; by default ``train``, ``validation`` or ``test``.
        revision: Branch, tag or commit: with a commit the rows can never change.
    """

    path: HubName
    subset: str | None = None
    split: str | None = None
    revision: str | None = None

    @property
    def name(self) -> str:
        """The id on the hub, ``owner/name``."""
        return self.path.removeprefix(_HUB)

    def __str__(self) -> str:
        parts = {"subset": self.subset, "split": self.split, "revision": self.revision}
        return " ".join([self.path, *(f"{key}={value}" for key, value in parts.items() if value)])


Source = HubName | Path | HubData
Sources = Source | tuple[Source, ...]


@dataclass(frozen=True)
class Read:
    """The checked rows of one split.

    Attributes:
        rows: The rows of all its sources, in order.
        formats: The formats they came in.
        sources: Its files, and its data sets of the hub as the manifest names them.
        notes: How many rows something odd was done to, by a sentence with ``{count}``.
    """

    rows: list[CheckedRow]
    formats: list[RowFormat]
    sources: tuple[Path | str, ...]
    notes: Notes = field(default_factory=Counter)


def as_sources(sources: Sources | None) -> tuple[Path | HubData, ...]:
    """One source or several, with hub names told apart from paths; nothing for None."""
    if sources is None:
        return ()
    several = sources if isinstance(sources, tuple | list) else (sources,)
    return tuple(_as_source(source) for source in several)


def _as_source(source: Source) -> Path | HubData:
    if isinstance(source, HubData):
        return source
    if isinstance(source, str) and is_hub_name(source):
        return HubData(path=source)
    return Path(source)


@dataclass(frozen=True)
class _Raw:
    """The rows of one source as it holds them: folder that paths begin in, and name for the manifest."""

    rows: list[RawRow]
    folder: Path | None
    name: Path | str


def read_splits(
    sources: Mapping[Split, Sequence[Path | HubData]],
    *,
    columns: Mapping[str, str],
    bad: BadRows,
    named: str | None = None,
    names: Sequence[str] = (),
) -> dict[Split, Read]:
    """Reads and checks the rows of a task.

    Args:
        sources: The sources of each split.
        columns: Our key to the files' own column name.
        bad: Gets every bad row.
        named: Name of the row format, where rows have the keys of several.
        names: The tags in the order of their numbers, for rows of {tokens, tags} that hold numbers.

    Returns:
        The good rows of each split, numbered through all its sources.

    Raises:
        DataError: If a data set cannot be had from the hub.
    """
    raw: dict[Split, list[_Raw]] = {
        split: [_raw(source, split, bad) for source in several] for split, several in sources.items()
    }
    white = pixel_scale([row for several in raw.values() for each in several for row in each.rows], columns)
    return {
        split: _checked(several, columns, bad, named=named, names=names, white=white) for split, several in raw.items()
    }


def _checked(
    sources: Sequence[_Raw],
    columns: Mapping[str, str],
    bad: BadRows,
    *,
    named: str | None,
    names: Sequence[str],
    white: int,
) -> Read:
    rows: list[CheckedRow] = []
    formats: list[RowFormat] = []
    notes: Notes = Counter()
    seen = 0
    for source in sources:
        raw = unfold(source.rows, columns, folder=source.folder, bad=bad, white=white)
        notes += raw.notes
        row_format = recognise(raw.rows, raw.columns, bad, named=named)
        if row_format is not None:
            formats.append(row_format)
            rows += check_rows(raw.rows, row_format, raw.columns, bad, first_number=seen, names=names, notes=notes)
        seen += len(raw.rows)
    return Read(rows, formats, tuple(source.name for source in sources), notes)


def _raw(source: Path | HubData, split: Split, bad: BadRows) -> _Raw:
    if isinstance(source, Path):
        return _Raw(read_rows(source, split=split, bad=bad), source.absolute().parent, source)
    values, commit = read_hub(
        source.name, subset=source.subset, split_name=source.split, revision=source.revision, split=split
    )
    rows = [RawRow(f"{source.path}:{number}", row) for number, row in enumerate(values, 1)]
    return _Raw(rows, None, f"{source} commit={commit}" if commit else str(source))


def source_names(sources: Sequence[Path | str], base: Path) -> tuple[str, ...]:
    """The sources as the manifest names them: files relative to `base`."""
    return tuple(
        Path(os.path.relpath(source, base)).as_posix() if isinstance(source, Path) else source for source in sources
    )


def common_folder(sources: Sequence[Path | str]) -> Path:
    """The deepest folder that all files lie in; the working folder if there are no files."""
    parents = [source.absolute().parent for source in sources if isinstance(source, Path)]
    return Path(os.path.commonpath(parents)) if parents else Path.cwd()
