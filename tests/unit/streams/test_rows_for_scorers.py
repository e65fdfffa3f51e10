"""Rows of one's own that carry what scorers need: tools, tests and a reply that is worse."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evertune.console import Console
from evertune.errors import ConfigError, DataError
from evertune.streams.examples import PromptTarget
from evertune.streams.instructions import Instructions, TaskSource

TOOL = {"name": "add", "parameters": {"type": "object"}}
Write = Callable[[str, Any], Path]


def load(path: Path, template: str = "none") -> list[PromptTarget]:
    tasks = (TaskSource(name="t", train=path, test=path, template=template),)
    stream = Instructions(tasks=tasks, dev_fraction=0).load(seed=1, console=Console(io.StringIO(), speaks=False))
    return list(stream.tasks[0].train)


def row(**more: Any) -> dict[str, Any]:
    return {"instruction": "Do.", "input": "This.", "output": "Done.", **more}


def test_they_reach_the_row(write: Write) -> None:
    rows = [row(tests="assert f() == 1", rejected="No."), row(input="That.", tools=[TOOL]), row(input="Else.")]
    first, second, third = load(write("rows.jsonl", rows))
    assert first.facts == {"tests": ["assert f() == 1"], "rejected": "No."}
    assert (second.tools, second.prompt_text) == ((TOOL,), f"Do.\n{json.dumps([TOOL])}\nThat.")
    assert [segment.text for segment in second.prompt if segment.cut] == ["That."]
    assert (third.facts, third.tools, third.prompt_text) == ({}, (), "Do.\nElse.")
    assert first.prompt_text == "Do.\nThis."


def test_tools_may_be_json_text_and_go_to_the_chat_template(write: Write) -> None:
    (only,) = load(write("rows.jsonl", [row(tools=json.dumps([TOOL]))]), "chat")
    assert (only.tools, only.messages[0]["content"]) == ((TOOL,), "Do.\nThis.")


def test_other_formats_keep_ignoring_such_keys(write: Write) -> None:
    (only,) = load(write("rows.jsonl", [{"prompt": "x", "completion": "y", "tests": 3, "rejected": []}]))
    assert only.facts == {}


@pytest.mark.parametrize(
    ("more", "what"),
    [
        ({"tools": "[{"}, "`tools` is not JSON"),
        ({"tools": [3]}, "`tools` is not a list of tool schemas."),
        ({"tests": [3]}, r"`tests` is a list \(\[3\]\), not a list of statements."),
        ({"tests": [" "]}, "not a list of statements. Write a list of texts."),
        ({"rejected": ["x"]}, r"`rejected` is a list \(\['x'\]\), not text."),
        ({"rejected": " "}, "The reply `rejected` is blank. Fill it in, or leave the key out."),
    ],
)
def test_what_is_wrong_is_said_with_its_row(write: Write, more: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=rf"rows\.jsonl:2: .*{what}"):
        load(write("rows.jsonl", [row(), row(**more)]))


def test_a_template_without_an_instruction_has_no_place_for_tools(write: Write) -> None:
    with pytest.raises(ConfigError, match=r"The template has no \{instruction\}, but rows have one"):
        load(write("rows.jsonl", [{"instruction": "", "input": "x", "output": "y", "tools": [TOOL]}]), "{input} ->")
