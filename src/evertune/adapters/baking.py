"""Finished adapters at a cost that does not grow with their number.

Two ways behind one call: baked into the base weights in memory or, where those cannot be written (quantised or tied
ones), stacked into one frozen adapter of a higher rank. Either computes base + the sum of the changes, in order. Kinds
whose change is no sum are left to peft.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from evertune.adapters.layers import Layers, stacked_factors
from evertune.adapters.peft_config import build_config
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.summary import base_copies
from evertune.adapters.targets import Targets

# `+` is not allowed in the names of the bank, so that nothing else can be called like this.
STACKED = "stacked+"


class FrozenSum(Protocol):
    """Adds frozen adapters to what the model computes."""

    def show(self, names: Sequence[str]) -> tuple[str, ...]:
        """Makes the model compute base + these adapters, whatever it showed before.

        What peft has active and what requires gradients is left for the caller to set.

        Args:
            names: The adapters in the order of addition, as peft knows them.

        Returns:
            What must be active in peft beside the adapters that are computed one by one.
        """
        ...

    def held_bytes(self) -> dict[str, int]:
        """Memory beyond the model's own parameters, by what it is."""
        ...


class Baked:
    """Writes the sum into the base weights.

    Every weight is computed anew from a copy that was taken before its first change, in float32 and in order, and
    rounded once: a pure function of the base, the names and their weights, so that a resumed run has the same bits.
    """

    def __init__(self, layers: Layers) -> None:
        self._layers = layers
        self._pristine: dict[str, Tensor] = {}

    @torch.no_grad()
    def show(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `FrozenSum.show`; restores the exact bits, and drops the copies, where `names` is empty."""
        for path, layer in self._layers.items():
            weight = _base_weight(layer)
            if names and path not in self._pristine:
                self._pristine[path] = weight.detach().to("cpu", copy=True)
            if path in self._pristine:
                weight.copy_(_sum(self._pristine[path], layer, names))
        if not names:
            self._pristine.clear()
        return ()

    def held_bytes(self) -> dict[str, int]:
        """See `FrozenSum.held_bytes`: the untouched copies of what was written to, on the CPU."""
        return base_copies(self._pristine.values())


class Stacked:
    """Concatenates the low-rank factors of frozen LoRA adapters into one adapter with scaling 1."""

    def __init__(self, model: PeftModel, layers: Layers, spec: AdapterSpec, targets: Targets, task_type: str) -> None:
        self._model, self._layers = model, layers
        self._spec, self._targets, self._task_type = spec, targets, task_type

    @torch.no_grad()
    def show(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `FrozenSum.show`."""
        if STACKED in self._model.peft_config:
            self._model.delete_adapter(STACKED)
        if not names:
            return ()
        stacked = stacked_factors(self._layers, names)
        rank = len(next(iter(stacked.values())).A)
        spec = self._spec.exact(rank)
        with torch.random.fork_rng(devices=[]):
            self._model.add_adapter(STACKED, build_config(spec, self._targets, self._task_type))
        for path, factors in stacked.items():
            layer = self._layers[path]
            layer.lora_A[STACKED].weight.copy_(factors.A)  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
            layer.lora_B[STACKED].weight.copy_(factors.B)  # pyright: ignore[reportIndexIssue, reportAttributeAccessIssue]
        return (STACKED,)

    def held_bytes(self) -> dict[str, int]:
        """See `FrozenSum.held_bytes`: all of it is in the model."""
        return {}


class Native:
    """Leaves frozen adapters to peft, which computes them one by one: a step costs more with every one of them."""

    def show(self, names: Sequence[str]) -> tuple[str, ...]:
        """See `FrozenSum.show`."""
        return tuple(names)

    def held_bytes(self) -> dict[str, int]:
        """See `FrozenSum.held_bytes`: all of it is in the model."""
        return {}


def can_bake(model: nn.Module, layers: Layers) -> bool:
    """Whether the weights below all adapters are plain floating-point tensors that no other module shares."""
    uses = _uses(model)
    return all(_is_plain(layer.get_base_layer(), uses) for layer in layers.values())


def unwritable(model: nn.Module, modules: Mapping[str, nn.Module]) -> list[str]:
    """Paths of the modules whose weight is not a plain ``(d_out, d_in)`` tensor that belongs to no other module too."""
    uses = _uses(model)
    return [
        path for path, module in modules.items() if not _is_plain(module, uses) or not isinstance(module, nn.Linear)
    ]


def _uses(model: nn.Module) -> dict[int, int]:
    """How many modules hold a parameter, by its id."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return uses


def _is_plain(module: nn.Module, uses: Mapping[int, int]) -> bool:
    weight = getattr(module, "weight", None)
    # Quantised weights are subclasses of Parameter or of Tensor, and may pretend to a floating-point dtype.
    return (
        type(weight) is nn.Parameter
        and type(weight.data) is Tensor
        and weight.is_floating_point()
        and uses[id(weight)] == 1
    )


def _base_weight(layer: BaseTunerLayer) -> nn.Parameter:
    weight = layer.get_base_layer().weight
    assert isinstance(weight, nn.Parameter)
    return weight


def _sum(pristine: Tensor, layer: BaseTunerLayer, names: Sequence[str]) -> Tensor:
    """``W0 + d1 + d2 + ...`` in float32 on the layer's device, rounded to the type of the weight."""
    if not names:
        return pristine
    total = pristine.to(_base_weight(layer).device, torch.float32, copy=True)
    for name in names:
        total += layer.get_delta_weight(name)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    return total.to(pristine.dtype)
