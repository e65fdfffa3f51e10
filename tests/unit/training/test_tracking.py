"""The event log: one JSON object a line, whatever the numbers are, and nothing twice."""

from __future__ import annotations

import io
import json
import math
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from evertune.console import Console
from evertune.training.tracking import EventLog


def strict(path: Path) -> list[dict[str, Any]]:
    """The events, by a reader that accepts only what JSON allows."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


def test_events_have_a_name_a_time_and_their_fields(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "events.jsonl"
    log = EventLog(path)
    assert log.position() == 0
    assert not path.exists()
    log.write("step", stage=0, task="Zürich", loss=1 / 3)
    (event,) = strict(path)  # it is on the disk at once
    assert list(event) == ["event", "time", "stage", "task", "loss"]
    assert (event["event"], event["task"], event["loss"]) == ("step", "Zürich", 1 / 3)
    age = datetime.now(timezone.utc) - datetime.fromisoformat(event["time"])
    assert timedelta(0) <= age < timedelta(minutes=1)
    log.close()


def test_numbers_that_json_cannot_hold_become_null(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "e")
    log.write(
        "step",
        loss=math.nan,
        norm=math.inf,
        terms={"a": -math.inf, "b": {"c": math.nan}, "d": 1.5},
        list=[1.0, math.nan],
    )
    log.close()
    (event,) = strict(tmp_path / "e")
    assert event["loss"] is None
    assert event["norm"] is None
    assert event["terms"] == {"a": None, "b": {"c": None}, "d": 1.5}
    assert event["list"] == [1.0, None]


def test_rewinding_forgets_what_will_be_written_again(tmp_path: Path) -> None:
    path = tmp_path / "e"
    log = EventLog(path)
    log.write("step", step=1)
    position = log.position()
    assert position == path.stat().st_size
    log.write("step", step=2)
    log.write("step", step=3)

    again = EventLog(path)
    again.rewind(position)
    again.write("step", step=2)
    again.close()
    assert [event["step"] for event in strict(path)] == [1, 2]

    again.rewind(10**6)  # a position that was never reached changes nothing
    again.write("step", step=3)
    again.close()
    assert [event["step"] for event in strict(path)] == [1, 2, 3]


def test_warnings_outlast_rewinding(tmp_path: Path) -> None:
    """They are said once, by the process that is resumed or by the one that was killed."""
    path, said = tmp_path / "e", io.StringIO()
    log = EventLog(path)
    log.write("step", step=1)
    position = log.position()
    log.write("step", step=2)
    log.warn(Console(said), "careful")
    with path.open("a") as torn:
        torn.write('{"event": "warning", "te')
    log.rewind(position)
    log.write("step", step=2)
    log.close()
    assert [(event["event"], event.get("text")) for event in strict(path)] == [
        ("step", None),
        ("warning", "careful"),
        ("step", None),
    ]
    assert said.getvalue() == "warning: careful\n"


def test_rewinding_half_a_line_of_a_killed_process(tmp_path: Path) -> None:
    path = tmp_path / "e"
    log = EventLog(path)
    log.write("step", step=1)
    position = log.position()
    log.close()
    with path.open("a") as out:
        out.write('{"event": "ste')
    log.rewind(position)
    log.write("step", step=2)
    assert [event["step"] for event in strict(path)] == [1, 2]
    log.close()


def test_only_the_main_process_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "e"
    log = EventLog(path)
    log.write("step", step=1)
    log.close()
    before = path.read_bytes()
    monkeypatch.setenv("RANK", "1")
    log.write("step", step=2)
    log.rewind(0)
    log.close()
    assert path.read_bytes() == before
