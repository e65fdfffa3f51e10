"""What a model family must offer to the rest: encode rows, make batches, give a loss, answer prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol

from annotated_types import Ge, Len

from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

IGNORED = -100  # the label of a position that is not scored

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Which model is fine-tuned.

    Attributes:
        path: A local folder, a hub id (``owner/name``), or a built-in model (``builtin:tiny-llama``).
        task_type: Name in `evertune.backbones.BACKBONES`: what the model is asked to do.
        revision: Branch, tag or commit of a hub id.
        dtype: Precision of the base weights; with ``bfloat16`` and ``float16`` the forward pass runs under autocast of
            that type. Adapters, optimiser state and penalties stay in float32.
        quantization: ``nf4`` or ``int8`` base weights (bitsandbytes); adapters stay in float32.
        gradient_checkpointing: Recompute activations in the backward pass: less memory, about a third more time.
        trust_remote_code: Run Python code that comes with the model.
        attn_implementation: Attention kernel as transformers names it (``sdpa``, ``eager``, ``flash_attention_2``);
            None lets transformers choose.
        doc_stride: Of encoders: tokens that neighbouring windows share where a text is longer than one; at most half of
            a window (`train.max_source_length`).
        max_windows: Of argument extraction: windows of a document that are read at most, those nearest to the trigger;
            None for all. Arguments stand mostly near it, and every role is asked of every window.
        train_heads: Of encoders: whether heads learn. Frozen ones stay as they were drawn, at random: for comparison
            with recipes that leave them so.
    """

    path: Annotated[str, Len(1)]
    task_type: str
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    quantization: Literal["nf4", "int8"] | None = None
    gradient_checkpointing: bool = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    doc_stride: Annotated[int, Ge(0)] = 128
    max_windows: Annotated[int, Ge(1)] | None = None
    train_heads: bool = True


@dataclass(frozen=True)
class Identity:
    """What exactly was loaded: kept in manifests, compared before an adapter is put on a model.

    Attributes:
        path: As adapters name their base model: the hub id or the absolute local folder.
        source: ``local folder``, ``hub`` or ``built in``.
        revision: Commit of a hub model, None otherwise.
        fingerprint: sha256 over the configuration and each tensor on disk (name, shape, dtype, first few values);
            64 hex digits, the same in whatever precision it is loaded.
        notes: Sentences to say aloud: where it was found, cache state, pickle weights, contradictory token ids mended.
    """

    path: str
    source: str
    revision: str | None
    fingerprint: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Encoded:
    """One row in token ids.

    Attributes:
        id: The row's id.
        prompt: Ids of the prompt; for causal models with the bos token where the tokenizer has one.
        target: Ids of the answer with its end token.
        source_cut: Whether input text was cut to fit.
        target_cut: Whether the answer was cut to fit (it keeps its end token).
    """

    id: str
    prompt: tuple[int, ...]
    target: tuple[int, ...]
    source_cut: bool = False
    target_cut: bool = False

    @property
    def length(self) -> int:
        """Tokens in all: what batching by length sorts by."""
        return len(self.prompt) + len(self.target)


