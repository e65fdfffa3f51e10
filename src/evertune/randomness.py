"""One seed for a run; every purpose derives its own from it, so that nothing drifts when something is added."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed of 63 bits for one purpose: the same on every machine, process and Python version.

    Args:
        seed: The seed of the run.
        purpose: What it is for: ``derive_seed(42, "order", stage, epoch)``.
    """
    text = "\x1f".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def python_generator(seed: int, *purpose: str | int) -> random.Random:
    """A `random.Random` for one purpose."""
    return random.Random(derive_seed(seed, *purpose))


def seed_everything(seed: int, *purpose: str | int) -> None:
    """Seeds Python's, numpy's and torch's global generators (all devices)."""
    import numpy
    import torch

    derived = derive_seed(seed, *purpose)
    random.seed(derived)
    numpy.random.seed(derived % 2**32)
    torch.manual_seed(derived)


def global_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of the global generators as (tensors, JSON values): what an exact resume must restore."""
    import numpy
    import torch

    tensors = {"torch": torch.get_rng_state()}
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        tensors[f"cuda.{index}"] = torch.cuda.get_rng_state(index)
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = numpy.random.get_state(legacy=True)
    tensors["numpy"] = torch.from_numpy(numpy.asarray(keys, dtype="int64"))
    return tensors, {
        "python": [version, list(words), gauss],
        "numpy": [name, int(position), int(has_gauss), float(cached)],
    }


def restore_global_state(tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    """Restores what `global_state` returned."""
    import numpy
    import torch

    torch.set_rng_state(tensors["torch"])
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{index}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
    version, words, gauss = values["python"]
    random.setstate((version, tuple(words), gauss))
    name, position, has_gauss, cached = values["numpy"]
    numpy.random.set_state((name, tensors["numpy"].numpy().astype("uint32"), position, has_gauss, cached))
