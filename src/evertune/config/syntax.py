"""What the YAML parser cannot read, said in plain words."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from evertune.errors import Problem


@dataclass(frozen=True, slots=True)
class _Explanation:
    """What one of the parser's complaints means.

    Attributes:
        said: Part of the parser's words.
        what: What is wrong.
        instead: What to do.
        at_start: Whether the place is where the unfinished thing began, not where the parser gave up.
    """

    said: str
    what: str
    instead: str
    at_start: bool = False


_QUOTE = "Put it into quotation marks."
_EXPLANATIONS = (
    _Explanation(
        "'\\t' that cannot start any token",
        "A tab stands where only spaces may indent.",
        "Replace it by spaces.",
    ),
    _Explanation(
        "mapping values are not allowed",
        "A `:` stands where no key can be.",
        "Check the indentation of this line and of the one above, and quote text that contains `: `.",
    ),
    _Explanation(
        "could not find expected ':'",
        "A key without its `:`.",
        "Write `key: value`, with a space after the colon.",
    ),
    _Explanation(
        "but found '<block mapping start>'",
        "This line is indented differently from the lines that it belongs to.",
        "Give the keys of one block the same indentation.",
    ),
    _Explanation(
        "but found '<block sequence start>'",
        "This list item is indented differently from its neighbours, or stands where a key must be.",
        "Give the items of one list the same indentation.",
    ),
    _Explanation(
        "sequence entries are not allowed",
        "A list item (`- `) stands where no list can begin.",
        "Begin the list on a line of its own, below its key.",
    ),
    _Explanation("unexpected end of stream", "This quotation is not closed.", "Close it.", at_start=True),
    _Explanation(
        "expected ',' or ']'",
        "This list is not closed, or a comma is missing in it.",
        "Write `[a, b]`.",
        at_start=True,
    ),
    _Explanation(
        "expected ',' or '}'",
        "This mapping is not closed, or a comma is missing in it.",
        "Write `{a: 1, b: 2}`.",
        at_start=True,
    ),
    _Explanation("but found '<stream end>'", "The file ends inside a `[`, a `{` or a quotation.", "Close it."),
    _Explanation(
        "found undefined alias",
        "This `*name` refers to an `&name` that is not written above it.",
        "Write the anchor first, or put the text into quotation marks.",
    ),
    _Explanation(
        "expected a single document",
        "A second document begins here.",
        "Keep one document in a file: remove the line `---`.",
    ),
    _Explanation("found character '@' that", "Text cannot begin with `@`.", _QUOTE),
    _Explanation("found character '`' that", "Text cannot begin with a backquote.", _QUOTE),
    _Explanation("found character '%' that", "Text cannot begin with `%`.", _QUOTE),
    _Explanation(
        "found unknown escape character",
        "There is no such escape in double quotation marks.",
        "Use single quotation marks, in which `\\` means itself.",
    ),
)


def explain(error: yaml.MarkedYAMLError, source: str, *, line: bool) -> Problem:
    """The parser's complaint in plain words.

    Args:
        error: What it raised.
        source: How places name the text.
        line: Whether places count lines and columns.
    """
    said = f"{error.context or ''}; {error.problem or ''}"
    unknown = _Explanation("", f"This is not YAML: {error.problem}.", "")
    found = next((explanation for explanation in _EXPLANATIONS if explanation.said in said), unknown)
    end, start = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    mark = start if found.at_start else end
    place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark and line else source
    return Problem(place, found.what, found.instead)


def explain_character(error: yaml.reader.ReaderError, text: str, source: str, *, line: bool) -> Problem:
    """A character that YAML does not allow, by its place in the text."""
    before = text[: error.position]
    place = f"{source}:{before.count(chr(10)) + 1}:{error.position - before.rfind(chr(10))}" if line else source
    return Problem(place, f"This character (U+{ord(text[error.position]):04X}) cannot stand in YAML.", "Delete it.")
