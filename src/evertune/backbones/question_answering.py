"""Answers that stand in the text, after SQuAD: where they begin and where they end."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.encoder import Encoder
from evertune.backbones.reading import Answered, Limits, Reader, room_for
from evertune.backbones.windows import EncodedRow, Window, cuts
from evertune.streams.contents import Passage
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from evertune.backbones.windows import Cut

LONGEST_ANSWER = 30
"""Tokens of an answer at most, as in the scripts of Hugging Face."""


class SpanReader(Reader):
    """Passages that are asked a question; one that is longer than a window is read in several that overlap.

    Where a window holds no answer, the first token, ``[CLS]``, is what must be found (Devlin et al. 2019, section 4.3);
    the last one where tokens see only those before them.
    """

    places = "token"

    @cached_property
    def may_be_unanswerable(self) -> bool:
        """Whether some passages hold no answer (SQuAD 2): otherwise one is always given."""
        return any(not _content(row).answers for row in self.task.train)

    @property
    def outputs(self) -> int:
        """Begin and end."""
        return 2

    def own_logits(self, outputs: Any, tokens: int) -> Tensor:
        """Begin and end of the architecture's own head."""
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)[:, -tokens:]

    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """See `Reader.encode`. A question longer than half a window loses its end."""
        contents = [_content(row) for row in rows]
        questions = self.text.plain([content.question for content in contents])
        contexts = self.with_offsets([content.context for content in contents])
        return [
            self._row(row, question, *context, limits, answers=answers)
            for row, question, context in zip(rows, questions, contexts, strict=True)
        ]

    def _row(
        self,
        row: PromptTarget,
        question: list[int],
        ids: list[int],
        offsets: list[tuple[int, int]],
        limits: Limits,
        *,
        answers: bool,
    ) -> EncodedRow:
        most = self.limit(limits) // 2
        asked = question[:most]
        room = room_for(self, limits, len(asked) + self.frame.around_pair, row)
        place = _token_span(_content(row), offsets) if answers else None
        windows = tuple(
            self._window(asked, ids, offsets, cut, place, answers=answers)
            for cut in cuts(max(len(ids), 1), room, min(limits.stride, room // 2))
        )
        return EncodedRow(row.id, windows[0].ids, (), len(question) > most, False, self.task.name, row, windows)

    def _window(
        self,
        question: Sequence[int],
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        cut: Cut,
        place: tuple[int, int] | None,
        *,
        answers: bool,
    ) -> Window:
        whole, types, begin = self.frame.pair(question, ids[cut.start : cut.stop])
        spots = (*((None,) * begin), *offsets[cut.start : cut.stop], *((None,) * len(self.frame.after)))
        labels = (self._nowhere(whole), self._nowhere(whole))
        if place is not None and cut.start <= place[0] and place[1] < cut.stop:
            labels = (place[0] - cut.start + begin, place[1] - cut.start + begin)
        return Window(whole, labels if answers else (IGNORED, IGNORED), types, spots)

    def _nowhere(self, ids: Sequence[int]) -> int:
        """The token that stands for no answer."""
        return len(ids) - 1 if self.looks_back_only else 0

    def losses(self, answered: Answered, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of the begin and of the end over the tokens of a window."""
        assert answered.mask is not None
        logits = answered.logits.float().masked_fill(~answered.mask[:, :, None], -torch.inf)
        each = functional.cross_entropy(logits, labels[:, :2], reduction="none", ignore_index=IGNORED)
        return each.sum(1), (labels[:, :2] != IGNORED).sum(1)

    def counted(self, window: Window) -> int:
        """Begin and end count once each."""
        return sum(label != IGNORED for label in window.labels)

    def answer(self, row: EncodedRow, answered: Sequence[Answered]) -> str:
        """The text between the best begin and end of all windows; none where no answer is likelier than any."""
        assert row.row is not None
        context = _content(row.row).context
        best, nothing, text = float("-inf"), float("inf"), ""
        for window, line in zip(row.windows, answered, strict=True):
            starts, ends = line.logits[0].unbind(-1)
            nowhere = self._nowhere(window.ids)
            nothing = min(nothing, float(starts[nowhere] + ends[nowhere]))
            score, begin, end = _best_span(starts, ends, [spot is not None for spot in window.spots])
            if score > best:
                first, last = trimmed(context, window.spots[begin][0], window.spots[end][1])
                best, text = score, context[first:last]
        return "" if self.may_be_unanswerable and nothing > best else text


def _best_span(starts: Tensor, ends: Tensor, inside: Sequence[bool]) -> tuple[float, int, int]:
    """Score, first and last token of the likeliest span of at most `LONGEST_ANSWER` tokens of the passage."""
    allowed = torch.tensor(inside)
    scores = starts[:, None] + ends[None, :]
    span = torch.ones_like(scores, dtype=torch.bool).triu().tril(LONGEST_ANSWER - 1)
    scores = scores.masked_fill(~(span & allowed[:, None] & allowed[None, :]), -torch.inf)
    flat = int(scores.argmax())
    return float(scores.flatten()[flat]), flat // len(ends), flat % len(ends)


def _token_span(content: Passage, offsets: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """First and last token of the first answer; None where there is none."""
    if not content.answers:
        return None
    start, stop = content.starts[0], content.starts[0] + len(content.answers[0])
    return span_of(offsets, start, stop)


def span_of(offsets: Sequence[tuple[int, int]], start: int, stop: int) -> tuple[int, int] | None:
    """First and last token that share a character with ``[start, stop)``; None if none does."""
    inside = [at for at, (begin, end) in enumerate(offsets) if begin < stop and end > start and end > begin]
    return (inside[0], inside[-1]) if inside else None


def trimmed(text: str, start: int, stop: int) -> tuple[int, int]:
    """A span without white space at its ends: some tokenizers count the space before a word to the word."""
    inside = text[start:stop]
    return start + len(inside) - len(inside.lstrip()), stop - len(inside) + len(inside.rstrip())


def _content(row: PromptTarget) -> Passage:
    assert isinstance(row.content, Passage)
    return row.content


class QuestionAnswering(Encoder):
    """A reader of passages."""

    auto_class = "AutoModelForQuestionAnswering"
    reader = SpanReader
