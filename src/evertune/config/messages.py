"""The words in which a wrong value is explained."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evertune.config.marks import Node, Plain
from evertune.config.spellings import switched, synonyms
from evertune.errors import did_you_mean

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

SYNONYMS = synonyms()
"""What people call things elsewhere, by the dotted key that they have here."""


def quote(value: Plain) -> str:
    """A value as it is shown in a message: short, on one line, text in quotation marks."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def described(value: Plain) -> str:
    """The value with its kind where the look alone would not tell: the text "8"."""
    if isinstance(value, str):
        return f"the text {quote(value)}"
    return "nothing" if value is None else quote(value)


def listed(options: Sequence[str]) -> str:
    """``a, b or c``."""
    return " or ".join([", ".join(options[:-1]), options[-1]]) if len(options) > 1 else "".join(options)


def unknown_key(node: Node, name: str, options: Sequence[str], elsewhere: Mapping[str, str]) -> str:
    """What to write instead of a key that does not exist.

    Args:
        node: What stands under the key.
        name: The key.
        options: Keys that may stand there.
        elsewhere: Keys of other places to their dotted names.
    """
    if name in elsewhere:
        return f"Did you mean `{elsewhere[name]}`?"
    switch = switched(name, node.plain)
    if switch is not None:
        key, value = switch
        return f"Write `{key.rpartition('.')[2] if key.rpartition('.')[2] in options else key}: {value}`."
    synonym = SYNONYMS.get(name, "")
    if synonym in options or synonym.rpartition(".")[2] in options:
        return f"Did you mean `{synonym.rpartition('.')[2]}`?"
    if synonym:
        return f"Did you mean `{synonym}`?"
    return did_you_mean(name, options)


def leaf_problem(error: ErrorDetails, node: Node, expected: str) -> tuple[str, str]:
    """What pydantic found wrong with a value, in plain words: (what, instead)."""
    value, context = node.plain, error.get("ctx", {})
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("greater than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
    }
    if error["type"] in bounds:
        words, name = bounds[error["type"]]
        return f"must be {words} {number(context[name])}, got {quote(value)}.", ""
    if error["type"] in ("string_too_short", "too_short"):
        least = context["min_length"]
        return ("must not be empty." if least == 1 else f"must have at least {least} entries."), ""
    if error["type"] in ("string_too_long", "too_long"):
        return f"must have at most {context['max_length']} entries.", ""
    if error["type"].endswith(("_type", "_parsing", "int_from_float", "finite_number")):
        return f"must be {expected}, got {described(value)}.", _without_quotes(value, error["type"])
    return f"cannot be {quote(value)}: {error['msg']}.", ""


def number(value: Any) -> str:
    """A bound as people write it: 1 for 1.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _without_quotes(value: Plain, kind: str) -> str:
    if (
        kind.startswith("bool")
        and isinstance(value, str)
        and value.lower() in ("yes", "no", "on", "off", "true", "false")
    ):
        return f"Write {'true' if value.lower() in ('yes', 'on', 'true') else 'false'}."
    if kind.startswith(("int", "float")) and isinstance(value, str):
        try:
            return f"Write {number(float(value))} without quotation marks."
        except ValueError:
            return ""
    if kind.startswith("int") and isinstance(value, float) and value.is_integer():
        return f"Write {number(value)}."
    if kind.startswith("string") and not isinstance(value, (list, dict, type(None))):
        return f"Write '{json.dumps(value)}' in quotation marks."
    return ""
