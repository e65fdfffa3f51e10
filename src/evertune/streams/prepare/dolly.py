"""databricks-dolly-15k (Conover et al. 2023): instructions and answers written by people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.streams.prepare.rows import Converted, instruction_row
from evertune.streams.prepare.sources import Hub, Source


def convert(value: Mapping[str, Any]) -> Converted:
    """Context and response of the published form, or input and output of its later cuts."""
    published = "response" in value or "context" in value
    keys = ("context", "response") if published else ("input", "output")
    yield instruction_row(value, instruction="instruction", input=keys[0], output=keys[1])


DOLLY = Source(
    name="dolly",
    folder="dolly",
    train=("databricks-dolly-15k.jsonl", "dolly_train.jsonl"),
    test=("dolly_test.jsonl",),
    hub=Hub("databricks/databricks-dolly-15k"),
    licence="CC BY-SA 3.0",
    convert=convert,
)
