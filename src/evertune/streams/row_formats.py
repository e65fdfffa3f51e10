"""The row formats that are recognised by their keys, and the check of every row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evertune.errors import did_you_mean
from evertune.streams.bad_rows import BadRows
from evertune.streams.conversations import BadConversation, parse_conversation, parse_tools
from evertune.streams.readers import RawRow


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format.

    Attributes:
        name: As errors write it.
        input: Key of the input text; empty for messages.
        output: Key of the answer.
        instruction: Key of the instruction, empty if such rows have none of their own.
        labelled: Whether the answer is one of a closed set of labels.
    """

    name: str
    input: str
    output: str
    instruction: str = ""
    labelled: bool = False

    @property
    def keys(self) -> set[str]:
        """All keys that are read."""
        return {key for key in (self.input, self.output, self.instruction) if key} | (
            {"tools"} if self is MESSAGES else set()
        )

    def fits(self, keys: set[str]) -> bool:
        """Whether a row with these keys is of this format."""
        return self.output in keys and (self is MESSAGES or self.input in keys or self.instruction in keys)


MESSAGES = RowFormat("{messages: [...]}", input="", output="messages")
INSTRUCTION = RowFormat("{instruction, input, output}", input="input", output="output", instruction="instruction")
SENTENCE_LABEL = RowFormat("{sentence, label}", input="sentence", output="label", labelled=True)
# A row is of the first format that fits.
FORMATS: tuple[RowFormat, ...] = (
    MESSAGES,
    INSTRUCTION,
    RowFormat("{prompt, completion}", input="prompt", output="completion"),
    RowFormat("{prompt, answer}", input="prompt", output="answer"),
    SENTENCE_LABEL,
    RowFormat("{text, label}", input="text", output="label", labelled=True),
)
KNOWN_KEYS: tuple[str, ...] = tuple(sorted(set().union(*(each.keys for each in FORMATS))))


@dataclass(frozen=True, slots=True)
class CheckedRow:
    """A row that can be learnt from, before any template.

    Attributes:
        where: ``file:row``.
        number: Its place among the rows of its source, from 0; part of the row's id.
        instruction: May be empty, and so may `input`, but not both.
        input: The input text.
        output: The answer.
        turns: For messages: the turns before the answer.
        tools: For messages, and rows of {instruction, input, output}: the tool schemas on offer.
        unused_turns: For messages: number of turns after the answer.
        facts: For rows of {instruction, input, output}: what scorers need, `PromptTarget.facts`.
    """

    where: str
    number: int
    instruction: str
    input: str
    output: str
    turns: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    unused_turns: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


def recognise(rows: Sequence[RawRow], columns: Mapping[str, str], bad: BadRows) -> RowFormat | None:
    """The format of a file: that of its first row that has one.

    Args:
        rows: The rows of the file.
        columns: Our key to the file's own column name.
        bad: Gets a problem if no row has a known format.

    Returns:
        The format, or None.
    """
    usable = [each for each in FORMATS if set(columns) <= each.keys]
    if rows and not all(any(theirs in row.values for row in rows) for theirs in columns.values()):
        _add_unknown_keys(rows[0], columns, bad)
        return None
    for row in rows:
        keys = set(_renamed(row.values, columns))
        for each in usable:
            if each.fits(keys):
                return each
    if rows:
        _add_unknown_keys(rows[0], columns, bad)
    return None


def _add_unknown_keys(row: RawRow, columns: Mapping[str, str], bad: BadRows) -> None:
    shown = ", ".join(map(str, row.values)) or "none"
    for ours, theirs in columns.items():
        if theirs not in row.values:
            hint = did_you_mean(theirs, [str(key) for key in row.values])
            bad.add(row.where, f"There is no column `{theirs}` for `{ours}`; the keys are [{shown}].", hint)
            return
    names = ", ".join(each.name for each in FORMATS)
    mapped = f" with the columns [{', '.join(columns)}]" if columns else ""
    bad.add(
        row.where,
        f"The keys [{shown}]{mapped} are no known row format.",
        f"Use one of {names}, or name your own columns: `columns: {{input: ..., output: ...}}`.",
    )


