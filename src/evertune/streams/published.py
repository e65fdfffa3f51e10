"""Unfolds what is published in a shape of its own into rows: nested files, annotated documents, dialogues, images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evertune.streams.bad_rows import BadRows
from evertune.streams.content_formats import Notes
from evertune.streams.published_events import casie_events, event_of_tokens, rams_event, wiki_events
from evertune.streams.readers import RawRow
from evertune.streams.sharegpt import as_messages

_Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape that is unfolded.

    Attributes:
        name: As errors write it.
        keys: Keys that such a row has; the value of the first is a list or an object.
        rows: The rows that it becomes; raises KeyError, TypeError, ValueError or IndexError if it is damaged.
    """

    name: str
    keys: tuple[str, ...]
    rows: Callable[[_Values, Notes], Iterable[_Values]]

    def fits(self, values: _Values) -> bool:
        """Whether a row is of this shape."""
        return isinstance(values.get(self.keys[0]), list | dict) and all(key in values for key in self.keys)


@dataclass(frozen=True)
class Unfolded:
    """The rows of a file after it is unfolded.

    Attributes:
        rows: The rows.
        columns: Our key to the column name, as far as rows still have their own.
        notes: How many rows something odd was done to, by a sentence with ``{count}``.
    """

    rows: list[RawRow]
    columns: Mapping[str, str]
    notes: Notes = field(default_factory=Counter)


def unfold(rows: Sequence[RawRow], columns: Mapping[str, str], *, folder: Path | None, bad: BadRows) -> Unfolded:
    """Unfolds the rows of a file; rows of the usual formats come back as they are.

    Args:
        rows: The rows.
        columns: Our key to the file's own column name.
        folder: Where paths of images begin; None where they are not files.
        bad: Gets rows that are damaged; they are left out.

    Returns:
        The rows, with their places in the file; several of one place are numbered.
    """
    notes: Notes = Counter()
    found: list[RawRow] = []
    unfolded = False
    scale = _scale(rows, columns)
    for row in rows:
        values = {
            **row.values,
            **{ours: row.values[theirs] for ours, theirs in columns.items() if theirs in row.values},
        }
        shape = next((each for each in SHAPES if each.fits(values)), None)
        if shape is not None:
            unfolded = True
            found += _several(row.where, values, shape, notes, bad)
        else:
            found.append(RawRow(row.where, _with_usual_keys(row.values, columns, folder, scale)))
    return Unfolded(found, {} if unfolded else columns, notes)


def _several(where: str, values: _Values, shape: Shape, notes: Notes, bad: BadRows) -> Iterator[RawRow]:
    try:
        rows = list(shape.rows(values, notes))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"the key `{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        bad.add(where, f"This row is not {shape.name} as published: {what}.")
        return
    for number, each in enumerate(rows, 1):
        yield RawRow(where if len(rows) == 1 else f"{where}:{number}", each)


def _with_usual_keys(values: _Values, columns: Mapping[str, str], folder: Path | None, scale: int) -> _Values:
    """Names that data sets use in place of ours, whole paths, pixels as bytes."""
    changed: dict[str, Any] = {}
    for ours, usual, beside in _OTHER_NAMES:
        if usual in values and ours not in values and ours not in columns and columns.get(beside, beside) in values:
            changed[ours] = values[usual]
    image, pixels = (columns.get(key, key) for key in ("image", "pixels"))
    written = values.get(image)
    if isinstance(written, dict) and not written.get("bytes"):  # as `datasets` stores images
        written = written.get("path")
    if isinstance(written, str) and written and folder is not None:
        changed[image] = str(folder / written)
    if isinstance(values.get(pixels), list):
        changed[pixels] = _bytes(values[pixels], scale)
    return {**values, **changed} if changed else values


# Our key, the name in place of it, and the key of ours that a row must have beside it.
_OTHER_NAMES = (("tags", "ner_tags", "tokens"), ("text", "caption", "image"))


def _bytes(pixels: list[Any], scale: int) -> Any:
    """The pixels from 0 to 255; as they are where they are no such numbers."""
    try:
        return bytes(round(255 * pixel / scale) for pixel in pixels)
    except (TypeError, ValueError):
        return pixels


def _scale(rows: Sequence[RawRow], columns: Mapping[str, str]) -> int:
    """What stands for white in a file: 1, 16 (the digits of UCI) or 255, the least that no pixel exceeds."""
    key = columns.get("pixels", "pixels")
    lists = [row.values[key] for row in rows if isinstance(row.values.get(key), list)]
    numbers = (pixel for pixels in lists for pixel in pixels if isinstance(pixel, int | float))
    highest = max(numbers, default=0)
    return next((white for white in (1, 16) if highest <= white), 255)


def _nested(values: _Values, notes: Notes) -> Iterator[_Values]:
    for each in values["data"]:
        yield from _paragraphs(each, notes) if "paragraphs" in each else [each]


def _paragraphs(article: _Values, notes: Notes) -> Iterator[_Values]:
    for paragraph in article["paragraphs"]:
        for question in paragraph["qas"]:
            yield {**question, "context": paragraph["context"]}


# A row is of the first shape whose keys it has.
SHAPES: tuple[Shape, ...] = (
    Shape("CASIE", ("cyberevent", "content"), casie_events),
    Shape("RAMS", ("evt_triggers", "sentences", "gold_evt_links"), rams_event),
    Shape("WikiEvents", ("event_mentions", "sentences", "entity_mentions"), wiki_events),
    Shape("SQuAD", ("data",), _nested),
    Shape("SQuAD", ("paragraphs",), _paragraphs),
    Shape("ShareGPT", ("conversations",), lambda values, _: [as_messages(values)]),
    Shape("an event", ("tokens", "trigger"), lambda values, _: [event_of_tokens(values)]),
)
