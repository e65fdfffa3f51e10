"""Plain values to the dataclasses that the rest of the program works with, by their type hints.

A dataclass is read field by field, so that an error names the very line it stands in and a union is judged by the
branch that the value is meant for. The values themselves are checked by pydantic, strictly: "8" is not a number.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from evertune.config.hints import (
    Hint,
    bare,
    branches,
    expected,
    expected_union,
    fields_of,
    is_list,
    is_mapping,
    is_section,
    registry_of,
)
from evertune.config.marks import Node, Plain
from evertune.config.messages import described, leaf_problem, quote, unknown_key
from evertune.errors import ConfigError, Problem, did_you_mean

INVALID: Any = object()
"""Stands for a value that was reported as wrong."""


class Findings:
    """Problems found so far, each once."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Notes a problem."""
        if problem not in self.problems:
            self.problems.append(problem)

    def extend(self, problems: Iterable[Problem]) -> None:
        """Notes several problems."""
        for problem in problems:
            self.add(problem)

    def at(self, node: Node, what: str, instead: str = "", *, at_key: bool = False) -> Any:
        """Notes a problem of a node, and returns `INVALID`."""
        self.add(node.problem(what, instead, at_key=at_key))
        return INVALID


def build(hint: Hint, node: Node, findings: Findings, *, elsewhere: Mapping[str, str] | None = None) -> Any:
    """The value of a node as the type `hint`, or `INVALID` after its problems were noted.

    Args:
        hint: A type hint made of dataclasses, unions, tuples, mappings, literals, paths and plain types.
        node: What was written.
        findings: Where problems go.
        elsewhere: Keys of other sections to their dotted names, for suggestions.
    """
    inner = bare(hint)
    if len(branches(hint)) > 1:
        value = _build_union(branches(hint), node, findings)
    elif is_section(inner):
        value = build_section(inner, node, findings, elsewhere=elsewhere)
    elif is_list(hint):
        value = _build_list(inner, node, findings, elsewhere)
    elif is_mapping(hint):
        value = _build_mapping(inner, node, findings)
    elif inner is Path:
        value = _build_path(node, findings)
    else:
        return _build_leaf(hint, node, findings)
    return value if inner is hint or value is INVALID else _check(hint, value, node, findings)


def build_section(
    cls: type,
    node: Node,
    findings: Findings,
    *,
    name: str = "",
    elsewhere: Mapping[str, str] | None = None,
    ignored: Iterable[str] = (),
) -> Any:
    """A dataclass from a mapping: unknown keys, missing keys and wrong values are all noted.

    Args:
        cls: The dataclass.
        node: The mapping; nothing (null) stands for an empty one.
        findings: Where problems go.
        name: What the options belong to, as said in messages; the node's key by default.
        elsewhere: Keys of other sections to their dotted names, for suggestions.
        ignored: Keys that are read by someone else.
    """
    written = {} if node.value is None else node.value
    if not isinstance(written, dict):
        return findings.at(node, f"must be a mapping of options, got {described(node.plain)}.", _mapping_advice(cls))
    known = {field.name: field for field in fields_of(cls)}
    for key, child in written.items():
        if key not in known and key not in ignored:
            instead = unknown_key(child, key, list(known), elsewhere or {})
            findings.at(child, f"is not an option of {name or f'`{node.key}`'}.", instead, at_key=True)
    values: dict[str, Any] = {}
    for key, field in known.items():
        if key in written:
            # What belongs beside a list is easily written into one of its entries.
            beside = {other: f"{node.key}.{other}" for other in known} if node.key and is_list(field.hint) else None
            values[key] = build(field.hint, written[key], findings, elsewhere=beside)
        elif field.required:
            findings.at(node, f"needs `{key}`.", f"Write `{key}:` with {expected(field.hint)}.", at_key=True)
            values[key] = INVALID
    if any(value is INVALID for value in values.values()):
        return INVALID
    return _construct(cls, values, node, findings)


def _mapping_advice(cls: type) -> str:
    names = [field.name for field in fields_of(cls)]
    return f"Write `{names[0]}: ...` and the like, indented below it." if names else ""


def _construct(cls: type, values: Mapping[str, Any], node: Node, findings: Findings) -> Any:
    try:
        return cls(**values)
    except ConfigError as error:
        for problem in error.problems:
            place = _below(node, problem.where)
            findings.at(place, _lower_first(problem.what), problem.instead)
    except ValueError as error:
        findings.at(node, f"{_lower_first(str(error)).rstrip('.')}.")
    return INVALID


def _below(node: Node, key: str) -> Node:
    """The option that a dataclass complains about, or the whole of it."""
    return node.value[key] if isinstance(node.value, dict) and key in node.value else node


def _lower_first(sentence: str) -> str:
    return sentence if sentence.startswith(("`", '"')) else sentence[:1].lower() + sentence[1:]


