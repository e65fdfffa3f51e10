"""Published files to values: a JSON list or JSON lines, compressed or not."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from evertune.streams.bad_rows import BadRows
from evertune.streams.readers import shown_path

_SPACES = re.compile(r"\s*")


def read_values(path: Path, bad: BadRows) -> list[Any]:
    """Reads the rows of a file.

    Args:
        path: The file; one that ends in ``.gz`` is decompressed.
        bad: Gets what cannot be read, with its row.

    Returns:
        The rows in order, of whatever type they are.
    """
    shown = shown_path(path)
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object[: error.start].count(b"\n") + 1
        bad.add(f"{shown}:{row}", f"This is not UTF-8: it holds the byte 0x{error.object[error.start]:02x}.")
        return []
    except (OSError, EOFError, zlib.error) as error:
        bad.add(shown, f"This file cannot be read: {getattr(error, 'strerror', None) or error}.")
        return []
    read = _elements if text.lstrip()[:1] == "[" else _lines
    return list(read(text, shown, bad))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    return value


_FINITE: Any = {"parse_constant": _finite, "parse_float": _finite}


def finite_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: If it is none, or holds a number that JSON does not have: NaN, infinities, 1e999.
        RecursionError: If it is nested too deeply.
    """
    return json.loads(text, **_FINITE)


def _lines(text: str, shown: str, bad: BadRows) -> Iterator[Any]:
    found = False
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            found = True
            try:
                yield finite_json(line)
            except (ValueError, RecursionError) as error:
                bad.add(f"{shown}:{number}", f"This line is not JSON: {_reason(error)}.")
    if not found:
        bad.add(shown, "This file holds no rows.")


def _elements(text: str, shown: str, bad: BadRows) -> Iterator[Any]:
    """The elements of a JSON list, up to the first that is broken: what follows it cannot be told apart."""
    decoder, number, place = json.JSONDecoder(**_FINITE), 1, text.index("[") + 1
    place = _after_spaces(text, place)
    while not (number == 1 and text.startswith("]", place)):
        try:
            value, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            bad.add(f"{shown}:{number}", f"This element is not JSON: {_reason(error)}.")
            return
        yield value
        place = _after_spaces(text, place)
        if text.startswith("]", place):
            if text[place + 1 :].strip():
                bad.add(f"{shown}:{number}", "Something follows the `]` that ends the list after this element.")
            return
        if not text.startswith(",", place):
            bad.add(f"{shown}:{number}", "A `,` or the `]` is missing after this element.")
            return
        place, number = _after_spaces(text, place + 1), number + 1
    bad.add(shown, "This file holds no rows.")


def _after_spaces(text: str, place: int) -> int:
    found = _SPACES.match(text, place)
    return found.end() if found else place


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (line {error.lineno}, column {error.colno})"
    return "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
