"""Files to raw rows: JSON, JSON lines, CSV, TSV, Parquet, the files of MNIST and saved `datasets` folders.

Text is read as UTF-8, with or without a byte order mark. Bytes that are not UTF-8 become lone surrogates here, and are
reported, with their row, when the row is checked.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.errors import did_you_mean
from evertune.streams.bad_rows import BadRows
from evertune.streams.idx_files import is_idx, read_idx
from evertune.streams.task import Split

_LONGEST_CELL = 2**31 - 1
_SPACES = re.compile(r"\s*")


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as the file holds it.

    Attributes:
        where: ``file:row``. The row is the line in JSON lines and CSV (where a row of several lines begins), and counts
            from 1 in a JSON list, a Parquet file and a saved folder.
        values: Its keys and values.
    """

    where: str
    values: Mapping[str, Any]


def shown_path(path: Path) -> str:
    """The path as errors show it: relative to the working folder where it lies below it."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def read_rows(path: Path, *, split: Split, bad: BadRows) -> list[RawRow]:
    """Reads all rows of a file or of a saved `datasets` folder.

    Args:
        path: The file; its ending decides how it is read.
        split: What the rows are for: which split of a saved `DatasetDict` is read.
        bad: Gets what is wrong with the file; rows that cannot be parsed are left out of the result.

    Returns:
        The rows in order.
    """
    shown, before = shown_path(path), len(bad)
    if not path.exists():
        bad.add(shown, "There is no such file.", _nearest(path))
        return []
    reader = _saved_folder(split) if path.is_dir() else _reader(path)
    if reader is None:
        bad.add(shown, f"Files ending in `{path.suffix}` are not read.", f"Use one of: {', '.join(_READERS)}.")
        return []
    try:
        rows = list(reader(path, shown, bad))
    except OSError as error:
        bad.add(shown, f"This file cannot be read: {error.strerror or error}.")
        return []
    if not rows and len(bad) == before:
        bad.add(shown, "This file holds no rows.")
    return rows


def _reader(path: Path) -> Callable[[Path, str, BadRows], Iterator[RawRow]] | None:
    return _read_idx if is_idx(path) else _READERS.get(path.suffix.lower())


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"The folder {shown_path(path.parent)} does not exist either."
    return did_you_mean(path.name, sorted(entry.name for entry in path.parent.iterdir()))


def _decoded(path: Path, shown: str, bad: BadRows) -> str:
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        bad.add(shown, "This file is UTF-16.", "Save it as UTF-8.")
        return ""
    return data.decode("utf-8-sig", errors="surrogateescape")


def _read_json(path: Path, shown: str, bad: BadRows) -> Iterator[RawRow]:
    """A JSON list or JSON lines, told apart by the content: many published ``.json`` files hold JSON lines."""
    text = _decoded(path, shown, bad)
    start = text.lstrip()[:1]
    if start == "{" and not _is_json(text.lstrip().split("\n", 1)[0]) and _is_json(text):
        value = json.loads(text)
        if isinstance(value.get("data"), list):
            yield RawRow(shown, value)
        else:
            what = "This file holds one JSON object, not a list of rows."
            bad.add(shown, what, "Write a list, or one object per line.")
    elif start == "[" and (path.suffix.lower() == ".json" or _is_json(text)):
        yield from _json_list(text, shown, bad)
    else:
        yield from _json_lines(text, shown, bad)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_list(text: str, shown: str, bad: BadRows) -> Iterator[RawRow]:
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError):
        number, reason = _first_broken_element(text)
        bad.add(f"{shown}:{number}", f"This element is not JSON: {reason}.")
        return
    for number, element in enumerate(elements, 1):
        yield from _row(element, f"{shown}:{number}", bad)


def _first_broken_element(text: str) -> tuple[int, str]:
    """Number of the first element of a JSON list that does not parse, and why."""
    decoder, number = json.JSONDecoder(), 1
    place = text.index("[") + 1
    while True:
        try:
            _, place = decoder.raw_decode(text, _after_spaces(text, place))
        except (ValueError, RecursionError) as error:
            return number, _reason(error)
        place = _after_spaces(text, place)
        if not text.startswith(",", place):
            found = (
                "there is text after the `]`" if text.startswith("]", place) else "a `,` or the `]` is missing after it"
            )
            return number, f"{found} (line {text.count(chr(10), 0, place) + 1})"
        place += 1
        number += 1


def _after_spaces(text: str, place: int) -> int:
    return place + len(_SPACES.match(text, place)[0])  # type: ignore[index]


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)


def _json_lines(text: str, shown: str, bad: BadRows) -> Iterator[RawRow]:
    # Only "\n" ends a line: texts may hold U+2028 and other characters at which str.splitlines would cut.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{shown}:{number}"
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            bad.add(where, f"This line is not JSON: {error.msg} (column {error.colno}).")
        except (ValueError, RecursionError) as error:
            bad.add(where, f"This line is not JSON: {_reason(error)}.")
        else:
            yield from _row(value, where, bad)


def _row(value: Any, where: str, bad: BadRows) -> Iterator[RawRow]:
    if isinstance(value, dict):
        yield RawRow(where, value)
    else:
        bad.add(where, f"This row is {json.dumps(value)[:40]}, not an object with keys.")


def _read_table(delimiter: str) -> Callable[[Path, str, BadRows], Iterator[RawRow]]:
    def read(path: Path, shown: str, bad: BadRows) -> Iterator[RawRow]:
        csv.field_size_limit(_LONGEST_CELL)  # the default refuses texts of more than 131072 characters
        lines = csv.reader(io.StringIO(_decoded(path, shown, bad), newline=""), delimiter=delimiter, strict=True)
        header: list[str] = []
        end = 0
        try:
            for cells in lines:
                where, end = f"{shown}:{end + 1}", lines.line_num
                if not cells:
                    continue
                if not header:
                    header = _header(cells, shown, bad)
                elif len(cells) != len(header):
                    bad.add(where, f"This row has {len(cells)} cells, the header has {len(header)}.")
                else:
                    yield RawRow(where, dict(zip(header, cells, strict=True)))
        except csv.Error as error:
            bad.add(f"{shown}:{end + 1}", f"This row is not CSV: {error}.")

    return read


def _header(cells: list[str], shown: str, bad: BadRows) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        bad.add(f"{shown}:1", f"The header names {', '.join(twice)} more than once.")
    return cells


def _read_parquet(path: Path, shown: str, bad: BadRows) -> Iterator[RawRow]:
    from pyarrow import ArrowException, parquet

    from evertune.streams.hugging_face import named_labels_of_schema

    try:
        # ParquetFile and not read_table: the latter turns folder names such as `split=train` into columns.
        with parquet.ParquetFile(path) as file:
            table = file.read()
    except ArrowException as error:
        bad.add(shown, f"This file is not Parquet: {str(error).splitlines()[0].rstrip('.')}.")
        return
    name = named_labels_of_schema(table.schema)
    for number, values in enumerate(table.to_pylist(), 1):
        yield RawRow(f"{shown}:{number}", name(values))


def _read_idx(path: Path, shown: str, bad: BadRows) -> Iterator[RawRow]:
    try:
        for number, values in enumerate(read_idx(path), 1):
            yield RawRow(f"{shown}:{number}", values)
    except ValueError as error:
        bad.add(shown, str(error))


def _saved_folder(split: Split) -> Callable[[Path, str, BadRows], Iterator[RawRow]]:
    def read(path: Path, shown: str, bad: BadRows) -> Iterator[RawRow]:
        from evertune.streams.hugging_face import read_saved_folder

        for number, values in enumerate(read_saved_folder(path, shown, split=split, bad=bad), 1):
            yield RawRow(f"{shown}:{number}", values)

    return read


_READERS: dict[str, Callable[[Path, str, BadRows], Iterator[RawRow]]] = {
    ".json": _read_json,
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".jsonlines": _read_json,
    ".csv": _read_table(","),
    ".tsv": _read_table("\t"),
    ".parquet": _read_parquet,
}
