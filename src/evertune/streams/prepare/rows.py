"""A row as a preparation makes it from a row of a public file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PreparedRow:
    """A row of ``{instruction, input, output}``.

    Attributes:
        instruction: What is asked.
        input: What it is asked of.
        output: The answer.
        extras: What a scorer needs beside the answer: ``tools``, ``rejected``, ``tests``.
        fixed_instruction: Whether all rows of the source have this instruction, so that `input` alone tells them apart.
    """

    instruction: str
    input: str
    output: str
    extras: Mapping[str, Any] = field(default_factory=dict)
    fixed_instruction: bool = False

    def to_json(self) -> dict[str, Any]:
        """The row as the file holds it."""
        return {"instruction": self.instruction, "input": self.input, "output": self.output, **self.extras}

    @property
    def asked(self) -> str:
        """What the row asks, without an instruction that all rows share."""
        return self.input if self.fixed_instruction else f"{self.instruction}\n{self.input}"

    @property
    def all_text(self) -> str:
        """Everything that a model may read of the row: the tool schemas too, the rejected reply too."""
        extras = [text if isinstance(text, str) else dumped(text) for text in self.extras.values()]
        return "\n".join([self.instruction, self.input, self.output, *extras])


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row, or a part of one, that is left out.

    Attributes:
        reason: Why, as the manifest counts it.
    """

    reason: str


Converted = Iterable["PreparedRow | Dropped"]
Convert = Callable[[Mapping[str, Any]], Converted]


def dumped(value: Any) -> str:
    """JSON on one line, as text that a model reads."""
    return json.dumps(value, ensure_ascii=False)


def instruction_row(value: Mapping[str, Any], *, instruction: str, input: str, output: str) -> PreparedRow | Dropped:
    """A row whose three texts stand under these keys; what is missing is blank.

    Args:
        value: The row of the file.
        instruction: Key of the instruction.
        input: Key of the input.
        output: Key of the answer.

    Returns:
        The row, or that a field is not text.
    """
    asked, given, answer = ("" if value.get(key) is None else value[key] for key in (instruction, input, output))
    if isinstance(asked, str) and isinstance(given, str) and isinstance(answer, str):
        return PreparedRow(asked, given, answer)
    return Dropped("a field is not text")
