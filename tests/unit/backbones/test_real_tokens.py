"""Which hidden states of a batch belong to tokens."""

from __future__ import annotations

import pytest
import torch

from evertune.backbones.base import Batch

DECODER = [
    "decoder.block.0.layer.0.SelfAttention.k",
    "decoder.block.0.layer.1.EncDecAttention.q",
    "model.decoder.layers.0.encoder_attn.out_proj",
    "decoder.block.0.layer.2.DenseReluDense.wi",
    "lm_head",
]
ENCODER = [
    "encoder.block.0.layer.0.SelfAttention.q",
    "decoder.block.0.layer.1.EncDecAttention.k",
    "decoder.block.0.layer.1.EncDecAttention.v",
    "model.decoder.layers.0.encoder_attn.v_proj",
]


def batch(*, seq2seq: bool) -> Batch:
    """Prompts of 1 and 3 tokens, answers of 3 and 2: both padded to the same length; the third row is a filler."""
    mask = torch.tensor([[1, 0, 0], [1, 1, 1], [1, 0, 0]])
    labels = torch.tensor([[5, 6, 7], [5, 6, -100], [-100, -100, -100]])
    inputs = {"input_ids": mask, "attention_mask": mask, **({"decoder_input_ids": labels} if seq2seq else {})}
    return Batch(inputs, labels, ("a", "b", ""), 5)


HIDDEN = torch.arange(9.0).reshape(3, 3, 1)


@pytest.mark.parametrize("path", DECODER)
def test_a_decoder_reads_the_answers(path: str) -> None:
    assert batch(seq2seq=True).real_tokens(HIDDEN, path).flatten().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("path", ENCODER)
def test_an_encoder_and_the_attention_to_it_read_the_prompts(path: str) -> None:
    assert batch(seq2seq=True).real_tokens(HIDDEN, path).flatten().tolist() == [0, 3, 4, 5]


@pytest.mark.parametrize("path", ["model.decoder.layers.0.self_attn.q_proj", "lm_head"])
def test_a_causal_model_reads_both_at_once(path: str) -> None:
    assert batch(seq2seq=False).real_tokens(HIDDEN, path).flatten().tolist() == [0, 3, 4, 5]
