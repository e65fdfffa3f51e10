"""What is said before the first step: where it computes, in which precision, with how many bytes, and what learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from evertune import distributed
from evertune.adapters.summary import ParameterSummary
from evertune.backbones.heads import head_line
from evertune.training.config import TrainConfig
from evertune.training.device import human_bytes
from evertune.training.optimizer import optimizer_bytes


@dataclass(frozen=True)
class Preflight:
    """The facts.

    Attributes:
        device: Where this process computes.
        gpus: Every GPU as ``(name, free bytes, total bytes)``.
        autocast: Type of the forward pass, None for float32.
        summary: Counts and bytes of the model's parameters.
        shapes: Shapes of the tensors that learn, for the optimiser's state.
        train: Options of the loop.
        projected_bytes: State of the weights whose gradients are projected, which are not among the shapes.
        heads: Heads that learn, by name.
    """

    device: torch.device
    gpus: Sequence[tuple[str, int, int]]
    autocast: torch.dtype | None
    summary: ParameterSummary
    shapes: Sequence[tuple[int, ...]]
    train: TrainConfig
    projected_bytes: int = 0
    heads: Mapping[str, nn.Parameter] = field(default_factory=dict)

    def bytes(self) -> dict[str, int]:
        """Bytes by part and dtype: the model's, and the optimiser's float32 state."""
        optimiser = optimizer_bytes(self.train, self.shapes) + self.projected_bytes
        return {**self.summary.bytes, "optimiser float32": optimiser}

    def lines(self) -> list[str]:
        """The block, line by line."""
        processes = distributed.world_size()
        computes = str(self.autocast or torch.float32).removeprefix("torch.")
        lines = [
            f"process {distributed.rank() + 1} of {processes} on {self.device}, "
            f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}, computing in {computes}"
        ]
        if len(self.gpus) > 1:
            # A single process computes on plain `cuda`, which is the card that it chose.
            ours = torch.cuda.current_device() if self.device.index is None else self.device.index
            lines += [
                f"  {'->' if index == ours else '  '} {name}: {human_bytes(free)} free of {human_bytes(total)}"
                for index, (name, free, total) in enumerate(self.gpus)
            ]
        lines.append("bytes: " + _listed({part: human_bytes(size) for part, size in self.bytes().items()}))
        lines.append("learns: " + _listed({role: f"{count:,}" for role, count in self.summary.trains.items()}))
        lines.append(self.summary.line())
        if self.heads:
            lines.append(head_line(self.heads))
        return lines


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "nothing"
