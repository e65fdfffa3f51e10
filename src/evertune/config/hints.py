"""Type hints of options: what they are made of, and what they are called in messages."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from evertune.config.messages import listed
from evertune.registry import Registry

Hint: TypeAlias = Any


@dataclasses.dataclass(frozen=True)
class FieldType:
    """A field of a dataclass as the configuration sees it.

    Attributes:
        name: The option.
        hint: Its type.
        default: Its default value; `dataclasses.MISSING` if it must be written.
    """

    name: str
    hint: Hint
    default: Any

    @property
    def required(self) -> bool:
        """Whether it must be written."""
        return self.default is dataclasses.MISSING


@cache
def fields_of(cls: type) -> tuple[FieldType, ...]:
    """The options of a dataclass, in order."""
    hints = get_type_hints(cls, include_extras=True)
    found: list[FieldType] = []
    for field in dataclasses.fields(cls):
        if field.init and field.metadata.get("written", True):
            factory = field.default_factory
            default = field.default if factory is dataclasses.MISSING else factory()
            found.append(FieldType(field.name, hints[field.name], default))
    return tuple(found)


def bare(hint: Hint) -> Hint:
    """The hint without `Annotated`."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def branches(hint: Hint) -> tuple[Hint, ...]:
    """The members of a union; the hint alone if it is none."""
    inner = bare(hint)
    return get_args(inner) if get_origin(inner) in (Union, types.UnionType) else (hint,)


def is_section(hint: Hint) -> bool:
    """Whether it is a dataclass."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def is_list(hint: Hint) -> bool:
    """Whether it is a tuple or list of any length."""
    return get_origin(bare(hint)) in (tuple, list, Sequence)


def is_mapping(hint: Hint) -> bool:
    """Whether it is a mapping of names to values."""
    return get_origin(bare(hint)) in (dict, Mapping)


def number_bounds(hint: Hint) -> list[tuple[str, float]]:
    """The bounds of a number as (sign, value): ``(">=", 1)``."""
    if get_origin(hint) is not Annotated:
        return []
    signs = (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
    found = ((sign, getattr(bound, name, None)) for bound in get_args(hint)[1:] for name, sign in signs)
    return [(sign, value) for sign, value in found if isinstance(value, (int, float))]


def registry_of(hint: Hint) -> Registry | None:
    """What a text must be the name of: ``Annotated[str, METRICS]``."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((mark for mark in marks if isinstance(mark, Registry)), None)


def expected(hint: Hint, *, plural: bool = False) -> str:
    """What a hint stands for, in words."""
    names = {int: "whole number", float: "number", str: "text", Path: "path"}
    inner = bare(hint)
    registry = registry_of(hint)
    if registry is not None:
        return listed(registry.names())
    if len(branches(hint)) > 1:
        return expected_union(branches(hint), plural=plural)
    if inner in names:
        one = names[inner]
        return one + "s" * (one != "text") if plural else one if one == "text" else f"a {one}"
    if inner is bool:
        return "true or false"
    if inner is type(None):
        return "null"
    if get_origin(inner) is Literal:
        return listed([option if isinstance(option, str) else json.dumps(option) for option in get_args(inner)])
    if is_list(hint):
        return f"{'lists' if plural else 'a list'} of {expected(get_args(inner)[0], plural=True)}"
    if is_section(inner):
        names_of = " and ".join(f"`{field.name}`" for field in fields_of(inner) if field.required)
        return f"{'mappings' if plural else 'a mapping'}{f' with {names_of}' if names_of else ''}"
    return "mappings" if plural else "a mapping"


def expected_union(options: Sequence[Hint], *, plural: bool) -> str:
    """The branches of a union in words; a path is text too, and null goes without saying."""
    has_path = any(bare(option) is Path for option in options)
    shown = [option for option in options if option is not type(None) and not (has_path and bare(option) is str)]
    return listed([expected(option, plural=plural) for option in shown])
