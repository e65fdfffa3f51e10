"""Adapter folders that the released codes of O-LoRA, N-LoRA and GORP wrote: finished tasks and the newest, apart."""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evertune.adapters.folder import CONFIG, WEIGHTS, AdapterFolder, find_adapter, read_adapter_config
from evertune.errors import CheckpointError, Problem
from evertune.files import read_json, read_tensors, sha256

RELEASED = "released"  # what such an adapter is called among those of a run

_PICKLED = "adapter_model.bin"
_RANK_OF_ALL = "r_sum"
_THEIR_OWN = (_RANK_OF_ALL, "save_loranew")  # options that peft does not have
# `base_model.model.PATH.lora_A.default.weight`; some savers leave out the first part, most the adapter's name.
_KEY = re.compile(r"(?:base_model\.model\.)?(?P<path>.+)\.(?P<part>lora(?:new)?_[AB])(?:\.[^.]+)?\.weight")
_OLD, _NEW = ("lora_A", "lora_B"), ("loranew_A", "loranew_B")


@dataclass(frozen=True)
class ReleasedAdapter:
    """The sum of all tasks of such a folder as one adapter.

    Attributes:
        found: The folder, with the configuration of one task and the tensors of all, by their keys in a peft file: A
            unscaled and B times the scaling, so that the change is ``B A``; float32.
        rank: Number of rows of every A.
    """

    found: AdapterFolder
    rank: int


def is_released(folder: Path) -> bool:
    """Whether a folder is one of these; one that cannot be read is not."""
    if not (folder / CONFIG).is_file():
        return False
    config = read_json(folder / CONFIG)
    return isinstance(config, dict) and _RANK_OF_ALL in config


def released_record(start_from: Path | None) -> dict[str, Any] | None:
    """What a run notes of such a folder that it starts from, to know it again; None for another folder, or none.

    Returns:
        ``{"folder": path, "files": {name: sha256}}``.
    """
    if start_from is None or not is_released(folder := find_adapter(start_from)):
        return None
    files = (folder / CONFIG, _weights_file(folder))
    return {"folder": str(start_from), "files": {file.name: sha256(file) for file in files if file.exists()}}


def read_released(folder: Path) -> ReleasedAdapter:
    """Reads such a folder.

    It holds ``lora_A`` ``(r_sum, d_in)`` and ``lora_B`` ``(d_out, r_sum)`` of the finished tasks, without rows in the
    first task, and ``loranew_A`` ``(r, d_in)`` and ``loranew_B`` ``(d_out, r)`` of the newest where it was saved before
    the two were joined. Both count ``lora_alpha / r`` times, with the rank of a single task.

    Raises:
        CheckpointError: If a file is missing or damaged, or shapes or names are not those; with all that is wrong.
    """
    config, base = read_adapter_config(folder)
    file = _weights_file(folder)
    tensors = _read_pickled(file) if file.name == _PICKLED else read_tensors(file)
    problems = list(_config_problems(config, str(folder / CONFIG)))
    if problems:
        raise CheckpointError(problems)
    modules = _by_module(tensors, str(file))
    problems = [
        problem for path, parts in modules.items() for problem in _shape_problems(path, parts, config, str(file))
    ]
    if problems:
        raise CheckpointError(problems[:12])
    ranks = {sum(len(parts[down]) for down, _ in (_OLD, _NEW) if down in parts) for parts in modules.values()}
    if len(ranks) > 1:
        listed = ", ".join(map(str, sorted(ranks)))
        raise CheckpointError(f"Modules have different ranks: {listed}.", where=str(file))
    if ranks == {0}:
        raise CheckpointError("This adapter holds no task: its tensors have no rows.", where=str(file))
    found = AdapterFolder(folder, {key: config[key] for key in config if key not in _THEIR_OWN}, {}, base)
    return ReleasedAdapter(replace(found, tensors=dict(_joined(modules, found.scaling))), ranks.pop())


