"""Dialogues of ``{conversations: [{from, value}, ...]}`` as rows of messages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}


def as_messages(values: Mapping[str, Any]) -> dict[str, Any]:
    """A ShareGPT row as one of messages.

    Args:
        values: ``conversations``, and ``system`` and ``tools`` where there are such. The value of a ``function_call``
            is JSON: a call as ``{"name", "arguments"}``, or a list of calls.

    Raises:
        ValueError: If something is wrong.

    Source: the data formats of LLaMA-Factory (Zheng et al., 2024), arXiv:2403.13372.
    """
    turns = values["conversations"]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        raise ValueError("`conversations` is not a list of turns")
    system = values.get("system")
    start = [{"role": "system", "content": system}] if system else []
    rest = {key: value for key, value in values.items() if key not in ("conversations", "system")}
    return {**rest, "messages": [*start, *(_turn(turn, number) for number, turn in enumerate(turns, 1))]}


def _turn(turn: Mapping[str, Any], number: int) -> dict[str, Any]:
    speaker, value = turn.get("from"), turn.get("value")
    if speaker not in _ROLES:
        names = ", ".join(_ROLES)
        raise ValueError(f"turn {number} is from {json.dumps(speaker)}, which is not one of [{names}]")
    if speaker != "function_call":
        return {"role": _ROLES[speaker], "content": value}
    try:
        calls = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"the function call of turn {number} is not JSON") from None
    calls = calls if isinstance(calls, list) else [calls]
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": each} for each in calls],
    }
