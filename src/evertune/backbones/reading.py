"""How rows of one task are put to an encoder, and what its outputs mean: the base of every task type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.encoding import RowEncoder
from evertune.backbones.text_ids import TextIds
from evertune.backbones.windows import EncodedRow, Window
from evertune.errors import CapabilityError, DataError, Problem
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


# Whose positions begin behind the id of the padding token.
_BEHIND_PADDING = frozenset(
    {"roberta", "camembert", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "longformer", "mpnet", "xmod"}
    | {"data2vec-text", "ibert", "esm", "luke", "mluke", "lilt", "layoutlmv3", "markuplm"}
)


@dataclass(frozen=True)
class Limits:
    """How long what a model reads at once may be.

    Attributes:
        length: Tokens of a window.
        stride: Tokens that neighbouring windows of a long text share.
        windows: Windows of a text that are read at most, where it has a middle; None for all.
    """

    length: int
    stride: int
    windows: int | None = None


@dataclass(frozen=True)
class Answered:
    """What a model said of the windows of a batch.

    Attributes:
        logits: ``(windows, outputs)`` of lines that are judged whole, ``(windows, tokens, outputs)`` of others.
        mask: Which tokens are real, ``(windows, tokens)``; None for images.
    """

    logits: Tensor
    mask: Tensor | None


class Reader(ABC):
    """Reads the rows of one task.

    Class attributes:
        reads: What rows hold.
        places: Whether a line is judged as a whole, or every token of it.

    Args:
        task: The task; its training rows tell what there is to find.
        tokenizer: The tokenizer; None for models of images.
        settings: Configuration of the model.
    """

    reads: ClassVar[Literal["text", "image"]] = "text"
    places: ClassVar[Literal["line", "token"]] = "line"

    def __init__(self, task: Task, tokenizer: PreTrainedTokenizerBase | None, settings: PretrainedConfig) -> None:
        self.task, self.settings = task, settings
        self._tokenizer = tokenizer

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which models of text have."""
        assert self._tokenizer is not None
        return self._tokenizer

    @property
    @abstractmethod
    def outputs(self) -> int:
        """Number of outputs of the head."""

    @property
    def names(self) -> tuple[str, ...]:
        """What the outputs mean, where they are labels."""
        return ()

    @abstractmethod
    def encode(self, rows: Sequence[PromptTarget], limits: Limits, *, answers: bool) -> list[EncodedRow]:
        """Windows of every row; without `answers`, with nothing to learn.

        Raises:
            DataError: With the rows that cannot be read.
        """

    @abstractmethod
    def losses(self, answered: Answered, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood (nats) of the labels, and how many were scored, per window: ``(windows,)`` each."""

    @abstractmethod
    def counted(self, window: Window) -> int:
        """How much of a window is scored: what the second result of `losses` will say."""

    @abstractmethod
    def answer(self, row: EncodedRow, answered: Sequence[Answered]) -> str:
        """What was found in a row, as the text of an answer.

        Args:
            row: The row.
            answered: For each of its windows, one line without padding.
        """

    def settle_head(self, head: nn.Module) -> None:
        """Changes a new head before anything is learnt."""
        return

    def own_logits(self, outputs: Any, tokens: int) -> Tensor:
        """Logits of the architecture's own head, for this task type; virtual tokens before the text are left out."""
        logits = outputs.logits
        return logits if self.places == "line" else logits[:, -tokens:]

    def foreign_logits(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Logits of this task type, of those of a head that the architecture lacks.

        Args:
            logits: Of every token, ``(lines, tokens, outputs)``.
            mask: Which tokens are real, ``(lines, tokens)``.
        """
        if self.places == "token":
            return logits
        if not self.looks_back_only:
            return logits[:, 0]
        last = mask.long().sum(1) - 1  # the only one that has seen the whole text
        return logits[torch.arange(len(logits), device=logits.device), last]

    @cached_property
    def looks_back_only(self) -> bool:
        """Whether a token sees those before it alone, as in models that were made to go on writing."""
        from transformers.models.auto import modeling_auto

        name = self.settings.model_type
        writes, fills = (
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        )
        return name in writes and name not in fills

    def with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of texts, and the characters that each stands for.

        Raises:
            CapabilityError: If the tokenizer cannot tell.
        """
        if not self.tokenizer.is_fast:
            raise CapabilityError(
                f"{type(self.tokenizer).__name__} does not tell which characters a token stands for.",
                where="backbone.path",
                instead="Use a model with a fast tokenizer (tokenizer.json).",
            )
        return self.text.plain_with_offsets(texts)

    @cached_property
    def text(self) -> TextIds:
        """Text to ids."""
        return TextIds(self.tokenizer)

    @cached_property
    def frame(self) -> Frame:
        """Special tokens around one text and around a pair."""
        frame, end = Frame.of(self.tokenizer), self.tokenizer.eos_token_id
        if self.settings.is_encoder_decoder and isinstance(end, int) and end not in frame.single:
            return replace(frame, single=(*frame.single, end))  # where such models look for what they have read
        return frame

    def limit(self, limits: Limits) -> int:
        """Tokens of a window: as asked, and no more than the model has positions."""
        return limits.length if self._positions is None else min(limits.length, self._positions)

    @cached_property
    def _positions(self) -> int | None:
        """Tokens that the model has positions for; None where there is no end."""
        positions = RowEncoder(self.tokenizer, self.settings).position_limit
        if positions is None or positions < 1:  # XLNet writes -1
            return None
        behind = self.settings.model_type in _BEHIND_PADDING
        return positions - (int(self.settings.pad_token_id or 0) + 1 if behind else 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """Special tokens around texts.

    Attributes:
        before: In front of a text, and of the first of a pair.
        single: Behind a single text.
        between: Between the texts of a pair.
        after: Behind the second text of a pair.
        types: Token types of the first and of the second text of a pair; None where the tokenizer has none.
    """

    before: tuple[int, ...]
    single: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int] | None

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> Frame:
        """The frame that a tokenizer puts around texts."""
        before, single = TextIds(tokenizer).around(target=False)
        found: Any = tokenizer("a", "a", return_special_tokens_mask=True)
        ids, special = found["input_ids"], found["special_tokens_mask"]
        inside = [at for at, flag in enumerate(special) if not flag]
        gap = next((at for at, one in enumerate(inside[1:], 1) if one > inside[at - 1] + 1), len(inside) - 1)
        first_end, second_start = inside[gap - 1] + 1, inside[gap]
        types = found.get("token_type_ids") if "token_type_ids" in tokenizer.model_input_names else None
        return cls(
            before,
            single,
            tuple(ids[first_end:second_start]),
            tuple(ids[inside[-1] + 1 :]),
            (types[inside[0]], types[inside[-1]]) if types is not None else None,
        )

    def one(self, ids: Sequence[int], *, begun: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids and token types of a single text; one that is `begun` gets nothing in front."""
        whole = (*(() if begun else self.before), *ids, *self.single)
        return whole, ((self.types[0],) * len(whole) if self.types else ())

    def pair(self, first: Sequence[int], second: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], int]:
        """Ids and token types of a pair, and where the second text begins."""
        start = (*self.before, *first, *self.between)
        whole = (*start, *second, *self.after)
        types = (self.types[0],) * len(start) + (self.types[1],) * (len(whole) - len(start)) if self.types else ()
        return whole, types, len(start)

    @property
    def around_one(self) -> int:
        """Special tokens around a single text."""
        return len(self.before) + len(self.single)

    @property
    def around_pair(self) -> int:
        """Special tokens around a pair."""
        return len(self.before) + len(self.between) + len(self.after)


def room_for(reader: Reader, limits: Limits, taken: int, row: PromptTarget) -> int:
    """Tokens that are left for a text.

    Raises:
        DataError: If there are none.
    """
    room = reader.limit(limits) - taken
    if room < 1:
        raise DataError(
            Problem(
                row.id,
                f"{taken} tokens are taken before the text begins, and a window has {reader.limit(limits)}.",
                "Raise `train.max_source_length`.",
            )
        )
    return room


def as_wide(labels: Tensor, tokens: int) -> Tensor:
    """Labels of tokens, ``(windows, tokens)``: in a batch of several tasks they may be padded to another width."""
    return functional.pad(labels, (0, max(0, tokens - labels.shape[1])), value=IGNORED)[:, :tokens]


def whole_window(ids: tuple[int, ...], types: tuple[int, ...], labels: Sequence[int]) -> Window:
    """A window of a row that fits into it."""
    return Window(ids, tuple(labels), types)
