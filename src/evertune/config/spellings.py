"""What options are called elsewhere: one table for importing files, and for suggestions about unknown keys.

Of Hugging Face's ``TrainingArguments``, TRL's and peft's example scripts, and LLaMA-Factory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evertune.config.marks import Plain


class Unfit(ValueError):
    """Why a value has no counterpart here, as a phrase."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """An option of another program.

    Attributes:
        names: What it is called there, the commonest first.
        key: Our dotted key; empty if there is none.
        read: Its value as ours; None where it sets nothing here. Raises `Unfit`.
        why: Why it has no counterpart; beside a key, what differs.
    """

    names: tuple[str, ...]
    key: str = ""
    read: Callable[[Plain], Plain] = lambda value: value
    why: str = ""


def _when_true(value: Plain) -> Callable[[Plain], Plain]:
    return lambda given: value if _is_true(given) else None


def _is_true(value: Plain) -> bool:
    return value is True or str(value).lower() in ("true", "1", "yes", "on")


def _one_of(words: Mapping[str, Plain], otherwise: str) -> Callable[[Plain], Plain]:
    def read(value: Plain) -> Plain:
        word = str(value).lower().removeprefix("torch.")
        if word not in words:
            raise Unfit(otherwise)
        return words[word]

    return read


def _number(value: Plain) -> Plain:
    """A number; YAML of other programs has ``5e-5`` as text."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise Unfit("this is no number") from None
        return int(number) if number.is_integer() and "." not in value and "e" not in value.lower() else number
    return value


def _targets(value: Plain) -> Plain:
    """Modules by name; ``all`` is every linear one, and a pattern stays a pattern."""
    if not isinstance(value, str):
        return value
    if value in ("all", "all-linear"):
        return "all-linear"
    if re.search(r"[*+()\\^$|?]", value):
        return value
    return [name.strip() for name in value.split(",") if name.strip()]


def _bits(value: Plain) -> Plain:
    found: dict[str, Plain] = {"4": "nf4", "8": "int8", "none": None}
    return _one_of(found, "only 4 and 8 bits are")(value)


def _evaluation(value: Plain) -> Plain:
    return _one_of({"epoch": "epoch", "no": None, "none": None, "steps": None}, "no such moment")(value)


def _kept(value: Plain) -> Plain:
    return "best" if _is_true(value) else None


def _dev_share(value: Plain) -> Plain:
    number = _number(value)
    if isinstance(number, int | float) and not 0 <= number < 1:
        raise Unfit("dev rows are given as a share here: write `stream.dev_fraction`")
    return number


_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt")
_OPTIMISERS: Mapping[str, Plain] = {
    **dict.fromkeys(("adamw_torch", "adamw_hf", "adamw_torch_fused", "adamw"), "adamw_torch"),
    "sgd": "sgd",
    "adafactor": "adafactor",
}
_DTYPES: Mapping[str, Plain] = {
    **{name: name for name in ("float32", "bfloat16", "float16")},
    "fp32": "float32",
    "bf16": "bfloat16",
    "fp16": "float16",
    "auto": None,
}
_KERNELS: Mapping[str, Plain] = {"fa2": "flash_attention_2", "sdpa": "sdpa", "disabled": "eager", "auto": None}
_ADAPTER_KINDS: Mapping[str, Plain] = {"lora": "lora", "full": "full", "oft": "oft"}

_PLACED = "devices and processes are chosen where the run is started"
_ALWAYS = "this is always done"
_OWN_LOOP = "the loop here has no such option"
_SHOWN = "the run folder holds events, plots and a report"
_NOT_SENT = "nothing is sent anywhere; `evertune export` writes what can be"
_ROWS = "every row is read; there is no cache of prepared rows"

