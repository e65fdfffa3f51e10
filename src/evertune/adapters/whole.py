"""Full fine-tuning: the adapter is the model's own weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from evertune.adapters.kinds import FULL
from evertune.adapters.layers import Layers
from evertune.adapters.roles import HEAD, role_of
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.summary import base_copies
from evertune.errors import CapabilityError


class WholeModel:
    """See `evertune.adapters.holder.Holder`: every weight learns, in float32 whatever precision the model came in.

    Args:
        model: The base model.
        heads: Whether the model's heads are apart from it: routed ones, which belong to no adapter.

    Raises:
        CapabilityError: If weights are quantised.
    """

    def __init__(self, model: nn.Module, *, heads: bool) -> None:
        self.model = model
        self.layers: Layers = {}
        self.shown: tuple[str, ...] = ()
        self._weights = {
            name: parameter
            for name, parameter in model.named_parameters()
            if not (heads and role_of(name.rpartition(".")[0]) == HEAD)
        }
        if any(not weight.is_floating_point() for weight in self._weights.values()):
            raise CapabilityError(
                "Quantised weights cannot learn.",
                where="backbone.quantization",
                instead=f"Write null, or another kind of adapter than `{FULL}`.",
            )
        self._came = {name: weight.detach().to("cpu", copy=True) for name, weight in self._weights.items()}
        model.requires_grad_(False)
        for weight in self._weights.values():
            weight.data = weight.data.float()

    def add(self, name: str, spec: AdapterSpec | None = None) -> None:
        """See `Holder.add`; never called: one is all there can be."""
        raise AssertionError(name)

    def delete(self, name: str) -> None:
        """See `Holder.delete`."""
        self.unload()

    def show(self, names: Sequence[str]) -> None:
        """See `Holder.show`."""
        assert not names

    def refresh(self) -> None:
        """See `Holder.refresh`."""

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`: the weights are where they are."""

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """See `Holder.parameters`."""
        return self._weights

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`: the weights, by their names in the base model; a shared one by its first."""
        return {key: weight.detach().to("cpu", copy=True).contiguous() for key, weight in self._weights.items()}

    @torch.no_grad()
    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`."""
        for key, weight in self._weights.items():
            weight.copy_(tensors[key])

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`."""
        return self.tensors(name)

    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""
        self.load(name, tensors)

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`: gives the weights the precision that they came in."""
        for key, weight in self._weights.items():
            weight.requires_grad_(False)
            weight.data = weight.data.to(self._came[key].dtype)

    def unload(self) -> None:
        """See `Holder.unload`."""
        for key, weight in self._weights.items():
            weight.requires_grad_(False)
            weight.grad = None
            weight.data = self._came[key].to(weight.device)

    def held_bytes(self) -> dict[str, int]:
        """See `Holder.held_bytes`."""
        return base_copies(self._came.values())


class NoAdapter:
    """See `evertune.adapters.holder.Holder`: nothing of the model learns but what the bank is told of heads.

    Args:
        model: The base model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: Layers = {}
        self.shown: tuple[str, ...] = ()
        model.requires_grad_(False)

    def add(self, name: str, spec: AdapterSpec | None = None) -> None:
        """See `Holder.add`."""

    def delete(self, name: str) -> None:
        """See `Holder.delete`."""

    def show(self, names: Sequence[str]) -> None:
        """See `Holder.show`."""
        self.shown = tuple(names)

    def refresh(self) -> None:
        """See `Holder.refresh`."""

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`."""

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """See `Holder.parameters`."""
        return {}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`."""
        return {}

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`."""

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`."""
        return {}

    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`."""

    def unload(self) -> None:
        """See `Holder.unload`."""

    def held_bytes(self) -> dict[str, int]:
        """See `Holder.held_bytes`."""
        return {}
