"""Kinds of adapters: a name, and how its options become a peft configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from evertune.adapters.spec import AdapterSpec
from evertune.errors import ConfigError
from evertune.registry import Registry

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from evertune.adapters.targets import Targets

# A builder takes (spec, targets, task_type) and returns a peft configuration; peft itself is imported when one is
# called, so that checking a configuration does not wait for it.
ADAPTERS = Registry("adapter kind", {"lora": "evertune.adapters.kinds:lora", "osf": "evertune.adapters.kinds:osf"})

# peft's classes for the other tasks train a head in `modules_to_save`, which forbids two active adapters.
_PEFT_TASKS: Mapping[str, str] = {"causal_lm": "CAUSAL_LM", "seq2seq_lm": "SEQ_2_SEQ_LM"}


def build_config(spec: AdapterSpec, targets: Targets, task_type: str) -> PeftConfig:
    """The peft configuration of an adapter.

    Args:
        spec: Kind and sizes.
        targets: Where it sits.
        task_type: Name in `evertune.backbones.BACKBONES`.

    Raises:
        ConfigError: If there is no such kind.
    """
    return ADAPTERS.get(spec.kind, where="adapter.kind")(spec, targets, task_type)


def check_sizes(spec: AdapterSpec, model: nn.Module, targets: Targets) -> None:
    """Refuses what a kind of adapter cannot do on the modules of a model.

    Raises:
        ConfigError: If adapters of the kind ``osf`` would keep all directions of a weight, or none.
    """
    rank = spec.effective_rank
    if spec.kind != "osf" or rank is None:
        return
    from evertune.adapters.roles import linear_shape

    for path in targets.paths:
        shorter = min(linear_shape(model.get_submodule(path)))
        kept = int(shorter * rank) if rank < 1 else int(rank)
        if not 0 < kept < shorter:
            kept_of = f"none of the {shorter}" if kept == 0 else f"all {shorter}"
            raise ConfigError(
                f"{rank:g} keeps {kept_of} directions of `{path}`.",
                where="adapter.effective_rank",
                instead=f"Write a share, such as 0.5, or a number below {shorter}.",
            )


def lora(spec: AdapterSpec, targets: Targets, task_type: str) -> PeftConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""
    from peft import LoraConfig, TaskType

    task = _PEFT_TASKS.get(task_type)
    alpha = float(spec.lora_alpha)
    return LoraConfig(
        task_type=TaskType(task) if task else None,
        r=spec.r,
        lora_alpha=int(alpha) if alpha.is_integer() else alpha,  # pyright: ignore[reportArgumentType]  (floats work)
        lora_dropout=spec.lora_dropout,
        use_rslora=spec.use_rslora,
        target_modules=list(targets.names),
        fan_in_fan_out=targets.is_conv1d,
        bias="none",
    )


def osf(spec: AdapterSpec, targets: Targets, task_type: str) -> PeftConfig:
    """The small singular directions of the weights learn, the large ones stay (Nayak et al. 2025, arXiv:2504.07097)."""
    from peft import OSFConfig, TaskType

    task = _PEFT_TASKS.get(task_type)
    rank = spec.effective_rank
    return OSFConfig(
        task_type=TaskType(task) if task else None,
        effective_rank=int(rank) if rank is not None and rank >= 1 else rank,
        target_modules=list(targets.names),
    )
