"""Prompt templates: how instruction and input become a prompt in pieces, of which only the input may be cut."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evertune.errors import ConfigError, did_you_mean
from evertune.streams.contents import Content, Picture
from evertune.streams.examples import PromptTarget, Segment

CHAT = "chat"
_FIELDS = ("instruction", "input")

# The prompts of Stanford Alpaca (Taori et al., 2023), which many published adapters were trained with.
_ALPACA_START = "Below is an instruction that describes a task"
_ALPACA_END = "Write a response that appropriately completes the request.\n\n### Instruction:\n"
_ALPACA = f"{_ALPACA_START}. {_ALPACA_END}{{instruction}}\n\n### Response:\n"
_ALPACA_WITH_INPUT = (
    f"{_ALPACA_START}, paired with an input that provides further context. {_ALPACA_END}"
    "{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt template.

    Attributes:
        name: ``none``, ``alpaca``, ``llama-inst``, ``chat`` or ``custom``.
        both: Pieces when there is an instruction and an input: literal text, or the name of a field with True.
        single: Pieces when only one of the two is there, which takes the place of ``{instruction}``; None if `both`
            serves here too, with nothing in the place of what is missing.
    """

    name: str
    both: tuple[tuple[str, bool], ...]
    single: tuple[tuple[str, bool], ...] | None = None

    @property
    def fields(self) -> set[str]:
        """The fields it writes out."""
        return {text for text, is_field in self.both if is_field}

    def render(self, instruction: str, input: str, closing: str = "") -> tuple[Segment, ...]:
        """The prompt of one row; braces in the row's texts mean nothing.

        Args:
            instruction: The instruction, may be empty.
            input: The input text, may be empty: the only piece that truncation may shorten.
            closing: Follows the input on a line of its own.

        Returns:
            Pieces; neighbours that may not be cut are joined, empty ones left out.
        """
        asked = (Segment(input, cut=True), *((Segment(f"\n{closing}"),) if closing else ()))
        values = {"instruction": (Segment(instruction),), "input": asked}
        pieces = self.both
        if self.single is not None and not (instruction and input):
            pieces = self.single
            values["instruction"] = values["instruction"] if instruction else values["input"]
        return join(part for text, is_field in pieces for part in (values[text] if is_field else (Segment(text),)))


def join(pieces: Any) -> tuple[Segment, ...]:
    """Joins neighbouring pieces that may not be cut and leaves out empty ones."""
    joined: list[Segment] = []
    for piece in pieces:
        if not piece.text:
            continue
        if joined and not joined[-1].cut and not piece.cut:
            joined[-1] = Segment(joined[-1].text + piece.text)
        else:
            joined.append(piece)
    return tuple(joined)


def chat_turns(instruction: str, input: str, system: str) -> tuple[Mapping[str, Any], ...]:
    """The turns of a row for the chat template of a tokenizer: a system turn if there is one, and one of the user."""
    asked = "\n".join(text for text in (instruction, input) if text)
    start = ({"role": "system", "content": system},) if system else ()
    return (*start, {"role": "user", "content": asked})


def with_tools(instruction: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """The instruction with the schemas of the tools behind it, for templates that have no place of their own for them.

    Being part of the instruction, they are never cut.
    """
    return f"{instruction}\n{json.dumps(list(tools), ensure_ascii=False)}".lstrip("\n") if tools else instruction


def prompt_target(
    id: str,
    template: Template,
    *,
    instruction: str,
    input: str,
    output: str,
    system: str = "",
    tools: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    closing: str = "",
    content: Content | None = None,
) -> PromptTarget:
    """A row in its template.

    Args:
        id: Its id.
        template: The template; `CHAT` leaves the prompt to the tokenizer.
        instruction: The instruction, may be empty.
        input: The input text, may be empty.
        output: The answer.
        system: System turn, for `CHAT` alone.
        tools: Schemas of the tools on offer; they always stand in the prompt.
        facts: What scorers need beside the answer.
        closing: Follows the input, and is never cut.
        content: What an encoder or a model of images reads; a row of an image alone has no prompt.

    Returns:
        The row.
    """
    rest: dict[str, Any] = {"tools": tuple(tools), "facts": facts or {}, "content": content}
    if isinstance(content, Picture):
        return PromptTarget(id, (), output, **rest)
    if template.name == CHAT:
        asked = "\n".join(text for text in (input, closing) if text)
        return PromptTarget(id, (), output, messages=chat_turns(instruction, asked, system), **rest)
    return PromptTarget(id, template.render(with_tools(instruction, tools), input, closing), output, **rest)


def parse_template(text: str, *, where: str = "template") -> Template:
    """The template that a configuration names or writes out.

    Args:
        text: ``none``, ``alpaca``, ``llama-inst``, ``chat``, or a text with ``{instruction}`` and ``{input}`` in it;
            ``{{`` and ``}}`` stand for braces.
        where: Key of the configuration, for errors.

    Returns:
        The template.

    Raises:
        ConfigError: If a custom template has an unknown placeholder, a lone brace, or no placeholder at all.
    """
    if text in TEMPLATES:
        return TEMPLATES[text]
    pieces = _parse(text, where)
    if not any(is_field for _, is_field in pieces):
        hint = did_you_mean(text, list(TEMPLATES)) if text.isprintable() and " " not in text else ""
        raise ConfigError(
            f"The template {text!r} has neither {{instruction}} nor {{input}}.",
            where=where,
            instead=hint or f"Write one of {', '.join(TEMPLATES)}, or a text with {{input}} in it.",
        )
    return Template("custom", pieces)


def _parse(text: str, where: str) -> tuple[tuple[str, bool], ...]:
    pieces: list[tuple[str, bool]] = []
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ConfigError(
            f"The template {text!r} cannot be read: {error}.", where=where, instead="Write {{ and }} for braces."
        ) from error
    for literal, field, spec, conversion in parsed:
        if literal:
            pieces.append((literal, False))
        if field is None:
            continue
        if field in _FIELDS and (spec or conversion):
            raise ConfigError(
                f"The placeholder {{{field}}} of the template is followed by a format.",
                where=where,
                instead=f"Write {{{field}}} alone.",
            )
        if field not in _FIELDS:
            raise _unknown_placeholder(field, where)
        pieces.append((field, True))
    return tuple(pieces)


def _unknown_placeholder(field: str, where: str) -> ConfigError:
    if field == "output":
        return ConfigError(
            "A template may not hold {output}: the answer is not part of the prompt.",
            where=where,
            instead="Remove it; the answer follows the prompt.",
        )
    return ConfigError(
        f"The template has an unknown placeholder {{{field}}}.",
        where=where,
        instead=f"{did_you_mean(field, _FIELDS)} Write {{{{ and }}}} for braces.".strip(),
    )


TEMPLATES: Mapping[str, Template] = {
    "none": Template("none", _parse("{instruction}\n{input}", ""), _parse("{instruction}", "")),
    "alpaca": Template("alpaca", _parse(_ALPACA_WITH_INPUT, ""), _parse(_ALPACA, "")),
    # <s> and </s> are added by the backbone, as token ids.
    "llama-inst": Template(
        "llama-inst", _parse("[INST] {instruction}\n{input} [/INST] ", ""), _parse("[INST] {instruction} [/INST] ", "")
    ),
    CHAT: Template(CHAT, ()),
}
