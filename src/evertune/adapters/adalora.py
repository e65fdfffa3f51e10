"""AdaLoRA: ranks that move while it learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from evertune.adapters.wrapped import WrappedModel
from evertune.errors import ConfigError

_AVERAGES = ("exp_avg_ipt", "exp_avg_unc", "ipt")


class AdaLoraModel(WrappedModel):
    """See `evertune.adapters.holder.Holder`: one AdaLoRA adapter, with the importance of its directions."""

    def begin_stage(self) -> None:
        """Forgets which directions an earlier stage kept: all of them learn until this one has weighed them."""
        self._live.rank_pattern = None

    def begin(self, total_steps: int) -> None:
        """Says how many steps the ranks have to come down to their budget: those of the stage.

        Raises:
            ConfigError: If warm-up and rest take all of them.
        """
        config = self._live
        config.total_step = total_steps
        if config.tinit + config.tfinal >= config.total_step:
            raise ConfigError(
                f"`tinit` and `tfinal` take all of the {config.total_step} steps of the stage.",
                where="adapter.tinit",
                instead="Write fewer, or train longer.",
            )

    def after_step(self, step: int) -> None:
        """Weighs the directions by their gradients and keeps those that the budget allows; `step` counts from 1."""
        self._tuner.update_and_allocate(step)  # pyright: ignore[reportCallIssue]

    def step_loss(self) -> dict[str, Tensor]:
        """Mean over the factors of ``|P P^T - I|_F`` times `orth_reg_weight`: what keeps directions apart."""
        weight = self._live.orth_reg_weight
        if not weight:
            return {}
        ((_, parameters),) = self._learning.items()
        distances = []
        for key, factor in parameters.items():
            if ".lora_A." in key or ".lora_B." in key:
                gram = factor @ factor.T if ".lora_A." in key else factor.T @ factor
                distances.append((gram - torch.eye(len(gram), device=gram.device)).norm())
        return {"adalora orthogonality": weight * torch.stack(distances).mean()}

    def saved_changes(self, name: str) -> dict[str, Any]:
        """Fields of the configuration that came of learning."""
        return {"rank_pattern": self._live.rank_pattern, "total_step": self._live.total_step}

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`: the directions that are kept."""
        self._files.clear()
        return super().tensors(name)

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`: all directions, their importance, and which are kept."""
        state = {f"weights/{key}": held for key, held in self._learning[name].items()}
        allocator: Any = self._tuner.rankallocator
        for average in _AVERAGES:
            state |= {f"{average}/{key}": held for key, held in getattr(allocator, average).items()}
        pattern: Mapping[str, list[bool]] = self._live.rank_pattern or {}
        state |= {f"kept/{key}": torch.tensor(kept) for key, kept in pattern.items()}
        state["steps"] = torch.tensor(self._live.total_step)
        return {key: held.detach().to("cpu", copy=True) for key, held in state.items()}

    @torch.no_grad()
    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            part, _, rest = key.partition("/")
            parts.setdefault(part, {})[rest] = tensor
        for key, held in self._learning[name].items():
            held.copy_(parts["weights"][key])
        device = next(iter(self._learning[name].values())).device
        allocator: Any = self._tuner.rankallocator
        for average in _AVERAGES:
            setattr(allocator, average, {key: t.to(device, copy=True) for key, t in parts.get(average, {}).items()})
        self._live.total_step = int(tensors["steps"])
        kept = {key: tensor.tolist() for key, tensor in parts.get("kept", {}).items()}
        self._live.rank_pattern = kept or None

    @property
    def _live(self) -> Any:
        """The configuration that peft changes while it learns."""
        return next(iter(self.model.peft_config.values()))