def _renamed(values: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    if not columns:
        return values
    return {**values, **{ours: values[theirs] for ours, theirs in columns.items() if theirs in values}}


def check_rows(
    rows: Sequence[RawRow], row_format: RowFormat, columns: Mapping[str, str], bad: BadRows, *, first_number: int = 0
) -> list[CheckedRow]:
    """Checks all rows of a file against its format.

    Args:
        rows: The rows.
        row_format: Their format.
        columns: Our key to the file's own column name.
        bad: Gets every bad row; bad rows are left out of the result.
        first_number: `number` of the first row.

    Returns:
        The good rows.
    """
    checked: list[CheckedRow] = []
    for number, row in enumerate(rows, first_number):
        values = _renamed(row.values, columns)
        try:
            checked.append(_checked(row.where, number, values, row_format, columns))
        except _BadRow as problem:
            bad.add(row.where, str(problem), problem.instead)
        except BadConversation as problem:
            bad.add(row.where, str(problem))
    return checked


class _BadRow(ValueError):
    def __init__(self, what: str, instead: str = "") -> None:
        super().__init__(what)
        self.instead = instead


def _checked(
    where: str, number: int, values: Mapping[str, Any], row_format: RowFormat, columns: Mapping[str, str]
) -> CheckedRow:
    if row_format.output not in values:
        known = ", ".join(map(str, values)) or "none"
        name = columns.get(row_format.output, row_format.output)
        raise _BadRow(f"The key `{name}` is missing; rows of this file are {row_format.name}, the keys are [{known}].")
    if row_format is MESSAGES:
        return _checked_messages(where, number, values)
    if not row_format.fits(set(values)):
        name = columns.get(row_format.input, row_format.input)
        raise _BadRow(f"The key `{name}` is missing; rows of this file are {row_format.name}.")
    instruction, text = (
        _text(values.get(key), columns.get(key, key)) if key else ""
        for key in (row_format.instruction, row_format.input)
    )
    if not instruction.strip() and not text.strip():
        names = [f"`{columns.get(key, key)}`" for key in (row_format.instruction, row_format.input) if key]
        raise _BadRow(f"The prompt is blank: there is no text in {' or '.join(names)}.")
    answer = _answer(values, row_format, columns)
    if row_format is not INSTRUCTION:
        return CheckedRow(where, number, instruction, text, answer)
    tools = parse_tools(values.get("tools"))
    _refuse_surrogates(json.dumps(tools, ensure_ascii=False), "tools")
    return CheckedRow(where, number, instruction, text, answer, tools=tools, facts=_facts(values))


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of {instruction, input, output} says for scorers: a reply that is worse, tests that code must pass."""
    facts: dict[str, Any] = {}
    if values.get("rejected") is not None:
        facts["rejected"] = _text(values["rejected"], "rejected")
        if not facts["rejected"].strip():
            raise _BadRow("The reply `rejected` is blank.", "Fill it in, or leave the key out.")
    tests = values.get("tests")
    if tests is not None:
        several = [tests] if isinstance(tests, str) else tests
        if not isinstance(several, list) or not all(isinstance(test, str) and test.strip() for test in several):
            raise _BadRow(f"`tests` is {_shown(tests)}, not a list of statements.", "Write a list of texts.")
        facts["tests"] = [_text(test, "tests") for test in several]
    return facts


def _checked_messages(where: str, number: int, values: Mapping[str, Any]) -> CheckedRow:
    conversation = parse_conversation(values["messages"], values.get("tools"))
    everything = json.dumps([conversation.turns, conversation.target, conversation.tools], ensure_ascii=False)
    _refuse_surrogates(everything, "messages")
    return CheckedRow(
        where, number, "", "", conversation.target, conversation.turns, conversation.tools, conversation.unused
    )


def _text(value: Any, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _BadRow(f"`{name}` is {_shown(value)}, not text.")
    _refuse_surrogates(value, name)
    return value


def _answer(values: Mapping[str, Any], row_format: RowFormat, columns: Mapping[str, str]) -> str:
    name = columns.get(row_format.output, row_format.output)
    value = values[row_format.output]
    if isinstance(value, int):  # and bool: labels and answers are often written as 1 or true
        value = str(value)
    answer = _text(value, name)
    if not answer.strip():
        raise _BadRow(f"The answer `{name}` is blank.", "Fill it in or remove the row.")
    return answer


def _shown(value: Any) -> str:
    kind = {dict: "an object", list: "a list", bool: "true or false", int: "a number", float: "a number"}
    return f"{kind.get(type(value), type(value).__name__)} ({str(value)[:30]})"


def _refuse_surrogates(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # `readers` decodes a byte 0xNN that is not UTF-8 to U+DCNN.
        found = f"the byte 0x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"half a character (U+{code:04X})"
        raise _BadRow(f"`{name}` is not UTF-8: it holds {found}.", "Save the file as UTF-8.") from error


def known_labels(answers: Sequence[str]) -> tuple[str, ...]:
    """The distinct labels, sorted (as numbers if all are): the order depends on no row order and no cap."""
    distinct = set(answers)
    if all(label.lstrip("-").isdecimal() and label.isascii() for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def label_problem(label: str, labels: Sequence[str]) -> tuple[str, str]:
    """What is wrong with a label that is none of the known ones, and what to write instead."""
    shown = ", ".join(labels[:12]) + (", ..." if len(labels) > 12 else "")
    nearest = did_you_mean(label, labels).replace("`", '"')
    return f'label "{label}" is not one of [{shown}].', nearest if nearest.startswith("Did") else ""
