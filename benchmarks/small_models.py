"""Makes the small models of benchmarks/tasks that the package has not built in, from configuration.

    python benchmarks/small_models.py ../shared/data runs/models

- ``vit-8``, ``vit-28``: classifiers of grey images; random weights.
- ``diffusion``: an autoencoder that was fitted to the training images of digits_captions, a random text encoder, a
  random UNet.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import numpy
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, ViTConfig, ViTForImageClassification

SPECIAL = ["<pad>", "<begin>", "<end>", "<unknown>"]
PAD, BEGIN, END, _ = range(4)


def lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.strip():
            yield json.loads(line)


def make_vit(folder: Path, side: int, patch: int) -> None:
    torch.manual_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=side, patch_size=patch, num_channels=1, hidden_size=64, num_hidden_layers=3,
            num_attention_heads=4, intermediate_size=192, num_labels=10,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    print(f"{folder}: {model.num_parameters():,} weights")


def make_diffusion(data: Path, folder: Path) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    rows = list(lines(data / "vision/digits_captions/captions_train.jsonl"))
    torch.manual_seed(0)
    tokenizer = caption_tokenizer([row["caption"] for row in rows])
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16, 16), norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, sample_size=32,
    )  # fmt: skip
    fit_autoencoder(vae, [data / "vision/digits_captions" / row["image"] for row in rows])
    width = 64
    parts = {
        "unet": UNet2DConditionModel(
            sample_size=8, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=width,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4, norm_num_groups=8,
        ),
        "vae": vae,
        "text_encoder": CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=width, intermediate_size=128, num_hidden_layers=1,
                num_attention_heads=2, max_position_embeddings=12, pad_token_id=PAD, bos_token_id=BEGIN,
                eos_token_id=END,
            )
        ),
        "tokenizer": tokenizer,
        "scheduler": DDPMScheduler(num_train_timesteps=200, beta_start=5e-4, beta_end=0.1),
    }  # fmt: skip
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    classes = {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "scheduler": ["diffusers", "DDPMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
    }
    index = {"_class_name": "StableDiffusionPipeline", **classes}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    print(f"{folder}: UNet of {sum(each.numel() for each in parts['unet'].parameters()):,} weights")


def caption_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """One token a word."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(captions, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<begin> $A <end>", special_tokens=[("<begin>", BEGIN), ("<end>", END)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=12, pad_token="<pad>", bos_token="<begin>", eos_token="<end>",
        unk_token="<unknown>",
    )  # fmt: skip


def fit_autoencoder(vae: Any, files: list[Path]) -> None:
    """Plain reconstruction; latents are scaled to variance one, as pipelines expect them."""
    images = [numpy.asarray(Image.open(file).convert("RGB"), dtype="float32") for file in files]
    pixels = torch.from_numpy(numpy.stack(images) / 127.5 - 1).permute(0, 3, 1, 2)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3)
    for _ in range(250):
        batch = pixels[torch.randint(len(pixels), (16,))]
        latents = vae.encode(batch).latent_dist.mode()
        error = (vae.decode(latents).sample - batch).square().mean()
        (error + 1e-3 * latents.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        deviation = vae.encode(pixels).latent_dist.mode().std().item()
        error = (vae.decode(vae.encode(pixels).latent_dist.mode()).sample - pixels).square().mean().item()
    vae.register_to_config(scaling_factor=1 / deviation)
    print(f"autoencoder: squared error {error:.4f}, of images with variance {pixels.var().item():.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", default="vit-8,vit-28,diffusion")
    options = parser.parse_args()
    makers = {
        "vit-8": lambda place: make_vit(place, 8, 2),
        "vit-28": lambda place: make_vit(place, 28, 7),
        "diffusion": lambda place: make_diffusion(options.data, place),
    }
    for name in options.only.split(","):
        makers[name](options.folder / name)


if __name__ == "__main__":
    main()
