"""What trains, and how many bytes it takes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from evertune.adapters.layers import Layers
from evertune.adapters.roles import role_of


@dataclass(frozen=True)
class ParameterSummary:
    """Counts over a model with adapters.

    Attributes:
        trainable: Parameters that train.
        total: All parameters as peft counts them: adapters too, and quantised ones by the numbers that they stand for.
        bytes: Memory by what and type: ``{"base float32": ..., "adapters float32": ...}``; ``base copies`` are the
            untouched weights that are kept while finished adapters are baked in.
        trains: Parameters that train, by the role of their module: ``{"attention query": 4096, "base mlp gate": 512}``.
    """

    trainable: int
    total: int
    bytes: Mapping[str, int]
    trains: Mapping[str, int]

    def line(self) -> str:
        """The counts in one line, in peft's wording."""
        share = 100 * self.trainable / self.total
        return f"trainable params: {self.trainable:,d} || all params: {self.total:,d} || trainable%: {share:.4f}"


def summarise(model: nn.Module, layers: Layers, held_bytes: Iterable[Mapping[str, int]]) -> ParameterSummary:
    """Counts the parameters of a model.

    Args:
        model: With its adapters, or a base model.
        layers: As `tuner_layers` returns.
        held_bytes: Memory that belongs to the adapters and is not in the model, by holder.
    """
    role_by_id = {
        id(parameter): role_of(path)
        for path, layer in layers.items()
        for attribute in layer.adapter_layer_names
        for parameter in getattr(layer, attribute).parameters()
    }
    trains: dict[str, int] = {}
    held: dict[str, int] = {}
    total = 0
    for name, parameter in model.named_parameters():
        total += _count(parameter)
        owner = "adapters" if id(parameter) in role_by_id else "base"
        key = f"{owner} {str(parameter.dtype).removeprefix('torch.')}"
        held[key] = held.get(key, 0) + parameter.nbytes
        if parameter.requires_grad:
            role = role_by_id.get(id(parameter)) or f"base {role_of(name.rpartition('.')[0])}"
            trains[role] = trains.get(role, 0) + _count(parameter)
    for part, size in (item for holder in held_bytes for item in holder.items()):
        held[part] = held.get(part, 0) + size
    return ParameterSummary(sum(trains.values()), total, held, trains)


def base_copies(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Bytes of copies of base weights, by their type, as `ParameterSummary.bytes` names them."""
    held: dict[str, int] = {}
    for tensor in tensors:
        key = f"base copies {str(tensor.dtype).removeprefix('torch.')}"
        held[key] = held.get(key, 0) + tensor.nbytes
    return held


def _count(parameter: nn.Parameter) -> int:
    """How many numbers a parameter stands for: 4-bit ones are packed, and DeepSpeed's partitioned ones are empty."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return math.prod(state.shape)
    return int(getattr(parameter, "ds_numel", parameter.numel()))
