"""Small files in the form of the published ones of the five tasks."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TOOL = {
    "name": "get_weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


def alpaca(count: int, what: str = "Name a thing") -> list[dict[str, Any]]:
    return [{"instruction": f"{what}, number {i}.", "input": "", "output": f"thing {i}"} for i in range(count)]


def dolly(count: int) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Sum it up, {i}.", "context": f"Long text {i}.", "response": f"short {i}", "category": "x"}
        for i in range(count)
    ]


def gsm8k(count: int, start: int = 0) -> list[dict[str, Any]]:
    return [
        {"question": f"What is {i} plus {i}?", "answer": f"{i}+{i} = <<{i}+{i}={2 * i}>>{2 * i}\n#### {2 * i}"}
        for i in range(start, start + count)
    ]


def conversation(*turns: tuple[str, str], tools: Any = None) -> dict[str, Any]:
    """A row in the form of ShareGPT."""
    schemas = json.dumps([TOOL] if tools is None else tools)
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns], "tools": schemas}


def call(city: str, name: str = "get_weather") -> str:
    return json.dumps({"name": name, "arguments": {"city": city}})


def calls(count: int) -> list[dict[str, Any]]:
    return [
        conversation(("human", f"Weather in town {i}?"), ("function_call", call(f"town {i}")), ("gpt", "Sunny."))
        for i in range(count)
    ]


def preference(question: str, chosen: str, rejected: str) -> dict[str, str]:
    head = f"\n\nHuman: {question}\n\nAssistant:"
    return {"chosen": f"{head} {chosen}", "rejected": f"{head} {rejected}"}


def preferences(count: int, start: int = 0) -> list[dict[str, str]]:
    return [preference(f"May I do bad deed {i}?", f"No {i}.", f"Yes {i}!") for i in range(start, start + count)]


def lines(rows: Sequence[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_sources(folder: Path, count: int = 40) -> Path:
    """All six sources with so many training rows; mathematics and safety have test files."""
    files = {
        "alpaca/alpaca_data.json": json.dumps(alpaca(count)),
        "dolly/databricks-dolly-15k.jsonl": lines(dolly(count)),
        "gsm8k/train.jsonl": lines(gsm8k(count)),
        "gsm8k/test.jsonl": lines(gsm8k(8, start=1000)),
        "code_alpaca/code_alpaca_20k.json": json.dumps(alpaca(count, "Write a function")),
        "function_calling/glaive_en_train.json": json.dumps(calls(count)),
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    harmless = folder / "hh_rlhf" / "harmless-base"
    harmless.mkdir(parents=True)
    (harmless / "train.jsonl.gz").write_bytes(gzip.compress(lines(preferences(count)).encode()))
    (harmless / "test.jsonl").write_text(lines(preferences(6, start=1000)), encoding="utf-8")
    return folder
