"""Typed rows: what one example is, after the file formats and before the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evertune.streams.contents import Content, content_facts


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a prompt.

    Attributes:
        text: The text.
        cut: Whether truncation may shorten it: true for the input text, never for instruction, options or the
            closing words (``Answer:``).
    """

    text: str
    cut: bool = False


@dataclass(frozen=True, slots=True)
class PromptTarget:
    """A prompt and the answer to it.

    Exactly one of `prompt` and `messages` is filled: messages are rendered by the backbone, with the chat template
    of its own tokenizer.

    Attributes:
        id: ``<task>/<split>/<row>``, stable over runs: what logs, replay records and predictions name.
        prompt: The prompt in pieces; the whole prompt is their concatenation.
        target: The answer, without an end token.
        messages: For chat templates: the turns before the answer, ``{"role": ..., "content": ...}``.
        tools: The tool schemas offered, as parsed JSON: for chat templates, and for scorers of tool calls.
        facts: What a scorer needs beside the answer, by the name that it asks for: JSON values (``tests``,
            ``rejected``). No model reads them.
        content: What an encoder or a model of images reads in place of the prompt; None where it reads the prompt.
    """

    id: str
    prompt: tuple[Segment, ...]
    target: str
    messages: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    content: Content | None = None

    @property
    def prompt_text(self) -> str:
        """The whole prompt as one string; empty for a chat row."""
        return "".join(segment.text for segment in self.prompt)

    @property
    def scorer_facts(self) -> Mapping[str, Any]:
        """The facts, and what scorers read of the content."""
        return {**self.facts, **content_facts(self.content)}
