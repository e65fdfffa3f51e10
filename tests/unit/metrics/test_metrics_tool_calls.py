from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.metrics import METRICS
from evertune.metrics.base import Row
from evertune.metrics.tool_calls import Call, calls_in, fits_schema

TOOLS = (
    {
        "name": "convert",
        "parameters": {
            "type": "object",
            "properties": {
                "amount": {"type": "number"},
                "unit": {"type": "string", "enum": ["km", "mile"]},
                "digits": {"type": "integer"},
                "route": {"type": "array", "items": {"type": "string"}},
            },
            "required": ["amount", "unit"],
        },
    },
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
)
ROW = Row(tools=TOOLS)
RIGHT = '{"name": "convert", "arguments": {"amount": 5, "unit": "km"}}'
STEPS = ("json", "name", "required", "types", "exact")


def scores(answer: str, reference: str = RIGHT, row: Row = ROW) -> str:
    """The five scores in the order of `STEPS`, as digits."""
    return "".join(f"{METRICS.get(f'tool_call_{step}').row_score(answer, reference, row):.0f}" for step in STEPS)


@pytest.mark.parametrize(
    "answer",
    [
        RIGHT,
        '{"arguments": {"unit": "km", "amount": 5.0}, "name": "convert"}',
        f"[{RIGHT}]",
        f"Let me see.\n{RIGHT}\nThat is it.",
        f"<tool_call>\n{RIGHT}\n</tool_call>",
        f"<functioncall> {RIGHT} <|endoftext|>",
        f"```json\n{RIGHT}\n```",
        '<functioncall> {"name": "convert", "arguments": \'{"amount": 5, "unit": "km"}\'}',
        '{"name": "convert", "arguments": "{\\"amount\\": 5, \\"unit\\": \\"km\\"}"}',
        '{"name": "convert", "parameters": {"amount": 5, "unit": "km"}}',
        '{"type": "function", "function": {"name": "convert", "arguments": {"amount": 5, "unit": "km"}}}',
        '{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "convert", '
        '"arguments": "{\\"amount\\": 5e0, \\"unit\\": \\"km\\"}"}}]}',
        f"See [1] and {{this}}: {RIGHT}",
    ],
)
def test_ways_to_write_the_right_call(answer: str) -> None:
    assert scores(answer) == "11111"
    assert scores(RIGHT, answer) == "11111"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ('{"name": "convert", "arguments": {"amount": 6, "unit": "km"}}', "11110"),
        ('{"name": "convert", "arguments": {"amount": "5", "unit": "km"}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": true, "unit": "km"}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": 5, "unit": "parsec"}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": 5, "unit": "km", "colour": "red"}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": 5, "unit": "km", "route": ["a", 1]}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": 5, "unit": "km", "digits": 2.5}}', "11100"),
        ('{"name": "convert", "arguments": {"amount": 5, "unit": "km", "digits": 2.0}}', "11110"),
        ('{"name": "convert", "arguments": {"amount": 5}}', "11010"),
        ('{"name": "convert"}', "11010"),
        ('{"name": "convert", "arguments": null}', "11010"),
        ('{"name": "konvert", "arguments": {"amount": 5, "unit": "km"}}', "10000"),
        (f"{RIGHT}\n{RIGHT}", "11110"),
        (f'{RIGHT}\n{{"name": "now", "arguments": {{}}}}', "11110"),
        (RIGHT[:-1], "00000"),
        (f"{RIGHT} {RIGHT[:-2]}", "00000"),
        ("<tool_call>convert(5)</tool_call>", "00000"),
        (f"<tool_call>{RIGHT}</tool_call><tool_call>{{}}</tool_call>", "00000"),
        ('{"name": "convert", "arguments": [5]}', "00000"),
        ('{"name": "convert", "arguments": "5 km"}', "00000"),
        ('{"name": 3, "arguments": {}}', "00000"),
        ('{"name": "convert", "arguments": {"amount": NaN, "unit": "km"}}', "00000"),
        ("5 km are 3.1 miles.", "00000"),
        ('{"amount": 5}', "00000"),
        ("[]", "00000"),
        ("", "00000"),
        ("[" * 5000, "00000"),
        ('{"name": "convert", "arguments": {"amount": ' + "[" * 500 + "]" * 500 + "}}", "00000"),
    ],
)
def test_calls_that_are_wrong(answer: str, expected: str) -> None:
    assert scores(answer) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("I cannot book flights.", "11111"),
        ("", "11111"),
        ('Bob is {"name": "Bob", "age": 3} [1].', "11111"),
        (RIGHT, "00000"),
        (RIGHT[:-1], "00000"),
    ],
)
def test_where_no_call_is_right(answer: str, expected: str) -> None:
    assert scores(answer, "Which unit do you mean?") == expected


