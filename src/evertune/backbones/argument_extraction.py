"""Who did what to whom: the spans that play the roles of an event, asked for one role at a time.

Question-style extraction (Du and Cardie 2020, "Event Extraction by Answering (Almost) Natural Questions"): the model
reads ``role of type: trigger`` beside the document, in which the trigger is marked. Every token says whether an
argument begins or ends there, each by itself, so that a role may have none, one or several.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.encoder import Encoder
from evertune.backbones.heads import last_linear
from evertune.backbones.question_answering import LONGEST_ANSWER, span_of, trimmed
from evertune.backbones.reading import Answered, Limits, Reader, as_wide, room_for
from evertune.backbones.windows import EncodedRow, Window, cuts
from evertune.metrics.arguments import argument_answer
from evertune.streams.contents import Event
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from evertune.backbones.windows import Cut

MARK = "*"
_BEGIN, _END = 1, 2  # flags of a label
_RARE = 0.01
"""How likely a begin or end is held to be before anything is learnt (Lin et al. 2017, section 3.3)."""
LIKELY = 0.3
"""How likely a begin or end must be to count. What is judged by F1 does best at half of the F1 that can be had (Lipton,
Elkan and Narayanaswamy 2014, arXiv:1402.1892): 0.3 suits an F1 of 60 %, and 0.5 only a perfect model."""


class ArgumentReader(Reader):
    """Events in documents; a document longer than a window is read in several that overlap.

    Training leaves out windows that hold neither the trigger nor an argument of the event: they teach little, and long
    documents have many. Scoring reads all.
    """

    places = "token"

    @property
    def outputs(self) -> int:
        """Begin and end."""
        return 2

    def settle_head(self, head: nn.Module) -> None:
        """Begins with rare begins and ends, so that the many tokens that are neither do not drown the few."""
        nn.init.constant_(last_linear(head).bias, -math.log((1 - _RARE) / _RARE))

    def own_logits(self, outputs: Any, tokens: int) -> Tensor:
        """Begin and end of the architecture's own head."""
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)[:, -tokens:]

    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """See `Reader.encode`."""
        return [self._row(row, limits, answers=answers) for row in rows]

    @cached_property
    def _mark(self) -> list[int]:
        return self.text.plain([MARK])[0]

    def _document(self, event: Event) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of the document with its trigger marked, and the characters that each stands for (none for a mark)."""
        start, stop = event.trigger
        pieces = [(0, start), (start, stop), (stop, len(event.text))]
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for number, (begin, end) in enumerate(pieces):
            found, spots = self.with_offsets([event.text[begin:end]])[0]
            ids += found
            offsets += [(begin + first, begin + last) for first, last in spots]
            if number < 2:
                ids += self._mark
                offsets += [(begin, begin)] * len(self._mark) if number else [(end, end)] * len(self._mark)
        return ids, offsets

    def _row(self, row: PromptTarget, limits: Limits, *, answers: bool) -> EncodedRow:
        event = _content(row)
        ids, offsets = self._document(event)
        trigger = span_of(offsets, *event.trigger) or (0, 0)
        learning = answers and row.id.rsplit("/", 2)[1] == "train"
        windows = tuple(
            window
            for role in event.roles
            for window in self._windows(row, role, ids, offsets, trigger, limits, answers=answers, learning=learning)
        )
        if not windows:  # an event type without roles is asked nothing, and answers nothing
            whole, types, _ = self.frame.pair([], ids[:1])
            windows = (Window(whole, (IGNORED,) * len(whole), types, (None,) * len(whole)),)
        return EncodedRow(row.id, windows[0].ids, (), task=self.task.name, row=row, windows=windows)

    def _windows(
        self,
        row: PromptTarget,
        role: str,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        trigger: tuple[int, int],
        limits: Limits,
        *,
        answers: bool,
        learning: bool,
    ) -> Iterator[Window]:
        event = _content(row)
        question = self._question(event, role)[: self.limit(limits) // 2]
        room = room_for(self, limits, len(question) + self.frame.around_pair, row)
        spans = [span_of(offsets, argument.start, argument.end) for argument in event.arguments]
        wanted = {
            span
            for argument, span in zip(event.arguments, spans, strict=True)
            if span is not None and argument.role == role
        }
        near = [trigger, *(span for span in spans if span is not None)]
        pieces = cuts(len(ids), room, min(limits.stride, room // 2))
        for cut in nearest(pieces, trigger[0], limits.windows):
            if learning and not any(cut.start <= first and last < cut.stop for first, last in near):
                continue
            yield self._window(question, role, ids, offsets, cut, wanted if answers else None)

    def _question(self, event: Event, role: str) -> list[int]:
        start, stop = event.trigger
        words = f"{_words(role)} of {_words(event.type)}: {event.text[start:stop]}"
        return self.text.plain([words])[0]

    def _window(
        self,
        question: Sequence[int],
        role: str,
        ids: Sequence[int],
        offsets: Sequence[tuple[int, int]],
        cut: Cut,
        wanted: set[tuple[int, int]] | None,
    ) -> Window:
        whole, types, begin = self.frame.pair(question, ids[cut.start : cut.stop])
        spots = [spot if spot[1] > spot[0] else None for spot in offsets[cut.start : cut.stop]]
        flags = [IGNORED if wanted is None or spot is None else 0 for spot in spots]
        for first, last in wanted or ():
            if cut.start <= first and last < cut.stop:
                flags[first - cut.start] |= _BEGIN
                flags[last - cut.start] |= _END
        after = len(self.frame.after)
        return Window(
            whole,
            (*((IGNORED,) * begin), *flags, *((IGNORED,) * after)),
            types,
            (*((None,) * begin), *spots, *((None,) * after)),
            role,
        )

    def losses(self, answered: Answered, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Binary cross entropy of begins and ends, summed over the tokens of a window: nats a question."""
        logits = answered.logits.float()
        flags = as_wide(labels, logits.shape[1])
        scored = flags != IGNORED
        kept = flags.clamp_min(0)
        wanted = torch.stack([kept & _BEGIN, (kept & _END) // _END], dim=-1).to(logits.dtype)
        each = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(-1)
        return (each * scored).sum(1), scored.any(1).long()

    def counted(self, window: Window) -> int:
        """A question to a window counts once."""
        return int(any(label != IGNORED for label in window.labels))

    def answer(self, row: EncodedRow, answered: Sequence[Answered]) -> str:
        """The spans of every role, as JSON with their places."""
        assert row.row is not None
        event = _content(row.row)
        found: dict[tuple[str, int, int], float] = {}
        for window, line in zip(row.windows, answered, strict=True):
            inside = torch.tensor([spot is not None for spot in window.spots])
            likely = line.logits[0].sigmoid() * inside[:, None]
            for first, last, score in spans_of(likely[:, 0].tolist(), likely[:, 1].tolist()):
                start, stop = trimmed(event.text, window.spots[first][0], window.spots[last][1])
                if start < stop:
                    span = (window.asked, start, stop)
                    found[span] = max(score, found.get(span, 0.0))
        return argument_answer(event.text, _apart(found), event.roles, places=True)


def nearest(pieces: Sequence[Cut], token: int, most: int | None) -> list[Cut]:
    """The pieces whose middles are nearest to a token, `most` of them, in order; all for None."""
    if most is None or most >= len(pieces):
        return list(pieces)
    ranked = sorted(pieces, key=lambda piece: abs(piece.start + piece.stop - 2 * token))
    return sorted(ranked[:most], key=lambda piece: piece.start)


def spans_of(begins: Sequence[float], ends: Sequence[float]) -> Iterator[tuple[int, int, float]]:
    """Pairs every likely begin with the nearest likely end behind it: first token, last token, probability of both.

    Args:
        begins: How likely an argument begins at each token.
        ends: How likely one ends there.
    """
    for first, begin in enumerate(begins):
        if begin <= LIKELY:
            continue
        near = range(first, min(first + LONGEST_ANSWER, len(ends)))
        last = next((at for at in near if ends[at] > LIKELY), None)
        if last is not None:
            yield first, last, begin * ends[last]


def _apart(found: dict[tuple[str, int, int], float]) -> list[tuple[str, int, int]]:
    """Spans of one role that overlap are one argument, seen from two windows: the likelier one stays."""
    kept: list[tuple[str, int, int]] = []
    for role, start, stop in sorted(found, key=lambda span: (-found[span], span)):
        if not any(role == other and start < end and begin < stop for other, begin, end in kept):
            kept.append((role, start, stop))
    return sorted(kept)


def _words(name: str) -> str:
    """A role or type as words: ``Attack.Ransom`` is ``attack ransom``, ``DiscoveredBy`` ``discovered by``."""
    spaced = "".join(
        f" {letter}" if letter.isupper() and before.islower() else letter
        for before, letter in zip(f" {name}", name, strict=False)
    )
    return " ".join(spaced.replace(".", " ").replace("_", " ").replace("-", " ").replace("/", " ").lower().split())


def _content(row: PromptTarget) -> Event:
    assert isinstance(row.content, Event)
    return row.content


class ArgumentExtraction(Encoder):
    """An extractor of event arguments."""

    auto_class = "AutoModelForQuestionAnswering"
    reader = ArgumentReader
