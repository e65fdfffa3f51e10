"""A tag for every word: named entities, parts of speech."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.encoder import Encoder
from evertune.backbones.reading import Answered, Limits, Reader, as_wide, room_for
from evertune.backbones.windows import EncodedRow, Window, cuts
from evertune.metrics.entities import entities_of, entity_answer
from evertune.streams.contents import TaggedTokens
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from evertune.backbones.windows import Cut

OUTSIDE = "O"


class TokenReader(Reader):
    """Sentences whose words carry tags: the first piece of a word speaks for it.

    A sentence longer than a window is read in several; a word is judged in the one where it has most around it.
    """

    places = "token"

    @cached_property
    def tags(self) -> tuple[str, ...]:
        """The tags of the training rows, ``O`` first: the outputs."""
        found = {tag for row in self.task.train for tag in _content(row).tags}
        return (OUTSIDE, *sorted(found - {OUTSIDE}))

    @property
    def outputs(self) -> int:
        """One a tag."""
        return len(self.tags)

    @property
    def names(self) -> tuple[str, ...]:
        """The tags."""
        return self.tags

    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """See `Reader.encode`."""
        # A sentence is one text, so that a word begins as it does in running text: with its space, where that counts.
        found = self.with_offsets([" ".join(_content(row).tokens) for row in rows])
        return [self._row(row, *each, limits, answers=answers) for row, each in zip(rows, found, strict=True)]

    def _row(
        self,
        row: PromptTarget,
        ids: list[int],
        offsets: Sequence[tuple[int, int]],
        limits: Limits,
        *,
        answers: bool,
    ) -> EncodedRow:
        content = _content(row)
        words = words_of(content.tokens, offsets)
        known = {tag: at for at, tag in enumerate(self.tags)}
        room = room_for(self, limits, self.frame.around_one, row)
        windows = []
        for cut in cuts(max(len(ids), 1), room, min(limits.stride, room // 2)):
            spots: list[int | None] = [
                word if first and cut.own_start <= at < cut.own_stop else None
                for at, (word, first) in enumerate(words[cut.start : cut.stop], cut.start)
            ]
            # A tag that no training row has cannot be learnt; it is scored as wrong.
            labels: list[int] = [
                known.get(content.tags[word], IGNORED) if word is not None and answers else IGNORED for word in spots
            ]
            windows.append(self._window(ids, cut, labels, spots))
        return EncodedRow(row.id, windows[0].ids, (), task=self.task.name, row=row, windows=tuple(windows))

    def _window(self, ids: Sequence[int], cut: Cut, labels: Sequence[int], spots: Sequence[int | None]) -> Window:
        whole, types = self.frame.one(ids[cut.start : cut.stop])
        before, after = len(self.frame.before), len(self.frame.single)
        framed = ((None,) * before, (None,) * after)
        return Window(
            whole,
            (*((IGNORED,) * before), *labels, *((IGNORED,) * after)),
            types,
            (*framed[0], *spots, *framed[1]),
        )

    def losses(self, answered: Answered, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of the tags, summed over the words of a window."""
        logits = answered.logits
        wanted = as_wide(labels, logits.shape[1])
        sums = functional.cross_entropy(
            logits.float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=IGNORED
        )
        return sums.view_as(wanted).sum(1), (wanted != IGNORED).sum(1)

    def counted(self, window: Window) -> int:
        """Every word with a known tag counts."""
        return sum(label != IGNORED for label in window.labels)

    def answer(self, row: EncodedRow, answered: Sequence[Answered]) -> str:
        """The entities that the most likely tags make up, as JSON with their places."""
        assert row.row is not None
        content = _content(row.row)
        tags = [OUTSIDE] * len(content.tokens)
        for window, line in zip(row.windows, answered, strict=True):
            for word, best in zip(window.spots, line.logits[0].argmax(-1).tolist(), strict=True):
                if word is not None:
                    tags[word] = self.tags[best]
        return entity_answer(content.tokens, entities_of(tags), places=True)


def words_of(tokens: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int | None, bool]]:
    """For each piece of a sentence its word, None for a space alone, and whether it is the word's first.

    Args:
        tokens: The words, which the sentence joins by spaces.
        offsets: The characters of the sentence that each piece stands for.
    """
    ends = list(accumulate(len(token) + 1 for token in tokens))  # behind the space after each word
    pieces: list[tuple[int | None, bool]] = []
    seen: set[int] = set()
    for start, stop in offsets:
        # The last character decides: a piece may begin with the space before its word.
        word = bisect_right(ends, stop - 1) if stop > start else None
        if word is not None and word < len(tokens) and stop > ends[word] - 1:
            word = None
        pieces.append((word, word is not None and word not in seen))
        if word is not None:
            seen.add(word)
    return pieces


def _content(row: PromptTarget) -> TaggedTokens:
    assert isinstance(row.content, TaggedTokens)
    return row.content


class TokenClassification(Encoder):
    """A tagger of words."""

    auto_class = "AutoModelForTokenClassification"
    reader = TokenReader