@dataclass(frozen=True)
class Batch:
    """A padded batch.

    Attributes:
        inputs: Keyword arguments of the model's forward, ``(batch, time)`` each; no labels among them. Causal models
            may have ``logits_to_keep`` as well, ``(positions,)``: the positions, counted from the end, of which logits
            are needed. Moved to the device by the loop.
        labels: Token ids that are scored, ``(batch, time)``, -100 elsewhere. For causal models already aligned with
            `inputs`: position t holds the token that position t - 1 predicts, as Hugging Face does.
        ids: Row ids; an empty string marks a filler row that counts for nothing (all its labels are -100).
        count: Number of scored tokens.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    ids: tuple[str, ...]
    count: int

    def to(self, device: object) -> Self:
        """The same batch on a device."""
        moved = {name: tensor.to(device) for name, tensor in self.inputs.items()}  # type: ignore[call-overload]
        return replace(self, inputs=moved, labels=self.labels.to(device))  # type: ignore[call-overload]

    def real_tokens(self, hidden: Tensor, module_path: str) -> Tensor:
        """The hidden states of tokens that are neither padding nor in a filler row.

        Args:
            hidden: ``(batch, time, width)``, of an encoder, a decoder or a causal model that read this batch.
            module_path: The module that read or gave them.

        Returns:
            ``(tokens, width)``.
        """
        from evertune.adapters.roles import reads_answer

        # A decoder reads one token for each that it predicts; prompts and answers may be padded to one length.
        answers = "decoder_input_ids" in self.inputs and reads_answer(module_path)
        mask = self.labels != IGNORED if answers else self.inputs["attention_mask"].bool()
        filled = hidden.new_tensor([bool(id) for id in self.ids]).bool()
        return hidden[mask & filled[:, None]]


@dataclass(frozen=True)
class LossOutput:
    """The data loss of one batch.

    Attributes:
        sum: Sum of the negative log-likelihood (nats) of the scored tokens, float32 scalar with gradient.
        count: Number of scored tokens.
        logits: ``(batch, positions, vocabulary)``, what distillation reads: only positions that predict an answer token
            in some row, where the model can leave out the others.
        extra: Anything else a method may need; ``labels``, ``(batch, positions)``, holds the token that each position
            of `logits` predicts, -100 where it is not scored.
    """

    sum: Tensor
    count: int
    logits: Tensor
    extra: Mapping[str, Tensor] = field(default_factory=dict)


class Backbone(Protocol):
    """A loaded model with its tokenizer.

    `model` is the untouched base model. Calls that compute take the module to call (with adapters, wrapped for several
    processes) as an argument, so that a backbone never holds a stale one.

    Class attributes:
        answers_in_text: Whether answers are written token by token; otherwise labels and places are found.
    """

    answers_in_text: ClassVar[bool]

    config: BackboneConfig
    identity: Identity
    model: PreTrainedModel

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Text to ids, for models of text."""
        ...

    def prepare(self, tasks: Sequence[Task], *, seed: int) -> None:
        """Fits the model to the tasks of a stream, once and before anything else: heads, where it needs any.

        Raises:
            ConfigError: If it cannot do one of them.
        """
        ...

    def head_parameters(self, tasks: Iterable[str]) -> dict[str, nn.Parameter]:
        """The parameters of the heads of these tasks by their names in ``heads.safetensors``; none without heads."""
        ...

    def load_heads(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets heads to what `head_parameters` held."""
        ...

    def head_in_model(self, task: str) -> dict[str, Tensor]:
        """The head of a task by the names that the architecture gives its own; empty without such a head."""
        ...

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[Encoded]:
        """Tokenises prompt and answer apart; cuts only what may be cut; ends every answer with the end token.

        Without `answers` only the prompts are read, and `Encoded.target` is empty.

        Raises:
            DataError: If the part of a prompt that may not be cut is longer than `max_source_length`, or an answer is
                empty; with the ids of the first 20 such rows.
        """
        ...

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Pads rows (right padding: training and scoring) into a batch."""
        ...

    def filler(self, like: Encoded) -> Encoded:
        """A row that counts for nothing, with which a process without rows still takes part in a step."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        """Forward pass and summed loss of a batch."""
        ...

    def answer_loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each row's answer, no gradient: (sums ``(batch,)``, token counts ``(batch,)``)."""
        ...

    def generate(
        self, model: nn.Module, rows: Sequence[Encoded], *, max_new_tokens: int, num_beams: int = 1
    ) -> list[str]:
        """Answers the prompts of one batch, greedily or with beams: decoded without prompt and special tokens."""
        ...

    def draw(self, model: nn.Module, rows: Sequence[PromptTarget], file: Path) -> None:
        """Writes what the model makes of rows as a picture, for models whose answers are pictures."""
        ...

    def label_ids(self, labels: Sequence[str], *, ended: bool = True) -> list[tuple[int, ...]]:
        """Ids of every label as an answer, with the end token; not `ended`, as the beginning of one, without."""
        ...

    def label_scores(self, model: nn.Module, rows: Sequence[Encoded], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood (nats, summed over the label's tokens and its end) of every label, ``(rows, labels)``.

        Rows that were encoded without answers leave the labels as they are: beginnings of answers have no end.
        """
        ...
