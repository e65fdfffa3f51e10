"""LoRA that begins by taking a part of the base weights into itself: PiSSA, OLoRA, CorDA, LoRA-GA."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from evertune.adapters.beginning import Loss, begins_from_data, forget, look
from evertune.adapters.summary import base_copies
from evertune.adapters.wrapped import WrappedModel

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets

_OF_THE_BEGINNING = ("init_lora_weights", "corda_config", "lora_ga_config", "eva_config")


class MutatingLora(WrappedModel):
    """See `evertune.adapters.holder.Holder`: the base weight is what it was minus the adapter's first change.

    A file holds the difference to that beginning, a plain adapter of twice the rank, ``[B, -B0] [A; A0]``: it means the
    same on the base model as it came. That is lossless, so that it can be learnt on from the file.
    """

    def __init__(
        self, base_model: PreTrainedModel, name: str, spec: AdapterSpec, targets: Targets, task_type: str
    ) -> None:
        """See `WrappedModel`."""
        self._weights = {path: _weight(base_model.get_submodule(path)).detach().cpu().clone() for path in targets.paths}
        super().__init__(base_model, name, spec, targets, task_type)
        self._begin(name)

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`."""
        now = super().tensors(name)
        joined: dict[str, Tensor] = {}
        for key, tensor in now.items():
            first = self._first[key]
            joined[key] = torch.cat([tensor, first]) if ".lora_A." in key else torch.cat([tensor, -first], 1)
        return joined

    @torch.no_grad()
    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`."""
        halves = {key: tensor.chunk(2, 0 if ".lora_A." in key else 1) for key, tensor in tensors.items()}
        sign = {key: 1 if ".lora_A." in key else -1 for key in tensors}
        super().load(name, {key: sign[key] * half[1] for key, half in halves.items()})
        self._begin(name)
        super().load(name, {key: half[0] for key, half in halves.items()})

    def unload(self) -> None:
        """See `Holder.unload`."""
        super().unload()
        with torch.no_grad():
            for path, came in self._weights.items():
                _weight(self._base_model.get_submodule(path)).copy_(came)

    def held_bytes(self) -> dict[str, int]:
        """See `Holder.held_bytes`."""
        return base_copies(self._weights.values())

    def begin_from(self, name: str, batches: Iterable[Any], loss: Loss) -> None:
        """Takes peft off the model, lets it look at the data there, and puts it on again."""
        self.unload()
        config = self._config(from_data=True)
        assert isinstance(config, LoraConfig)
        try:
            look(self._base_model, config, batches, loss)
            self._base_model.zero_grad(set_to_none=True)
            self._put_on(name, config)
        finally:
            forget(self._base_model)
        self._begin(name)

    def _config(self, spec: AdapterSpec | None = None, *, from_data: bool = False) -> PeftConfig:
        """Without data, an adapter that begins from it is a plain one that waits to be filled."""
        spec = spec or self._spec
        if begins_from_data(spec) and not from_data:
            spec = dataclasses.replace(spec, options=_later(spec.options))
        return super()._config(spec)

    @torch.no_grad()
    def _begin(self, name: str) -> None:
        """Takes the adapter's change out of the weights as they came: what it is now is its beginning."""
        self._first = super().tensors(name)
        (known,) = self.model.peft_config
        for path, came in self._weights.items():
            layer: Any = self.layers[path]
            weight = _weight(layer.get_base_layer())
            first = layer.get_delta_weight(known).float()
            weight.copy_((came.to(weight.device).float() - first).to(came.dtype))


def as_plain(spec: AdapterSpec) -> AdapterSpec:
    """What the adapter of a file of `MutatingLora` is: plain LoRA of twice the rank, with the same scaling."""
    left = _later(spec.options)
    louder = math.sqrt(2) if spec.use_rslora else 2
    for pattern, factor in (("rank_pattern", 2), ("alpha_pattern", louder)):
        if pattern in left:
            left[pattern] = {key: factor * value for key, value in left[pattern].items()}
    return dataclasses.replace(spec, r=2 * spec.r, lora_alpha=louder * spec.lora_alpha, options=left)


def _later(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that still mean something when the adapter has begun."""
    return {key: value for key, value in options.items() if key not in _OF_THE_BEGINNING}


def _weight(module: nn.Module) -> nn.Parameter:
    assert isinstance(module.weight, nn.Parameter)
    return module.weight
