"""Code Alpaca (Chaudhary 2023): programming tasks and answers written by a model; it has no tests."""

from __future__ import annotations

from evertune.streams.prepare.alpaca import convert
from evertune.streams.prepare.sources import Hub, Source

CODE_ALPACA = Source(
    name="code_alpaca",
    folder="code_alpaca",
    train=("code_alpaca_20k.json", "code_alpaca_2k.json"),
    test=("code_alpaca_20k_test.json", "code_alpaca_2k_test.json"),
    hub=Hub("sahil2801/CodeAlpaca-20k"),
    licence="CC BY-NC 4.0: not for commercial use",
    convert=convert,
)
