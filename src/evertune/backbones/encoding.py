"""Rows to token ids: prompt and answer apart, only the input text cut, every answer ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from evertune.backbones.base import Encoded
from evertune.backbones.prompts import PromptEncoder
from evertune.backbones.text_ids import TextIds
from evertune.errors import CapabilityError, DataError, Problem
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

_SHOWN = 20

Ids = tuple[int, ...]


@dataclass(frozen=True)
class RowEncoder:
    """Encodes the rows of one model; needs its tokenizer and its configuration, not its weights.

    A causal model reads ``[bos] prompt answer eos``: whatever the tokenizer puts in front of a text begins the prompt
    (nothing for a rendered conversation, whose template writes it), and the end token ends the answer. An
    encoder-decoder model reads prompt and answer each with the special tokens that its tokenizer puts around them. The
    answer to a conversation ends with the token with which the chat template ends a turn.

    Attributes:
        tokenizer: The tokenizer, with an end and a padding token.
        model_config: The configuration of the model.
    """

    tokenizer: PreTrainedTokenizerBase
    model_config: PretrainedConfig

    @cached_property
    def text(self) -> TextIds:
        """Text to ids."""
        return TextIds(self.tokenizer)

    @cached_property
    def prompts(self) -> PromptEncoder:
        """Prompts to ids."""
        return PromptEncoder(self.text)

    @property
    def is_seq2seq(self) -> bool:
        """Whether an encoder reads the prompt."""
        return bool(self.model_config.is_encoder_decoder)

    @cached_property
    def around_prompt(self) -> tuple[Ids, Ids]:
        """Special tokens before and after a prompt."""
        before, after = self.text.around(target=False)
        return (before, after) if self.is_seq2seq else (before, ())

    @cached_property
    def around_answer(self) -> tuple[Ids, Ids]:
        """Special tokens before and after an answer; the last one ends it."""
        eos = (self._eos,)
        if not self.is_seq2seq:
            return (), eos
        before, after = self.text.around(target=True)
        return before, after if after[-1:] == eos else (*after, *eos)

    @property
    def _eos(self) -> int:
        eos = self.tokenizer.eos_token_id
        assert isinstance(eos, int), "the tokenizer has no end token: it did not pass through `reconcile`"
        return eos

    @cached_property
    def position_limit(self) -> int | None:
        """Positions that the model has, where it learnt one vector for each; None where positions have no end."""
        text = self.model_config.get_text_config()
        rotary = any(getattr(text, name, None) is not None for name in ("rope_parameters", "rope_theta"))
        return None if rotary else getattr(text, "max_position_embeddings", None)

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[Encoded]:
        """Tokenises prompts and answers apart.

        Args:
            rows: The rows.
            max_source_length: Tokens of a prompt, its special tokens among them.
            max_target_length: Tokens of an answer, its end token among them.
            answers: Whether the rows have answers; without, `Encoded.target` is empty.

        Raises:
            DataError: If what may not be cut of a prompt is too long, an answer is empty, or a row is longer than the
                model has positions; with the first 20 rows.
            BackboneError: If a conversation meets a tokenizer without chat template.
        """
        prompts = self._prompts(rows, max_source_length)
        targets = self._answers(rows, max_target_length) if answers else [((), False)] * len(rows)
        self._check_positions(rows, [len(prompt) for prompt, _ in prompts], max_target_length)
        encoded = [
            Encoded(row.id, prompt, target, source_cut, target_cut)
            for row, (prompt, source_cut), (target, target_cut) in zip(rows, prompts, targets, strict=True)
        ]
        self._check_known(encoded)
        return encoded

    def label_ids(self, labels: Sequence[str], *, ended: bool = True) -> list[Ids]:
        """Ids of every label as an answer, uncut: a whole one with the end token, or the beginning of one."""
        before, after = self.around_answer
        return [(*before, *ids, *(after if ended else ())) for ids in self.text.plain(labels)]

    def _prompts(self, rows: Sequence[PromptTarget], limit: int) -> list[tuple[Ids, bool]]:
        before, after = self.around_prompt
        frames = [((), after) if row.messages else (before, after) for row in rows]
        rooms = [limit - len(first) - len(last) for first, last in frames]
        bodies = self.prompts.encode(rows, rooms)
        _raise_first(
            [
                self._too_long(row, len(first) + len(last), limit)
                for row, (first, last), body in zip(rows, frames, bodies, strict=True)
                if body is None
            ]
        )
        return [
            ((*first, *body.ids, *last) or (self._start,), body.cut)
            for (first, last), body in zip(frames, bodies, strict=True)
            if body is not None
        ]

    @property
    def _start(self) -> int:
        """What an empty prompt begins with: something must predict the first token of the answer."""
        bos = self.tokenizer.bos_token_id
        return bos if isinstance(bos, int) else self._eos

    def _answers(self, rows: Sequence[PromptTarget], limit: int) -> list[tuple[Ids, bool]]:
        before, after = self.around_answer
        room = limit - len(before) - len(after)
        if room < 1:
            raise CapabilityError(
                f"`max_target_length: {limit}` leaves no room for an answer: the model frames it with "
                f"{len(before) + len(after)} special tokens.",
                where="train.max_target_length",
                instead=f"Write at least {limit - room + 1}.",
            )
        bodies = self.text.plain([row.target for row in rows])
        empty = [
            Problem(
                row.id, "The answer is empty, so there is nothing to learn or to score.", "Fill it, or remove the row."
            )
            for row, body in zip(rows, bodies, strict=True)
            if not body or not row.target.strip()
        ]
        _raise_first(empty)
        chat_end = self.prompts.chat.end_id
        ends = [(chat_end,) if row.messages and chat_end is not None else after for row in rows]
        return [((*before, *body[:room], *end), len(body) > room) for body, end in zip(bodies, ends, strict=True)]

    def _too_long(self, row: PromptTarget, around: int, limit: int) -> Problem:
        length = self.prompts.uncuttable(row) + around
        return Problem(
            row.id,
            f"Without any input text the prompt still has {length} tokens; `max_source_length` is {limit}.",
            f"Raise `train.max_source_length` to more than {length}, or shorten the instruction.",
        )

    def _check_positions(self, rows: Sequence[PromptTarget], lengths: Sequence[int], max_target_length: int) -> None:
        limit = self.position_limit
        if limit is None:
            return
        beside = 0 if self.is_seq2seq else max_target_length
        _raise_first(
            [
                Problem(
                    row.id,
                    f"Prompt and answer need {length + beside} positions; the model has {limit}.",
                    f"Set `train.max_source_length` to at most {limit - beside}.",
                )
                for row, length in zip(rows, lengths, strict=True)
                if length + beside > limit
            ]
        )

    def _check_known(self, encoded: Sequence[Encoded]) -> None:
        """A tokenizer may know more tokens than the model has embeddings."""
        size = self.model_config.get_text_config().vocab_size
        if len(self.tokenizer) <= size:
            return
        _raise_first(
            [
                Problem(
                    row.id,
                    f"The tokenizer gives token {max((*row.prompt, *row.target))}, but the model knows {size} tokens.",
                    "Use the tokenizer of this very model.",
                )
                for row in encoded
                if max((*row.prompt, *row.target)) >= size
            ]
        )


def _raise_first(problems: Sequence[Problem]) -> None:
    """Raises the first problems, and says how many more there are."""
    if problems:
        more = len(problems) - _SHOWN
        rest = [Problem("", f"{more} more rows have the same fault.")] if more > 0 else []
        raise DataError([*problems[:_SHOWN], *rest])
