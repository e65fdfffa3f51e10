"""Tool calls: found in an answer, checked against the schemas on offer, and compared with the right ones."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from evertune.metrics.base import Metric, Row

_Json = Mapping[str, Any]


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_number)
_DEEPEST: Final = 64
_OPENING: Final = re.compile(r"[{\[]")
_TAG: Final = re.compile(r"<(?:tool_call|functioncall|function_call)>")
# What begins like a call, in text that is no JSON.
_BROKEN: Final = re.compile(r"\{\s*[\"']name[\"']\s*:")
# The published function-calling transcripts write arguments as JSON in single quotes.
_QUOTED_ARGUMENTS: Final = re.compile(r"(\"arguments\"\s*:\s*)'(\{.*?\})'(?=\s*\})", re.DOTALL)
_ALIASES: Final = {
    "dict": "object",
    "float": "number",
    "double": "number",
    "int": "integer",
    "long": "integer",
    "bool": "boolean",
    "str": "string",
    "list": "array",
    "tuple": "array",
}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call.

    Attributes:
        name: Name of the tool.
        arguments: Its arguments by name.
    """

    name: str
    arguments: _Json


@dataclass(frozen=True, slots=True)
class Calls:
    """What was found in an answer.

    Attributes:
        found: The calls, in order.
        broken: Whether something was meant as a call and cannot be read.
    """

    found: tuple[Call, ...]
    broken: bool


@functools.lru_cache(maxsize=4096)  # five metrics read the same answers
def calls_in(answer: str) -> Calls:
    """The tool calls in an answer, with or without text and tags around them.

    A call is an object with ``name`` and ``arguments`` (or ``parameters``), or ``{"type": "function", "function":
    {...}}``, or a list of these, alone or under ``tool_calls``; the arguments are an object, or JSON text of one.
    """
    text = _QUOTED_ARGUMENTS.sub(lambda match: match[1] + json.dumps(match[2]), answer)
    found: list[Call | None] = []
    around: list[str] = []  # what is no JSON value
    place = 0
    while opening := _OPENING.search(text, place):
        around.append(text[place : opening.start()])
        try:
            value, place = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            place = opening.end()
            around.append(opening[0])
        else:
            found += _calls(value)
    around.append(text[place:])
    calls = tuple(call for call in found if call is not None)
    left = "".join(around)
    unread = len(calls) < len(found) or _BROKEN.search(left) is not None or len(_TAG.findall(left)) > len(found)
    return Calls(calls, unread)


def _calls(value: Any) -> list[Call | None]:
    """The calls that a JSON value is, None for one that cannot be read; nothing if it is something else."""
    if isinstance(value, dict):
        message = cast("dict[str, Any]", value)
        value = message.get("tool_calls") or message
    items: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    functions = [_function(item) for item in items]
    if any(function is None for function in functions):
        return []
    return [_call(function) for function in functions if function is not None]


def _function(value: Any) -> _Json | None:
    """The part of a call that holds name and arguments; None if the value is no call."""
    if not isinstance(value, dict):
        return None
    call = cast("dict[str, Any]", value)
    inner = call.get("function")
    if isinstance(inner, dict):
        return cast("dict[str, Any]", inner)
    bare = call.keys() <= {"name", "type", "id"}
    return call if "name" in call and (bare or "arguments" in call or "parameters" in call) else None


def _call(function: _Json) -> Call | None:
    name, arguments = function.get("name"), function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}", parse_constant=_no_number)
        except (ValueError, RecursionError):
            return None
    if arguments is None:
        arguments = dict[str, Any]()
    if not isinstance(name, str) or not isinstance(arguments, dict) or not _is_shallow(arguments, _DEEPEST):
        return None
    return Call(name, cast("_Json", arguments))


def _is_shallow(value: Any, room: int) -> bool:
    """Whether a JSON value is nested less than `room` deep: a model may open brackets for as long as it is let."""
    members = cast("dict[str, Any]", value).values() if isinstance(value, dict) else value
    if isinstance(members, str) or not isinstance(members, Iterable):
        return True
    return room > 0 and all(_is_shallow(member, room - 1) for member in cast("Iterable[Any]", members))


