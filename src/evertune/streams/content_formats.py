"""Rows whose content is more than text: tags, answers in a passage, arguments of events, images."""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evertune.streams.contents import Argument, Event, Passage, Picture, TaggedTokens
from evertune.streams.places import FEW_CHARACTERS, nearest_place
from evertune.streams.row_values import BadRow, filled_text_of, refuse_surrogates, shown, text_of

Notes = Counter[str]
"""How many rows something odd was done to, by a sentence with ``{count}`` in it."""

_TAG = re.compile(r"([BIESLU])-([^\s-]|\S.*[^\s-])")
_CLOSES = "ESLU"
_BEGINS = "BSU"
_RETAGGED = "Rows whose tags were turned into the scheme IOB2: {count}."
_MOVED_ANSWERS = "Answers that do not stand where the data say and were moved to where they do: {count}."
_MOVED_SPANS = "Spans of events that do not stand where the data say and were moved to where they do: {count}."


def tagged_tokens(values: Mapping[str, Any], names: Sequence[str], notes: Notes) -> TaggedTokens:
    """A row of ``{tokens, tags}``.

    Args:
        values: The row.
        names: The tags in the order of their numbers, where rows hold numbers.
        notes: Gets how many rows were turned into the IOB2 scheme.

    Raises:
        BadRow: If something is wrong.
    """
    tokens, tags = values["tokens"], values["tags"]
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise BadRow(f"`tokens` is {shown(tokens)}, not a list of words.")
    refuse_surrogates(" ".join(tokens), "tokens")
    if not isinstance(tags, list) or len(tags) != len(tokens):
        found = len(tags) if isinstance(tags, list) else shown(tags)
        raise BadRow(f"There are {len(tokens)} tokens, and `tags` has {found}.", "Write one tag a token.")
    written = [_tag_name(tag, names) for tag in tags]
    uniform = iob2(written)
    if uniform != written:
        notes[_RETAGGED] += 1
    return TaggedTokens(tuple(tokens), tuple(uniform))


def _tag_name(tag: Any, names: Sequence[str]) -> str:
    if isinstance(tag, str):
        if names and tag not in names:
            raise BadRow(f'The tag "{tag}" is not listed under `labels`.', "List it, or leave `labels` out.")
        return tag
    if not isinstance(tag, int) or isinstance(tag, bool):
        raise BadRow(f"A tag is {shown(tag)}, neither text nor a number.")
    if not 0 <= tag < len(names):
        what = f"The tag {tag} is a number, and {f'only {len(names)} names are' if names else 'no name is'} listed."
        raise BadRow(what, "List the tags under `labels`, in the order of their numbers: `labels: [O, B-person, ...]`.")
    return names[tag]


def iob2(tags: Sequence[str]) -> list[str]:
    """Tags of the schemes IOB1, IOB2, IOE, IOBES and BILOU in the IOB2 scheme.

    Raises:
        BadRow: If a tag is neither ``O`` nor a letter of these schemes, a hyphen and a type.
    """
    uniform: list[str] = []
    current = ""  # type of the entity that the next token may continue
    for tag in tags:
        found = _TAG.fullmatch(tag)
        if found is None:
            if tag != "O":
                raise BadRow(f'"{tag}" is no tag.', "Write `O`, or `B-` and `I-` with a type: `B-person`.")
            current = ""
            uniform.append("O")
            continue
        letter, name = found[1], found[2]
        uniform.append(f"{'B' if letter in _BEGINS or name != current else 'I'}-{name}")
        current = "" if letter in _CLOSES else name
    return uniform


def passage(values: Mapping[str, Any], names: Sequence[str], notes: Notes) -> Passage:
    """A row of ``{question, context, answers}``.

    Args:
        values: The row; ``answers`` is ``{text: [...], answer_start: [...]}`` or a list of ``{text, answer_start}``.
        names: Unused.
        notes: Gets how many answers were moved.

    Raises:
        BadRow: If something is wrong.
    """
    question = filled_text_of(values.get("question"), "question")
    # As it is: starts count its characters.
    context = filled_text_of(values["context"], "context")
    found: dict[tuple[str, int], None] = {}
    for words, start in [] if values.get("is_impossible") else _answers(values["answers"]):
        if context[start : start + len(words)] != words or start < 0:
            place = nearest_place(context, words, start)
            if place is None:
                raise BadRow(f'The answer "{words[:40]}" does not stand in the context.', "Correct it.")
            start = place
            notes[_MOVED_ANSWERS] += 1
        found[words, start] = None
    return Passage(question, context, tuple(words for words, _ in found), tuple(start for _, start in found))


def _answers(value: Any) -> list[tuple[str, int]]:
    problem = BadRow(
        f"`answers` is {shown(value)}.", "Write `{text: [...], answer_start: [...]}` with as many of both."
    )
    if isinstance(value, list):
        value = {key: [each.get(key) if isinstance(each, dict) else None for each in value] for key in _ANSWER_KEYS}
    if value is None or not isinstance(value, dict):
        raise problem
    texts, starts = (value.get(key) for key in _ANSWER_KEYS)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise problem
    if not all(isinstance(start, int) for start in starts):
        raise problem
    return [(filled_text_of(words, "text"), start) for words, start in zip(texts, starts, strict=True)]


_ANSWER_KEYS = ("text", "answer_start")


