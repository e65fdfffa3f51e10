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
from evertune.streams.row_formats import FORMATS
from evertune.streams.sharegpt import as_messages

_Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape that is unfolded.

    Attributes:
        name: As errors write it.
        keys: Keys that such a row has; the value of the first is a list or an object.
        rows: The rows that it becomes; raises KeyError, TypeError, ValueError or IndexError if it is damaged.
        common: Whether rows of any kind may have a column of that name: one that a row format fits is then not of this
            shape, and one that becomes no rows at all is damaged.
    """

    name: str
    keys: tuple[str, ...]
    rows: Callable[[_Values, Notes], Iterable[_Values]]
    common: bool = False

    def fits(self, values: _Values) -> bool:
        """Whether a row is of this shape."""
        if not isinstance(values.get(self.keys[0]), list | dict) or not all(key in values for key in self.keys):
            return False
        return not (self.common and any(each.fits(set(values)) for each in FORMATS))


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


def unfold(
    rows: Sequence[RawRow], columns: Mapping[str, str], *, folder: Path | None, bad: BadRows, white: int = 255
) -> Unfolded:
    """Unfolds the rows of a file; rows of the usual formats come back as they are.

    Args:
        rows: The rows.
        columns: Our key to the file's own column name.
        folder: Where paths of images begin; None where they are not files.
        bad: Gets rows that are damaged; they are left out.
        white: What stands for white where pixels are numbers, see `pixel_scale`.

    Returns:
        The rows, with their places in the file; several of one place are numbered.
    """
    notes: Notes = Counter()
    found: list[RawRow] = []
    unfolded = False
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
            found.append(RawRow(row.where, _with_usual_keys(row.values, columns, folder, white)))
    if white != _WHITEST and (scaled := len(_pixel_lists(rows, columns))):
        notes[f"Pixels are numbers from 0 to {white} and were scaled to 0 to 255: {{count}} images."] += scaled
    return Unfolded(found, {} if unfolded else columns, notes)


def _several(where: str, values: _Values, shape: Shape, notes: Notes, bad: BadRows) -> Iterator[RawRow]:
    try:
        rows = list(shape.rows(values, notes))
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        what = f"the key `{error.args[0]}` is missing" if isinstance(error, KeyError) else str(error)
        bad.add(where, f"This row is not {shape.name} as published: {what}.")
        return
    if not rows and shape.common:
        bad.add(where, f"This row is {shape.name} as published, and holds no rows.", "Fill it in or remove it.")
    for number, each in enumerate(rows, 1):
        yield RawRow(where if len(rows) == 1 else f"{where}:{number}", each)


def _with_usual_keys(values: _Values, columns: Mapping[str, str], folder: Path | None, white: int) -> _Values:
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
        changed[pixels] = _bytes(values[pixels], white)
    return {**values, **changed} if changed else values


# Our key, the name in place of it, and the key of ours that a row must have beside it.
_OTHER_NAMES = (("tags", "ner_tags", "tokens"), ("text", "caption", "image"))


_WHITEST = 255


def _bytes(pixels: list[Any], white: int) -> Any:
    """The pixels from 0 to 255; as they are where they are no such numbers."""
    try:
        return bytes(round(_WHITEST * pixel / white) for pixel in pixels)
    except (TypeError, ValueError, OverflowError):
        return pixels


def pixel_scale(rows: Sequence[RawRow], columns: Mapping[str, str]) -> int:
    """What stands for white: 1, 16 (the digits of UCI) or 255, the least that no pixel exceeds.

    Args:
        rows: The rows of all splits of a task: they must be scaled alike, and one file may be darker than another.
        columns: Our key to the file's own column name.
    """
    numbers = (pixel for pixels in _pixel_lists(rows, columns) for pixel in pixels if isinstance(pixel, int | float))
    highest = max(numbers, default=0)
    return next((white for white in (1, 16) if highest <= white), _WHITEST)


def _pixel_lists(rows: Sequence[RawRow], columns: Mapping[str, str]) -> list[list[Any]]:
    key = columns.get("pixels", "pixels")
    return [row.values[key] for row in rows if isinstance(row.values.get(key), list)]


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
    Shape("SQuAD", ("data",), _nested, common=True),
    Shape("SQuAD", ("paragraphs",), _paragraphs, common=True),
    Shape("ShareGPT", ("conversations",), lambda values, _: [as_messages(values)]),
    Shape("an event", ("tokens", "trigger"), lambda values, _: [event_of_tokens(values)]),
)
