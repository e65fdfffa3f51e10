"""From what is written of an adapter to the configuration that peft takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from evertune.adapters.kinds import KINDS, kind_of
from evertune.adapters.peft_options import built, config_class, kind_options
from evertune.adapters.spec import AdapterSpec
from evertune.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

    from evertune.adapters.targets import Targets

# peft's classes for tasks with heads put these into `modules_to_save`, which forbids two active adapters; ours are
# routed and belong to no adapter. Virtual tokens need a class of peft, and this one leaves the heads alone.
_PEFT_TASKS: Mapping[str, str] = {"causal_lm": "CAUSAL_LM", "seq2seq_lm": "SEQ_2_SEQ_LM"}
_WITH_HEADS: Mapping[str, str] = {
    "sequence_classification": "SEQ_CLS",
    "token_classification": "TOKEN_CLS",
    "question_answering": "QUESTION_ANS",
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    **{kind: {"num_virtual_tokens": 20} for kind, known in KINDS.items() if known.prompts and kind != "cpt"},
    "adaption_prompt": {"adapter_len": 10},
    "shira": {"random_seed": 0},
    "pvera": {"generator_seed": 0},
}
"""Defaults of ours where peft has none, or draws at random."""

# Of AdaLoRA, until a stage says how many steps it has: peft asks for it before that is known.
_MANY_STEPS = 1_000_000_000

SPEC_FIELDS = ("r", "lora_alpha", "lora_dropout", "use_rslora")
"""Fields of `AdapterSpec` that are options of ``lora``, and of some other kinds by the same name."""


def option_default(kind: str, option: str) -> Any:
    """The value of an option that is not written."""
    ours = DEFAULTS.get(kind, {})
    return ours[option] if option in ours else kind_options(kind)[option].default


def task_of(task_type: str, *, heads: bool = False) -> str | None:
    """Peft's name for a task type; with `heads` the one under which it looks for them in a file."""
    return _PEFT_TASKS.get(task_type) or (_WITH_HEADS.get(task_type) if heads else None)


def build_config(spec: AdapterSpec, targets: Targets, task_type: str) -> PeftConfig:
    """The peft configuration of an adapter.

    Args:
        spec: Kind and options.
        targets: Where it sits.
        task_type: Name in `evertune.backbones.BACKBONES`.

    Raises:
        ConfigError: If there is no such kind, or peft does not take these options.
    """
    cls = config_class(spec.kind)
    values = _values(spec)
    _check_tokenizer(values)
    if kind_of(spec).place in ("linear", "norm", "embedding"):
        values["target_modules"] = list(targets.names)
    if "fan_in_fan_out" in {name for one in cls.__mro__ for name in getattr(one, "__annotations__", {})}:
        values["fan_in_fan_out"] = targets.is_conv1d
    if "feedforward_modules" in kind_options(spec.kind):
        values.setdefault("feedforward_modules", list(targets.feed_forward))
    if values.get("bias") == "all" and task_of(task_type) is None:
        raise ConfigError(
            "would train the biases of the heads of all tasks too.",
            where="adapter.bias",
            instead="Write the word for the adapted modules alone, such as lora_only.",
        )
    task = task_of(task_type) or ("FEATURE_EXTRACTION" if kind_of(spec).prompts else None)
    from peft import TaskType

    try:
        return cls(task_type=TaskType(task) if task else None, **values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"peft does not take these options: {_flat(error)}.", where="adapter") from error


def _check_tokenizer(values: Mapping[str, Any]) -> None:
    """Reads the tokenizer that peft will read, whose absence it does not explain.

    Raises:
        ConfigError: If virtual tokens begin as a text and there is no such tokenizer.
    """
    name = values.get("tokenizer_name_or_path")
    if not name or not str(values.get("prompt_tuning_init", "")).upper().endswith("TEXT"):
        return
    from transformers import AutoTokenizer

    try:
        AutoTokenizer.from_pretrained(name, **_trusting_nothing(values.get("tokenizer_kwargs")))
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"no tokenizer can be read from `{name}`: {_flat(error)[:200]}.",
            where="adapter.tokenizer_name_or_path",
            instead="Name a folder that holds one, or a hub id, or leave it out for the model's own.",
        ) from error


def _trusting_nothing(written: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in (written or {}).items() if key != "trust_remote_code"}


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


def refused(error: Exception, spec: AdapterSpec) -> ConfigError:
    """What peft says when it cannot put an adapter on a model, as an error of the configuration."""
    return ConfigError(
        f"peft cannot put adapters of the kind `{spec.kind}` on this model: {_flat(error)}.",
        where="adapter",
        instead=f"`evertune describe {spec.kind}` shows its options, `evertune list adapters` what works where.",
    )


def _values(spec: AdapterSpec) -> dict[str, Any]:
    values = {**DEFAULTS.get(spec.kind, {}), **spec.options}
    values.pop("exclude_modules", None)  # our list of targets has left them out
    if spec.kind == "lora":
        alpha = float(spec.lora_alpha)
        whole = int(alpha) if alpha.is_integer() else alpha
        _complete_beginning(values)
        values |= {"r": spec.r, "lora_alpha": whole, "lora_dropout": spec.lora_dropout, "use_rslora": spec.use_rslora}
    elif spec.kind == "osf":
        rank = spec.effective_rank
        values["effective_rank"] = int(rank) if rank is not None and rank >= 1 else rank
    else:
        known, usual = kind_options(spec.kind), AdapterSpec()
        changed = [name for name in SPEC_FIELDS if getattr(spec, name) != getattr(usual, name)]
        values = {**{name: getattr(spec, name) for name in changed if name in known}, **values}
    if spec.kind == "adalora":
        values["total_step"] = _MANY_STEPS
    return built(spec.kind, values)


def _complete_beginning(values: dict[str, Any]) -> None:
    """Adds the nested configuration that a way to begin needs, with a rank that is the same everywhere."""
    begin = values.get("init_lora_weights")
    if begin in ("eva", "corda", "lora_ga"):
        values[f"{begin}_config"] = dict(values.get(f"{begin}_config") or {})
    if begin == "eva":
        rho = values["eva_config"].setdefault("rho", 1.0)
        if rho != 1.0:
            raise ConfigError(
                "gives every layer a rank that depends on the data, and no two adapters the same shape.",
                where="adapter.eva_config.rho",
                instead="Write 1.0; `rank_pattern` sets ranks by layer.",
            )


def _flat(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