def test_the_order_of_parallel_calls_is_free() -> None:
    now = '{"name": "now", "arguments": {}}'
    assert scores(f"[{now}, {RIGHT}]", f"[{RIGHT}, {now}]") == "11111"
    assert scores(f"{now}\n{RIGHT}", f"[{RIGHT}, {now}]") == "11111"
    assert scores(now, f"[{RIGHT}, {now}]") == "11110"
    assert scores(f"[{now}, {now}]", f"[{RIGHT}, {now}]") == "11110"
    assert scores(f'[{now}, {{"name": "later"}}]', f"[{RIGHT}, {now}]") == "10000"


def test_without_tools_those_of_the_right_answer_are_on_offer() -> None:
    assert scores('{"name": "convert", "arguments": {"x": 1}}', row=Row()) == "11110"
    assert scores('{"name": "other", "arguments": {}}', row=Row()) == "10000"


def test_true_is_not_one_and_text_is_taken_to_the_letter() -> None:
    def call(value: Any) -> str:
        return json.dumps({"name": "f", "arguments": {"x": value}})

    equal = METRICS.get("tool_call_exact").row_score
    assert equal(call(1.0), call(1), Row()) == 1
    assert equal(call([1.0, {"a": 2}]), call([1, {"a": 2.0}]), Row()) == 1
    assert equal(call(True), call(1), Row()) == 0
    assert equal(call("1"), call(1), Row()) == 0
    assert equal(call("A"), call("a"), Row()) == 0
    assert equal(call([1, 2]), call([2, 1]), Row()) == 0
    assert equal(call(None), json.dumps({"name": "f", "arguments": {}}), Row()) == 0


def test_what_was_found() -> None:
    assert calls_in(f"{RIGHT} and {{}}").found == (Call("convert", {"amount": 5, "unit": "km"}),)
    assert calls_in("nothing").broken is False


def test_types_of_other_schema_dialects() -> None:
    assert fits_schema({"a": 1}, {"type": "dict"})
    assert fits_schema(1.5, {"type": "float"})
    assert not fits_schema("1.5", {"type": "float"})
    assert fits_schema("x", {"type": "String"})
    assert fits_schema(object(), {"type": "any"})
    assert fits_schema(3, "no schema")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from([0.0, 0.5, 1.0]) | st.sampled_from(["a", "b", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), inner, max_size=3),
    max_leaves=6,
)
TYPES = st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
SCHEMAS = st.recursive(
    st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, unique=True),
            "enum": st.lists(JSON, min_size=1, max_size=3),
        },
    ),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES,
            "properties": st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2),
            "required": st.lists(st.sampled_from(["a", "b"]), unique=True),
            "items": inner,
        },
    ),
    max_leaves=4,
)


@given(value=JSON, schema=SCHEMAS)
def test_a_schema_means_what_jsonschema_says(value: Any, schema: dict[str, Any]) -> None:
    expected = jsonschema.Draft202012Validator(schema).is_valid(value)
    assert fits_schema(value, schema) == expected


@given(name=st.text(), arguments=st.dictionaries(st.text(), JSON), around=st.text(alphabet="ab .\n:", max_size=20))
def test_any_call_is_found_again(name: str, arguments: dict[str, Any], around: str) -> None:
    text = json.dumps({"name": name, "arguments": arguments})
    found = calls_in(f"{around}{text}{around}")
    assert found.found == (Call(name, arguments),)
    assert METRICS.get("tool_call_exact").row_score(f"{around}{text}", text, Row()) == 1


@given(answer=st.text(alphabet="{}[]\",:namergutsfdx 1<>_\\'", max_size=60))
def test_any_text_is_scored_and_steps_build_on_each_other(answer: str) -> None:
    parsed, name, required, types, exact = (int(digit) for digit in scores(answer))
    assert exact <= min(required, types) <= max(required, types) <= name <= parsed
    assert scores(answer, answer)[-1] == str(int(not calls_in(answer).broken))
