"""What peft put on the modules of a model, by module path: nothing here knows about plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

Layers = Mapping[str, BaseTunerLayer]

_TAKEN = {*dir(nn.ModuleDict()), *dir(nn.ParameterDict())}


@dataclass(frozen=True)
class PastFactors:
    """The frozen low-rank changes of one module, stacked.

    Attributes:
        A: Input bases, ``(k * r, d_in)``, float32, unscaled; adapter by adapter.
        B: Output bases times the scaling, ``(d_out, k * r)``, float32: ``B @ A`` is the sum of the changes.
    """

    A: Tensor
    B: Tensor


@dataclass(frozen=True)
class Factors:
    """The low-rank change of one adapter on one module, as it is learnt: ``B @ A`` times the scaling.

    Attributes:
        A: Input basis, ``(r, d_in)``.
        B: Output basis, ``(d_out, r)``, unscaled.
    """

    A: nn.Parameter
    B: nn.Parameter


def peft_name(name: str) -> str:
    """How peft knows an adapter: by its name, with a ``+`` where peft cannot use that.

    Its tables of modules have no room for their own attributes (a task may be called ``type`` or ``train``), and it
    takes a part of its prefix ``lora_`` amiss. No name of the bank holds a ``+``.
    """
    return f"{name}+" if name in _TAKEN or name in "lora_" else name


def tuner_layers(model: nn.Module) -> dict[str, BaseTunerLayer]:
    """Path in the base model to the adapter layer that peft put there, in the order of the model."""
    return {path: module for path, module in model.named_modules() if isinstance(module, BaseTunerLayer)}


@torch.no_grad()
def stacked_factors(layers: Layers, names: Sequence[str]) -> dict[str, PastFactors]:
    """The low-rank factors of several LoRA adapters, stacked in the order of `names`; copies, without gradient.

    Args:
        layers: As `tuner_layers` returns.
        names: The adapters, as peft knows them.
    """
    if not names:
        return {}
    factors: dict[str, PastFactors] = {}
    for path, layer in layers.items():
        assert isinstance(layer, LoraLayer)
        A = torch.cat([_weight(layer.lora_A[name]) for name in names])
        B = torch.cat([_weight(layer.lora_B[name]) * layer.scaling[name] for name in names], dim=1)
        factors[path] = PastFactors(A, B)
    return factors


def summed_tensors(layers: Layers, names: Sequence[str]) -> tuple[dict[str, Tensor], int]:
    """Several LoRA adapters as one with scaling 1: tensors on the CPU by their keys in a peft file, and its rank."""
    factors = stacked_factors(layers, names)
    tensors = {f"base_model.model.{path}.lora_A.weight": held.A.cpu() for path, held in factors.items()}
    tensors |= {f"base_model.model.{path}.lora_B.weight": held.B.cpu() for path, held in factors.items()}
    return tensors, len(next(iter(factors.values())).A)


def live_factors(layers: Layers, name: str) -> dict[str, Factors]:
    """The low-rank factors of one LoRA adapter: the parameters themselves.

    Args:
        layers: As `tuner_layers` returns.
        name: The adapter, as peft knows it.
    """
    factors: dict[str, Factors] = {}
    for path, layer in layers.items():
        assert isinstance(layer, LoraLayer)
        factors[path] = Factors(_weight(layer.lora_A[name]), _weight(layer.lora_B[name]))
    return factors


@contextmanager
def observed(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What modules read and gave in the latest forward pass of training or scoring.

    Yields:
        By module path: input ``(batch, time, d_in)`` and output ``(batch, time, d_out)``, without gradient. The caller
        empties it: it keeps activations alive.
    """
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(path: str, inputs: Any, output: Any) -> None:
        seen[path] = (inputs[0].detach(), output.detach())

    hooks = [
        layer.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output))
        for path, layer in modules.items()
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module, nn.Linear)
    assert isinstance(module.weight, nn.Parameter)
    return module.weight