def _weights_file(folder: Path) -> Path:
    plain, pickled = folder / WEIGHTS, folder / _PICKLED
    return pickled if pickled.exists() and not plain.exists() else plain


def _read_pickled(file: Path) -> dict[str, Tensor]:
    """Tensors of a pickle file, by the loader that makes nothing but tensors and plain containers.

    Raises:
        CheckpointError: If there is anything else in it, or it is damaged.
    """
    try:
        held = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CheckpointError(
            "This file is damaged, or holds more than tensors, which is not read: it could run code.",
            where=str(file),
            instead=f"Load it where you trust it, and save its tensors as `{WEIGHTS}`.",
        ) from error
    if not isinstance(held, Mapping) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise CheckpointError("This file holds something else than tensors by name.", where=str(file))
    return {str(key): tensor for key, tensor in held.items()}


def _config_problems(config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for option, least in (("r", 1), (_RANK_OF_ALL, 0)):
        value = config.get(option)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            yield Problem(where, f"`{option}` is {value!r}, which is no number of directions.")
    alpha = config.get("lora_alpha", 8)
    if not isinstance(alpha, int | float) or isinstance(alpha, bool):
        yield Problem(where, f"`lora_alpha` is {alpha!r}, which is not a number.")


def _by_module(tensors: Mapping[str, Tensor], where: str) -> dict[str, dict[str, Tensor]]:
    modules: dict[str, dict[str, Tensor]] = {}
    odd: list[str] = []
    for key, tensor in tensors.items():
        match = _KEY.fullmatch(key)
        parts = modules.setdefault(match["path"], {}) if match else {}
        if match is None or match["part"] in parts:
            odd.append(key)
        else:
            parts[match["part"]] = tensor
    if odd:
        what = f"{len(odd)} tensors are not those of a single low-rank adapter: {', '.join(odd[:3])}."
        raise CheckpointError(what, where=where)
    if not modules:
        raise CheckpointError("This file holds no tensors.", where=where)
    return modules


def _shape_problems(path: str, parts: Mapping[str, Tensor], config: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """What is wrong with the tensors of a module, if they are looked at alone."""
    present = [pair for pair in (_OLD, _NEW) if pair[0] in parts or pair[1] in parts]
    if lacking := [name for pair in present for name in pair if name not in parts]:
        yield Problem(where, f"`{path}` has no {' and no '.join(lacking)}.")
        return
    for (down, up), rank in ((pair, config[_RANK_OF_ALL if pair == _OLD else "r"]) for pair in present):
        A, B = tuple(parts[down].shape), tuple(parts[up].shape)
        if len(A) != 2 or len(B) != 2 or A[0] != B[1]:
            yield Problem(where, f"The shapes of `{path}` do not fit: {down} {A}, {up} {B}.")
        elif A[0] != rank:
            option = _RANK_OF_ALL if down == "lora_A" else "r"
            yield Problem(where, f"`{path}`: {down} has {A[0]} rows, but `{option}` is {rank} in {CONFIG}.")
    if len(present) == 2 and all(tensor.ndim == 2 for tensor in parts.values()):
        sides = [(parts[down].shape[-1], parts[up].shape[0]) for down, up in present]
        if sides[0] != sides[1]:
            yield Problem(where, f"`{path}`: finished tasks and the newest have other sizes: {sides[0]}, {sides[1]}.")


def _joined(modules: Mapping[str, Mapping[str, Tensor]], scaling: float) -> Iterator[tuple[str, Tensor]]:
    """The factors of old and new tasks, one below and one beside the other."""
    for path, parts in modules.items():
        down = [parts[name].float() for name, _ in (_OLD, _NEW) if name in parts]
        up = [parts[name].float() for _, name in (_OLD, _NEW) if name in parts]
        yield f"base_model.model.{path}.lora_A.weight", torch.cat(down)
        yield f"base_model.model.{path}.lora_B.weight", torch.cat(up, dim=1) * scaling
