"""One row of each public data set to rows of a task."""

from __future__ import annotations

import json
from typing import Any

import pytest

from evertune.streams.prepare import code_alpaca, dolly, function_calling, gsm8k, hh_rlhf
from evertune.streams.prepare.rows import Dropped, PreparedRow
from evertune.streams.prepare.sources import Source
from tests.unit.streams.raw_sources import TOOL, call, conversation, preference


def converted(source: Source, value: dict[str, Any]) -> list[PreparedRow | Dropped]:
    return list(source.convert(value))


def only(source: Source, value: dict[str, Any]) -> PreparedRow:
    (row,) = converted(source, value)
    assert isinstance(row, PreparedRow), row
    return row


def reasons(source: Source, value: dict[str, Any]) -> list[str]:
    rows = converted(source, value)
    assert all(isinstance(row, Dropped) for row in rows), rows
    return [row.reason for row in rows if isinstance(row, Dropped)]


def test_dolly_in_its_published_form_and_as_cut() -> None:
    published = only(dolly.DOLLY, {"instruction": "Do.", "context": "This.", "response": "Done."})
    cut = only(dolly.DOLLY, {"instruction": "Do.", "prompt": "filled in", "input": "This.", "output": "Done."})
    assert published.to_json() == cut.to_json() == {"instruction": "Do.", "input": "This.", "output": "Done."}


def test_a_missing_field_is_blank_and_a_number_is_no_text() -> None:
    assert only(code_alpaca.CODE_ALPACA, {"instruction": "Do.", "output": None}).output == ""
    assert reasons(code_alpaca.CODE_ALPACA, {"instruction": "Do.", "output": 3}) == ["a field is not text"]


def test_mathematics_keeps_the_final_answer() -> None:
    row = only(gsm8k.GSM8K, {"question": "1+1?", "answer": "<<1+1=2>>2\n#### 2"})
    assert (row.instruction, row.input, row.output) == (gsm8k.INSTRUCTION, "1+1?", "<<1+1=2>>2\n#### 2")
    assert row.asked == "1+1?"
    assert reasons(gsm8k.GSM8K, {"question": "1+1?", "answer": "2"}) == ["no final answer behind ####"]


def test_a_reply_is_told_from_the_conversation() -> None:
    value = preference("Hi\n\nAssistant: Hello.\n\nHuman: Help me steal.", "No.", "Sure!")
    row = only(hh_rlhf.HH_RLHF, value)
    assert row.input == "Human: Hi\n\nAssistant: Hello.\n\nHuman: Help me steal."
    assert row.to_json() == {
        "instruction": hh_rlhf.INSTRUCTION,
        "input": row.input,
        "output": "No.",
        "rejected": "Sure!",
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"chosen": "Hello", "rejected": "Hello"}, "no reply of the assistant ends the conversation"),
        ({"chosen": "\n\nAssistant: Hi", "rejected": "\n\nAssistant: Ho"}, "no reply of the assistant ends"),
        (preference("Q", "A\n\nHuman: Thanks", "B"), "no reply of the assistant ends the conversation"),
        ({**preference("Q", "A", "B"), "rejected": None}, "no reply of the assistant ends the conversation"),
        (preference("Q", "A", "A"), "the two replies are equal"),
        (preference("Q", "A", ""), "blank rejected reply"),
        (preference("Q", "Human: A", "B"), "a reply that goes on with the conversation"),
        (preference("Q", "A", "B\nAssistant: C"), "a reply that goes on with the conversation"),
        (
            {"chosen": preference("Q", "A", "")["chosen"], "rejected": preference("R", "B", "")["chosen"]},
            "the two replies belong to different conversations",
        ),
    ],
)
def test_preferences_that_are_none(value: dict[str, Any], reason: str) -> None:
    (found,) = reasons(hh_rlhf.HH_RLHF, value)
    assert found.startswith(reason)


def test_each_call_is_paired_with_its_own_turn_and_keeps_its_tools() -> None:
    value = conversation(
        ("human", "Weather in Rome?"),
        ("function_call", call("Rome")),
        ("observation", '{"sun": 1}'),
        ("gpt", "Sunny."),
        ("human", "And in Oslo?"),
        ("function_call", call("Oslo")),
    )
    first, second = converted(function_calling.FUNCTION_CALLING, value)
    assert isinstance(first, PreparedRow)
    assert isinstance(second, PreparedRow)
    assert first.input == "Weather in Rome?"
    assert json.loads(first.output) == {"name": "get_weather", "arguments": {"city": "Rome"}}
    assert second.input.splitlines() == [
        "User: Weather in Rome?",
        f"Call: {call('Rome')}",
        'Result: {"sun": 1}',
        "Assistant: Sunny.",
        "User: And in Oslo?",
    ]
    assert json.loads(second.output)["arguments"] == {"city": "Oslo"}
    assert first.extras == second.extras == {"tools": [TOOL]}


def test_messages_in_the_form_of_the_openai_api_mean_the_same() -> None:
    shared = conversation(("human", "Both?"), ("function_call", call("Rome")), ("function_call", call("Oslo")))
    tool = {"type": "function", "function": TOOL}
    made = [{"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}]
    made += [{"id": "1", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]
    messages = [
        {"role": "system", "content": "You can call functions."},
        {"role": "user", "content": "Both?"},
        {"role": "assistant", "content": None, "tool_calls": made},
    ]
    plain = only(function_calling.FUNCTION_CALLING, {"messages": messages, "tools": [tool]})
    packed = only(function_calling.FUNCTION_CALLING, {"json": json.dumps({"messages": messages, "tools": [tool]})})
    expected = only(function_calling.FUNCTION_CALLING, shared)
    assert plain == packed
    assert (plain.input, plain.output) == (expected.input, expected.output)
    assert [one["arguments"]["city"] for one in json.loads(plain.output)] == ["Rome", "Oslo"]
    assert plain.extras["tools"] == [tool]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (conversation(("human", "Hi"), ("gpt", "Hello")), "a conversation without a call"),
        (conversation(("human", "Hi"), ("function_call", call("x")), tools=[]), "a conversation without tools"),
        ({**conversation(("human", "Hi")), "tools": "[{"}, "the tools are not JSON"),
        (conversation(("human", "Hi"), ("function_call", "{not")), "a call is not JSON"),
        (conversation(("human", "Hi"), ("function_call", '{"name": 3}')), "a call without name and arguments"),
        (
            conversation(("human", "Hi"), ("function_call", call("x", "fly"))),
            "a call of a function that is not on offer",
        ),
        (conversation(("function_call", call("x")), ("human", "Hi")), "a call before any turn of the user"),
        (conversation(("martian", "Hi")), "a turn of an unknown speaker, or without text"),
        ({"tools": [TOOL]}, "no conversation"),
        ({"json": "{"}, "the conversation is not JSON"),
    ],
)
def test_conversations_that_cannot_be_used(value: dict[str, Any], reason: str) -> None:
    assert reasons(function_calling.FUNCTION_CALLING, value) == [reason]
