"""One hash that tells base models apart, read from the files: the same however the model is loaded."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import is_zipfile

from evertune.backbones.location import WEIGHT_FILES
from evertune.errors import BackboneError

if TYPE_CHECKING:
    from torch import Tensor

# Keys of config.json that say how or with what a model was saved, not what it is.
_VOLATILE = frozenset(
    {"_name_or_path", "name_or_path", "_commit_hash", "transformers_version", "use_cache", "auto_map"}
)

# Values of each tensor that enter the hash: enough to tell a model from its fine-tuned copy, too few to take time.
_SAMPLED = 16


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, shards sorted by name; safetensors are preferred, as transformers does.

    Raises:
        BackboneError: If there are none, or a shard is missing.
    """
    found = next((folder / name for name in WEIGHT_FILES if (folder / name).is_file()), None)
    if found is None:
        raise BackboneError(
            f"There are no weights in this folder (none of {', '.join(WEIGHT_FILES)}).",
            where=str(folder),
            instead="Copy the weights beside config.json, or write another folder.",
        )
    if not found.name.endswith(".index.json"):
        return [found]
    shards = _shards(found)
    missing = [shard for shard in shards if not (folder / shard).is_file()]
    if missing:
        raise BackboneError(
            f"{len(missing)} of {len(shards)} weight files that {found.name} names are missing, first `{missing[0]}`.",
            where=str(folder),
            instead="Copy or download the missing files.",
        )
    return [folder / shard for shard in shards]


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise damaged_weights(index, error) from error


def fingerprint(folder: Path) -> str:
    """sha256 over the configuration and, of every tensor on disk, its name, shape, type and first few values.

    It is read from the files, so it does not depend on the precision or the quantisation in which the model is
    loaded, nor on the version of any library.

    Args:
        folder: The folder of the model.

    Returns:
        64 hex digits.

    Raises:
        BackboneError: If the weights are missing, damaged, or would run code.
    """
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for line in sorted(line for path in weight_files(folder) for line in tensor_lines(path)):
        digest.update(line.encode())
    return digest.hexdigest()


def tensor_lines(path: Path) -> Iterator[str]:
    """A line for every tensor of a file: name, shape, type and first few values."""
    for name, shape, head in _open(path):
        values = [float(value) for value in head.flatten()[:_SAMPLED].double()]
        yield f"{name} {list(shape)} {str(head.dtype).removeprefix('torch.')} {values}\n"


def _open(path: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    from safetensors import SafetensorError

    try:
        yield from _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, OSError) as error:
        raise damaged_weights(path, error) from error


def _open_safetensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 -- a safetensors handle is not a mapping
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            yield name, shape, part[:1] if shape else file.get_tensor(name)


def _open_pickle(path: Path) -> Iterator[tuple[str, tuple[int, ...], Tensor]]:
    import torch

    # Memory-mapped where the format allows it: only the first values are wanted.
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
    for name, tensor in state.items():
        yield name, tuple(tensor.shape), tensor[:1] if tensor.dim() else tensor


def damaged_weights(path: Path, error: Exception) -> BackboneError:
    """The error for weights that cannot be read: truncated, or a pickle that would run code."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "weights only" in reason.lower():
        return BackboneError(
            "This file holds more than tensors: reading it would run code, which is refused.",
            where=str(path),
            instead="Use a copy in safetensors format.",
        )
    return BackboneError(
        f"The weights cannot be read: {reason.rstrip('.')}.",
        where=str(path),
        instead="The file is damaged or truncated: copy or download it again.",
    )
