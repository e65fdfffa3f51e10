"""What a bank asks of whatever carries its adapters, whether that is peft's layers, virtual tokens or the weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from evertune.adapters.layers import Layers
from evertune.adapters.spec import AdapterSpec


class Holder(Protocol):
    """Carries adapters on a base model; names are those of the bank, and nothing here knows about plans."""

    @property
    def model(self) -> nn.Module:
        """The module to call."""
        ...

    @property
    def layers(self) -> Layers:
        """The modules with adapters, by path in the base model."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """The frozen adapters that take part at no cost of their own."""
        ...

    def add(self, name: str, spec: AdapterSpec | None = None) -> None:
        """Adds a new adapter; of another size than the others if `spec` says so."""
        ...

    def delete(self, name: str) -> None:
        """Removes an adapter that is not shown."""
        ...

    def show(self, names: Sequence[str]) -> None:
        """Lets frozen adapters take part, in this order and no others; nothing happens if they do already."""
        ...

    def refresh(self) -> None:
        """Takes up new weights of those that are shown."""
        ...

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """Says which adapters are computed one by one beside those shown; what requires gradients is left to the bank.

        Args:
            live: Names, in the order of addition.
            known: Any adapter that is there.
        """
        ...

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """What learns of an adapter, by the names in `model`."""
        ...

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Copies on the CPU of what a file of the adapter holds, by its keys there."""
        ...

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets an adapter to what `tensors` returned."""
        ...

    def state(self, name: str) -> dict[str, Tensor]:
        """Copies on the CPU of all that is needed to go on learning with the same bits."""
        ...

    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets an adapter to what `state` returned."""
        ...

    def merge(self, live: Sequence[str]) -> None:
        """Writes what is shown and these adapters into the base weights for good; there is no way back.

        Raises:
            CapabilityError: If their change is no change of weights.
        """
        ...

    def unload(self) -> None:
        """Gives the base model back as it came, to the bit."""
        ...

    def held_bytes(self) -> dict[str, int]:
        """Memory beyond the model's own parameters, by what it is."""
        ...


MakeHolder = Callable[[str], Holder]
"""Puts a first adapter of this name on the base model."""


def hook_of(holder: Holder | None, name: str) -> Any:
    """A hook that only some of those that carry adapters have, of what is on the model now; None without it."""
    return getattr(getattr(holder, "inner", holder), name, None)
