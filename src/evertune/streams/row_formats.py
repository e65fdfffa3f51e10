"""The row formats that are recognised by their keys, and the check of every row."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evertune.errors import did_you_mean
from evertune.streams.bad_rows import BadRows
from evertune.streams.content_formats import Notes, captioned_picture, event, labelled_picture, passage, tagged_tokens
from evertune.streams.contents import Content
from evertune.streams.conversations import BadConversation, parse_conversation, parse_tools
from evertune.streams.readers import RawRow
from evertune.streams.row_values import BadRow, refuse_surrogates, shown, text_of

ParseContent = Callable[[Mapping[str, Any], Sequence[str], Notes], Content]


@dataclass(frozen=True, slots=True)
class RowFormat:
    """A row format.

    Attributes:
        name: As errors write it.
        input: Key of the input text; empty for messages.
        output: Key of the answer.
        instruction: Key of the instruction, empty if such rows have none of their own.
        labelled: Whether the answer is one of a closed set of labels.
        parse: What reads the content of rows that hold more than text.
        further: Other keys that `parse` reads.
        answered: Whether `output` is the answer itself, as it always is without `parse`.
    """

    name: str
    input: str
    output: str
    instruction: str = ""
    labelled: bool = False
    parse: ParseContent | None = None
    further: tuple[str, ...] = ()
    answered: bool = True

    @property
    def keys(self) -> set[str]:
        """All keys that are read."""
        return {key for key in (self.input, self.output, self.instruction, *self.further) if key}

    @property
    def short_name(self) -> str:
        """As the option `format` of a task writes it: ``image-label``."""
        return "-".join(re.findall(r"\w+", self.name))

    def fits(self, keys: set[str]) -> bool:
        """Whether a row with these keys is of this format."""
        return self.output in keys and (self is MESSAGES or self.input in keys or self.instruction in keys)


MESSAGES = RowFormat("{messages: [...]}", input="", output="messages", further=("tools", "conversations", "system"))
INSTRUCTION = RowFormat("{instruction, input, output}", input="input", output="output", instruction="instruction")
SENTENCE_LABEL = RowFormat("{sentence, label}", input="sentence", output="label", labelled=True)
# A row is of the first format that fits.
FORMATS: tuple[RowFormat, ...] = (
    MESSAGES,
    INSTRUCTION,
    RowFormat("{prompt, completion}", input="prompt", output="completion"),
    RowFormat("{prompt, answer}", input="prompt", output="answer"),
    RowFormat("{content, summary}", input="content", output="summary"),
    RowFormat("{tokens, tags}", input="tokens", output="tags", parse=tagged_tokens, answered=False),
    RowFormat(
        "{question, context, answers}",
        input="context",
        output="answers",
        parse=passage,
        further=("question", "is_impossible"),
        answered=False,
    ),
    RowFormat(
        "{text, type, trigger, arguments}",
        input="text",
        output="trigger",
        parse=event,
        further=("tokens", "type", "roles", "arguments"),
        answered=False,
    ),
    RowFormat("{image, text}", input="image", output="text", parse=captioned_picture),
    RowFormat("{image, label}", input="image", output="label", parse=labelled_picture, labelled=True),
    RowFormat(
        "{pixels, label}", input="pixels", output="label", parse=labelled_picture, further=("width",), labelled=True
    ),
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
        content: For rows that hold more than text: what an encoder or a model of images reads.
        closing: Stands behind the input, and is never cut.
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
    content: Content | None = None
    closing: str = ""


def recognise(
    rows: Sequence[RawRow], columns: Mapping[str, str], bad: BadRows, *, named: str | None = None
) -> RowFormat | None:
    """The format of a file: that of its first row that has one.

    Args:
        rows: The rows of the file.
        columns: Our key to the file's own column name.
        bad: Gets a problem if no row has a known format.
        named: `RowFormat.short_name` of the format, where rows have the keys of several.

    Returns:
        The format, or None.
    """
    usable = [each for each in FORMATS if set(columns) <= each.keys and named in (None, each.short_name)]
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
    found = ", ".join(map(str, row.values)) or "none"
    for ours, theirs in columns.items():
        if theirs not in row.values:
            hint = did_you_mean(theirs, [str(key) for key in row.values])
            bad.add(row.where, f"There is no column `{theirs}` for `{ours}`; the keys are [{found}].", hint)
            return
    names = ", ".join(each.name for each in FORMATS)
    mapped = f" with the columns [{', '.join(columns)}]" if columns else ""
    bad.add(
        row.where,
        f"The keys [{found}]{mapped} are no known row format.",
        f"Use one of {names}, or name your own columns: `columns: {{input: ..., output: ...}}`.",
    )


def _renamed(values: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    if not columns:
        return values
    return {**values, **{ours: values[theirs] for ours, theirs in columns.items() if theirs in values}}


def check_rows(
    rows: Sequence[RawRow],
    row_format: RowFormat,
    columns: Mapping[str, str],
    bad: BadRows,
    *,
    first_number: int = 0,
    names: Sequence[str] = (),
    notes: Notes | None = None,
) -> list[CheckedRow]:
    """Checks all rows of a file against its format.

    Args:
        rows: The rows.
        row_format: Their format.
        columns: Our key to the file's own column name.
        bad: Gets every bad row; bad rows are left out of the result.
        first_number: `number` of the first row.
        names: The tags in the order of their numbers, for rows of {tokens, tags} that hold numbers.
        notes: Gets how many rows something odd was done to.

    Returns:
        The good rows.
    """
    checked: list[CheckedRow] = []
    for number, row in enumerate(rows, first_number):
        values = _renamed(row.values, columns)
        try:
            if row_format.parse is not None:
                content = row_format.parse(_complete(values, row_format), names, Counter() if notes is None else notes)
                answer = _answer(values, row_format, columns) if row_format.answered else ""
                checked.append(CheckedRow(row.where, number, "", "", answer, content=content))
            else:
                checked.append(_checked(row.where, number, values, row_format, columns))
        except BadRow as problem:
            bad.add(row.where, str(problem), problem.instead)
        except BadConversation as problem:
            bad.add(row.where, str(problem))
    return checked


def _complete(values: Mapping[str, Any], row_format: RowFormat) -> Mapping[str, Any]:
    """The values, which have the keys that every row of the format has."""
    for key in (row_format.input, row_format.output):
        if key not in values:
            known = ", ".join(map(str, values)) or "none"
            raise BadRow(
                f"The key `{key}` is missing; rows of this file are {row_format.name}, the keys are [{known}]."
            )
    return values


def _checked(
    where: str, number: int, values: Mapping[str, Any], row_format: RowFormat, columns: Mapping[str, str]
) -> CheckedRow:
    if row_format.output not in values:
        known = ", ".join(map(str, values)) or "none"
        name = columns.get(row_format.output, row_format.output)
        raise BadRow(f"The key `{name}` is missing; rows of this file are {row_format.name}, the keys are [{known}].")
    if row_format is MESSAGES:
        return _checked_messages(where, number, values)
    if not row_format.fits(set(values)):
        name = columns.get(row_format.input, row_format.input)
        raise BadRow(f"The key `{name}` is missing; rows of this file are {row_format.name}.")
    instruction, text = (
        text_of(values.get(key), columns.get(key, key)) if key else ""
        for key in (row_format.instruction, row_format.input)
    )
    if not instruction.strip() and not text.strip():
        names = [f"`{columns.get(key, key)}`" for key in (row_format.instruction, row_format.input) if key]
        raise BadRow(f"The prompt is blank: there is no text in {' or '.join(names)}.")
    answer = _answer(values, row_format, columns)
    if row_format is not INSTRUCTION:
        return CheckedRow(where, number, instruction, text, answer)
    tools = parse_tools(values.get("tools"))
    refuse_surrogates(json.dumps(tools, ensure_ascii=False), "tools")
    return CheckedRow(where, number, instruction, text, answer, tools=tools, facts=_facts(values))


def _facts(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a row of {instruction, input, output} says for scorers: a reply that is worse, tests that code must pass."""
    facts: dict[str, Any] = {}
    if values.get("rejected") is not None:
        facts["rejected"] = text_of(values["rejected"], "rejected")
        if not facts["rejected"].strip():
            raise BadRow("The reply `rejected` is blank.", "Fill it in, or leave the key out.")
    tests = values.get("tests")
    if tests is not None:
        several = [tests] if isinstance(tests, str) else tests
        if not isinstance(several, list) or not all(isinstance(test, str) and test.strip() for test in several):
            raise BadRow(f"`tests` is {shown(tests)}, not a list of statements.", "Write a list of texts.")
        facts["tests"] = [text_of(test, "tests") for test in several]
    return facts


def _checked_messages(where: str, number: int, values: Mapping[str, Any]) -> CheckedRow:
    conversation = parse_conversation(values["messages"], values.get("tools"))
    everything = json.dumps([conversation.turns, conversation.target, conversation.tools], ensure_ascii=False)
    refuse_surrogates(everything, "messages")
    return CheckedRow(
        where, number, "", "", conversation.target, conversation.turns, conversation.tools, conversation.unused
    )


def _answer(values: Mapping[str, Any], row_format: RowFormat, columns: Mapping[str, str]) -> str:
    name = columns.get(row_format.output, row_format.output)
    value = values[row_format.output]
    if isinstance(value, int):  # and bool: labels and answers are often written as 1 or true
        value = str(value)
    answer = text_of(value, name)
    if not answer.strip():
        raise BadRow(f"The answer `{name}` is blank.", "Fill it in or remove the row.")
    return answer


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
