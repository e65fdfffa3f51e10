"""GSM8K (Cobbe et al. 2021, arXiv:2110.14168): word problems of primary school, answers with their steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evertune.streams.prepare.rows import Converted, Dropped, instruction_row
from evertune.streams.prepare.sources import Hub, Source

INSTRUCTION = "Solve this problem step by step. End with a line of `#### ` and the number that is the answer."


def convert(value: Mapping[str, Any]) -> Converted:
    """Question and answer under a fixed instruction; the answer keeps its last line ``#### number``."""
    row = instruction_row(value, instruction="", input="question", output="answer")
    if isinstance(row, Dropped):
        yield row
    elif row.output.strip() and "####" not in row.output:
        yield Dropped("no final answer behind ####")
    else:
        yield replace(row, instruction=INSTRUCTION, fixed_instruction=True)


GSM8K = Source(
    name="gsm8k",
    folder="gsm8k",
    train=("train.jsonl", "main/train.jsonl"),
    test=("test.jsonl", "main/test.jsonl"),
    hub=Hub("openai/gsm8k", subset="main", has_test=True),
    licence="MIT",
    convert=convert,
)
