"""Images to the numbers that a model of images reads."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.backbones.location import resolve_path
from evertune.errors import DataError
from evertune.streams.contents import Picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from evertune.backbones.base import BackboneConfig


@dataclass(frozen=True)
class PixelReader:
    """Scales images to the size and range that a model was trained with.

    Attributes:
        width: Pixels.
        height: Pixels.
        channels: 1 for grey, 3 for colours.
        mean: Subtracted from every channel, of values in [0, 1].
        deviation: What is then divided by.
    """

    width: int
    height: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, config: BackboneConfig, settings: Any) -> PixelReader:
        """As the model's preprocessor_config.json says, or else half for mean and deviation, as ViT has it."""
        return _reader(config.path, config.revision, settings.image_size, settings.num_channels)

    def batch(self, pictures: Sequence[Picture]) -> Tensor:
        """Images as float32 ``(images, channels, height, width)``.

        Raises:
            DataError: If a file cannot be read.
        """
        import torch

        return torch.stack([self._one(picture) for picture in pictures])

    def _one(self, picture: Picture) -> Tensor:
        import numpy
        import torch
        from PIL.Image import Resampling

        image = open_picture(picture).convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), Resampling.BILINEAR)
        values = torch.from_numpy(numpy.asarray(image, dtype="float32") / 255)
        values = values[None] if self.channels == 1 else values.permute(2, 0, 1)
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (self.mean, self.deviation))
        return ((values - mean) / deviation).contiguous()


def open_picture(picture: Picture) -> Image:
    """The image of a row.

    Raises:
        DataError: If its file cannot be read.
    """
    from PIL import Image

    if picture.pixels:
        return Image.frombytes("L", (picture.width, len(picture.pixels) // picture.width), picture.pixels)
    try:
        with Image.open(io.BytesIO(picture.data) if picture.data else picture.path) as image:
            return image.copy()
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"This image cannot be read: {error}.",
            where=picture.path or "image",
            instead="Replace the file, or remove the row.",
        ) from error


@cache
def _reader(path: str, revision: str | None, size: Any, channels: int) -> PixelReader:
    said = _preprocessor(path, revision)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    mean = tuple(said.get("image_mean") or (0.5,) * channels)[:channels]
    deviation = tuple(said.get("image_std") or (0.5,) * channels)[:channels]
    return PixelReader(width, height, channels, mean, deviation)


def _preprocessor(path: str, revision: str | None) -> dict[str, Any]:
    resolved = resolve_path(path, revision=revision)
    if resolved.kind == "hub":
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

        try:
            file = Path(hf_hub_download(resolved.location, "preprocessor_config.json", revision=revision))
        except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
            return {}
    else:
        file = Path(resolved.location) / "preprocessor_config.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
