"""Weights of the base model that learn, beside the copies that they came as."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from evertune.adapters.folder import check_tensors
from evertune.adapters.summary import base_copies


class BaseChange:
    """The change of some weights of the base model.

    While it is held, the weights are float32 parameters, whatever precision the model was loaded in: an update of a
    small learning rate is below the resolution of a 16-bit weight. A change that is loaded is added to the weight as it
    came and rounded once, so that a saved one gives the same bits every time.

    Args:
        modules: Linear modules by path, with plain floating-point weights.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.paths = tuple(modules)
        self._weights: dict[str, nn.Parameter] = {}
        self._came: dict[str, Tensor] = {}
        for path, module in modules.items():
            weight = module.weight
            assert isinstance(weight, nn.Parameter)
            self._weights[path] = weight
            self._came[path] = weight.detach().to("cpu", copy=True)
            weight.data = weight.data.float()

    def weights(self) -> dict[str, nn.Parameter]:
        """The weights as they are now, ``(d_out, d_in)``, by module path."""
        return dict(self._weights)

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """The change, float32 on the CPU, by the names of the weights in the base model (``PATH.weight``)."""
        return {
            f"{path}.weight": weight.detach().cpu() - self._came[path].float() for path, weight in self._weights.items()
        }

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Sets the change to what `tensors` returned.

        Raises:
            CheckpointError: If names or shapes differ.
        """
        check_tensors(tensors, {f"{path}.weight": weight for path, weight in self._weights.items()}, where)
        for path, weight in self._weights.items():
            weight.copy_(self._came[path].float() + tensors[f"{path}.weight"])

    @torch.no_grad()
    def clear(self) -> None:
        """Sets the change to zero."""
        for path, weight in self._weights.items():
            weight.copy_(self._came[path])

    def weight_tensors(self) -> dict[str, Tensor]:
        """Copies of the weights themselves on the CPU, to go on training with the same bits."""
        return {path: weight.detach().to("cpu", copy=True) for path, weight in self._weights.items()}

    @torch.no_grad()
    def load_weight_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the weights to what `weight_tensors` returned."""
        for path, weight in self._weights.items():
            weight.copy_(tensors[path])

    def settle(self) -> None:
        """Gives the weights the precision that they came in, with their change."""
        for path, weight in self._weights.items():
            weight.data = weight.data.to(self._came[path].dtype)

    def restore(self) -> None:
        """Gives the weights back as they came, in their precision, frozen."""
        for path, weight in self._weights.items():
            weight.requires_grad_(False)
            weight.grad = None
            weight.data = self._came[path].to(weight.device)

    def held_bytes(self) -> dict[str, int]:
        """Memory beyond the model's own parameters, by what it is."""
        return base_copies(self._came.values())
