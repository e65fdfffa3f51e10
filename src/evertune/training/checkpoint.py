"""The state of a stage that is still training: everything that an exact resume needs, as safetensors and JSON.

A checkpoint is a folder ``step-00000120`` below ``checkpoint/`` that appears whole or not at all; the one before it is
removed afterwards. The newest whole one counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evertune.errors import CheckpointError
from evertune.files import atomic_folder, read_json, read_tensors, sha256_of_folder, write_json, write_tensors
from evertune.methods.base import MethodState
from evertune.methods.stack import States

_INDEX = "checkpoint.json"


@dataclass
class Checkpoint:
    """What is kept.

    Attributes:
        step: Optimiser steps done.
        adapters: Tensors of the learning adapters, by adapter name.
        optimizer: State of the optimiser, as `pack_optimizer` gives it.
        random: Per process, the tensors and values of `evertune.randomness.global_state`.
        methods: States of the methods.
        best: Tensors of the best adapters so far, by adapter name; empty if none are kept.
        values: JSON values: schedule, scaler, counters, best score, position in the event log.
    """

    step: int
    adapters: dict[str, dict[str, Tensor]]
    optimizer: tuple[dict[str, Tensor], list[dict[str, Any]]]
    random: list[tuple[dict[str, Tensor], dict[str, Any]]]
    methods: States
    best: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """An optimiser's state as ``"<parameter index>/<key>"`` to tensor, and its groups without parameters."""
    state = optimizer.state_dict()
    tensors = {f"{index}/{key}": value for index, entry in state["state"].items() for key, value in entry.items()}
    assert all(isinstance(value, Tensor) for value in tensors.values()), "optimiser state must hold tensors only"
    groups = [{key: value for key, value in group.items() if key != "params"} for group in state["param_groups"]]
    return tensors, groups


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    """Restores what `pack_optimizer` gave."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = tensor
    current = optimizer.state_dict()["param_groups"]
    merged = [{**new, **_tuples(saved)} for new, saved in zip(current, groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})


def _tuples(group: dict[str, Any]) -> dict[str, Any]:
    """JSON turned tuples (``betas``) into lists; optimisers unpack either, but equal states should look equal."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in group.items()}


def save_method_states(folder: Path, states: States) -> None:
    """Writes ``method.safetensors`` and ``method.json``: tensors as ``"<method>/<name>"``."""
    tensors = {f"{method}/{name}": value for method, state in states.items() for name, value in state.tensors.items()}
    write_tensors(folder / "method.safetensors", tensors)
    write_json(folder / "method.json", {method: state.values for method, state in states.items()})


def load_method_states(folder: Path) -> States:
    """Reads what `save_method_states` wrote."""
    states = {method: MethodState(values=values) for method, values in read_json(folder / "method.json").items()}
    for name, tensor in read_tensors(folder / "method.safetensors").items():
        method, _, key = name.partition("/")
        states[method].tensors[key] = tensor
    return states


def save_checkpoint(root: Path, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint below `root` and removes the older ones.

    Raises:
        RunError: If it cannot be written; the older ones are still whole.
    """
    path = root / f"step-{checkpoint.step:08d}"
    with atomic_folder(path) as folder:
        tensors = {
            **_flat("adapters", checkpoint.adapters),
            **_flat("best", checkpoint.best),
            **{f"optimizer//{name}": value for name, value in checkpoint.optimizer[0].items()},
        }
        for rank, (state, _) in enumerate(checkpoint.random):
            tensors |= {f"random//{rank}//{name}": value for name, value in state.items()}
        write_tensors(folder / "tensors.safetensors", tensors)
        save_method_states(folder, checkpoint.methods)
        values = {
            "step": checkpoint.step,
            "optimizer_groups": checkpoint.optimizer[1],
            "random": [state for _, state in checkpoint.random],
            "values": checkpoint.values,
            "sha256": sha256_of_folder(folder),
        }
        write_json(folder / _INDEX, values)
    for older in root.iterdir():
        if older != path:
            shutil.rmtree(older, ignore_errors=True)


def latest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint below `root`, None if there is none."""
    found = sorted(root.glob("step-*")) if root.is_dir() else []
    return found[-1] if found else None


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        CheckpointError: If a file is missing, truncated or altered.
    """
    values = read_json(path / _INDEX)
    found = {name: digest for name, digest in sha256_of_folder(path).items() if name != _INDEX}
    if not isinstance(values, dict) or values.get("sha256") != found:
        raise CheckpointError(
            "This checkpoint is damaged: its files are not those that were written.",
            where=str(path),
            instead="Delete this folder and run again: the stage starts anew, finished stages are kept.",
        )
    tensors = read_tensors(path / "tensors.safetensors")
    random = [
        (
            {name.split("//")[2]: tensor for name, tensor in tensors.items() if name.startswith(f"random//{rank}//")},
            state,
        )
        for rank, state in enumerate(values["random"])
    ]
    optimizer = {name.split("//")[1]: tensor for name, tensor in tensors.items() if name.startswith("optimizer//")}
    return Checkpoint(
        step=values["step"],
        adapters=_nested("adapters", tensors),
        optimizer=(optimizer, values["optimizer_groups"]),
        random=random,
        methods=load_method_states(path),
        best=_nested("best", tensors),
        values=values["values"],
    )


def _flat(section: str, named: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{section}//{outer}//{inner}": value for outer, group in named.items() for inner, value in group.items()}


def _nested(section: str, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    nested: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition("//")
        if kind == section:
            outer, _, inner = rest.partition("//")
            nested.setdefault(outer, {})[inner] = tensor
    return nested
