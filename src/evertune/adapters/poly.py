"""Poly: mixtures of skills whose routers ask for the task of every row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft.tuners.poly.router import PolyRouter
from torch import nn

from evertune.adapters.wrapped import WrappedModel


class PolyModel(WrappedModel):
    """See `evertune.adapters.holder.Holder`: every adapter routes all rows as those of its first task."""

    def _note(self, name: str) -> None:
        super()._note(name)
        route_all_alike(self.model)


def route_all_alike(model: nn.Module) -> None:
    """Lets routers that are told of no task route all rows as those of their first."""
    for module in model.modules():
        if isinstance(module, PolyRouter) and not module._forward_pre_hooks:
            module.register_forward_pre_hook(_of_first_task, with_kwargs=True)


def _of_first_task(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    if kwargs.get("task_ids") is not None:
        return None
    states = kwargs["input_ids"]
    return args, {**kwargs, "task_ids": torch.zeros(len(states), dtype=torch.long, device=states.device)}
