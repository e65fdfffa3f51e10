"""The YAML that is read and written: only plain values, and a number is what people take for one.

It is YAML 1.2's reading of scalars: ``1e-3`` is a number (PyYAML's own rules want ``1.0e-3``), while ``no``, ``on`` and
``12:30`` are text.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

TAG = "tag:yaml.org,2002:"

_INTEGER = r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+"
_FLOAT = (
    r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)

# In the order in which they are tried.
_RULES: tuple[tuple[str, str, str], ...] = (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", _INTEGER, "-+0123456789"),
    ("float", _FLOAT, "-+0123456789."),
)


def _resolvers() -> dict[str | None, list[tuple[str, re.Pattern[str]]]]:
    table: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {}
    for tag, pattern, first_characters in _RULES:
        for character in first_characters:
            # An empty scalar is looked up under the empty string.
            key = "" if character == "\0" else character
            table.setdefault(key, []).append((TAG + tag, re.compile(f"(?:{pattern})\\Z")))
    return table


class Loader(yaml.SafeLoader):
    """Only composes: it builds no objects, whatever the tags say."""

    yaml_implicit_resolvers = _resolvers()


class _Dumper(yaml.SafeDumper):
    """Quotes what either reading, PyYAML's or ours, would not take for text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - declared so by its base
        first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, []), *_resolvers().get(first, [])]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_resolvers()}
    }

    def ignore_aliases(self, data: Any) -> bool:
        """Writes equal values out in full: anchors would puzzle a reader of a resolved configuration."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Text in double quotation marks where PyYAML would take one line break for another."""
    style = '"' if set(text) & {"\x85", "\u2028", "\u2029"} else None
    return dumper.represent_scalar(f"{TAG}str", text, style=style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _represent_text)


def scalar(tag: str, text: str) -> bool | int | float | str | None:
    """The value of a scalar whose tag is resolved.

    Raises:
        ValueError: If an explicit tag does not fit the text (``!!int x``) or the tag is none of the plain ones.
    """
    kind = tag.removeprefix(TAG)
    if kind in ("str", "merge"):
        return text
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int":
        digits = text.replace("_", "")
        return int(digits, {"0x": 16, "0o": 8}.get(digits[:2].lower(), 10))
    if kind == "float":
        return float(text.replace("_", "").lower().replace(".inf", "inf").replace(".nan", "nan"))
    raise ValueError(text)


def dump(value: Any) -> str:
    """Writes plain values as YAML that reads back equal, keys in their order, one option a line."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
