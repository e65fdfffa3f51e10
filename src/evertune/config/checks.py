"""What contradicts itself across the options, as far as no data and no model is needed to see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from evertune.adapters.capabilities import why_not
from evertune.adapters.kinds import NEEDS, meeting, unmet
from evertune.adapters.spec import AdapterSpec
from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.builtin import PREFIX
from evertune.errors import Problem
from evertune.evaluation.config import EvaluationConfig
from evertune.methods.base import Method
from evertune.methods.stack import composition_problems
from evertune.training.config import TrainConfig

_ADAMW_ONLY = ("adam_beta1", "adam_beta2", "adam_epsilon")
_LORA_OPTIONS = ("r", "lora_alpha", "lora_dropout", "use_rslora", "loraplus_lr_ratio", "lora_fa")
_BEGINNINGS = ("eva", "corda", "lora_ga", "loftq")
_NEED_A: Mapping[str, str] = {
    "o-lora": "method o-lora keeps tasks apart by moving A, which `lora_fa` holds as it was drawn.",
    "inf-lora": "has no effect: method inf-lora sets A itself and holds it.",
    "n-lora": "method n-lora makes A and B sparse together, and `lora_fa` holds A as it was drawn.",
}
_OSF_OPTIONS = ("effective_rank",)
_DEFAULT_ADAPTER = AdapterSpec()
_WARMUP = ("warmup_steps", "warmup_ratio")


@dataclass(frozen=True)
class Written:
    """Where options were written.

    Attributes:
        locations: Dotted keys to places.
        blocks: Blocks that stand over the base, the strongest first: ``per_task.MNLI``, ``after_first``.
    """

    locations: Mapping[str, str]
    blocks: tuple[str, ...] = ()

    def key(self, key: str) -> str | None:
        """The dotted key under which an option was written; None if it has its default value."""
        forms = [f"{block}.{key}" for block in self.blocks] + [key]
        return next((form for form in forms if form in self.locations), None)

    def problem(self, key: str, what: str, instead: str) -> Problem:
        """A problem of an option, by its place if it was written."""
        key = self.key(key) or key
        place = self.locations.get(key)
        named = place is not None and place.endswith(f" {key}")
        return Problem(key if place is None else place if named else f"{place}: {key}", what, instead)


def check_methods(methods: tuple[tuple[str, Method], ...], written: Written) -> Iterator[Problem]:
    """Methods that cannot be composed."""
    for problem in composition_problems(methods):
        yield written.problem("method", problem.what, problem.instead)


def check_adapter(adapter: AdapterSpec, methods: tuple[tuple[str, Method], ...], written: Written) -> Iterator[Problem]:
    """A kind of adapter that a method does not work with, and options that another kind has."""
    for name, method in methods:
        for need in sorted(method.adapter_needs):
            if why := unmet(adapter, need):
                kinds = meeting(need)
                named = " or ".join(kinds) if len(kinds) < 4 else "lora"
                instead = f"Write `kind: {named}`."
                what = f"method {name} {NEEDS[need]}, but {why}."
                yield written.problem("adapter.kind", what, instead)
                break
        own_groups = "optimizer" in method.owns or type(method).param_groups is not Method.param_groups
        if adapter.loraplus_lr_ratio is not None and own_groups:
            what = f"has no effect: method {name} decides on the learning rates."
            yield written.problem("adapter.loraplus_lr_ratio", what, "Remove the key.")
        if adapter.lora_fa and name in _NEED_A:
            yield written.problem("adapter.lora_fa", _NEED_A[name], "Remove the key.")
    for begin in _BEGINNINGS:
        if adapter.options.get(f"{begin}_config") and adapter.options.get("init_lora_weights") != begin:
            what = f"has no effect without `init_lora_weights: {begin}`."
            yield written.problem(f"adapter.{begin}_config", what, f"Write `init_lora_weights: {begin}`.")
    rank = adapter.effective_rank
    if rank is not None and rank >= 1 and not float(rank).is_integer():
        what = f"must be a share below 1 or a whole number, got {rank:g}."
        yield written.problem("adapter.effective_rank", what, f"Write for example {int(rank)}.")
    if adapter.layers is not None and adapter.num_frozen_layers:
        what = "`layers` says already which layers get adapters."
        yield written.problem("adapter.num_frozen_layers", what, "Keep one of the two.")
    foreign = {"lora": _OSF_OPTIONS, "osf": _LORA_OPTIONS}.get(adapter.kind, (*_LORA_OPTIONS, *_OSF_OPTIONS))
    for option in foreign:
        # A run's own configuration names every option: only what was changed is refused.
        if getattr(adapter, option) != getattr(_DEFAULT_ADAPTER, option):
            what = f"has no effect on adapters of the kind `{adapter.kind}`."
            yield written.problem(f"adapter.{option}", what, "Remove the key.")


def check_kind(adapter: AdapterSpec, backbone: BackboneConfig, written: Written) -> Iterator[Problem]:
    """A kind of adapter that cannot be used on the model, or for the task."""
    if why := why_not(adapter, backbone.task_type, backbone.quantization):
        what = f"adapters of the kind `{adapter.kind}` with these options cannot be used {why}."
        yield written.problem("adapter.kind", what, "`evertune list adapters` shows what works.")


def check_backbone(
    backbone: BackboneConfig, methods: tuple[tuple[str, Method], ...], written: Written
) -> Iterator[Problem]:
    """Options of the model that exclude each other, or the methods."""
    if backbone.revision is not None and (backbone.path.startswith(PREFIX) or Path(backbone.path).is_absolute()):
        what = "only a hub id has revisions; this model is a folder."
        yield written.problem("backbone.revision", what, "Remove the key.")
    if backbone.quantization is not None and find_spec("bitsandbytes") is None:
        what = "needs the package bitsandbytes, which is not installed."
        yield written.problem("backbone.quantization", what, "Run `pip install 'evertune[quantization]'`.")
    in_text = BACKBONES.get(backbone.task_type).answers_in_text if backbone.task_type in BACKBONES else True
    for name, method in () if in_text else methods:
        if "text_answers" in method.required():
            what = f"method {name} needs a model that answers in text, and {backbone.task_type} gives labels or places."
            yield written.problem("backbone.task_type", what, "Choose another method, such as replay or inc-lora.")
    for name, method in methods if backbone.quantization is not None else ():
        if "trainable_base" in method.required():
            what = f"method {name} trains base weights, which a quantised model does not allow."
            yield written.problem("backbone.quantization", what, "Write `quantization: null`.")
    if (backbone.attn_implementation or "").startswith("flash_attention") and backbone.dtype == "float32":
        what = f"{backbone.attn_implementation} does not compute in float32."
        yield written.problem("backbone.attn_implementation", what, "Write `dtype: bfloat16`, or sdpa here.")


def check_train(train: TrainConfig, methods: tuple[tuple[str, Method], ...], written: Written) -> Iterator[Problem]:
    """Options of training that would be ignored, or leave nothing to do."""
    for name, method in methods:
        if "optimizer" in method.owns and train.optim != "adamw_torch":
            what = f"has no effect: method {name} has an optimiser of its own, a projected AdamW."
            yield written.problem("train.optim", what, "Write `optim: adamw_torch`, or leave it out.")
    for option in _WARMUP:
        if getattr(train, option) and train.lr_scheduler_type == "constant":
            what = "has no effect: the schedule `constant` has no warm-up."
            yield written.problem(f"train.{option}", what, "Write `lr_scheduler_type: constant_with_warmup`.")
    if train.warmup_steps and train.warmup_ratio:
        yield written.problem("train.warmup_ratio", "has no effect beside `warmup_steps`.", "Keep one of the two.")
    if train.max_steps == 0:
        what = "0 steps would learn nothing."
        yield written.problem("train.max_steps", what, "Write -1 to train for `num_train_epochs`.")
    if 0 < train.max_steps <= train.warmup_steps:
        what = f"a warm-up of {train.warmup_steps} steps leaves none of the {train.max_steps} of `max_steps`."
        yield written.problem("train.warmup_steps", what, "Write fewer.")
    for option in _ADAMW_ONLY if train.optim != "adamw_torch" else ():
        if written.key(f"train.{option}") is not None:
            yield written.problem(f"train.{option}", f"has no effect with `optim: {train.optim}`.", "Remove the key.")


def check_evaluation(evaluation: EvaluationConfig, written: Written) -> Iterator[Problem]:
    """Options of evaluation that contradict each other."""
    if evaluation.keep != "last" and evaluation.during_training == "none":
        what = f"`{evaluation.keep}` chooses among evaluations while training, and there are none."
        yield written.problem("evaluation.keep", what, "Write for example `during_training: epoch`.")
    steps = evaluation.during_training
    if isinstance(steps, tuple) and (not steps or list(steps) != sorted(set(steps))):
        what = "must be a list of rising step numbers."
        yield written.problem("evaluation.during_training", what, "Write for example [1, 50, 100].")
