"""A text-to-image pipeline of the real classes, from configuration, small enough to learn in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from .conftest import train_tokenizer

SIDE, WORDS = 8, 12


def write_pipeline(folder: Path, *, seed: int = 0) -> Path:
    """Writes a pipeline whose autoencoder keeps the size of images of 8 x 8 pixels; UNet of about 40 000 numbers."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    tokenizer = train_tokenizer(frame="<s> $A </s>")
    tokenizer.model_max_length = WORDS
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=SIDE,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        ),
        "vae": AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=4,
            block_out_channels=(8,),
            norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            sample_size=SIDE,
        ),
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=WORDS,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
            )
        ),
        "tokenizer": tokenizer,
        "scheduler": DDPMScheduler(num_train_timesteps=100),
    }
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
