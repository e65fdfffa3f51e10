"""Rows of ``{messages: [...]}`` in the style of the OpenAI API: which turns are the prompt, and what is the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROLES = ("system", "developer", "user", "assistant", "tool")


class BadConversation(ValueError):
    """What is wrong with a row of messages, as a sentence."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation up to its last assistant turn.

    Attributes:
        turns: The turns before the answer.
        target: Text of the last assistant turn; its tool calls are written as JSON.
        tools: Schemas of the tools on offer.
        unused: Number of turns after the last assistant turn.
    """

    turns: tuple[Mapping[str, Any], ...]
    target: str
    tools: tuple[Mapping[str, Any], ...]
    unused: int


def parse_conversation(messages: Any, tools: Any = None) -> Conversation:
    """Checks a row of messages and splits it at its last assistant turn.

    Args:
        messages: The value of ``messages``.
        tools: The value of ``tools``: a list of schemas, the same as JSON text, or None.

    Returns:
        The conversation.

    Raises:
        BadConversation: If something is wrong.
    """
    if not isinstance(messages, list) or not messages:
        raise BadConversation("`messages` is not a list of turns.")
    turns = [_turn(message, number) for number, message in enumerate(messages, 1)]
    last = max((place for place, turn in enumerate(turns) if turn["role"] == "assistant"), default=-1)
    if last < 0:
        raise BadConversation("No turn is of the assistant, so there is no answer.")
    if last == 0:
        raise BadConversation("No turn comes before the assistant's answer.")
    target = _target(turns[last])
    if not target.strip():
        raise BadConversation("The last assistant turn is blank.")
    return Conversation(tuple(turns[:last]), target, parse_tools(tools), len(turns) - last - 1)


def _turn(message: Any, number: int) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise BadConversation(f"Turn {number} is not an object with `role` and `content`.")
    role = message.get("role")
    if role not in ROLES:
        raise BadConversation(f"The role {json.dumps(role)} of turn {number} is not one of [{', '.join(ROLES)}].")
    turn: dict[str, Any] = {"role": role, "content": _content(message.get("content"), number)}
    calls = message.get("tool_calls")
    if calls:
        if role != "assistant":
            raise BadConversation(f"Turn {number} has tool calls but is not of the assistant.")
        turn["tool_calls"] = [{"type": "function", "function": call} for call in _calls(calls, number)]
    turn.update({key: message[key] for key in ("name", "tool_call_id") if message.get(key) is not None})
    return turn


def _content(content: Any, number: int) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" for part in content):
        return "".join(str(part.get("text") or "") for part in content)
    raise BadConversation(f"The content of turn {number} is not text.")


def _calls(calls: Any, number: int) -> list[dict[str, Any]]:
    """The calls as ``{"name", "arguments"}`` with parsed arguments: chat templates write them as JSON themselves."""
    problem = BadConversation(f"A tool call of turn {number} is not an object with `name` and `arguments`.")
    if not isinstance(calls, list):
        raise problem
    parsed: list[dict[str, Any]] = []
    for call in calls:
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise problem
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            arguments = _json(arguments or "{}", f"The arguments of a tool call of turn {number}")
        parsed.append({"name": function["name"], "arguments": {} if arguments is None else arguments})
    return parsed


def _target(turn: Mapping[str, Any]) -> str:
    """The text of the answer, then its tool calls: one call as an object, several as a list."""
    functions = [call["function"] for call in turn.get("tool_calls", ())]
    if not functions:
        return turn["content"]
    calls = json.dumps(functions[0] if len(functions) == 1 else functions, ensure_ascii=False)
    return f"{turn['content']}\n{calls}" if turn["content"].strip() else calls


def parse_tools(tools: Any) -> tuple[Mapping[str, Any], ...]:
    """The tool schemas of a row.

    Args:
        tools: A list of schemas, the same as JSON text, or None.

    Raises:
        BadConversation: If it is something else.
    """
    if isinstance(tools, str):
        tools = _json(tools or "[]", "`tools`")
    if tools is None:
        return ()
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadConversation("`tools` is not a list of tool schemas.")
    return tuple(tools)


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadConversation(f"{what} is not JSON: {error}.") from error
