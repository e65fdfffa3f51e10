"""LoRA that begins from data: EVA, CorDA and LoRA-GA look at the first batches of a stage before its first step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evertune.errors import ConfigError

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

    from evertune.adapters.spec import AdapterSpec

Loss = Callable[[nn.Module, Any], Tensor]
"""Summed loss of a model on a batch."""

_BATCHES = 32  # of a stage; a hundred and more rows are enough for directions of small rank
_NOTES = ("eigens", "_peft_loraga_grad")  # what peft leaves on the modules of a model


def begins_from_data(spec: AdapterSpec) -> bool:
    """Whether new adapters are not complete before they have seen rows."""
    return spec.kind == "lora" and spec.options.get("init_lora_weights") in ("eva", "corda", "lora_ga")


def check_beginning(spec: AdapterSpec) -> None:
    """Refuses files between runs of what adapters begin with.

    Raises:
        ConfigError: If `corda_config` or `lora_ga_config` names one.
    """
    for section in ("corda_config", "lora_ga_config"):
        held = spec.options.get(section)
        for name in ("cache_file", "covariance_file"):
            if isinstance(held, Mapping) and held.get(name) is not None:
                raise ConfigError(
                    "would be written and read as a pickle, and let later tasks begin from the rows of the first.",
                    where=f"adapter.{section}.{name}",
                    instead="Remove the key: what adapters begin with is computed from the rows of each stage.",
                )


def begin_eva(model: PeftModel, name: str, batches: Iterable[Any], loss: Loss) -> None:
    """Sets A of an adapter, as peft knows it, to the main directions of what its modules read."""
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    model.set_adapter(name)
    initialize_lora_eva_weights(
        model,
        list(islice(batches, _BATCHES)),  # pyright: ignore[reportArgumentType]
        forward_fn=loss,
        prepare_model_inputs_fn=None,
        prepare_layer_inputs_fn=_read,
        adapter_name=name,
        show_progress_bar=False,
    )


def look(model: nn.Module, config: LoraConfig, batches: Iterable[Any], loss: Loss) -> None:
    """Lets peft note on the modules of a base model what CorDA or LoRA-GA begin with."""
    shown = list(islice(batches, _BATCHES))
    if config.init_lora_weights == "corda":
        from peft.tuners.lora.corda import preprocess_corda

        preprocess_corda(model, config, lambda: _each_row(model, shown, loss))
    else:
        from peft.tuners.lora.loraga import preprocess_loraga

        preprocess_loraga(model, config, lambda: _gradients(model, shown, loss))


def forget(model: nn.Module) -> None:
    """Takes what `look` noted off the model again."""
    for module in model.modules():
        for note in _NOTES:
            if hasattr(module, note):
                delattr(module, note)


def _read(layer_input: Any, batch: Any, path: str) -> Tensor:
    """What a module read of the real tokens of a batch, ``(tokens, width)``."""
    hidden: Tensor = layer_input[0] if isinstance(layer_input, (tuple, list)) else layer_input
    path = path.removeprefix("base_model.model.")
    try:
        return batch.real_tokens(hidden, path)
    except (KeyError, IndexError):  # no tokens: places of an image
        return hidden.reshape(-1, hidden.shape[-1])


def _gradients(model: nn.Module, batches: Iterable[Any], loss: Loss) -> None:
    for batch in batches:
        loss(model, batch).backward()


def _each_row(model: nn.Module, batches: Iterable[Any], loss: Loss) -> None:
    """Runs a model on one row after the other: peft's hooks take the first for all."""
    for batch in batches:
        for index, name in enumerate(batch.ids):
            if name:
                inputs = {
                    key: held[index : index + 1] if len(held) == len(batch.ids) and held.ndim > 1 else held
                    for key, held in batch.inputs.items()
                }
                row = dataclasses.replace(
                    batch, inputs=inputs, labels=batch.labels[index : index + 1], ids=batch.ids[index : index + 1]
                )
                with torch.no_grad():
                    loss(model, row)