def event(values: Mapping[str, Any], names: Sequence[str], notes: Notes) -> Event:
    """A row of ``{text, type, trigger, arguments}``.

    Args:
        values: The row.
        names: Unused.
        notes: Gets how many spans were moved.

    Raises:
        BadRow: If something is wrong.
    """
    text = filled_text_of(values["text"], "text")
    roles = values.get("roles") or []
    if not isinstance(roles, list) or not all(isinstance(role, str) for role in roles):
        raise BadRow(f"`roles` is {shown(roles)}, not a list of names.")
    arguments = values.get("arguments") or []
    if not isinstance(arguments, list) or not all(isinstance(argument, dict) for argument in arguments):
        raise BadRow(f"`arguments` is {shown(arguments)}, not a list of objects.")
    return Event(
        text,
        filled_text_of(values.get("type"), "type"),
        _span(values["trigger"], text, "trigger", notes),
        tuple(dict.fromkeys(roles)),
        tuple(_argument(argument, text, notes) for argument in arguments),
    )


def _argument(value: Mapping[str, Any], text: str, notes: Notes) -> Argument:
    role = filled_text_of(value.get("role"), "role")
    head = value.get("head")
    start, end = _span(value, text, f"argument {role}", notes)
    return Argument(role, start, end, _span(head, text, f"head of {role}", notes) if head else None)


def _span(value: Any, text: str, name: str, notes: Notes) -> tuple[int, int]:
    """``{start, end}``, with the words as ``text`` or without, or ``[start, end]``."""
    pair: Any = [value.get("start"), value.get("end")] if isinstance(value, Mapping) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(place, int) for place in pair):
        raise BadRow(f"The place of the {name} is {shown(value)}.", "Write `{start: 10, end: 18}`, in characters.")
    start, end = int(pair[0]), int(pair[1])
    words = text_of(value.get("text"), "text") if isinstance(value, Mapping) else ""
    if words and (start < 0 or text[start:end] != words):
        place = nearest_place(text, words, start, most=FEW_CHARACTERS)
        if place is None:
            raise BadRow(f'The {name} "{words[:40]}" does not stand at {start} to {end}, nor near it.')
        notes[_MOVED_SPANS] += 1
        return place, place + len(words)
    if not 0 <= start < end <= len(text):
        raise BadRow(f"The {name} from {start} to {end} does not lie in the text of {len(text)} characters.")
    return start, end


def labelled_picture(values: Mapping[str, Any], names: Sequence[str], notes: Notes) -> Picture:
    """A row of ``{image, label}`` or ``{pixels, label}``.

    Args:
        values: The row, with the whole path of the image, or with its pixels as bytes from 0 to 255.
        names: Unused.
        notes: Unused.

    Raises:
        BadRow: If the image cannot be read.
    """
    return _pixels(values) if "pixels" in values else _picture(values["image"], caption=False)


def captioned_picture(values: Mapping[str, Any], names: Sequence[str], notes: Notes) -> Picture:
    """A row of ``{image, text}``; arguments and errors as for `labelled_picture`."""
    return _picture(values["image"], caption=True)


UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow raises of damaged files, by their kind."""

_MOST_BYTES = 1 << 28


def _picture(value: Any, *, caption: bool) -> Picture:
    if isinstance(value, Mapping):  # as `datasets` stores images
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str | bytes) or not value:
        raise BadRow(f"`image` is {shown(value)}, not the path of an image.", "Write it relative to the file of rows.")
    path = value if isinstance(value, str) else ""
    data = _file_content(path) if isinstance(value, str) else value
    _check_image(data, path)
    return Picture(path, hashlib.sha256(data).hexdigest(), caption=caption, data=b"" if path else data)


def _file_content(path: str) -> bytes:
    refuse_surrogates(path, "image")
    file, cure = Path(path), "Write its path relative to the file of rows."
    try:
        if not file.exists():
            raise BadRow(f"There is no image {path}.", cure)
        if not file.is_file():
            raise BadRow(f"{path} is a folder or a device, not an image.", cure)
        if file.stat().st_size > _MOST_BYTES:
            raise BadRow(f"The image {path} has more than {_MOST_BYTES >> 20} MiB.", "Save it smaller.")
        return file.read_bytes()
    except OSError as error:
        raise BadRow(f"The image {path} cannot be read: {error.strerror or error}.", cure) from error


def _check_image(data: bytes, path: str) -> None:
    """Decodes an image once: what is cut off or damaged would else be found in the middle of training, or after it."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    cure = "Replace the file, or remove the row."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.mode == "F" or (image.mode == "I" and image.format != "PPM"):
                    what = f"The image {path} has values of 32 bits, of which none is known to be white."
                    raise BadRow(" ".join(what.split()), "Save it with 8 or 16 bits.")
                image.draft(None, (1, 1))  # JPEG: all of the file is read, and few pixels are computed
                ImageOps.exif_transpose(image)
    except BadRow:
        raise
    except UnidentifiedImageError:
        raise BadRow(f"{path or 'This'} is no image that Pillow reads.", cure) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        most = f"{Image.MAX_IMAGE_PIXELS or 0:,}".replace(",", " ")
        raise BadRow(" ".join(f"The image {path} has more than {most} pixels.".split()), "Save it smaller.") from None
    except UNREADABLE as error:
        raise BadRow(" ".join(f"The image {path} is damaged: {error}.".split()), cure) from error


def _pixels(values: Mapping[str, Any]) -> Picture:
    pixels = values["pixels"]
    if not isinstance(pixels, bytes):
        raise BadRow(f"`pixels` is {shown(pixels)}, not a list of numbers from 0 to 255.", "Correct it.")
    width = values.get("width") or math.isqrt(len(pixels))
    if not isinstance(width, int) or width < 1 or not pixels or len(pixels) % width:
        raise BadRow(f"{len(pixels)} pixels are no rows of {width}.", "Add `width`.")
    if "width" not in values and width * width != len(pixels):
        raise BadRow(f"{len(pixels)} pixels are no square.", "Add `width`.")
    digest = hashlib.sha256(width.to_bytes(4, "little") + pixels).hexdigest()
    return Picture("", digest, pixels, width)
