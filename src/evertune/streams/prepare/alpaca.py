"""Stanford Alpaca (Taori et al. 2023): instructions and answers written by a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.streams.prepare.rows import Converted, instruction_row
from evertune.streams.prepare.sources import Hub, Source


def convert(value: Mapping[str, Any]) -> Converted:
    """The row as it is."""
    yield instruction_row(value, instruction="instruction", input="input", output="output")


ALPACA = Source(
    name="alpaca",
    folder="alpaca",
    train=("alpaca_data.json",),
    test=("alpaca_data_test.json",),
    hub=Hub("tatsu-lab/alpaca"),
    licence="CC BY-NC 4.0: not for commercial use",
    convert=convert,
)
