"""What methods with a protected space share: bases of input directions by module, kept in the method's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from evertune.functional.subspace import grow_basis
from evertune.methods.base import Context, MethodState

_PREFIX = "basis/"
# Below this share of free directions, the next tasks have hardly any room.
LITTLE_ROOM = 0.1


def bases(state: MethodState) -> dict[str, Tensor]:
    """Protected input directions by module path: ``(d_in, k)``, orthonormal columns, float32; absent where k is 0.

    Copies: products round differently where memory is aligned differently, as that of a file that was read may be.
    """
    held = {name: tensor for name, tensor in state.tensors.items() if name.startswith(_PREFIX)}
    return {name.removeprefix(_PREFIX): tensor.clone() for name, tensor in held.items()}


def grow(state: MethodState, sketches: Mapping[str, Tensor], *, threshold: float, max_share: float) -> None:
    """Adds to each basis the fewest directions with which it holds a share of a sketch's energy.

    Args:
        state: Bases are kept in it, and what they hold (see `facts`).
        sketches: Rows ``(rows, d_in)`` by module path.
        threshold: Share of the energy.
        max_share: Of the directions of a module, at most this share is protected.
    """
    held = bases(state)
    facts: dict[str, Any] = {}
    for path, sketch in sketches.items():
        width = sketch.shape[1]
        before = held.get(path)
        limit = int(max_share * width)
        basis, covered = grow_basis(before, sketch, threshold=threshold, limit=limit)
        directions = basis.shape[1]
        if directions:
            state.tensors[_PREFIX + path] = basis.cpu()
        facts[path] = {
            "width": width,
            "directions": directions,
            "new": directions - (before.shape[1] if before is not None else 0),
            "energy": float(covered),
            "free": 1 - directions / width,
            "full": directions >= limit and float(covered) < threshold,
        }
    state.values["protected_space"] = facts


def facts(state: MethodState) -> dict[str, Any]:
    """By module: directions protected, their share of the running task's energy, share of directions still free."""
    return {"protected_space": state.values.get("protected_space", {})}


def warn_of_little_room(state: MethodState, context: Context, key: str) -> None:
    """Warns, after a task, of modules in which hardly any direction is left, or as many are kept as may be."""
    found = state.values.get("protected_space", {})
    little = [path for path, entry in found.items() if entry["free"] < LITTLE_ROOM]
    full = [path for path, entry in found.items() if entry["full"]]
    if little:
        context.warn(
            f"{context.stage.name}: {len(little)} of {len(found)} modules have less than {LITTLE_ROOM:.0%} of their "
            f"input directions left for later tasks ({little[0]}); lower {key} or method.max_protected_share"
        )
    elif full:
        context.warn(
            f"{context.stage.name}: {len(full)} of {len(found)} modules protect as many directions as they may "
            f"({full[0]}) and hold less of the task than {key} asks for: a part of it can be overwritten; raise "
            "method.max_protected_share"
        )
