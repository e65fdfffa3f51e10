"""Images drawn from captions, by taking noise out of them step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from evertune.backbones.base import BackboneConfig, Encoded, Identity, LossOutput
from evertune.backbones.heads import Headless
from evertune.backbones.language_model import evaluating
from evertune.backbones.pixels import PixelReader
from evertune.backbones.reading import Reader
from evertune.backbones.windows import EncodedRow, Window, WindowBatch, without_labels
from evertune.errors import ConfigError, Problem
from evertune.randomness import derive_seed
from evertune.streams.contents import Picture
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task

if TYPE_CHECKING:
    from typing_extensions import Self

    from evertune.backbones.diffusion import Pipeline
    from evertune.backbones.loading import Described

SCORED_TIMES = 4
"""Times at which a row's noise is predicted when it is scored: the same, with the same noise, after every stage."""
DRAWN_STEPS = 20
"""Steps in which a sampled image is freed from noise."""


class TextToImage(Headless):
    """A latent diffusion model (Rombach et al. 2022, arXiv:2112.10752) whose UNet learns; the rest stays.

    Attributes:
        config: Which model was asked for.
        identity: What exactly was loaded.
        model: The UNet.
        tokenizer: Of captions.
    """

    answers_in_text: ClassVar[bool] = False
    reader: ClassVar[type[Reader] | None] = None

    def __init__(self, config: BackboneConfig, identity: Identity, pipeline: Pipeline) -> None:
        self.config, self.identity, self._parts = config, identity, pipeline
        self.model: Any = pipeline.unet
        self.tokenizer = pipeline.tokenizer
        self._states: dict[tuple[int, ...], Tensor] = {}

    @classmethod
    def load(cls, config: BackboneConfig, *, base_dir: Path | None = None) -> Self:
        """Loads all parts of the pipeline.

        Raises:
            BackboneError: If there is no such pipeline, or it is damaged.
            CapabilityError: If diffusers is not installed.
        """
        from evertune.backbones.diffusion import load_pipeline, locate

        pipeline, identity = load_pipeline(config, locate(config, base_dir))
        return cls(config, identity, pipeline)

    @classmethod
    def describe(cls, config: BackboneConfig, *, base_dir: Path | None = None) -> Described:
        """What can be told without weights: where the pipeline is."""
        from evertune.backbones.diffusion import locate
        from evertune.backbones.loading import Described
        from evertune.backbones.special_tokens import SpecialTokens

        resolved = locate(config, base_dir)
        none: Any = None
        return Described(resolved, none, none, None, SpecialTokens(None, None, 0, (), ()), (resolved.note,))

    @classmethod
    def skeleton(cls, config: BackboneConfig) -> nn.Module:
        """The UNet without weights."""
        from evertune.backbones.diffusion import locate, skeleton

        return skeleton(locate(config))

    @classmethod
    def row_encoder(cls, config: BackboneConfig, described: Described, tasks: Sequence[Task]) -> CaptionRows:
        """What encodes captions, without weights."""
        from transformers import AutoTokenizer

        check_captions(tasks)
        resolved = described.resolved
        tokenizer = AutoTokenizer.from_pretrained(
            resolved.location, subfolder="tokenizer", revision=resolved.revision, trust_remote_code=False
        )
        return CaptionRows(tokenizer)

    def prepare(self, tasks: Sequence[Task], *, seed: int) -> None:
        """Checks that every row is an image with a caption.

        Raises:
            ConfigError: With the other tasks.
        """
        check_captions(tasks)

    # Rows ------------------------------------------------------------------------------------------------------------

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[EncodedRow]:
        """Ids of captions; images are read when a batch is made."""
        return CaptionRows(self.tokenizer).encode(
            rows, max_source_length=max_source_length, max_target_length=max_target_length
        )

    def filler(self, like: Encoded) -> EncodedRow:
        """A row that counts for nothing."""
        assert isinstance(like, EncodedRow)
        return without_labels(like, 0)

    def collate(self, rows: Sequence[EncodedRow]) -> WindowBatch:
        """Images ``pixel_values (rows, channels, height, width)`` in [-1, 1], and ids of captions ``input_ids``."""
        pictures = [row.row.content for row in rows if row.row is not None]
        pixels = self._pixels.batch([one for one in pictures if isinstance(one, Picture)])
        ids = torch.tensor([row.windows[0].ids for row in rows])
        count = sum(bool(row.id) for row in rows) * self._values
        labels = torch.zeros(len(rows), 1, dtype=torch.long)
        owners = tuple(range(len(rows)))
        inputs = {"pixel_values": pixels, "input_ids": ids}
        windows = tuple(row.windows[0] for row in rows)
        return WindowBatch(inputs, labels, tuple(row.id for row in rows), count, tuple(rows), owners, windows)

    @property
    def _pixels(self) -> PixelReader:
        scale = 2 ** (len(self._parts.vae.config.block_out_channels) - 1)
        side, channels = self.model.config.sample_size * scale, self._parts.vae.config.in_channels
        return PixelReader(side, side, channels, (0.5,) * channels, (0.5,) * channels)

    @property
    def _shape(self) -> tuple[int, int, int]:
        side = self.model.config.sample_size
        return self.model.config.in_channels, side, side

    @property
    def _values(self) -> int:
        """Numbers in a latent image: what a row counts for."""
        channels, height, width = self._shape
        return channels * height * width

    # What it says ----------------------------------------------------------------------------------------------------

    def loss(self, model: nn.Module, batch: WindowBatch) -> LossOutput:
        """Squared error of the predicted noise (or velocity), summed; `count` is the number of values.

        In training noise and time are drawn anew for every row (Ho et al. 2020, arXiv:2006.11239, algorithm 1); in
        evaluation they are the row's own.
        """
        device = batch.labels.device
        if model.training:
            # Row by row, so that what a row gets does not depend on how a step is split into batches.
            drawn = [(torch.randn(self._shape), torch.randint(self._times, ())) for _ in batch.ids]
            noise, times = (torch.stack(each).to(device) for each in zip(*drawn, strict=True))
        else:
            noise, times = self._own_noise(batch, 0, device)
        errors = self._errors(model, batch, noise, times)
        filled = torch.tensor([bool(id) for id in batch.ids], device=device)
        return LossOutput((errors * filled).sum(), batch.count, errors.detach())

    def answer_loss(self, model: nn.Module, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Squared error of each row's noise, mean over `SCORED_TIMES` times: sums and values, ``(batch,)`` each."""
        device = batch.labels.device
        with evaluating(model):
            errors = [self._errors(model, batch, *self._own_noise(batch, draw, device)) for draw in range(SCORED_TIMES)]
        counts = torch.full((len(batch.ids),), self._values, device=device)
        return torch.stack(errors).mean(0), counts

    def generate(
        self, model: nn.Module, rows: Sequence[EncodedRow], *, max_new_tokens: int = 0, num_beams: int = 1
    ) -> list[str]:
        """Nothing: an image is no text. `draw` shows what the model makes of captions."""
        return [""] * len(rows)

    def label_ids(self, labels: Sequence[str], *, ended: bool = True) -> list[tuple[int, ...]]:
        """None: captions are no closed set."""
        return []

    def label_scores(self, model: nn.Module, rows: Sequence[EncodedRow], labels: Sequence[tuple[int, ...]]) -> Tensor:
        """None: captions are no closed set."""
        raise AssertionError("captions are no closed set of labels")

    def draw(self, model: nn.Module, rows: Sequence[PromptTarget], file: Path) -> None:
        """Writes a grid of images, sampled for the captions of rows with the same noise after every stage, as PNG.

        Deterministic DDIM sampling (Song et al. 2021, arXiv:2010.02502) without guidance.

        Args:
            model: The module to call.
            rows: One image each.
            file: Where.
        """
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler

        encoded = self.encode(rows, max_source_length=0, max_target_length=0)
        device = next(model.parameters()).device
        scheduler: Any = DDIMScheduler.from_config(self._parts.scheduler.config, clip_sample=False)
        scheduler.set_timesteps(min(DRAWN_STEPS, self._times), device=device)
        with evaluating(model):
            states = self._caption_states(torch.tensor([row.windows[0].ids for row in encoded], device=device))
            latents = torch.stack([self._noise(row.id, "draw") for row in encoded]).to(device)
            for time in scheduler.timesteps:
                scaled = scheduler.scale_model_input(latents, time)
                predicted = model(scaled, time, encoder_hidden_states=states).sample.float()
                latents = scheduler.step(predicted, time, latents, eta=0.0).prev_sample
            vae = self._parts.vae.to(device)
            images = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        _write_grid((images / 2 + 0.5).clamp(0, 1).cpu(), file)

    @property
    def _times(self) -> int:
        return int(self._parts.scheduler.config.num_train_timesteps)

    def _noise(self, id: str, purpose: str | int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(0, "noise", id, purpose))
        return torch.randn(self._shape, generator=generator)

    def _own_noise(self, batch: WindowBatch, draw: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """The noise of every row, and the time at which it is scored: spread evenly over all times by `draw`."""
        noise = torch.stack([self._noise(row.id, draw) for row in batch.rows]).to(device)
        time = (2 * draw + 1) * self._times // (2 * SCORED_TIMES)
        return noise, torch.full((len(batch.ids),), time, device=device)

    def _errors(self, model: nn.Module, batch: WindowBatch, noise: Tensor, times: Tensor) -> Tensor:
        """Squared errors summed over the values of each row, ``(rows,)``."""
        scheduler, pixels = self._parts.scheduler, batch.inputs["pixel_values"]
        with torch.no_grad():
            latents = self._latents(pixels)
            states = self._caption_states(batch.inputs["input_ids"])
        noisy = scheduler.add_noise(latents, noise, times).to(states.dtype)
        predicted = model(noisy, times, encoder_hidden_states=states).sample
        velocity = scheduler.config.prediction_type == "v_prediction"
        wanted = scheduler.get_velocity(latents, noise, times) if velocity else noise
        return (predicted.float() - wanted.float()).square().flatten(1).sum(1)

    def _latents(self, pixels: Tensor) -> Tensor:
        """The middle of the autoencoder's distribution, scaled: nothing is drawn."""
        vae = self._parts.vae.to(pixels.device)
        return vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor

    def _caption_states(self, ids: Tensor) -> Tensor:
        encoder = self._parts.text_encoder.to(ids.device)
        return encoder(ids)[0]


class CaptionRows:
    """Encodes captions.

    Args:
        tokenizer: Of the pipeline.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def encode(
        self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int, answers: bool = True
    ) -> list[EncodedRow]:
        """Ids of every caption, padded and cut to the length that the text encoder knows."""
        found = self._tokenizer([row.target for row in rows], padding="max_length", truncation=True, verbose=False)
        whole = self._tokenizer([row.target for row in rows], verbose=False)
        return [
            EncodedRow(
                row.id,
                tuple(ids),
                (),
                len(long) > len(ids),
                False,
                row.id.rsplit("/", 2)[0],
                row,
                (Window(tuple(ids), (0,)),),
            )
            for row, ids, long in zip(rows, found["input_ids"], whole["input_ids"], strict=True)
        ]


def check_captions(tasks: Sequence[Task]) -> None:
    """Checks that every row is an image with a caption.

    Raises:
        ConfigError: With the other tasks.
    """
    problems = [
        Problem(
            f"task {task.name}",
            f"Its rows are for {task.task_type}, and a model for text_to_image draws captions.",
            "Use rows of {image, text}.",
        )
        for task in tasks
        if task.task_type != "text_to_image"
    ]
    if problems:
        raise ConfigError(problems)


def _write_grid(images: Tensor, file: Path) -> None:
    """Writes images ``(images, channels, height, width)`` with values in [0, 1] side by side."""
    from PIL import Image

    count, channels, height, width = images.shape
    columns = min(count, 4)
    lines = -(-count // columns)
    gap = max(2, width // 16)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, lines * (height + gap) + gap), "white")
    for place, image in enumerate(images):
        array = (image * 255).round().byte().permute(1, 2, 0).numpy()
        tile = Image.fromarray(array[:, :, 0] if channels == 1 else array[:, :, :3])
        column, line = place % columns, place // columns
        sheet.paste(tile.convert("RGB"), (gap + column * (width + gap), gap + line * (height + gap)))
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    sheet.save(temporary, format="PNG")
    temporary.replace(file)
