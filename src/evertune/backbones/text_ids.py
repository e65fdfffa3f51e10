"""Text to token ids, so that no text ever becomes a control token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from evertune.backbones.chat import CLOSE, OPEN
from evertune.backbones.special_tokens import control_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKED = re.compile(f"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}|[{OPEN}{CLOSE}]")

_SPACE = "\u2581"  # how SentencePiece writes a space

Offsets = list[tuple[int, int]]


def is_marked(text: str) -> bool:
    """Whether a rendered conversation spells a control token in one of its turns."""
    return OPEN in text or CLOSE in text


def unframed(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], **options: Any) -> list[list[int]]:
    """Ids of texts without the special tokens around them; `texts` must not be empty.

    A tokenizer in Python is given one text at a time: of a list, transformers pads even what needs no padding, with an
    argument that the code of some models does not take (the ``padding_side`` of ChatGLM's).
    """
    if getattr(tokenizer, "is_fast", True):
        return tokenizer(list(texts), add_special_tokens=False, **options)["input_ids"]  # type: ignore[return-value]
    options = {**options, "add_special_tokens": False, "return_attention_mask": False}
    return [tokenizer(text, **options)["input_ids"] for text in texts]  # type: ignore[misc]


@dataclass(frozen=True)
class TextIds:
    """Encodes text with one tokenizer, in batches.

    Two safeguards keep ``</s>`` in a text from becoming the end token: the tokenizer is told to split special tokens,
    and, since some models hold them as ordinary pieces as well (T5's unigram vocabulary does), what still comes out as
    a control token is spelt out in single characters.

    Attributes:
        tokenizer: The tokenizer.
    """

    tokenizer: PreTrainedTokenizerBase

    @cached_property
    def controls(self) -> frozenset[int]:
        """Ids that no text may produce."""
        return control_ids(self.tokenizer)

    @cached_property
    def _spelt_out(self) -> dict[int, list[int]]:
        """For every control token the ids of its characters; what the vocabulary lacks is unknown, or left out."""
        known = self.tokenizer.get_vocab()
        unknown: Any = self.tokenizer.unk_token_id
        spelt: dict[int, list[int]] = {}
        for index in self.controls:
            ids = [known.get(character, unknown) for character in self.tokenizer.convert_ids_to_tokens(index)]
            spelt[index] = [one for one in ids if one is not None]
        return spelt

    @cached_property
    def prepends_space(self) -> bool:
        """Whether a text gets a space in front, as with tokenizers of the kind of LLaMA's."""
        first = self.tokenizer.convert_ids_to_tokens(self._batch(["a"], split=True)[0])[:1]
        return bool(first) and first[0].startswith(_SPACE)

    def plain(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without any special token."""
        return [ids if self.controls.isdisjoint(ids) else self._spell(ids) for ids in self._batch(texts, split=True)]

    def plain_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], Offsets]]:
        """Ids of each text, and the characters ``[start, end)`` that each id stands for; for fast tokenizers."""
        return [self._spell_with_offsets(ids, offsets) for ids, offsets in self._batch_with_offsets(texts, split=True)]

    def rendered(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of rendered conversations: the template's control tokens are such, marked ones are text."""
        unmarked = iter(self._batch([text for text in texts if not is_marked(text)], split=False))
        return [self._pieces(text) if is_marked(text) else next(unmarked) for text in texts]

    def rendered_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], Offsets]]:
        """Ids and offsets of rendered conversations in which nothing is marked; for fast tokenizers."""
        return self._batch_with_offsets(texts, split=False)

    def _batch(self, texts: Sequence[str], *, split: bool) -> list[list[int]]:
        if not texts:
            return []
        return unframed(self.tokenizer, texts, split_special_tokens=split, return_attention_mask=False, verbose=False)

    def _batch_with_offsets(self, texts: Sequence[str], *, split: bool) -> list[tuple[list[int], Offsets]]:
        options: dict[str, Any] = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
        found = self.tokenizer(list(texts), split_special_tokens=split, return_offsets_mapping=True, **options)
        return list(zip(found["input_ids"], found["offset_mapping"], strict=True))

    def _pieces(self, text: str) -> list[int]:
        pieces = _MARKED.split(text)
        ids = self._batch(pieces[:1], split=False)[0]
        for index, piece in enumerate(pieces[1:], start=1):
            if piece:
                ids = ids + self._inside(piece, as_text=index % 2 == 1)
        return ids

    def _inside(self, piece: str, *, as_text: bool) -> list[int]:
        """Ids of a piece in the middle of a text: encoded after a line break, so that no leading space is added."""
        lead, whole = self._batch(["\n", "\n" + piece], split=as_text)
        if whole[: len(lead)] == lead:
            whole = whole[len(lead) :]
        return self._spell(whole) if as_text else whole

    def _spell(self, ids: Sequence[int]) -> list[int]:
        return [one for index in ids for one in self._spelt_out.get(index, (index,))]

    def _spell_with_offsets(self, ids: list[int], offsets: Offsets) -> tuple[list[int], Offsets]:
        if self.controls.isdisjoint(ids):
            return ids, offsets
        spelt = [self._spelt_out.get(index, [index]) for index in ids]
        repeated = [at for ones, at in zip(spelt, offsets, strict=True) for _ in ones]
        return [one for ones in spelt for one in ones], repeated

    def around(self, *, target: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that the tokenizer puts before and after a text.

        Args:
            target: For an answer of an encoder-decoder model, which may be framed otherwise than a prompt.
        """
        given: dict[str, Any] = {"text_target" if target else "text": "a", "return_attention_mask": False}
        if not self.tokenizer.is_fast:
            return self._around_plain(given)
        found = self.tokenizer(**given, return_special_tokens_mask=True)
        ids, special = found["input_ids"], found["special_tokens_mask"]
        inside = [index for index, flag in enumerate(special) if not flag]
        return tuple(ids[: inside[0]]), tuple(ids[inside[-1] + 1 :])

    def _around_plain(self, given: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The same from the ids alone: a tokenizer in Python may frame a text without saying which tokens do so."""
        whole = self.tokenizer(**given)["input_ids"]
        plain = self.tokenizer(**given, add_special_tokens=False)["input_ids"]
        places = range(len(whole) - len(plain) + 1)
        start = next((place for place in places if whole[place : place + len(plain)] == plain), 0)
        return tuple(whole[:start]), tuple(whole[start + len(plain) :])
