"""Checks of the values of a row, for every format."""

from __future__ import annotations

from typing import Any


class BadRow(ValueError):
    """What is wrong with a row, as a sentence.

    Attributes:
        instead: What to write instead, as a sentence.
    """

    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(what)
        self.instead = instead


def text_of(value: Any, name: str) -> str:
    """A text; empty for None.

    Args:
        value: The value.
        name: Its key, for errors.

    Raises:
        BadRow: If it is no text, or was not UTF-8.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRow(f"`{name}` is {shown(value)}, not text.")
    refuse_surrogates(value, name)
    return value


def filled_text_of(value: Any, name: str) -> str:
    """A text that is not blank.

    Args:
        value: The value.
        name: Its key, for errors.

    Raises:
        BadRow: If it is no text, is blank, or was not UTF-8.
    """
    text = text_of(value, name)
    if not text.strip():
        raise BadRow(f"`{name}` is blank.")
    return text


def shown(value: Any) -> str:
    """A value as errors show it, with its kind."""
    kind = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return f"{kind.get(type(value), type(value).__name__)} ({str(value)[:30]})"


def refuse_surrogates(text: str, name: str) -> None:
    """Refuses text that was not UTF-8 in its file.

    Raises:
        BadRow: If it holds lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # `readers` decodes a byte 0xNN that is not UTF-8 to U+DCNN.
        found = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a character (U+{code:04X})"
        raise BadRow(f"`{name}` is not UTF-8: it holds {found}.", "Save the file as UTF-8.") from error
