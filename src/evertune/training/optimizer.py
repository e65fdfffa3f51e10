"""The configured optimiser and learning-rate schedule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evertune.training.config import TrainConfig


def build_optimizer(config: TrainConfig, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
    """The optimiser `config` names over `groups`.

    Args:
        config: ``optim``, ``learning_rate``, ``weight_decay`` and Adam's constants are read.
        groups: Parameter groups; what a group does not say comes from `config`.
    """
    rate, decay = config.learning_rate, config.weight_decay
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=rate, weight_decay=decay)
    if config.optim == "adafactor":
        return torch.optim.Adafactor(groups, lr=rate, weight_decay=decay)
    betas = (config.adam_beta1, config.adam_beta2)
    # Many small matrices: the fused step is one call instead of a dozen for each of them.
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=config.adam_epsilon, weight_decay=decay, fused=True)


def complete_groups(config: TrainConfig, groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The groups with everything that AdamW needs, from `config` where they do not say it."""
    defaults = {
        "lr": config.learning_rate,
        "betas": (config.adam_beta1, config.adam_beta2),
        "eps": config.adam_epsilon,
        "weight_decay": config.weight_decay,
    }
    return [{**defaults, **group} for group in groups]


def build_schedule(
    config: TrainConfig, optimizer: torch.optim.Optimizer, total_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule over one task, as transformers defines it."""
    from transformers import get_scheduler

    warmup = config.warmup_steps or round(config.warmup_ratio * total_steps)
    return get_scheduler(config.lr_scheduler_type, optimizer, num_warmup_steps=warmup, num_training_steps=total_steps)


def optimizer_bytes(config: TrainConfig, sizes: Sequence[tuple[int, ...]]) -> int:
    """Bytes of state that the configured optimiser will hold for float32 parameters of these shapes."""
    if config.optim == "sgd":
        return 0
    if config.optim == "adafactor":
        # Row and column statistics of matrices, full ones of vectors.
        return sum(4 * (sum(shape[-2:]) if len(shape) > 1 else torch.Size(shape).numel()) for shape in sizes)
    return sum(2 * 4 * torch.Size(shape).numel() for shape in sizes)