def _canonical(value: Any) -> str:
    """JSON text that is the same for equal values: keys sorted, numbers by value, true apart from 1."""
    return json.dumps(_plain(value), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def _parameters(tools: Sequence[_Json]) -> dict[str, _Json]:
    """Schema of the arguments of every tool, by name."""
    found: dict[str, _Json] = {}
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(cast("_Json", function).get("name"), str):
            described = cast("_Json", function)
            schema = described.get("parameters") or described.get("input_schema")
            found[described["name"]] = cast("_Json", schema) if isinstance(schema, Mapping) else {}
    return found


def fits_schema(value: Any, schema: Any) -> bool:
    """Whether a JSON value has the type of a schema: ``type``, ``enum``, ``properties``, ``required`` and ``items``.

    Other keywords, and types that JSON Schema does not know, allow anything. ``dict``, ``float`` and the like are taken
    for the types they mean.
    """
    if not isinstance(schema, Mapping):
        return True
    rules = cast("_Json", schema)
    named = rules.get("type")
    types = cast("list[Any]", named) if isinstance(named, list) else [named]
    if named is not None and not any(_is_of(value, str(each)) for each in types):
        return False
    choices = rules.get("enum")
    if isinstance(choices, list) and _canonical(value) not in map(_canonical, cast("list[Any]", choices)):
        return False
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        known = _mapping(rules.get("properties"))
        return all(name in members for name in _names(rules.get("required"))) and all(
            fits_schema(member, known.get(name)) for name, member in members.items()
        )
    if isinstance(value, list):
        return all(fits_schema(item, rules.get("items")) for item in cast("list[Any]", value))
    return True


def _is_of(value: Any, type_name: str) -> bool:
    lowered = type_name.lower()
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    checks: dict[str, bool] = {
        "object": isinstance(value, dict),
        "array": isinstance(value, list),
        "string": isinstance(value, str),
        "boolean": isinstance(value, bool),
        "number": number,
        "integer": number and (isinstance(value, int) or value.is_integer()),
        "null": value is None,
    }
    return checks.get(_ALIASES.get(lowered, lowered), True)


def _mapping(value: Any) -> _Json:
    return cast("_Json", value) if isinstance(value, Mapping) else {}


def _names(value: Any) -> list[str]:
    return [name for name in cast("list[Any]", value) if isinstance(name, str)] if isinstance(value, list) else []


def _has_required(call: Call, schema: _Json) -> bool:
    return all(name in call.arguments for name in _names(schema.get("required")))


def _has_types(call: Call, schema: _Json) -> bool:
    known = _mapping(schema.get("properties"))
    closed = "properties" in schema and not schema.get("additionalProperties")
    return all(
        fits_schema(value, known.get(name)) and (name in known or not closed) for name, value in call.arguments.items()
    )


def _any(call: Call, schema: _Json) -> bool:
    return True


def _all_calls(prediction: str, reference: str, row: Row, check: Callable[[Call, _Json], bool] = _any) -> float:
    """1.0 if all calls name a tool and pass a check; where the right answer makes no call, if none is made."""
    answered, right = calls_in(prediction), calls_in(reference)
    if answered.broken or not right.found:
        return float(not answered.broken and not answered.found)
    known = _parameters(row.tools) if row.tools else {call.name: cast("_Json", {}) for call in right.found}
    return float(
        bool(answered.found) and all(call.name in known and check(call, known[call.name]) for call in answered.found)
    )


def tool_call_json(prediction: str, reference: str, row: Row) -> float:
    """1.0 if the answer makes a tool call that can be read, and none that cannot, else 0.0.

    Where the right answer is text without a call, so must the answer be, for this and the other metrics of tool calls.

    Source: Patil et al. (2023), arXiv:2305.15334, for checks of calls by syntax.
    """
    answered, right = calls_in(prediction), calls_in(reference)
    return float(not answered.broken and bool(answered.found) == bool(right.found))


def tool_call_name(prediction: str, reference: str, row: Row) -> float:
    """1.0 if every call of the answer names one of the tools on offer, else 0.0; see `tool_call_json`.

    Where no tools are given, those of the right answer are on offer.
    """
    return _all_calls(prediction, reference, row)


def tool_call_required(prediction: str, reference: str, row: Row) -> float:
    """1.0 if every call of the answer names a tool and gives its required arguments, else 0.0; see `tool_call_json`."""
    return _all_calls(prediction, reference, row, _has_required)


def tool_call_types(prediction: str, reference: str, row: Row) -> float:
    """1.0 if every call names a tool and its arguments have the types of the schema, else 0.0; see `tool_call_json`.

    Types, choices (``enum``) and nested values are checked. An argument that the schema does not list is wrong, unless
    it allows others (``additionalProperties``) or has no ``properties``.
    """
    return _all_calls(prediction, reference, row, _has_types)


def tool_call_exact(prediction: str, reference: str, row: Row) -> float:
    """1.0 if the answer makes the right calls with equal arguments (none where there are none), else 0.0.

    The order of calls and of keys is free, numbers are equal by value, text must be equal to the letter; text around
    the calls plays no part.

    Source: the exact-match setting of function-calling evaluations such as BFCL (Patil et al., 2025).
    """
    answered, right = calls_in(prediction), calls_in(reference)

    def counted(calls: Calls) -> Counter[tuple[str, str]]:
        return Counter((call.name, _canonical(call.arguments)) for call in calls.found)

    return float(not answered.broken and counted(answered) == counted(right))


TOOL_CALL_JSON = Metric(name="tool_call_json", row_score=tool_call_json, binary=True)
TOOL_CALL_NAME = Metric(name="tool_call_name", row_score=tool_call_name, binary=True)
TOOL_CALL_REQUIRED = Metric(name="tool_call_required", row_score=tool_call_required, binary=True)
TOOL_CALL_TYPES = Metric(name="tool_call_types", row_score=tool_call_types, binary=True)
TOOL_CALL_EXACT = Metric(
    name="tool_call_exact",
    row_score=tool_call_exact,
    binary=True,
    beside=("tool_call_json", "tool_call_name", "tool_call_required", "tool_call_types"),
)
