"""Heads: what turns the states of an encoder into labels. Every task has its own, in the place of the architecture's.

They are no part of an adapter: peft's ``modules_to_save`` allows one active adapter, and a head that is only drawn at
random and frozen, as the popular recipe leaves it, learns nothing.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from evertune.errors import CapabilityError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FOREIGN = "task_heads"
"""Name of the module with the heads of tasks that the architecture has no head for."""


class Headless:
    """What a backbone says of heads that has none: its output layer belongs to the model."""

    def head_parameters(self, tasks: Iterable[str]) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def load_heads(self, tensors: Mapping[str, Tensor]) -> None:
        """There are none."""
        assert not tensors

    def head_in_model(self, task: str) -> dict[str, Tensor]:
        """None."""
        return {}


class RoutedHead(nn.Module):
    """The heads of several tasks behind one name: each line of a batch goes through that of its own task.

    Attributes:
        task_heads: One a task.
        route: Index in `task_heads` for every line of the next batch, -1 for none; set before the forward pass.
    """

    def __init__(self, heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.task_heads = nn.ModuleList(heads)
        self.route: Sequence[int] = ()

    def forward(self, features: Tensor, *rest: Any, **options: Any) -> Tensor:
        """Outputs as wide as the widest head; what a narrower one does not fill is zero.

        Args:
            features: ``(lines, ...)``; more lines than the route has (virtual tokens never are) is an error.
            rest: Passed on.
            options: Passed on.
        """
        assert len(self.route) == len(features), (len(self.route), len(features))
        used = sorted(set(self.route))
        if len(used) == 1 and used[0] >= 0:
            return self.task_heads[used[0]](features, *rest, **options)
        places = {index: [at for at, one in enumerate(self.route) if one == index] for index in used}
        found = {
            index: self.task_heads[index](features[at], *rest, **options) for index, at in places.items() if index >= 0
        }
        widest = max((each.shape[-1] for each in found.values()), default=1)
        lines: dict[int, Tensor] = {}
        for index, each in found.items():
            wide = functional.pad(each, (0, widest - each.shape[-1]))
            lines |= dict(zip(places[index], wide, strict=True))
        shape = next(iter(found.values())).shape[1:-1] if found else features.shape[1:-1]
        nothing = features.new_zeros((*shape, widest))
        return torch.stack([lines.get(at, nothing) for at in range(len(features))])


def head_names(model: PreTrainedModel) -> list[str]:
    """The children of a model that are its head: those beside the encoder that hold weights.

    Raises:
        CapabilityError: If the architecture has no encoder apart from its head.
    """
    if model.base_model is model:
        raise CapabilityError(
            f"{type(model).__name__} has no head apart from its encoder.",
            where="backbone.task_type",
            instead="Choose a model of another architecture.",
        )
    return [
        name
        for name, child in model.named_children()
        if child is not model.base_model and any(True for _ in child.parameters())
    ]


def new_heads(model: PreTrainedModel, labels: int, *, seed: int, fresh: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Head modules of the architecture for a number of labels, drawn as the architecture draws them.

    Args:
        model: Whose.
        labels: Outputs of the head.
        seed: What is drawn depends on nothing else.
        fresh: Paths of further modules that are to be new.

    Returns:
        By path in the model, float32.
    """
    settings = copy.deepcopy(model.config)
    settings.num_labels = labels
    with torch.device("meta"):
        twin = type(model)(settings)
    weights = next(model.parameters())
    heads: dict[str, nn.Module] = {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for name in (*head_names(twin), *fresh):
            head = twin.get_submodule(name).to_empty(device="cpu").float()
            for module in head.modules():
                twin._init_weights(module)
            heads[name] = head.to(weights.device)
    return heads


def linear_head(model: PreTrainedModel, labels: int, *, seed: int) -> nn.Module:
    """Dropout and a linear layer on the encoder's last states, ``hidden -> labels``."""
    settings = model.config.get_text_config()
    width: Any = getattr(settings, "hidden_size", None) or settings.d_model
    dropout: Any = getattr(settings, "hidden_dropout_prob", None) or getattr(settings, "dropout", None) or 0.0
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        layer = nn.Linear(width, labels)
        nn.init.normal_(layer.weight, std=getattr(settings, "initializer_range", 0.02))
        nn.init.zeros_(layer.bias)
    head = nn.Sequential(nn.Dropout(float(dropout)), layer)
    return head.to(next(model.parameters()).device)


def last_linear(head: nn.Module) -> nn.Linear:
    """The layer that gives the outputs of a head."""
    return [module for module in head.modules() if isinstance(module, nn.Linear)][-1]


def head_line(heads: Mapping[str, nn.Parameter]) -> str:
    """What is said of heads that learn: ``heads trained: 2, 1 538 parameters``: tensors, and the numbers in them."""
    count = sum(parameter.numel() for parameter in heads.values())
    return f"heads trained: {len(heads)}, {re.sub(',', ' ', f'{count:,}')} parameters"
