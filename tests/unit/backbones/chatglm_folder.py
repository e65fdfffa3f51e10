"""A model folder that brings its own code, in the shape in which ChatGLM2 was published; the code is ours."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

CONFIGURATION = """
from transformers import PretrainedConfig


class ChatGLMConfig(PretrainedConfig):
    model_type = "chatglm"

    def __init__(
        self,
        num_layers=2,
        padded_vocab_size=264,
        hidden_size=32,
        ffn_hidden_size=48,
        kv_channels=8,
        num_attention_heads=4,
        multi_query_group_num=2,
        seq_length=512,
        layernorm_epsilon=1e-5,
        add_qkv_bias=True,
        **kwargs,
    ):
        self.num_layers = num_layers
        self.num_hidden_layers = num_layers
        self.vocab_size = padded_vocab_size
        self.padded_vocab_size = padded_vocab_size
        self.hidden_size = hidden_size
        self.ffn_hidden_size = ffn_hidden_size
        self.kv_channels = kv_channels
        self.num_attention_heads = num_attention_heads
        self.multi_query_group_num = multi_query_group_num
        self.seq_length = seq_length
        self.layernorm_epsilon = layernorm_epsilon
        self.add_qkv_bias = add_qkv_bias
        super().__init__(**kwargs)
"""

MODELING = '''
import torch
from torch import nn
from torch.nn import functional
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_chatglm import ChatGLMConfig


def rotated(states, positions):
    """Half of the width of each head turns, in neighbouring pairs."""
    width = states.shape[-1] // 2
    rates = 10000 ** (-torch.arange(0, width, 2, device=states.device).float() / width)
    angles = positions[..., None].float() * rates
    cos, sin = angles.cos()[:, :, None], angles.sin()[:, :, None]
    even, odd = states[..., :width:2].float(), states[..., 1:width:2].float()
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)
    return torch.cat([turned.to(states.dtype), states[..., width:]], -1)


class RMSNorm(nn.Module):
    def __init__(self, width, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states):
        variance = states.float().pow(2).mean(-1, keepdim=True)
        return (self.weight * states * torch.rsqrt(variance + self.eps)).to(states.dtype)


class SelfAttention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.groups, self.width = (
            config.num_attention_heads, config.multi_query_group_num, config.kv_channels,
        )
        self.sizes = [self.heads * self.width, self.groups * self.width, self.groups * self.width]
        self.query_key_value = nn.Linear(config.hidden_size, sum(self.sizes), bias=config.add_qkv_bias)
        self.dense = nn.Linear(self.heads * self.width, config.hidden_size, bias=False)

    def forward(self, hidden, mask, positions):
        batch, time, _ = hidden.shape
        query, key, value = (
            part.view(batch, time, -1, self.width) for part in self.query_key_value(hidden).split(self.sizes, -1)
        )
        query, key = rotated(query, positions), rotated(key, positions)
        repeats = self.heads // self.groups
        key, value = key.repeat_interleave(repeats, 2), value.repeat_interleave(repeats, 2)
        found = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask
        )
        return self.dense(found.transpose(1, 2).reshape(batch, time, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, 2 * config.ffn_hidden_size, bias=False)
        self.dense_4h_to_h = nn.Linear(config.ffn_hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden):
        gate, up = self.dense_h_to_4h(hidden).chunk(2, -1)
        return self.dense_4h_to_h(functional.silu(gate) * up)


class GLMBlock(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.self_attention = SelfAttention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)
        self.mlp = MLP(config)

    def forward(self, hidden, mask, positions):
        hidden = hidden + self.self_attention(self.input_layernorm(hidden), mask, positions)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class GLMTransformer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(GLMBlock(config) for _ in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, config.layernorm_epsilon)


class Embedding(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.padded_vocab_size, config.hidden_size)


class ChatGLMPreTrainedModel(PreTrainedModel):
    config_class = ChatGLMConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["GLMBlock"]


class ChatGLMModel(ChatGLMPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.embedding = Embedding(config)
        self.encoder = GLMTransformer(config)
        self.output_layer = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.embedding.word_embeddings

    def forward(self, input_ids, position_ids=None, attention_mask=None):
        batch, time = input_ids.shape
        if position_ids is None:
            position_ids = torch.arange(time, device=input_ids.device).expand(batch, time)
        mask = torch.ones(time, time, dtype=torch.bool, device=input_ids.device).tril()[None, None]
        if attention_mask is not None:
            # A padded position looks at itself, so that no row of the softmax is empty.
            itself = torch.eye(time, dtype=torch.bool, device=input_ids.device)
            mask = (mask & attention_mask[:, None, None, :].bool()) | itself
        hidden = self.embedding.word_embeddings(input_ids)
        for layer in self.encoder.layers:
            hidden = layer(hidden, mask, position_ids)
        return self.encoder.final_layernorm(hidden)


class ChatGLMForConditionalGeneration(ChatGLMPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.transformer = ChatGLMModel(config)
        self.post_init()

    def prepare_inputs_for_generation(self, input_ids, attention_mask=None, **kwargs):
        return {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}

    def forward(
        self,
        input_ids=None,
        position_ids=None,
        attention_mask=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        hidden = self.transformer(input_ids, position_ids, attention_mask)
        return CausalLMOutputWithPast(logits=self.transformer.output_layer(hidden))
'''

TOKENIZATION = '''
from transformers import PreTrainedTokenizer


class ChatGLMTokenizer(PreTrainedTokenizer):
    """Bytes, framed by ``[gMASK] sop``; padded on the left, as published, by a method of an older signature."""

    vocab_files_names = {}
    model_input_names = ["input_ids", "attention_mask", "position_ids"]
    names = ["<unk>", "<pad>", "</s>", "[gMASK]", "sop"]

    def __init__(self, padding_side="left", clean_up_tokenization_spaces=False, **kwargs):
        self.first = len(self.names)
        kwargs = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"} | kwargs
        super().__init__(
            padding_side=padding_side, clean_up_tokenization_spaces=clean_up_tokenization_spaces, **kwargs
        )

    @property
    def vocab_size(self):
        return self.first + 256

    def get_vocab(self):
        return {self._convert_id_to_token(index): index for index in range(self.vocab_size)}

    def _tokenize(self, text, **kwargs):
        return [f"<0x{byte:02X}>" for byte in text.encode()]

    def _convert_token_to_id(self, token):
        if token in self.names:
            return self.names.index(token)
        return self.first + int(token[3:5], 16) if token.startswith("<0x") else 0

    def _convert_id_to_token(self, index):
        return self.names[index] if index < self.first else f"<0x{index - self.first:02X}>"

    def convert_tokens_to_string(self, tokens):
        return bytes(int(token[3:5], 16) for token in tokens if token.startswith("<0x")).decode(errors="replace")

    def save_vocabulary(self, save_directory, filename_prefix=None):
        return ()

    def get_prefix_tokens(self):
        return [self.names.index("[gMASK]"), self.names.index("sop")]

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return self.get_prefix_tokens() + token_ids_0 + (token_ids_1 or [])

    def _pad(self, encoded_inputs, max_length=None, padding_strategy=None, pad_to_multiple_of=None,
             return_attention_mask=None):
        raise AssertionError("nothing here needs to be padded by it")
'''

FILES = {"configuration_chatglm.py": CONFIGURATION, "modeling_chatglm.py": MODELING}
FILES["tokenization_chatglm.py"] = TOKENIZATION
RAN = "ran.txt"


def write_chatglm(folder: Path, **changed: str) -> Path:
    """Writes the folder; every file of code leaves a line in ``ran.txt`` when it is run.

    Args:
        folder: Where to.
        changed: Whole texts of files, by their first word: ``modeling``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in FILES.items():
        said = f"open({str(folder / RAN)!r}, 'a').write({name + chr(10)!r})\n"
        (folder / name).write_text(said + changed.get(name.partition("_")[0], text))
    model = "modeling_chatglm.ChatGLMForConditionalGeneration"
    config = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "auto_map": {
            "AutoConfig": "configuration_chatglm.ChatGLMConfig",
            "AutoModel": model,
            "AutoModelForCausalLM": model,
            "AutoModelForSeq2SeqLM": model,
        },
        "eos_token_id": 2,
        "pad_token_id": 1,
        "transformers_version": "4.30.2",
    }
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = {
        "auto_map": {"AutoTokenizer": ["tokenization_chatglm.ChatGLMTokenizer", None]},
        "tokenizer_class": "ChatGLMTokenizer",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    save_file(_weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def _weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    layer = {
        "input_layernorm.weight": (32,),
        "self_attention.query_key_value.weight": (64, 32),
        "self_attention.query_key_value.bias": (64,),
        "self_attention.dense.weight": (32, 32),
        "post_attention_layernorm.weight": (32,),
        "mlp.dense_h_to_4h.weight": (96, 32),
        "mlp.dense_4h_to_h.weight": (32, 48),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.word_embeddings.weight": (264, 32),
        "encoder.final_layernorm.weight": (32,),
        "output_layer.weight": (264, 32),
    }
    for index in range(2):
        shapes |= {f"encoder.layers.{index}.{name}": shape for name, shape in layer.items()}
    return {
        f"transformer.{name}": torch.ones(shape) if "norm" in name else 0.2 * torch.randn(shape)
        for name, shape in shapes.items()
    }