SPELLINGS: Sequence[Spelling] = (
    # The model.
    Spelling(("model_name_or_path", "base_model_name_or_path", "base_model", "model_name"), "backbone.path"),
    Spelling(("model_revision", "revision"), "backbone.revision"),
    Spelling(("torch_dtype", "dtype"), "backbone.dtype", _one_of(_DTYPES, "no such precision here")),
    Spelling(("bf16", "pure_bf16"), "backbone.dtype", _when_true("bfloat16")),
    Spelling(("fp16",), "backbone.dtype", _when_true("float16")),
    Spelling(("use_4bit_quantization", "load_in_4bit"), "backbone.quantization", _when_true("nf4")),
    Spelling(("use_8bit_quantization", "load_in_8bit"), "backbone.quantization", _when_true("int8")),
    Spelling(("quantization_bit",), "backbone.quantization", _bits),
    Spelling(("gradient_checkpointing", "use_gradient_checkpointing"), "backbone.gradient_checkpointing", _is_true),
    Spelling(("trust_remote_code",), "backbone.trust_remote_code", _is_true),
    Spelling(("attn_implementation",), "backbone.attn_implementation"),
    Spelling(("use_flash_attn",), "backbone.attn_implementation", _when_true("flash_attention_2")),
    Spelling(("flash_attn",), "backbone.attn_implementation", _one_of(_KERNELS, "no such kernel here")),
    # The adapter.
    Spelling(("finetuning_type",), "adapter.kind", _one_of(_ADAPTER_KINDS, "no such kind here")),
    Spelling(("lora_r", "lora_rank", "rank"), "adapter.r", _number),
    Spelling(("lora_alpha", "alpha"), "adapter.lora_alpha", _number),
    Spelling(("lora_dropout", "dropout"), "adapter.lora_dropout", _number),
    Spelling(("lora_target_modules", "lora_target", "target_modules"), "adapter.target", _targets),
    Spelling(("use_rslora",), "adapter.use_rslora", _is_true),
    Spelling(("use_dora",), "adapter.use_dora", _is_true),
    Spelling(("pissa_init",), "adapter.init_lora_weights", _when_true("pissa")),
    Spelling(("loraplus_lr_ratio",), "adapter.loraplus_lr_ratio", _number),
    Spelling(("adapter_name_or_path",), "adapter.start_from"),
    # The loop.
    Spelling(("num_train_epochs", "epochs", "num_epochs"), "train.num_train_epochs", _number),
    Spelling(("max_steps",), "train.max_steps", _number),
    Spelling(("learning_rate", "lr"), "train.learning_rate", _number),
    Spelling(("per_device_train_batch_size", "batch_size"), "train.per_device_train_batch_size", _number),
    Spelling(("gradient_accumulation_steps", "grad_accum"), "train.gradient_accumulation_steps", _number),
    Spelling(
        ("lr_scheduler_type", "lr_scheduler", "scheduler"),
        "train.lr_scheduler_type",
        _one_of({name: name for name in _SCHEDULES}, "no such schedule here"),
    ),
    Spelling(("warmup_steps",), "train.warmup_steps", _number),
    Spelling(("warmup_ratio",), "train.warmup_ratio", _number),
    Spelling(("optim", "optimizer"), "train.optim", _one_of(_OPTIMISERS, "no such optimiser here")),
    Spelling(("weight_decay",), "train.weight_decay", _number),
    Spelling(("adam_beta1",), "train.adam_beta1", _number),
    Spelling(("adam_beta2",), "train.adam_beta2", _number),
    Spelling(("adam_epsilon",), "train.adam_epsilon", _number),
    Spelling(("max_grad_norm",), "train.max_grad_norm", _number),
    Spelling(("max_seq_length", "max_length", "cutoff_len", "max_seq_len"), "train.max_source_length", _number),
    Spelling(("max_new_tokens", "generation_max_length"), "train.max_target_length", _number),
    Spelling(("group_by_length",), "train.group_by_length", _is_true),
    Spelling(("logging_steps",), "train.logging_steps", _number),
    Spelling(("save_steps",), "train.save_steps", _number),
    # What is around it.
    Spelling(("seed",), "seed", _number),
    Spelling(("output_dir",), "output_dir"),
    Spelling(("run_name",), "run_name"),
    Spelling(("per_device_eval_batch_size", "eval_batch_size"), "evaluation.per_device_eval_batch_size", _number),
    Spelling(("eval_strategy", "evaluation_strategy"), "evaluation.during_training", _evaluation),
    Spelling(("load_best_model_at_end",), "evaluation.keep", _kept),
    Spelling(("num_beams", "generation_num_beams"), "evaluation.num_beams", _number),
    Spelling(("val_size",), "stream.dev_fraction", _dev_share, "dev rows, carved from train; test rows are too"),
    Spelling(("max_samples", "max_train_samples"), "stream.max_train_samples", _number),
    Spelling(("max_eval_samples",), "stream.max_test_samples", _number),
    # What has no counterpart.
    Spelling(("do_train", "do_eval", "do_predict", "predict_with_generate"), why="a run trains, and scores every task"),
    Spelling(("overwrite_output_dir", "resume_from_checkpoint"), why="a run resumes; `--fresh` begins anew"),
    Spelling(("use_peft", "use_peft_lora"), why="`adapter.kind` says it"),
    Spelling(("deepspeed", "fsdp", "fsdp_config", "local_rank", "ddp_timeout", "use_cpu", "no_cuda"), why=_PLACED),
    Spelling(("ddp_find_unused_parameters", "dataloader_num_workers", "dataloader_pin_memory"), why=_OWN_LOOP),
    Spelling(("packing", "neat_packing", "streaming", "torch_compile", "use_liger_kernel"), why=_OWN_LOOP),
    Spelling(("neftune_noise_alpha", "label_smoothing_factor", "use_unsloth", "enable_liger_kernel"), why=_OWN_LOOP),
    Spelling(
        ("report_to", "logging_dir", "logging_strategy", "plot_loss", "log_level", "logging_first_step"), why=_SHOWN
    ),
    Spelling(("push_to_hub", "hub_model_id", "hub_private_repo", "hub_strategy", "hub_token"), why=_NOT_SENT),
    Spelling(("save_strategy", "save_total_limit", "save_only_model"), why="every stage is saved when it ends"),
    Spelling(("overwrite_cache", "preprocessing_num_workers", "dataset_num_proc", "dataloader_drop_last"), why=_ROWS),
    Spelling(("train_on_prompt", "completion_only_loss", "dataset_text_field"), why="the loss is of answers alone"),
    Spelling(("mask_history",), why="only the last answer of a dialogue is learnt"),
    Spelling(("remove_unused_columns", "include_inputs_for_metrics", "prediction_loss_only"), why=_OWN_LOOP),
    Spelling(
        ("tf32", "gradient_checkpointing_kwargs", "use_reentrant", "include_num_input_tokens_seen"), why=_OWN_LOOP
    ),
    Spelling(("bnb_4bit_quant_type", "quantization_method", "quantization_type"), why="4 bits are nf4 here"),
    Spelling(("bnb_4bit_compute_dtype", "bnb_4bit_quant_storage_dtype"), why="`backbone.dtype` is the only precision"),
    Spelling(("use_nested_quant", "bnb_4bit_use_double_quant", "double_quantization"), why=_ALWAYS),
    Spelling(("add_special_tokens", "append_concat_token", "chat_template_format"), why="`template` decides it"),
    Spelling(("data_seed",), why="`seed` is the only one"),
    Spelling(("eval_steps",), why="write `evaluation.during_training: {steps: N}`"),
    Spelling(
        ("create_new_adapter", "additional_target", "resize_vocab", "stage", "ref_model"), why="no such option here"
    ),
)


def by_name() -> dict[str, Spelling]:
    """Every spelling by each of its names."""
    return {name: spelling for spelling in SPELLINGS for name in spelling.names}


# What means whole sections, or is a word of daily use: of no importer's concern.
_WORDS = {
    "dataset": "stream",
    "dataset_name": "stream",
    "lora": "adapter",
    "model": "backbone",
    "peft": "adapter",
    "tasks": "stream",
    "train_file": "stream",
}


def synonyms() -> dict[str, str]:
    """What people call things elsewhere, by the dotted key that they have here."""
    return {**{name: spelling.key for name, spelling in by_name().items() if spelling.key}, **_WORDS}


def switched(name: str, value: Plain) -> tuple[str, Plain] | None:
    """What a switch of another program that is on sets here, as (key, value): ``bf16: true`` is a dtype."""
    spelling = by_name().get(name)
    if spelling is None or not spelling.key or value is not True:
        return None
    try:
        found = spelling.read(value)
    except Unfit:
        return None
    return (spelling.key, found) if isinstance(found, str) else None
