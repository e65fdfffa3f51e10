"""Decoder-only language models: the prompt is read, and the answer written, by one stack."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from evertune.backbones.base import IGNORED, Batch, Encoded
from evertune.backbones.language_model import LanguageModel, ended_alike, evaluating, padded, unwrapped


class CausalLM(LanguageModel):
    """Any architecture that `AutoModelForCausalLM` loads.

    Where the model's forward pass takes ``logits_to_keep``, only positions that predict an answer token (in any row of
    the batch) go through the output layer: with a large vocabulary and short answers that is most of the memory.
    """

    auto_class = "AutoModelForCausalLM"

    @cached_property
    def _accepts(self) -> frozenset[str]:
        """Names of the arguments of the model's forward pass."""
        return frozenset(inspect.signature(self.model.forward).parameters)

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Prompt and answer in one row, padded on the right; exactly the answers are labels."""
        sequences = [(*row.prompt, *row.target) for row in rows]
        labels = padded(
            [(*[IGNORED] * len(row.prompt), *(row.target if row.id else [IGNORED] * len(row.target))) for row in rows],
            IGNORED,
        )
        inputs = {
            "input_ids": padded(sequences, self.pad_id),
            "attention_mask": padded([[1] * len(sequence) for sequence in sequences], 0),
        }
        if "logits_to_keep" in self._accepts:
            inputs["logits_to_keep"] = _predicting(labels)
        return Batch(inputs, labels, tuple(row.id for row in rows), int((labels != IGNORED).sum()))

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        logits: Tensor = model(**batch.inputs, use_cache=False).logits
        kept = batch.inputs.get("logits_to_keep")
        if kept is None:
            # Counted from the end, since virtual tokens may stand before the prompt.
            return logits[:, -batch.labels.shape[1] : -1], batch.labels[:, 1:]
        return logits, batch.labels[:, kept + 1]

    def _prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        prompts = [row.prompt for row in rows]
        return {
            "input_ids": padded(prompts, self.pad_id, left=True),
            "attention_mask": padded([[1] * len(prompt) for prompt in prompts], 0, left=True),
        }

    def _answer_start(self, inputs: dict[str, Tensor]) -> int:
        return inputs["input_ids"].shape[1]

    def label_scores(self, model: nn.Module, rows: Sequence[Encoded], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood of every label after every prompt; each prompt is read once where the model keeps a cache.

        Returns:
            ``(rows, labels)``, nats, float32.
        """
        with evaluating(model):
            read = _PromptsRead.of(unwrapped(model), self._prompts(rows), self._accepts)
            return torch.stack([read.score([ended_alike(label, row) for row in rows]) for label in labels], 1)


def _predicting(labels: Tensor) -> Tensor:
    """Positions, counted from the end, whose logits predict a label in any row; at least one.

    Args:
        labels: ``(batch, time)``.

    Returns:
        Negative int64 positions ``(positions,)``, ascending.
    """
    scored = (labels[:, 1:] != IGNORED).any(0).nonzero().flatten()
    kept = scored if len(scored) else torch.zeros(1, dtype=torch.long)
    return kept - labels.shape[1]


@dataclass(frozen=True)
class _PromptsRead:
    """What a model knows after reading a batch of prompts, and how it goes on from there.

    Attributes:
        model: The model.
        accepts: Names of the arguments of its forward pass.
        ids: Prompts, padded on the left, ``(rows, time)``.
        mask: 1 where `ids` is a token, 0 where it is padding.
        cache: Keys and values of the prompts; None where the model keeps none.
        first: Log-probabilities of the first token of an answer, ``(rows, vocabulary)``, float32.
    """

    model: nn.Module
    accepts: frozenset[str]
    ids: Tensor
    mask: Tensor
    cache: Any
    first: Tensor

    @classmethod
    def of(cls, model: nn.Module, prompts: Mapping[str, Tensor], accepts: frozenset[str]) -> _PromptsRead:
        """Reads prompts once."""
        device = next(model.parameters()).device
        ids, mask = (prompts[name].to(device) for name in ("input_ids", "attention_mask"))
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepts else {}
        output = _call(model, accepts, ids, mask, use_cache=True, **last_only)
        cache = getattr(output, _cache_name(accepts), None)
        return cls(model, accepts, ids, mask, cache, output.logits[:, -1].float().log_softmax(-1))

    def score(self, answers: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood of one answer for each row, all of one length, ``(rows,)``."""
        ids = torch.tensor(answers, device=self.ids.device)
        scores = self.first.gather(1, ids[:, :1])[:, 0]
        if ids.shape[1] == 1:
            return scores
        rest = self._continued(ids[:, :-1]).float().log_softmax(-1)
        return scores + rest.gather(2, ids[:, 1:, None])[..., 0].sum(1)

    def _continued(self, ids: Tensor) -> Tensor:
        """Logits at each of `ids` after the prompts, ``(rows, tokens, vocabulary)``."""
        mask = torch.cat([self.mask, torch.ones_like(ids)], 1)
        if self.cache is None:
            whole = torch.cat([self.ids, ids], 1)
            return _call(self.model, self.accepts, whole, mask, use_cache=False).logits[:, -ids.shape[1] :]
        cache = {_cache_name(self.accepts): copy.deepcopy(self.cache)}  # it grows in place
        return _call(self.model, self.accepts, ids, mask, use_cache=True, **cache).logits


def _cache_name(accepts: frozenset[str]) -> str:
    """The name of the argument changed in transformers; the older one warns where the newer exists."""
    return "cache" if "cache" in accepts else "past_key_values"


def _call(model: nn.Module, accepts: frozenset[str], ids: Tensor, mask: Tensor, **more: Any) -> Any:
    """Forward pass of the last tokens of rows padded on the left; positions are counted from each row's first token."""
    if "position_ids" in accepts:
        more["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    return model(input_ids=ids, attention_mask=mask, **more)
