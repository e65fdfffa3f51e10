"""Prompts to token ids: plain ones and conversations, cut where they are too long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from evertune.backbones.chat import ChatFormat
from evertune.backbones.text_ids import TextIds, is_marked
from evertune.backbones.truncation import EncodeWithOffsets, joined, shorten_by_bisection, shorten_by_offsets
from evertune.streams.examples import PromptTarget, Segment


@dataclass(frozen=True, slots=True)
class PromptIds:
    """Ids of one prompt, without special tokens around it.

    Attributes:
        ids: The ids.
        cut: Whether input text was cut to fit.
    """

    ids: list[int]
    cut: bool


@dataclass(frozen=True)
class PromptEncoder:
    """Encodes prompts in batches.

    Attributes:
        text: Text to ids.
    """

    text: TextIds

    @cached_property
    def chat(self) -> ChatFormat:
        """Conversations to text."""
        return ChatFormat(self.text.tokenizer)

    def encode(self, rows: Sequence[PromptTarget], rooms: Sequence[int]) -> list[PromptIds | None]:
        """Ids of each prompt; a prompt that fits is tokenised as one text.

        Args:
            rows: The rows.
            rooms: Tokens that the prompt of each may have.

        Returns:
            None for a prompt that is too long even without any input text.
        """
        rows = [self._before_answer(row) for row in rows]
        results: list[PromptIds | None] = [PromptIds(ids, False) for ids in self._whole(rows)]
        long = [index for index, found in enumerate(results) if found and len(found.ids) > rooms[index]]
        for index, ids in zip(long, self._shorten([rows[i] for i in long], [rooms[i] for i in long]), strict=True):
            results[index] = None if ids is None else PromptIds(ids, True)
        return results

    def uncuttable(self, row: PromptTarget) -> int:
        """Tokens that are left of a prompt when all input text is cut."""
        text = joined([segment for segment in self._segments(row) if not segment.cut])
        return len(self._one(row, text))

    def _before_answer(self, row: PromptTarget) -> PromptTarget:
        """Without a last space, where the tokenizer puts one before the answer: ``[/INST] yes`` has one, not two."""
        if not row.prompt or not row.prompt[-1].text.endswith(" ") or not self.text.prepends_space:
            return row
        last = replace(row.prompt[-1], text=row.prompt[-1].text[:-1])
        return replace(row, prompt=(*row.prompt[:-1], last))

    def _whole(self, rows: Sequence[PromptTarget]) -> list[list[int]]:
        plain = iter(self.text.plain([row.prompt_text for row in rows if not row.messages]))
        chats = iter(self.text.rendered([self.chat.render(row) for row in rows if row.messages]))
        return [next(chats) if row.messages else next(plain) for row in rows]

    def _segments(self, row: PromptTarget) -> tuple[Segment, ...]:
        return self.chat.segments(row) if row.messages else row.prompt

    def _one(self, row: PromptTarget, text: str) -> list[int]:
        return (self.text.rendered if row.messages else self.text.plain)([text])[0]

    def _shorten(self, rows: Sequence[PromptTarget], rooms: Sequence[int]) -> list[list[int] | None]:
        prompts = [self._segments(row) for row in rows]
        results: dict[int, list[int] | None] = {}
        for is_chat, encode in ((False, self.text.plain_with_offsets), (True, self.text.rendered_with_offsets)):
            chosen = [
                index
                for index, row in enumerate(rows)
                if bool(row.messages) == is_chat and self._has_offsets(prompts[index], is_chat=is_chat)
            ]
            results.update(_shorten_batch(chosen, prompts, rooms, encode))
        for index, row in enumerate(rows):
            if index not in results:
                results[index] = shorten_by_bisection(
                    prompts[index], rooms[index], lambda text, row=row: self._one(row, text)
                )
        return [results[index] for index in range(len(rows))]

    def _has_offsets(self, prompt: Sequence[Segment], *, is_chat: bool) -> bool:
        return bool(self.text.tokenizer.is_fast) and not (is_chat and is_marked(joined(prompt)))


def _shorten_batch(
    chosen: Sequence[int], prompts: Sequence[Sequence[Segment]], rooms: Sequence[int], encode: EncodeWithOffsets
) -> dict[int, list[int] | None]:
    shortened = shorten_by_offsets([prompts[index] for index in chosen], [rooms[index] for index in chosen], encode)
    return dict(zip(chosen, shortened, strict=True))
