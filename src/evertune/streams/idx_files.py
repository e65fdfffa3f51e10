"""Images and labels in the files of MNIST: ``train-images-idx3-ubyte``, with or without ``.gz``."""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAME = re.compile(r"idx[13]-ubyte(\.gz)?$")
_IMAGES, _LABELS = 2051, 2049


def is_idx(path: Path) -> bool:
    """Whether a file is called like those of MNIST."""
    return _NAME.search(path.name) is not None


def read_idx(path: Path) -> Iterator[dict[str, Any]]:
    """The images of a file with the labels of the file beside it.

    Args:
        path: The file of images; that of labels is called alike, compressed or not.

    Returns:
        Rows of ``{pixels, width, label}``; pixels are bytes, 0 for black.

    Raises:
        ValueError: As a sentence, if a file is missing or damaged.

    Source: the format that LeCun, Cortes and Burges describe with MNIST.
    """
    beside = _labels_beside(path)
    count, (height, width), pixels = _content(path, _IMAGES, 2)
    _, _, labels = _content(beside, _LABELS, 0)
    if len(labels) != count:
        raise ValueError(f"There are {count} images and {len(labels)} labels.")
    size = height * width
    for number, label in enumerate(labels):
        yield {"pixels": pixels[number * size : (number + 1) * size], "width": width, "label": label}


def _labels_beside(path: Path) -> Path:
    name = path.name.removesuffix(".gz").replace("images", "labels").replace("idx3", "idx1")
    if name == path.name.removesuffix(".gz"):
        raise ValueError("This is no file of images, which is called `...images-idx3-ubyte`.")
    for candidate in (path.with_name(f"{name}.gz"), path.with_name(name)):
        if candidate.exists():
            return candidate
    raise ValueError(f"The file of labels {name} is not beside it.")


def _content(path: Path, magic: int, dimensions: int) -> tuple[int, tuple[int, ...], bytes]:
    """Number of items, further sizes, and the values."""
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        found, count, *sizes = struct.unpack_from(f">{2 + dimensions}I", data)
    except (EOFError, OSError, struct.error, zlib.error) as error:
        raise ValueError(f"{path.name} is damaged: {error}.") from error
    values = data[4 * (2 + dimensions) :]
    if found != magic:
        raise ValueError(f"{path.name} begins with the number {found} and not with {magic}.")
    wanted = count
    for size in sizes:
        wanted *= size
    if len(values) != wanted:
        raise ValueError(f"{path.name} should hold {wanted} values and holds {len(values)}.")
    return count, tuple(sizes), values
