"""Reads answers that are JSON, as far as they are: models write text around it, leave braces out, and are cut off.

The vocabulary of T5 has no braces: they vanish from what it reads and writes. So members are looked for, not objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, cast

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_COLON = re.compile(r"\s*:\s*")
_BETWEEN = re.compile(r"[\s,]*")
_DECODER = json.JSONDecoder()


def members_in(answer: str) -> Iterator[tuple[str, Any]]:
    """The members ``"key": value`` in an answer, in order, with or without braces around them.

    Members of objects that are a value are part of that value. A list that is cut off gives its complete items; any
    other value that cannot be read leaves its member out.
    """
    place = 0
    while key := _next_key(answer, place):
        value, place = _value(answer, key[1])
        name = _text(key[0])
        if value is not None and name is not None:
            yield name, value


def _next_key(text: str, place: int) -> tuple[str, int] | None:
    """The next text in quotation marks that a colon follows, as it is written, and the place behind the colon.

    Every quotation mark may be the first of a text: there may be single ones before it. What a text holds escaped need
    not be tried again, as a text from there ends at the same place; so the time is linear in the length.
    """
    while (start := text.find('"', place)) >= 0:
        string = _STRING.match(text, start)
        if string is None:
            return None
        colon = _COLON.match(text, string.end())
        if colon is not None:
            return string[1], colon.end()
        place = string.end() - 1
    return None


def objects_in(answer: str) -> list[dict[str, Any]]:
    """The objects of a list of objects without lists, with or without braces: one ends where a key comes again."""
    found: list[dict[str, Any]] = []
    for key, value in members_in(answer):
        if not found or key in found[-1]:
            found.append({})
        found[-1][key] = value
    return found


def _value(text: str, place: int) -> tuple[Any, int]:
    """A value and the place behind it; None if there is none."""
    try:
        return _DECODER.raw_decode(text, place)
    except (ValueError, RecursionError):
        return _complete_items(text, place + 1) if text.startswith("[", place) else (None, place + 1)


def _complete_items(text: str, place: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while True:
        place = cast("re.Match[str]", _BETWEEN.match(text, place)).end()
        try:
            item, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return items, place
        items.append(item)


def _text(quoted: str) -> str | None:
    try:
        return str(json.loads(f'"{quoted}"', strict=False))
    except ValueError:
        return None
