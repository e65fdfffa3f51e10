"""Conversations with function calls (Glaive function calling v2), as ShareGPT turns or as OpenAI messages.

Every call becomes a row of its own: its prompt is the conversation up to the call, with the schemas of that very
conversation, so that the arguments can be known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from evertune.streams.prepare.raw_files import finite_json
from evertune.streams.prepare.rows import Converted, Dropped, PreparedRow, dumped
from evertune.streams.prepare.sources import Hub, Source

INSTRUCTION = (
    "Answer the last message of the user with a call of one of these functions: "
    "a JSON object with `name` and `arguments`, or a list of such objects for several calls."
)
USER = "User: "
_SPEAKERS = {"user": USER, "assistant": "Assistant: ", "call": "Call: ", "result": "Result: "}
_KINDS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "call",
    "observation": "result",
    "tool": "result",
    "function": "result",
    "system": "system",
}


class _Unreadable(ValueError):
    """Why a conversation cannot be used, as the manifest counts it."""


@dataclass(frozen=True, slots=True)
class _Turn:
    kind: str
    text: str
    call: Any = None


def convert(value: Mapping[str, Any]) -> Converted:
    """One row a call, or one for several calls in one turn."""
    try:
        if isinstance(value.get("json"), str):
            value = _parsed(value["json"], "the conversation is not JSON")
        tools = _tools(value.get("tools"))
        turns = [turn for message in _messages(value) for turn in _turns(message)]
    except _Unreadable as error:
        yield Dropped(str(error))
        return
    yield from _rows(turns, tools)


def _rows(turns: Sequence[_Turn], tools: Sequence[Mapping[str, Any]]) -> Converted:
    names = {_function(tool).get("name") for tool in tools}
    place, found = 0, False
    for kind, group in groupby([turn for turn in turns if turn.kind != "system"], lambda turn: turn.kind):
        stretch = list(group)
        if kind == "call":
            found = True
            before = [turn for turn in turns if turn.kind != "system"][:place]
            calls = [turn.call for turn in stretch]
            if not any(turn.kind == "user" for turn in before):
                yield Dropped("a call before any turn of the user")
            elif not all(call["name"] in names for call in calls):
                yield Dropped("a call of a function that is not on offer")
            else:
                output = dumped(calls[0] if len(calls) == 1 else calls)
                yield PreparedRow(INSTRUCTION, _transcript(before), output, {"tools": list(tools)}, True)
        place += len(stretch)
    if not found:
        yield Dropped("a conversation without a call")


def _transcript(turns: Sequence[_Turn]) -> str:
    """The turns, each with its speaker; a single one is the bare text."""
    if len(turns) == 1:
        return turns[0].text
    return "\n".join(f"{_SPEAKERS[turn.kind]}{turn.text}" for turn in turns)


def _messages(value: Mapping[str, Any]) -> Sequence[Any]:
    messages = value.get("conversations", value.get("messages"))
    if not isinstance(messages, list):
        raise _Unreadable("no conversation")
    return messages


def _turns(message: Any) -> Iterator[_Turn]:
    """The turns of a message: its text, then its calls."""
    if not isinstance(message, dict):
        raise _Unreadable("a turn is not an object")
    speaker = message.get("from") or message.get("role")
    kind = _KINDS.get(speaker) if isinstance(speaker, str) else None
    text = message.get("value", message.get("content"))
    text = "" if text is None else text
    if kind is None or not isinstance(text, str):
        raise _Unreadable("a turn of an unknown speaker, or without text")
    if kind == "call":
        yield _call(_parsed(text, "a call is not JSON"))
        return
    calls = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if not isinstance(calls, list):
        raise _Unreadable("a call without name and arguments")
    if text.strip() or not calls:
        yield _Turn(kind, text.strip())
    for call in calls:
        yield _call(call)


def _call(value: Any) -> _Turn:
    function = _function(value)
    name, arguments = function.get("name"), function.get("arguments")
    if isinstance(arguments, str):
        arguments = _parsed(arguments or "{}", "the arguments of a call are not JSON")
    arguments = {} if arguments is None else arguments
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise _Unreadable("a call without name and arguments")
    call = {"name": name, "arguments": arguments}
    return _Turn("call", dumped(call), call)


def _tools(value: Any) -> Sequence[Mapping[str, Any]]:
    tools = _parsed(value or "[]", "the tools are not JSON") if isinstance(value, str) else value
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        raise _Unreadable("a conversation without tools")
    if not all(isinstance(_function(tool).get("name"), str) for tool in tools):
        raise _Unreadable("a tool without a name")
    return tools


def _function(value: Any) -> Mapping[str, Any]:
    """``{"name", ...}``, also where it is wrapped as ``{"type": "function", "function": ...}``."""
    inner = value.get("function", value) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def _parsed(text: str, problem: str) -> Any:
    try:
        return finite_json(text)
    except (ValueError, RecursionError) as error:
        raise _Unreadable(problem) from error


FUNCTION_CALLING = Source(
    name="function_calling",
    folder="function_calling",
    train=(
        "glaive-function-calling-openai.jsonl",
        "glaive-function-calling-openai.json",
        "glaive_toolcall_en.json",
        "glaive_toolcall_en_demo.json",
        "glaive_en_train.json",
    ),
    test=("glaive_en_test.json",),
    hub=Hub("madroid/glaive-function-calling-openai", subset="openai_function_calling"),
    licence="Apache-2.0",
    convert=convert,
)
