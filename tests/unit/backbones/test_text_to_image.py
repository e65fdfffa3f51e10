"""A model that draws: the loss of its noise, scores that do not depend on chance, and a grid of images."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.text_to_image import TextToImage
from evertune.errors import BackboneError, ConfigError
from evertune.streams.contents import Picture
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

from .encoder_tasks import labelled
from .tiny_pipeline import SIDE, write_pipeline


def captions(count: int = 16) -> Task:
    """Squares that are bright above or below, as their caption says."""
    rows = []
    for at in range(count):
        word = ("above", "below")[at % 2]
        bright = [(line < SIDE // 2) == (word == "above") for line in range(SIDE) for _ in range(SIDE)]
        pixels = bytes(230 if one else 20 for one in bright)
        content = Picture("", f"{at:064x}", pixels, SIDE, caption=True)
        rows.append(PromptTarget(f"squares/train/{at}", (), f"bright {word}", content=content))
    return Task("squares", tuple(rows), (), tuple(rows[:4]), metric="noise_explained")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture
def backbone(folder: Path) -> TextToImage:
    loaded = BACKBONES.get("text_to_image").load(BackboneConfig(path=str(folder), task_type="text_to_image"))
    loaded.prepare([captions()], seed=1)
    return loaded


def _encoded(backbone: TextToImage, count: int = 16):
    return backbone.encode(captions(count).train, max_source_length=0, max_target_length=0)


def test_the_loss_is_the_squared_error_of_the_noise(backbone: TextToImage) -> None:
    batch = backbone.collate(_encoded(backbone, 3))
    assert batch.inputs["pixel_values"].shape == (3, 3, SIDE, SIDE)
    assert float(batch.inputs["pixel_values"].min()) == pytest.approx(20 / 255 * 2 - 1, abs=1e-5)
    assert batch.count == 3 * 4 * SIDE * SIDE
    backbone.model.requires_grad_(True).train()
    torch.manual_seed(5)
    ours = backbone.loss(backbone.model, batch)
    torch.manual_seed(5)
    drawn = [(torch.randn(4, SIDE, SIDE), torch.randint(100, ())) for _ in range(3)]
    noise, times = (torch.stack(each) for each in zip(*drawn, strict=True))
    parts = backbone._parts
    with torch.no_grad():
        latents = parts.vae.encode(batch.inputs["pixel_values"]).latent_dist.mean * parts.vae.config.scaling_factor
        kept = parts.scheduler.alphas_cumprod[times][:, None, None, None]
        noisy = kept.sqrt() * latents + (1 - kept).sqrt() * noise
        states = parts.text_encoder(batch.inputs["input_ids"]).last_hidden_state
    theirs = (backbone.model(noisy, times, encoder_hidden_states=states).sample - noise).square().sum()
    torch.testing.assert_close(ours.sum, theirs, rtol=1e-4, atol=1e-2)
    assert ours.sum.requires_grad


def test_scores_depend_on_neither_chance_nor_other_rows(backbone: TextToImage) -> None:
    rows = _encoded(backbone, 4)
    torch.manual_seed(1)
    together, counts = backbone.answer_loss(backbone.model, backbone.collate(rows))
    torch.manual_seed(2)
    alone = torch.cat([backbone.answer_loss(backbone.model, backbone.collate([row]))[0] for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-2)
    assert counts.tolist() == [4 * SIDE * SIDE] * 4


def test_a_filler_row_counts_for_nothing(backbone: TextToImage) -> None:
    rows = _encoded(backbone, 2)
    backbone.model.eval()
    with torch.no_grad():
        alone = backbone.loss(backbone.model, backbone.collate(rows))
        filled = backbone.loss(backbone.model, backbone.collate([*rows, backbone.filler(rows[0])]))
    torch.testing.assert_close(alone.sum, filled.sum, rtol=1e-4, atol=1e-2)
    assert alone.count == filled.count


def test_it_learns_and_draws_what_it_learnt(backbone: TextToImage, tmp_path: Path) -> None:
    task, draw = captions(), random.Random(0)
    rows = _encoded(backbone)
    before, counts = backbone.answer_loss(backbone.model, backbone.collate(rows))
    backbone.model.requires_grad_(True).train()
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(backbone.model.parameters(), lr=3e-3)
    for _ in range(60):
        batch = backbone.collate(draw.sample(rows, 8))
        (backbone.loss(backbone.model, batch).sum / batch.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    after, _ = backbone.answer_loss(backbone.model, backbone.collate(rows))
    assert float(after.sum() / counts.sum()) < 0.7 * float(before.sum() / counts.sum())

    from PIL import Image

    for name in ("one", "two"):
        backbone.draw(backbone.model, task.test, tmp_path / f"{name}.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert image.size == (4 * (SIDE + 2) + 2, SIDE + 4)
    assert backbone.model.training


def test_two_loads_are_one_model_and_another_is_another(folder: Path, tmp_path: Path) -> None:
    other = write_pipeline(tmp_path / "other", seed=1)
    config = [BackboneConfig(path=str(path), task_type="text_to_image") for path in (folder, folder, other)]
    first, again, changed = (BACKBONES.get("text_to_image").load(one).identity.fingerprint for one in config)
    assert first == again != changed


def test_what_is_no_pipeline_is_refused(tmp_path: Path, folder: Path) -> None:
    family = BACKBONES.get("text_to_image")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BackboneError, match=r"no pipeline: there is no model_index\.json"):
        family.load(BackboneConfig(path=str(tmp_path), task_type="text_to_image"))
    with pytest.raises(ConfigError, match="draws captions"):
        family.load(BackboneConfig(path=str(folder), task_type="text_to_image")).prepare(
            [labelled("notes", ["a", "b"])], seed=1
        )


def test_the_skeleton_has_the_shapes_of_the_model(folder: Path, backbone: TextToImage) -> None:
    skeleton = TextToImage.skeleton(BackboneConfig(path=str(folder), task_type="text_to_image"))
    shapes = {name: parameter.shape for name, parameter in backbone.model.named_parameters()}
    assert {name: parameter.shape for name, parameter in skeleton.named_parameters()} == shapes
    assert all(parameter.device.type == "meta" for parameter in skeleton.parameters())
