"""Tiny models of every architecture, from configurations alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import transformers as hf
from transformers import PreTrainedModel

_DECODER = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_ENCODER = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_IDS = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}


def _t5(**more: object) -> hf.T5Config:
    return hf.T5Config(vocab_size=64, d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=4, dropout_rate=0.0, **more)


def _bart() -> hf.BartConfig:
    sizes = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in (("layers", 2), ("ffn_dim", 48))}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    return hf.BartConfig(vocab_size=64, d_model=32, dropout=0.0, **sizes, **heads)


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_DECODER)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**_DECODER)),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**_DECODER)),
    "gemma": lambda: hf.GemmaForCausalLM(hf.GemmaConfig(head_dim=8, **_DECODER)),
    "glm": lambda: hf.GlmForCausalLM(hf.GlmConfig(head_dim=8, **_DECODER)),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**_DECODER)),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, **_IDS)
    ),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=32, n_layer=2, n_head=4, **_IDS)),
    "t5": lambda: hf.T5ForConditionalGeneration(_t5()),
    "t5-gated": lambda: hf.T5ForConditionalGeneration(_t5(feed_forward_proj="gated-gelu")),
    "bart": lambda: hf.BartForConditionalGeneration(_bart()),
    "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(vocab_size=64, **_ENCODER)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(image_size=16, patch_size=8, **_ENCODER)),
}


@pytest.fixture(scope="session")
def build() -> Callable[[str], PreTrainedModel]:
    """A model by name, with the same weights every time, in evaluation mode."""

    def built(name: str) -> PreTrainedModel:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            return MODELS[name]().eval()

    return built


@pytest.fixture(scope="session")
def inputs() -> Callable[[PreTrainedModel], dict[str, torch.Tensor]]:
    """A batch for a model, without padding."""

    def made(model: PreTrainedModel) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        ids = torch.randint(3, 64, (2, 9), generator=generator)
        if model.config.is_encoder_decoder:
            return {"input_ids": ids, "decoder_input_ids": ids.flip(1)[:, :5]}
        return {"input_ids": ids, "use_cache": False}  # type: ignore[dict-item]

    return made
