"""Rows as encoders read them: windows of tokens, or images, and what is to be said about each."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from evertune.backbones.base import Batch, Encoded
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Window:
    """What a model reads at once of a row.

    Attributes:
        ids: Token ids with the special ones; empty for an image.
        segments: Token types, where the model has any.
        labels: What is to be learnt, as its reader means it; -100 for nothing.
        spots: What each token stands for, for the reader to write down what was found.
        asked: What the window is asked for, where rows are asked several things.
    """

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    segments: tuple[int, ...] = ()
    spots: tuple[Any, ...] = ()
    asked: str = ""


@dataclass(frozen=True, slots=True)
class EncodedRow(Encoded):
    """A row of an encoder: several windows where a text is longer than the model, or is asked several things.

    `prompt` holds the ids of the first window, for those who show rows; there is no `target` in tokens.

    Attributes:
        task: Name of its task: whose head answers.
        row: The row itself, whose text answers are cut from.
        windows: At least one.
    """

    task: str = ""
    row: PromptTarget | None = None
    windows: tuple[Window, ...] = ()

    @property
    def length(self) -> int:
        """Tokens in all windows; 1 for an image."""
        return sum(max(len(window.ids), 1) for window in self.windows)


@dataclass(frozen=True)
class WindowBatch(Batch):
    """A padded batch of windows.

    `inputs` and `labels` have one line a window; `ids` has one a row, as everywhere.

    Attributes:
        rows: The rows.
        owners: Index in `rows` of every window's row.
        windows: The windows themselves.
    """

    rows: tuple[EncodedRow, ...] = ()
    owners: tuple[int, ...] = ()
    windows: tuple[Window, ...] = ()

    def pieces(self, most: int) -> Iterator[WindowBatch]:
        """The same windows, `most` at a time and no longer than they are; `owners` still count the rows of all."""
        for start in range(0, len(self.windows), most):
            part = slice(start, start + most)
            windows = self.windows[part]
            longest = max(len(window.ids) for window in windows)
            # Images have no length.
            inputs = {name: each[part, :longest] if longest else each[part] for name, each in self.inputs.items()}
            yield dataclasses.replace(
                self, inputs=inputs, labels=self.labels[part], owners=self.owners[part], windows=windows
            )

    def real_tokens(self, hidden: Tensor, module_path: str) -> Tensor:
        """See `Batch.real_tokens`; every place of an image is real."""
        filled = hidden.new_tensor([bool(self.ids[owner]) for owner in self.owners]).bool()
        mask = self.inputs.get("attention_mask")
        if mask is None:
            return hidden[filled].flatten(0, 1)
        return hidden[mask.bool() & filled[:, None]]


def without_labels(row: EncodedRow, ignored: int) -> EncodedRow:
    """A row that counts for nothing: its first window, with nothing to learn."""
    window = row.windows[0]
    empty = dataclasses.replace(window, labels=(ignored,) * len(window.labels))
    return dataclasses.replace(row, id="", windows=(empty,))


@dataclass(frozen=True, slots=True)
class Cut:
    """A piece of a long text, in tokens.

    Attributes:
        start: First token.
        stop: Behind the last token.
        own_start: First token that no other piece speaks for.
        own_stop: Behind the last such token.
    """

    start: int
    stop: int
    own_start: int
    own_stop: int


def cuts(length: int, room: int, overlap: int) -> list[Cut]:
    """Cuts a text into pieces that overlap; every token belongs to the piece in which it has most around it.

    Args:
        length: Tokens of the text.
        room: Tokens of a piece, at least 1.
        overlap: Tokens that neighbours share; less than `room`.
    """
    overlap = min(overlap, room - 1)
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + room - overlap)
    pieces = [(start, min(start + room, length)) for start in starts]
    borders = [0, *((this[0] + before[1] + 1) // 2 for before, this in pairwise(pieces)), length]
    return [Cut(*piece, *own) for piece, own in zip(pieces, pairwise(borders), strict=True)]
