"""Published files that are not quite JSON."""

from __future__ import annotations

from pathlib import Path

import pytest

from evertune.errors import DataError
from evertune.streams.bad_rows import BadRows
from evertune.streams.prepare import function_calling
from evertune.streams.prepare.raw_files import read_values
from evertune.streams.prepare.rows import Dropped
from tests.unit.streams.raw_sources import TOOL


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[{"a": 1}, {"b": 2}] garbage', "file.json:2"),
        ('[{"a": 1}][{"a": 1}]', "file.json:1"),
        ('[{"a": NaN}]', "file.json:1"),
        ('{"a": 1}\n{"a": 1e999}', "file.json:2"),
        ('{"a": -Infinity}', "file.json:1"),
    ],
)
def test_what_is_no_json_is_named_by_its_row(tmp_path: Path, text: str, where: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)
    bad = BadRows()
    read_values(path, bad)
    with pytest.raises(DataError) as caught:
        bad.raise_if_any()
    assert caught.value.problems[0].where.endswith(where)


@pytest.mark.parametrize(
    "value",
    [
        {"conversations": [{"from": ["human"], "value": "x"}], "tools": [TOOL]},
        {"messages": [{"role": "assistant", "content": "", "tool_calls": 5}], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": "x"}], "tools": [{"name": ["f"]}]},
    ],
)
def test_an_odd_conversation_is_dropped_and_counted(value: dict) -> None:
    (found,) = function_calling.FUNCTION_CALLING.convert(value)
    assert isinstance(found, Dropped)
