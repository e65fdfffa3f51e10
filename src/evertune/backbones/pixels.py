"""Images to the numbers that a model of images reads."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.backbones.location import resolve_path
from evertune.errors import ConfigError, DataError
from evertune.streams.content_formats import UNREADABLE
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
        mean: Subtracted from every channel, of values that were divided by `white`.
        deviation: What is then divided by.
        white: What values from 0 to 255 are first divided by.
        resample: Number of the way of Pillow to scale; 2 is bilinear.
    """

    width: int
    height: int
    channels: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    white: float = 255.0
    resample: int = 2

    @classmethod
    def of(cls, config: BackboneConfig, settings: Any) -> PixelReader:
        """As the model's preprocessor_config.json says, or else half for mean and deviation, as ViT has it.

        The size is the model's own, or for models without one (ResNet) `size` of that file, or 224. Images are scaled
        to it as a whole: `crop_size`, `do_center_crop` and `crop_pct` are not followed, so that nothing at the edges
        is lost, and neither is `do_resize: false`.

        Raises:
            ConfigError: If the file is damaged.
        """
        return _reader(config.path, config.revision, _pair(getattr(settings, "image_size", None)), _channels(settings))

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
            image = image.resize((self.width, self.height), Resampling(self.resample))
        values = torch.from_numpy(numpy.asarray(image, dtype="float32") / numpy.float32(self.white))
        values = values[None] if self.channels == 1 else values.permute(2, 0, 1)
        mean, deviation = (torch.tensor(each)[:, None, None] for each in (self.mean, self.deviation))
        return ((values - mean) / deviation).contiguous()


def open_picture(picture: Picture) -> Image:
    """The image of a row as its camera was held, with 8 bits a value.

    Raises:
        DataError: If its file cannot be read.
    """
    from PIL import Image, ImageOps

    if picture.pixels:
        return Image.frombytes("L", (picture.width, len(picture.pixels) // picture.width), picture.pixels)
    try:
        with Image.open(io.BytesIO(picture.data) if picture.data else picture.path) as image:
            return _eight_bits(ImageOps.exif_transpose(image))
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError(
            f"This image cannot be read: {error}.",
            where=picture.path or "image",
            instead="Replace the file, or remove the row.",
        ) from error


def _eight_bits(image: Image) -> Image:
    """Grey images of 16 bits scaled to 8: Pillow would cut everything above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    import numpy
    from PIL import Image

    return Image.fromarray((numpy.asarray(image, dtype="float64") / 257).round().clip(0, 255).astype("uint8"))


@cache
def _reader(path: str, revision: str | None, own: tuple[int, int] | None, channels: int) -> PixelReader:
    file = preprocessor_file(path, revision)
    said = _Said(file, _content(file))
    height, width = own or said.size or (224, 224)
    shifts = said.flag("do_normalize")
    return PixelReader(
        width,
        height,
        channels,
        said.numbers("image_mean", 0.5, channels) if shifts else (0.0,) * channels,
        said.numbers("image_std", 0.5, channels) if shifts else (1.0,) * channels,
        said.white if said.flag("do_rescale") else 1.0,
        said.resample,
    )


@dataclass(frozen=True)
class _Said:
    """What a preprocessor_config.json says, checked."""

    file: Path | None
    content: Mapping[str, Any]

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width."""
        size = self.content.get("size")
        if isinstance(size, Mapping):
            side = size.get("shortest_edge")
            size = [size.get("height", side), size.get("width", side)]
        if size is None:
            return None
        pair = _pair(size)
        if pair is None:
            raise self._wrong("size", 'Write `{"height": 224, "width": 224}`.')
        return pair

    @property
    def resample(self) -> int:
        """Number of a way to scale."""
        value = self.content.get("resample", 2)
        if value not in range(6):
            raise self._wrong("resample", "Write a number from 0 to 5, as Pillow has them.")
        return int(value)

    def flag(self, key: str) -> bool:
        """True unless it says false."""
        return self.content.get(key) is not False

    @property
    def white(self) -> float:
        """What its factor makes 1 of."""
        factor = self.content.get("rescale_factor")
        if factor is None:
            return 255.0
        if not _is_number(factor) or factor <= 0:
            raise self._wrong("rescale_factor", "Write a number above 0.")
        return 1 / factor

    def numbers(self, key: str, usual: float, channels: int) -> tuple[float, ...]:
        """One number a channel: as many as it says, or one for all."""
        value = self.content.get(key)
        several = [usual if value is None else value] * channels if value is None or _is_number(value) else value
        if not isinstance(several, list) or len(several) < channels or not all(map(_is_number, several)):
            raise self._wrong(key, f"Write a list of {channels} numbers.")
        if key == "image_std" and 0 in several:
            raise self._wrong(key, "Write numbers other than 0.")
        return tuple(map(float, several[:channels]))

    def _wrong(self, key: str, instead: str) -> ConfigError:
        what = f"`{key}` is {json.dumps(self.content[key])[:40]}."
        return ConfigError(what, where=str(self.file), instead=instead)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pair(size: Any) -> tuple[int, int] | None:
    """Height and width of a size that is one number or two; None for what is neither."""
    pair = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        return None
    return pair[0], pair[1]


def _channels(settings: Any) -> int:
    return getattr(settings, "num_channels", 3)


def _content(file: Path | None) -> Mapping[str, Any]:
    if file is None or not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        what = f"This file cannot be read: {error}."
        raise ConfigError(what, where=str(file), instead="Replace it, or remove it for the usual values.") from error
    if not isinstance(content, dict):
        raise ConfigError("This file holds no JSON object.", where=str(file), instead="Replace it, or remove it.")
    return content


def preprocessor_file(path: str, revision: str | None) -> Path | None:
    """The file that tells how a model wants its images, which need not exist; None where the hub has none."""
    resolved = resolve_path(path, revision=revision)
    if resolved.kind != "hub":
        return Path(resolved.location) / "preprocessor_config.json"
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(resolved.location, "preprocessor_config.json", revision=revision))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError):
        return None
