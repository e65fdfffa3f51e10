"""Base weights that may change: which they are, and that they can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from evertune.adapters.baking import unwritable
from evertune.adapters.base_change import BaseChange
from evertune.adapters.layers import Layers
from evertune.adapters.spec import BaseWeights
from evertune.adapters.targets import linear_modules, resolve_paths
from evertune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class OpenWeights:
    """The weights of a base model that are open to change now.

    Args:
        model: The base model, before there are adapters on it.

    Attributes:
        change: How far they are from where they came; None if there are none.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model, self._linear = model, linear_modules(model)
        self.change: BaseChange | None = None

    def weights(self) -> dict[str, nn.Parameter]:
        """The weights, ``(d_out, d_in)`` and float32, by module path; empty if there are none."""
        return {} if self.change is None else self.change.weights()

    def paths(self, base: BaseWeights, adapted: Sequence[str]) -> tuple[str, ...]:
        """Paths of the modules that are meant, without touching them.

        Args:
            base: What a plan says of base weights.
            adapted: Paths of the modules that adapters sit on.

        Raises:
            ConfigError: If the target matches nothing, a weight cannot be written, or modules with an adapter are to
                learn: baked adapters and learning would overwrite each other.
        """
        if base.target is None:
            paths = tuple(adapted)
        else:
            paths = resolve_paths(self._model, self._linear, base.target, key=base.key)
        both = [path for path in paths if path in adapted]
        if base.learn and both:
            raise ConfigError(
                f"{len(both)} modules have an adapter and a base weight that learns: {', '.join(both[:3])}.",
                where=base.key,
                instead="Choose others for one of the two: `adapter.target` says where adapters sit.",
            )
        if fixed := unwritable(self._model, {path: self._linear[path] for path in paths}):
            raise ConfigError(
                f"The weight of `{fixed[0]}` is quantised, shared or transposed, and cannot learn.",
                where=base.key,
                instead="Choose others, or set `backbone.quantization` to null.",
            )
        return paths

    def open(self, base: BaseWeights | None, adapted: Sequence[str]) -> None:
        """Makes the weights of a plan ready to change; those of another plan are given back as they came.

        Raises:
            ConfigError: As `paths`.
        """
        paths = () if base is None else self.paths(base, adapted)
        if self.change is not None and self.change.paths != paths:
            self.change.restore()
            self.change = None
        if base is not None and self.change is None:
            self.change = BaseChange({path: self._linear[path] for path in paths})

    @torch.no_grad()
    def add(self, layers: Layers, name: str) -> None:
        """Adds the change of an adapter, as peft knows it, to the weights below it, which must be open."""
        weights = self.weights()
        assert weights.keys() >= layers.keys(), "the base weights below the adapter must be open"
        for path, layer in layers.items():
            delta = layer.get_delta_weight(name)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            weights[path] += delta.float()
