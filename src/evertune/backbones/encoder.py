"""Models that find labels and places instead of writing text: one encoder, and a head for every task."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from evertune.backbones.base import IGNORED, BackboneConfig, Encoded, Identity, LossOutput
from evertune.backbones.encoder_rows import EncoderRows, check_task_types, reader_of
from evertune.backbones.explain import quiet_transformers
from evertune.backbones.families import FromPretrained
from evertune.backbones.heads import FOREIGN, RoutedHead, head_names, linear_head, new_heads
from evertune.backbones.language_model import evaluating, padded
from evertune.backbones.reading import Answered, Reader
from evertune.backbones.windows import EncodedRow, WindowBatch, without_labels
from evertune.errors import CapabilityError
from evertune.randomness import derive_seed
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from typing_extensions import Self

    from evertune.backbones.loading import Described


SCORED_TOGETHER = 64
"""Windows that are read in one forward pass when nothing is learnt: long documents have hundreds."""


class Encoder(FromPretrained):
    """An encoder with a head for every task; see `evertune.backbones.base.Backbone`.

    Class attributes:
        answers_in_text: Not: what it finds is written down for it.
        auto_class: The class of transformers that loads the model.
        reader: How rows of this task type are read.

    Attributes:
        config: Which model was asked for.
        identity: What exactly was loaded.
        model: The base model; its head is in the place of the architecture's own.
    """

    answers_in_text: ClassVar[bool] = False
    auto_class: ClassVar[str]
    reader: ClassVar[type[Reader]]

    def __init__(
        self,
        config: BackboneConfig,
        identity: Identity,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        fresh: Sequence[str] = (),
    ) -> None:
        """Stores.

        Args:
            config: Which model was asked for.
            identity: What exactly was loaded.
            model: The base model.
            tokenizer: Its tokenizer; None for models of images.
            fresh: Modules of the encoder that its weights lack (a pooler): a part of every head.
        """
        self.config, self.identity, self.model = config, identity, model
        self._tokenizer = tokenizer
        self._fresh = tuple(fresh)
        self._readers: dict[str, Reader] = {}
        self._rows = EncoderRows({}, config)
        self._heads: dict[str, dict[str, nn.Module]] = {}
        self._routed: dict[str, RoutedHead] = {}
        self._foreign: RoutedHead | None = None

    @classmethod
    def load(cls, config: BackboneConfig, *, base_dir: Path | None = None) -> Self:
        """Loads configuration, tokenizer and weights; `prepare` gives the model its heads.

        Raises:
            BackboneError: If the path leads nowhere, or the model is damaged, incomplete or not meant for the task.
            CapabilityError: If quantisation or gradient checkpointing is asked for and cannot be had.
        """
        from evertune.backbones.loading import describe, load_model

        described = describe(config, base_dir=base_dir)
        model, identity, fresh = load_model(config, described)
        return cls(config, identity, model, described.tokenizer if cls.reader.reads == "text" else None, fresh)

    @classmethod
    def row_encoder(cls, config: BackboneConfig, described: Described, tasks: Sequence[Task]) -> EncoderRows:
        """What encodes the rows of these tasks, without weights."""
        check_task_types(tasks, config, described.settings)
        tokenizer = described.tokenizer if cls.reader.reads == "text" else None
        readers = {task.name: reader_of(task)(task, tokenizer, described.settings) for task in tasks}
        return EncoderRows(readers, config)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer, which models of text have."""
        assert self._tokenizer is not None
        return self._tokenizer

    # Heads -----------------------------------------------------------------------------------------------------------

    def prepare(self, tasks: Sequence[Task], *, seed: int) -> None:
        """Puts a head for every task on the model.

        Args:
            tasks: The tasks of the stream.
            seed: Seed of the run: a head depends on it and on the name of its task alone.

        Raises:
            ConfigError: If a task is of a kind that the model cannot read, or no task is of its own kind.
        """
        check_task_types(tasks, self.config, self.model.config)
        settings = self.model.config
        self._readers = {task.name: reader_of(task)(task, self._tokenizer, settings) for task in tasks}
        self._rows = EncoderRows(self._readers, self.config)
        for name, reader in self._readers.items():
            drawn = derive_seed(seed, "head", name)
            if self._is_own(reader):
                heads = new_heads(self.model, reader.outputs, seed=drawn, fresh=self._fresh)
            else:
                heads = {FOREIGN: linear_head(self.model, reader.outputs, seed=drawn)}
            for child in head_names(self.model) if self._is_own(reader) else [FOREIGN]:
                reader.settle_head(heads[child])
            self._heads[name] = heads
        self._place_heads()

    def _place_heads(self) -> None:
        own = {name: heads for name, heads in self._heads.items() if FOREIGN not in heads}
        self._own_order, self._foreign_order = list(own), [name for name in self._heads if name not in own]
        for child in (*head_names(self.model), *self._fresh):
            self._routed[child] = RoutedHead([heads[child] for heads in own.values()])
            self.model.set_submodule(child, self._routed[child])
        if self._foreign_order:
            self._foreign = RoutedHead([self._heads[name][FOREIGN] for name in self._foreign_order])
            self.model.add_module(FOREIGN, self._foreign)
            # In the forward pass: several processes must see there which parameters take part.
            self.model.register_forward_hook(self._add_foreign_logits)
        for parameter in self.head_parameters(self._heads).values():
            parameter.requires_grad_(False)

    def _add_foreign_logits(self, model: nn.Module, inputs: Any, outputs: Any) -> Any:
        """Puts the outputs of heads that the architecture lacks, for every token, in the place of the states.

        Wrappers for several processes pass on no field that the type of the output does not have.
        """
        assert self._foreign is not None
        if outputs.hidden_states is not None:
            outputs["hidden_states"] = (self._foreign(outputs.hidden_states[-1]),)
        return outputs

    def head_parameters(self, tasks: Iterable[str]) -> dict[str, nn.Parameter]:
        """The parameters of the heads of these tasks, ``<task>/<name in the model>``."""
        return {
            f"{task}/{child}.{name}": parameter
            for task in tasks
            for child, head in self._heads[task].items()
            for name, parameter in head.named_parameters()
        }

    @torch.no_grad()
    def load_heads(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets heads to what `head_parameters` held."""
        known = self.head_parameters(self._heads)
        for name, tensor in tensors.items():
            known[name].copy_(tensor)

    def head_in_model(self, task: str) -> dict[str, Tensor]:
        """The head of a task by the names that the architecture gives it; empty for a head that it does not know."""
        if FOREIGN in self._heads[task]:
            return {}
        held = self.head_parameters([task])
        return {name.removeprefix(f"{task}/"): parameter.detach().cpu() for name, parameter in held.items()}

    def settle(self, task: str) -> PreTrainedModel:
        """The model as the architecture has it, with the head of one task for good; the backbone is spent.

        Raises:
            CapabilityError: If the architecture has no head for the task.
        """
        reader = self._readers[task]
        if not self._is_own(reader):
            raise CapabilityError(
                f"A model for {self.config.task_type} has no place for the head of {task}.",
                where="--task",
                instead=f"Choose a task whose rows are for {self.config.task_type}.",
            )
        for child, head in self._heads[task].items():
            self.model.set_submodule(child, head)
        if self._foreign is not None:
            delattr(self.model, FOREIGN)
        _name_outputs(self.model.config, reader)
        return self.model

    def plain(self, task: str, folder: Path | None = None) -> PreTrainedModel:
        """The model as others load it: the base model with a new head, or what lies in a folder.

        Args:
            task: Whose head it is to have.
            folder: Of a whole model; None for the base model.
        """
        place: dict[str, Any] = {"revision": self.identity.revision} if folder is None else {}
        settings = copy.deepcopy(self.model.config)
        _name_outputs(settings, self._readers[task])
        with quiet_transformers():
            model = type(self.model).from_pretrained(
                folder or self.identity.path, config=settings, dtype=self.model.dtype, weights_only=True, **place
            )
        return model.eval()

    def plain_logits(self, model: nn.Module, batch: WindowBatch, task: str) -> Tensor:
        """What a model as others load it says of a batch, as `loss` gives it."""
        mask = batch.inputs.get("attention_mask")
        return self._readers[task].own_logits(model(**batch.inputs), 0 if mask is None else mask.shape[1])

    def _is_own(self, reader: Reader) -> bool:
        return type(reader) is type(self).reader

    # Rows ------------------------------------------------------------------------------------------------------------

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[EncodedRow]:
        """See `EncoderRows.encode`."""
        return self._rows.encode(
            rows, max_source_length=max_source_length, max_target_length=max_target_length, answers=answers
        )

    def filler(self, like: Encoded) -> EncodedRow:
        """A row that counts for nothing."""
        assert isinstance(like, EncodedRow)
        return without_labels(like, IGNORED)

    def collate(self, rows: Sequence[EncodedRow]) -> WindowBatch:
        """Pads the windows of rows into a batch."""
        windows = [window for row in rows for window in row.windows]
        owners = tuple(at for at, row in enumerate(rows) for _ in row.windows)
        labels = padded([window.labels for window in windows], IGNORED)
        ids = tuple(row.id for row in rows)
        count = sum(self._readers[row.task].counted(window) for row in rows if row.id for window in row.windows)
        return WindowBatch(self._inputs(rows), labels, ids, count, tuple(rows), owners, tuple(windows))

    def _inputs(self, rows: Sequence[EncodedRow]) -> dict[str, Tensor]:
        windows = [window for row in rows for window in row.windows]
        pad: Any = self.tokenizer.pad_token_id
        inputs = {
            "input_ids": padded([window.ids for window in windows], pad),
            "attention_mask": padded([(1,) * len(window.ids) for window in windows], 0),
        }
        if windows[0].segments:
            inputs["token_type_ids"] = padded([window.segments for window in windows], 0)
        return inputs

    # What it says ----------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: WindowBatch) -> LossOutput:
        """Forward pass and summed loss of a batch.

        `LossOutput.logits` is ``(windows, outputs)`` or ``(windows, tokens, outputs)`` where all rows are of one task
        type, and empty otherwise.
        """
        total = torch.zeros((), device=batch.labels.device)
        answered = self._answered(model, batch)
        for reader, at, found in answered:
            sums, _ = reader.losses(found, batch.labels[at])
            filled = torch.tensor([bool(batch.ids[batch.owners[index]]) for index in at], device=sums.device)
            total = total + (sums * filled).sum()
        logits = answered[0][2].logits if len(answered) == 1 else batch.labels.new_zeros(0)
        return LossOutput(total, batch.count, logits, {})

    def answer_loss(self, model: nn.Module, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each row's labels, no gradient: (sums ``(batch,)``, counts ``(batch,)``)."""
        sums = torch.zeros(len(batch.ids), device=batch.labels.device)
        counts = torch.zeros(len(batch.ids), dtype=torch.long, device=batch.labels.device)
        with evaluating(model):
            for piece in batch.pieces(SCORED_TOGETHER):
                for reader, at, found in self._answered(model, piece):
                    loss, count = reader.losses(found, piece.labels[at])
                    owners = torch.tensor([piece.owners[index] for index in at], device=sums.device)
                    sums.index_add_(0, owners, loss.float())
                    counts.index_add_(0, owners, count.long())
        return sums, counts

    def generate(
        self, model: nn.Module, rows: Sequence[EncodedRow], *, max_new_tokens: int = 0, num_beams: int = 1
    ) -> list[str]:
        """What was found in each row, as text; lengths and beams mean nothing here."""
        lines = self._lines(model, rows)
        return [self._readers[row.task].answer(row, lines[at]) for at, row in enumerate(rows)]

    def draw(self, model: nn.Module, rows: Sequence[PromptTarget], file: Path) -> None:
        """Nothing: answers are texts."""
        return

    def label_ids(self, labels: Sequence[str], *, ended: bool = True) -> list[tuple[int, ...]]:
        """Every label is one output."""
        return [(at,) for at in range(len(labels))]

    def label_scores(self, model: nn.Module, rows: Sequence[EncodedRow], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood (nats) of every label, ``(rows, labels)``, for tasks whose rows have one label each."""
        lines = self._lines(model, rows)
        return torch.stack([line[0].logits[0].float().log_softmax(-1)[: len(labels)] for line in lines])

    def _lines(self, model: nn.Module, rows: Sequence[EncodedRow]) -> list[list[Answered]]:
        """For each row, what was said of each of its windows, without padding, on the CPU."""
        batch = self.collate(rows).to(next(model.parameters()).device)
        lines: list[list[Answered]] = [[] for _ in rows]
        with evaluating(model):
            for piece in batch.pieces(SCORED_TOGETHER):
                found: dict[int, Answered] = {}
                for _, at, answered in self._answered(model, piece):
                    for line, index in enumerate(at):
                        length = len(piece.windows[index].ids)
                        logits = answered.logits[line : line + 1].float().cpu()
                        found[index] = Answered(logits[:, :length] if answered.mask is not None else logits, None)
                for index, owner in enumerate(piece.owners):
                    lines[owner].append(found[index])
        return lines

    def _answered(self, model: nn.Module, batch: WindowBatch) -> list[tuple[Reader, list[int], Answered]]:
        """One forward pass: for each task of the batch, its windows and what was said of them."""
        tasks = [batch.rows[owner].task for owner in batch.owners]
        foreign = self._foreign is not None and any(name in self._foreign_order for name in tasks)
        for routed in self._routed.values():
            routed.route = _route(tasks, self._own_order)
        if self._foreign is not None:
            self._foreign.route = _route(tasks, self._foreign_order)
        outputs = model(**batch.inputs, **({"output_hidden_states": True} if foreign else {}))
        return [
            self._of_task(name, [at for at, one in enumerate(tasks) if one == name], outputs, batch)
            for name in dict.fromkeys(tasks)
        ]

    def _of_task(
        self, name: str, at: list[int], outputs: Any, batch: WindowBatch
    ) -> tuple[Reader, list[int], Answered]:
        reader = self._readers[name]
        mask = batch.inputs.get("attention_mask")
        tokens = 0 if mask is None else mask.shape[1]
        if self._is_own(reader):
            logits = reader.own_logits(outputs, tokens)[at]
        else:
            assert mask is not None
            logits = reader.foreign_logits(outputs.hidden_states[0][at][:, -tokens:], mask[at])
        logits = logits[..., : reader.outputs]
        return reader, at, Answered(logits, mask[at].bool() if mask is not None and reader.places == "token" else None)


def _route(tasks: Sequence[str], order: Sequence[str]) -> list[int]:
    """Place of each line's task in an order, -1 for none."""
    places = {name: place for place, name in enumerate(order)}
    return [places.get(name, -1) for name in tasks]


def _name_outputs(settings: PretrainedConfig, reader: Reader) -> None:
    """Writes into a configuration what the outputs of its head mean."""
    names = reader.names
    if names:
        settings.id2label = dict(enumerate(names))
        settings.label2id = {name: index for index, name in enumerate(names)}
    else:
        settings.num_labels = reader.outputs
