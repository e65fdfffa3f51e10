"""One label for a whole text: sentiment, topic, entailment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.encoder import Encoder
from evertune.backbones.prompts import PromptEncoder
from evertune.backbones.reading import Answered, Limits, Reader, room_for, whole_window
from evertune.backbones.windows import EncodedRow
from evertune.errors import DataError, Problem
from evertune.metrics.classification import label_of
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from evertune.backbones.windows import Window


class LabelReader(Reader):
    """Rows with one label each: `losses` and `answer` for a line of logits over the labels."""

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The closed set of answers, in the order of the outputs."""
        assert self.task.labels is not None
        return tuple(self.task.labels)

    @property
    def outputs(self) -> int:
        """One a label."""
        return len(self.labels)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return self.labels

    def label_index(self, row: PromptTarget) -> int:
        """Output of the row's label; -100 for an answer that is none of the labels, which is scored as wrong."""
        index = label_of(row.target, self.labels)
        return IGNORED if index is None else index

    def losses(self, answered: Answered, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross entropy of the label."""
        wanted = labels[:, 0]
        sums = functional.cross_entropy(answered.logits.float(), wanted, reduction="none", ignore_index=IGNORED)
        return sums, (wanted != IGNORED).long()

    def counted(self, window: Window) -> int:
        """A row with a label counts once."""
        return int(window.labels[0] != IGNORED)

    def answer(self, row: EncodedRow, answered: Sequence[Answered]) -> str:
        """The most likely label."""
        return self.labels[int(answered[0].logits[0].argmax())]


class SequenceReader(LabelReader):
    """Texts with one label each; a long text is cut where its prompt may be cut."""

    @cached_property
    def prompts(self) -> PromptEncoder:
        """Prompts to ids."""
        return PromptEncoder(self.text)

    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """See `Reader.encode`."""
        rooms = [room_for(self, limits, self.frame.around_one, row) for row in rows]
        found = self.prompts.encode(rows, rooms)
        problems = [
            Problem(
                row.id,
                f"Without any input text {self.prompts.uncuttable(row)} tokens are left; a window has {room}.",
                "Raise `train.max_source_length`, or shorten the instruction.",
            )
            for row, room, each in zip(rows, rooms, found, strict=True)
            if each is None
        ]
        if problems:
            raise DataError(problems[:20])
        encoded: list[EncodedRow] = []
        for row, each in zip(rows, found, strict=True):
            assert each is not None
            # The chat template of a conversation begins it by itself.
            ids, types = self.frame.one(each.ids, begun=bool(row.messages))
            window = whole_window(ids, types, (self.label_index(row) if answers else IGNORED,))
            encoded.append(EncodedRow(row.id, ids, (), each.cut, False, self.task.name, row, (window,)))
        return encoded


class SequenceClassification(Encoder):
    """A text classifier."""

    auto_class = "AutoModelForSequenceClassification"
    reader = SequenceReader
