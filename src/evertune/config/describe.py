"""What an option means: read from the docstring of its dataclass, the only place where it is written."""

from __future__ import annotations

import dataclasses
import inspect
import re
from dataclasses import dataclass
from typing import Any, get_args

from evertune.config.hints import Hint, bare, branches, expected, fields_of, is_list, is_section, number_bounds
from evertune.config.marks import Plain
from evertune.config.typed import plain_value

_ENTRY = re.compile(r"(\w+):\s+(.*)")
_HEADINGS = re.compile(r"[A-Z][A-Za-z ]*:$")


@dataclass(frozen=True, slots=True)
class Option:
    """One option, for people.

    Attributes:
        name: Its key.
        type: What it may be, in words.
        default: Its default value as plain JSON.
        required: Whether it must be written.
        doc: What it means, in plain prose.
    """

    name: str
    type: str
    default: Plain
    required: bool
    doc: str


def attribute_docs(cls: type) -> dict[str, str]:
    """The entries of the ``Attributes:`` sections of a class and its bases, each as one line."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= _entries(base.__dict__.get("__doc__") or "")
    return found


def _entries(docstring: str) -> dict[str, str]:
    found: dict[str, str] = {}
    name, inside = "", False
    for line in inspect.cleandoc(docstring).splitlines():
        if not line.startswith(" ") and line:
            inside = line == "Attributes:"
            continue
        entry = _ENTRY.fullmatch(line.strip()) if inside and re.match(r" {4}\S", line) else None
        if entry:
            name = entry[1]
            found[name] = entry[2]
        elif inside and line and name:
            found[name] += f" {line.strip()}"
    return {name: plain_text(doc) for name, doc in found.items()}


def plain_text(doc: str) -> str:
    """A docstring's words without the doubled backquotes."""
    return doc.replace("``", "`")


def summary(cls: type) -> str:
    """The first paragraph of a docstring, as one line."""
    return plain_text(" ".join(inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].split()))


def source(cls: type) -> str:
    """The ``Source:`` paragraph of a docstring, empty if there is none."""
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        if paragraph.startswith("Source:"):
            return plain_text(" ".join(paragraph.removeprefix("Source:").split()))
    return ""


def prose(cls: type) -> str:
    """What a docstring says before its sections, paragraphs kept."""
    kept: list[str] = []
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        if _HEADINGS.match(paragraph.splitlines()[0]) or paragraph.startswith("Source:"):
            break
        kept.append(plain_text(" ".join(paragraph.split())))
    return "\n\n".join(kept)


def options(cls: type) -> list[Option]:
    """The options of a dataclass, in order."""
    docs = attribute_docs(cls)
    return [
        Option(
            field.name,
            f"{expected(field.hint)}{_bounds_in_words(field.hint)}",
            None if field.required else plain_value(field.default),
            field.required,
            docs.get(field.name, ""),
        )
        for field in fields_of(cls)
    ]


def parts(cls: type, prefix: str = "") -> dict[type, list[str]]:
    """Mappings with options of their own that an option takes, alone or in a list: dataclass to dotted option names."""
    found: dict[type, list[str]] = {}
    for field in fields_of(cls):
        name = f"{prefix}{field.name}"
        for part in _sections_in(field.hint):
            found.setdefault(part, []).append(name)
            for below, names in parts(part, f"{name}.").items():
                found.setdefault(below, []).extend(names)
    return found


def _sections_in(hint: Hint) -> list[type]:
    if is_section(bare(hint)):
        return [bare(hint)]
    inside = branches(hint) if len(branches(hint)) > 1 else get_args(bare(hint))[:1] if is_list(hint) else ()
    return list(dict.fromkeys(section for one in inside for section in _sections_in(one)))


def _bounds_in_words(hint: Hint) -> str:
    words = [f"{sign} {value:g}" for sign, value in number_bounds(hint)]
    return f" ({', '.join(words)})" if words else ""


def as_json(found: list[Option]) -> list[dict[str, Any]]:
    """Options as plain values."""
    return [dataclasses.asdict(option) for option in found]
