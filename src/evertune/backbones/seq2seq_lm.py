"""Encoder-decoder language models: an encoder reads the prompt, a decoder writes the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evertune.backbones.base import IGNORED, Batch, Encoded
from evertune.backbones.language_model import LanguageModel, ended_alike, evaluating, padded, unwrapped


class Seq2SeqLM(LanguageModel):
    """Any architecture that `AutoModelForSeq2SeqLM` loads."""

    auto_class = "AutoModelForSeq2SeqLM"

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        """Prompts for the encoder, shifted answers for the decoder, both padded on the right."""
        labels = padded([row.target if row.id else [IGNORED] * len(row.target) for row in rows], IGNORED)
        answers = padded([row.target for row in rows], IGNORED)
        inputs = {**self._prompts(rows), "decoder_input_ids": self._shifted(answers)}
        return Batch(inputs, labels, tuple(row.id for row in rows), int((labels != IGNORED).sum()))

    def _shifted(self, answers: Tensor) -> Tensor:
        """What the decoder reads while it predicts `answers`: the same, one later, in the model's own convention."""
        model: Any = self.model
        return model.prepare_decoder_input_ids_from_labels(labels=answers)

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return model(**batch.inputs, use_cache=False).logits, batch.labels

    def _prompts(self, rows: Sequence[Encoded]) -> dict[str, Tensor]:
        prompts = [row.prompt for row in rows]
        return {
            "input_ids": padded(prompts, self.pad_id),
            "attention_mask": padded([[1] * len(prompt) for prompt in prompts], 0),
        }

    def _answer_start(self, inputs: dict[str, Tensor]) -> int:
        return 1

    def label_scores(self, model: nn.Module, rows: Sequence[Encoded], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood of every label after every prompt; each prompt is encoded once.

        Returns:
            ``(rows, labels)``, nats, float32.
        """
        asked: Any = unwrapped(model)
        device = next(model.parameters()).device
        inputs = {name: tensor.to(device) for name, tensor in self._prompts(rows).items()}
        with evaluating(model):
            read = asked.get_encoder()(**inputs)
            columns = [
                self._answer_scores(asked, read, inputs["attention_mask"], [ended_alike(label, row) for row in rows])
                for label in labels
            ]
        return torch.stack(columns, 1)

    def _answer_scores(self, model: Any, read: Any, mask: Tensor, answers: Sequence[tuple[int, ...]]) -> Tensor:
        """Log-likelihood of one answer for each row, ``(rows,)``, given what the encoder made of the prompts."""
        ids = torch.tensor(answers, device=mask.device)
        logits = model(
            encoder_outputs=read, attention_mask=mask, decoder_input_ids=self._shifted(ids), use_cache=False
        ).logits
        return logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0].sum(1)
