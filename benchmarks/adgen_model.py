"""Makes a small GLM-4 that knows nothing: one token for every character of the training rows, and random weights.

python benchmarks/adgen_model.py ../shared/data/adgen/train.json runs/adgen-glm4
evertune run benchmarks/adgen.yaml
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import Glm4Config, Glm4ForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<eos>", "<unk>"]


def build_tokenizer(rows: list[dict[str, str]]) -> PreTrainedTokenizerFast:
    """One token a character; those that occur once are unknown."""
    counts: dict[str, int] = {}
    for row in rows:
        for character in f"{row['content']}\n{row['summary']}":
            counts[character] = counts.get(character, 0) + 1
    kept = sorted(character for character, count in counts.items() if count > 1)
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *kept])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", model_max_length=512
    )


def build_model(vocab_size: int) -> Glm4ForCausalLM:
    """About two million weights in the architecture of GLM-4."""
    torch.manual_seed(0)
    return Glm4ForCausalLM(
        Glm4Config(
            vocab_size=vocab_size,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def main() -> None:
    """Writes the folder."""
    data, folder = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines() if line]
    tokenizer = build_tokenizer(rows)
    model = build_model(len(tokenizer))
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} weights, {len(tokenizer):,} characters")


if __name__ == "__main__":
    main()