def _build_union(options: Sequence[Hint], node: Node, findings: Findings) -> Any:
    """Judges the value by the branches that its shape is meant for."""
    if node.value is None and type(None) in options:
        return None
    candidates = [option for option in options if _has_shape_of(node.value, option)]
    leaves = [option for option in options if _has_shape_of(0, option)]
    if not candidates and len(leaves) == 1 and isinstance(node.value, str):
        candidates = leaves
    if len(candidates) == 1 and not (isinstance(node.value, (str, int, float)) and _refused(candidates[0], node)):
        return build(candidates[0], node, findings)
    for candidate in candidates:
        if (value := build(candidate, node, Findings())) is not INVALID:
            return value
    words = [word for option in options for word in get_args(bare(option)) if isinstance(word, str)]
    suggestion = did_you_mean(node.value, words) if isinstance(node.value, str) and words else ""
    return findings.at(
        node,
        f"must be {expected_union(options, plural=False)}, got {quote(node.plain)}.",
        suggestion if suggestion.startswith("Did") else "",
    )


def _refused(literal: Hint, node: Node) -> bool:
    """Whether the only branch for a scalar is a closed set that lacks it: then all branches are worth naming."""
    return get_origin(bare(literal)) is Literal and node.value not in get_args(bare(literal))


def _has_shape_of(value: Any, hint: Hint) -> bool:
    if isinstance(value, dict):
        return is_section(bare(hint)) or is_mapping(hint)
    if isinstance(value, list):
        return is_list(hint)
    if is_section(bare(hint)) or is_mapping(hint) or is_list(hint) or hint is type(None):
        return False
    if isinstance(value, str):
        return bare(hint) in (str, Path) or any(isinstance(option, str) for option in get_args(bare(hint)))
    return True


def _build_list(hint: Hint, node: Node, findings: Findings, elsewhere: Mapping[str, str] | None) -> Any:
    if not isinstance(node.value, list):
        return findings.at(node, f"must be {expected(hint)}, got {described(node.plain)}.", "Write `[a, b]`.")
    items = [build(get_args(hint)[0], item, findings, elsewhere=elsewhere) for item in node.value]
    if any(item is INVALID for item in items):
        return INVALID
    return items if get_origin(hint) is list else tuple(items)


def _build_mapping(hint: Hint, node: Node, findings: Findings) -> Any:
    if not isinstance(node.value, dict):
        return findings.at(node, f"must be a mapping, got {described(node.plain)}.", "Write `{key: value}`.")
    values = {key: build(get_args(hint)[1], child, findings) for key, child in node.value.items()}
    return INVALID if any(value is INVALID for value in values.values()) else values


def _build_path(node: Node, findings: Findings) -> Any:
    if not isinstance(node.value, str) or not node.value:
        return findings.at(node, f"must be a path, got {described(node.plain)}.")
    return resolve_path(node.value, node)


def resolve_path(text: str, node: Node) -> Path:
    """A path as written, absolute: relative ones start at the folder of the file they stand in."""
    return Path(text).expanduser() if Path(text).expanduser().is_absolute() else (node.place.folder / text).resolve()


@cache
def _adapter(hint: Hint) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _build_leaf(hint: Hint, node: Node, findings: Findings) -> Any:
    if isinstance(node.value, float) and not math.isfinite(node.value):
        return findings.at(node, f"must be {expected(hint)}, got a number that is not finite.")
    if get_origin(bare(hint)) is Literal:
        return _build_literal(get_args(bare(hint)), node, findings)
    registry = registry_of(hint)
    if registry is not None:
        return _build_literal(registry.names(), node, findings)
    return _check(hint, node.plain, node, findings)


def _build_literal(options: Sequence[Any], node: Node, findings: Findings) -> Any:
    # By type too: in Python, 1 == True.
    if any(type(option) is type(node.value) and option == node.value for option in options):
        return node.value
    words = [option if isinstance(option, str) else json.dumps(option) for option in options]
    if len(words) == 1:
        return findings.at(node, f"must be {words[0]}, got {quote(node.plain)}.")
    instead = did_you_mean(str(node.value), words) if isinstance(node.value, str) else ""
    what = f"{quote(node.plain)} is not one of: {', '.join(words)}."
    return findings.at(node, what, instead if instead.startswith("Did") else "")


def _check(hint: Hint, value: Any, node: Node, findings: Findings) -> Any:
    """Lets pydantic check a plain value, or the bounds on one that is built already."""
    plain = isinstance(value, (str, int, float, bool, list, dict, type(None)))
    try:
        if plain and not is_section(bare(hint)):
            return _adapter(hint).validate_json(json.dumps(value))
        bounds: Hint = Annotated[(Any, *get_args(hint)[1:])]  # pyright: ignore[reportInvalidTypeForm]
        return _adapter(bounds).validate_python(value)
    except ValidationError as error:
        for detail in error.errors():
            findings.at(node, *leaf_problem(detail, node, expected(hint)))
        return INVALID


def plain_value(value: Any) -> Plain:
    """A built value as plain JSON, with all defaults, that builds again to an equal one."""
    if dataclasses.is_dataclass(value):
        return {field.name: _plain_option(getattr(value, field.name), field.hint) for field in fields_of(type(value))}
    if isinstance(value, Mapping):
        mapping = cast("Mapping[str, Any]", value)
        return {key: plain_value(item) for key, item in mapping.items()}
    if isinstance(value, (tuple, list)):
        return [plain_value(item) for item in cast("Sequence[Any]", value)]
    return str(value) if isinstance(value, Path) else value


def _plain_option(value: Any, hint: Hint) -> Plain:
    """A default of 16 for a float is the same as the 16.0 that is read back."""
    return float(value) if bare(hint) is float else plain_value(value)
