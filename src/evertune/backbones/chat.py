"""Conversations as the tokenizer's own chat template writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evertune.backbones.special_tokens import control_ids
from evertune.errors import BackboneError, DataError
from evertune.streams.examples import PromptTarget, Segment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Unicode noncharacters, reserved for use inside a program: they cannot come from well-formed text.
OPEN, CLOSE = "\ufdd0", "\ufdd1"
_PLACEHOLDER = "\ufdd2"

_PROBE_ANSWER = "fortytwo"


@dataclass(frozen=True)
class ChatFormat:
    """Renders the turns before an answer, and knows the token that ends an answer.

    Control tokens spelt in the text of a conversation are wrapped in `OPEN` and `CLOSE`, so that whoever tokenises the
    result can tell them from those that the template writes.

    Attributes:
        tokenizer: The tokenizer whose template is used.
    """

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def end_id(self) -> int | None:
        """The control token that the template writes after an answer; None without a template or such a token."""
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            return None
        turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": _PROBE_ANSWER}]
        try:
            text = str(self.tokenizer.apply_chat_template(turns, tokenize=False))
        except (TemplateError, TypeError, ValueError):
            return None
        tail = text[text.rfind(_PROBE_ANSWER) + len(_PROBE_ANSWER) :] if _PROBE_ANSWER in text else ""
        ids = self.tokenizer(tail, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        controls = control_ids(self.tokenizer)
        return next((index for index in ids if index in controls), None)

    @cached_property
    def _controls(self) -> re.Pattern[str]:
        tokens = self.tokenizer.convert_ids_to_tokens(sorted(control_ids(self.tokenizer)))
        return re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)) or "(?!)")

    def render(self, row: PromptTarget) -> str:
        """The prompt of a chat row, up to where the answer begins.

        Raises:
            BackboneError: If the tokenizer has no chat template.
            DataError: If the template refuses the conversation.
        """
        return self._render(row, self._mark(row.messages))

    def segments(self, row: PromptTarget) -> tuple[Segment, ...]:
        """The rendered prompt in pieces, of which only the text of the last user turn may be cut.

        It is found by rendering the conversation again with a placeholder in its place; where the template changes the
        rest as well, nothing may be cut.
        """
        whole = self.render(row)
        last = max((index for index, turn in enumerate(row.messages) if turn.get("role") == "user"), default=None)
        if last is None or not isinstance(row.messages[last].get("content"), str):
            return (Segment(whole),)
        turns = self._mark(row.messages)
        turns[last] = {**turns[last], "content": _PLACEHOLDER}
        before, found, after = self._render(row, turns).partition(_PLACEHOLDER)
        cuttable = whole[len(before) : len(whole) - len(after)]
        if not found or _PLACEHOLDER in after or before + cuttable + after != whole:
            return (Segment(whole),)
        return (Segment(before), Segment(cuttable, cut=True), Segment(after))

    def _render(self, row: PromptTarget, turns: Sequence[Mapping[str, Any]]) -> str:
        from jinja2 import TemplateError

        if not self.tokenizer.chat_template:
            raise BackboneError(
                f"Row {row.id} is a conversation, but the tokenizer of this model has no chat template.",
                where=self.tokenizer.name_or_path,
                instead="Use a chat model. Rows that are not {messages: [...]} can take `template: none` instead.",
            )
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(turn) for turn in turns],
                    tools=self._mark(row.tools) or None,
                    tokenize=False,
                    add_generation_prompt=True,
                )
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise DataError(
                f"The chat template of the model refuses this conversation: {str(error).rstrip('.')}.",
                where=row.id,
                instead="Write the turns that the model was trained on: a system turn where it allows one, then user "
                "and assistant in turn.",
            ) from error

    def _mark(self, value: Any) -> Any:
        """The same value with every control token in its strings wrapped in `OPEN` and `CLOSE`."""
        if isinstance(value, str):
            return self._controls.sub(f"{OPEN}\\g<0>{CLOSE}", value)
        if isinstance(value, Mapping):
            return {key: self._mark(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._mark(inner) for inner in value]
        return value
