"""What causal and encoder-decoder models share: encoding, summed loss, answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from evertune.backbones.base import IGNORED, BackboneConfig, Batch, Encoded, Identity, LossOutput
from evertune.backbones.encoding import RowEncoder
from evertune.backbones.families import FromPretrained
from evertune.backbones.heads import Headless
from evertune.errors import ConfigError, Problem
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

    from evertune.backbones.loading import Described


def padded(rows: Sequence[Sequence[int]], value: int, *, left: bool = False) -> Tensor:
    """Rows of different lengths as one int64 tensor ``(rows, longest)``."""
    longest = max(len(row) for row in rows)
    fill = [[value] * (longest - len(row)) for row in rows]
    return torch.tensor([[*gap, *row] if left else [*row, *gap] for row, gap in zip(rows, fill, strict=True)])


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside a wrapper for several processes: answers need no synchronisation of gradients."""
    while not hasattr(model, "generate") and isinstance(inner := getattr(model, "module", None), nn.Module):
        model = inner
    return model


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, with gradients; afterwards every module is in the mode in which it was."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards every module is in the mode in which it was.

    Not `torch.inference_mode`: some models recompute rotary buffers in the forward pass, and a buffer made in inference
    mode cannot be trained through afterwards.
    """
    with without_dropout(model), torch.no_grad():
        yield


class LanguageModel(Headless, FromPretrained, ABC):
    """A model that answers prompts with text; see `evertune.backbones.base.Backbone`.

    Attributes:
        config: Which model was asked for.
        identity: What exactly was loaded.
        model: The base model.
        tokenizer: Its tokenizer, with an end and a padding token.
    """

    answers_in_text: ClassVar[bool] = True
    auto_class: ClassVar[str]

    def __init__(
        self,
        config: BackboneConfig,
        identity: Identity,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        self.config = config
        self.identity = identity
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, config: BackboneConfig, *, base_dir: Path | None = None) -> Self:
        """Loads configuration, tokenizer and weights.

        Args:
            config: Which model, and how.
            base_dir: Folder that relative paths start from; the working directory if None.

        Raises:
            BackboneError: If the path leads nowhere, or the model is damaged, incomplete or not meant for the task.
            CapabilityError: If quantisation or gradient checkpointing is asked for and cannot be had.
        """
        from evertune.backbones.loading import describe, load_model

        described = describe(config, base_dir=base_dir)
        model, identity, _ = load_model(config, described)
        return cls(config, identity, model, described.tokenizer)

    @classmethod
    def row_encoder(cls, config: BackboneConfig, described: Described, tasks: Sequence[Task]) -> RowEncoder:
        """What encodes rows, without weights."""
        check_text_tasks(tasks, config)
        return RowEncoder(described.tokenizer, described.settings)

    def prepare(self, tasks: Sequence[Task], *, seed: int) -> None:
        """Every task is answered in text: nothing to prepare.

        Raises:
            ConfigError: If the rows of a task are images.
        """
        check_text_tasks(tasks, self.config)

    @cached_property
    def rows(self) -> RowEncoder:
        """What turns rows into ids."""
        return RowEncoder(self.tokenizer, self.model.config)

    @property
    def pad_id(self) -> int:
        """What fills rows up; masked everywhere."""
        pad = self.tokenizer.pad_token_id
        return pad if isinstance(pad, int) else self._stop_ids[0]

    @cached_property
    def _stop_ids(self) -> list[int]:
        """Ids that end an answer: the tokenizer's end token, then those that the model or the chat template names."""
        said = getattr(self.model.generation_config, "eos_token_id", None)
        named = [said] if isinstance(said, int) else list(said or [])
        ids = [self.tokenizer.eos_token_id, *named, self.rows.prompts.chat.end_id]
        return list(dict.fromkeys(index for index in ids if isinstance(index, int)))

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[Encoded]:
        """Tokenises prompts and answers apart; see `RowEncoder.encode`."""
        return self.rows.encode(
            rows, max_source_length=max_source_length, max_target_length=max_target_length, answers=answers
        )

    def label_ids(self, labels: Sequence[str], *, ended: bool = True) -> list[tuple[int, ...]]:
        """Ids of every label as an answer, with the end token; not `ended`, as the beginning of one, without."""
        return self.rows.label_ids(labels, ended=ended)

    def filler(self, like: Encoded) -> Encoded:
        """The shortest row that the model can read; its empty id keeps its labels out of every sum."""
        return Encoded("", like.prompt[:1], like.target[-1:])

    @abstractmethod
    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pads rows on the right into a batch."""

    @abstractmethod
    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits ``(batch, time, vocabulary)`` and the labels ``(batch, time)`` that they predict, aligned."""

    @abstractmethod
    def _prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        """Padded prompts, as generation wants them."""

    @abstractmethod
    def label_scores(self, model: nn.Module, rows: Sequence[Encoded], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood (nats, summed over the label's tokens and its end) of every label, ``(rows, labels)``."""

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Forward pass and summed loss of a batch.

        Only scored positions are cast to float32. ``extra["labels"]`` holds the labels aligned with the logits.
        """
        logits, labels = self._logits(model, batch)
        scored = labels != IGNORED
        total = functional.cross_entropy(logits[scored].float(), labels[scored], reduction="sum")
        return LossOutput(total, batch.count, logits, {"labels": labels})

    def answer_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each row's answer, without gradient and in evaluation mode.

        Returns:
            Sums ``(batch,)`` float32, and token counts ``(batch,)``.
        """
        with evaluating(model):
            logits, labels = self._logits(model, batch)
            losses = functional.cross_entropy(
                logits.flatten(0, 1).float(), labels.flatten(), reduction="none", ignore_index=IGNORED
            )
        return losses.view_as(labels).sum(1), (labels != IGNORED).sum(1)

    def generate(
        self, model: nn.Module, rows: Sequence[Encoded], *, max_new_tokens: int, num_beams: int = 1
    ) -> list[str]:
        """Answers the prompts of one batch, greedily or with beams.

        Every row ends at its first end token, and the batch as soon as all rows have.

        Args:
            model: The model to ask.
            rows: The prompts.
            max_new_tokens: Tokens of an answer at most, its end token among them.
            num_beams: Beams of the search; 1 is greedy.

        Returns:
            The answers without prompt, special tokens and surrounding white space.
        """
        if not rows:
            return []
        from transformers import GenerationConfig

        settings = GenerationConfig(
            max_new_tokens=max_new_tokens,
            num_beams=num_beams,
            do_sample=False,
            eos_token_id=self._stop_ids,
            pad_token_id=self.pad_id,
            bos_token_id=self.tokenizer.bos_token_id,
            decoder_start_token_id=getattr(self.model.generation_config, "decoder_start_token_id", None),
            use_cache=True,
        )
        asked: Any = unwrapped(model)
        inputs = {name: tensor.to(_device(model)) for name, tensor in self._prompts(rows).items()}
        with evaluating(model):
            ids = asked.generate(**inputs, generation_config=settings).tolist()
        start = self._answer_start(inputs)
        return self._decoded([row[start:] for row in ids])

    def draw(self, model: nn.Module, rows: Sequence[PromptTarget], file: Path) -> None:
        """Nothing: answers are texts."""
        return

    @abstractmethod
    def _answer_start(self, inputs: dict[str, Tensor]) -> int:
        """Position of the first generated token in what generation returns."""

    def _decoded(self, answers: Sequence[Sequence[int]]) -> list[str]:
        stop = set(self._stop_ids)
        ended = [list(ids[: next((at for at, index in enumerate(ids) if index in stop), len(ids))]) for ids in answers]
        texts = self.tokenizer.batch_decode(ended, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return [text.strip() for text in texts]


def check_text_tasks(tasks: Sequence[Task], config: BackboneConfig) -> None:
    """Checks that rows have prompts that can be read.

    Raises:
        ConfigError: With the tasks whose rows are images.
    """
    problems = [
        Problem(
            f"task {task.name}",
            f"Its rows are images, which a model for {config.task_type} cannot read.",
            f"Write `backbone.task_type: {task.task_type}`.",
        )
        for task in tasks
        if task.task_type in ("image_classification", "text_to_image")
    ]
    if problems:
        raise ConfigError(problems)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def ended_alike(label: tuple[int, ...], row: Encoded) -> tuple[int, ...]:
    """A label with the end token of the row's own answer: a conversation ends otherwise than a plain prompt."""
    return (*label[:-1], *(row.target[-1:] or label[-1:]))
