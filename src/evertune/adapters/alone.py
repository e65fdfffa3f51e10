"""Adapters of which only one can be on a model: the others wait beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evertune.adapters.beginning import Loss
from evertune.adapters.holder import Holder, MakeHolder
from evertune.adapters.layers import Layers
from evertune.adapters.spec import AdapterSpec

ALONE = "alone+"
"""What the adapter on the model is called below; no name of a bank holds a ``+``."""


class OneAtATime:
    """See `evertune.adapters.holder.Holder`: takes an adapter off the model, with its state kept, to put another on.

    Args:
        base_model: The model below.
        make: Puts a new adapter on it.
        name: The first adapter.
    """

    shown: tuple[str, ...] = ()  # a finished adapter that answers is computed as it was learnt

    def __init__(self, base_model: nn.Module, make: MakeHolder, name: str) -> None:
        self._base_model, self._make = base_model, make
        self._waiting: dict[str, dict[str, Tensor]] = {}
        self._inner: Holder | None = None
        self._name = ""
        self.add(name)

    @property
    def model(self) -> nn.Module:
        """See `Holder.model`."""
        return self._base_model if self._inner is None else self._inner.model

    @property
    def layers(self) -> Layers:
        """See `Holder.layers`."""
        return {} if self._inner is None else self._inner.layers

    def add(self, name: str, spec: AdapterSpec | None = None) -> None:
        """See `Holder.add`."""
        self._put_away()
        self._inner, self._name = self._make(ALONE), name

    def delete(self, name: str) -> None:
        """See `Holder.delete`."""
        if name == self._name:
            self._put_away()
        self._waiting.pop(name)

    def show(self, names: Sequence[str]) -> None:
        """See `Holder.show`."""
        assert not names, f"{names} cannot take part beside another adapter"

    def refresh(self) -> None:
        """See `Holder.refresh`."""

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`."""
        assert len(live) <= 1, f"{live} cannot take part together"
        if live:
            self._bring(live[0]).compute((ALONE,), known=ALONE)
        else:
            self._put_away()

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """See `Holder.parameters`; none of an adapter that waits."""
        return self._inner.parameters(ALONE) if self._inner is not None and name == self._name else {}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`."""
        return self._bring(name).tensors(ALONE)

    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`."""
        self._bring(name).load(ALONE, tensors)

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`."""
        if self._inner is not None and name == self._name:
            return self._inner.state(ALONE)
        return dict(self._waiting[name])

    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""
        if self._inner is not None and name == self._name:
            self._inner.load_state(ALONE, tensors)
        else:
            self._waiting[name] = {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`."""
        if live:
            self._bring(live[0]).merge((ALONE,))

    def unload(self) -> None:
        """See `Holder.unload`."""
        self._put_away()

    def held_bytes(self) -> dict[str, int]:
        """See `Holder.held_bytes`."""
        held = {} if self._inner is None else self._inner.held_bytes()
        waiting = sum(tensor.nbytes for state in self._waiting.values() for tensor in state.values())
        return {**held, "adapters that wait": waiting} if waiting else held

    def begin_from(self, name: str, batches: Iterable[Any], loss: Loss) -> None:
        """Lets a new adapter begin from data."""
        self._bring(name).begin_from(ALONE, batches, loss)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def inner(self) -> Holder:
        """What carries the adapter that is on the model."""
        assert self._inner is not None
        return self._inner

    def _bring(self, name: str) -> Holder:
        """Puts an adapter on the model, if it is not there."""
        if self._inner is None or name != self._name:
            self._put_away()
            state = self._waiting[name]
            # What is drawn here is overwritten.
            with torch.random.fork_rng(devices=[]):
                self._inner, self._name = self._make(ALONE), name
            self._inner.model.train(self._base_model.training)
            self._inner.load_state(ALONE, state)
            del self._waiting[name]
        return self._inner

    def _put_away(self) -> None:
        if self._inner is not None:
            self._waiting[self._name] = self._inner.state(ALONE)
            self._inner.unload()
            self._inner, self._name = None, ""
