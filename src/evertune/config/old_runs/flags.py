"""The one table of old flags: what each is called here, or why it had no effect."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from evertune.config.marks import Plain

_TRUE = ("true", "t", "yes", "y", "1")
_FALSE = ("false", "f", "no", "n", "0")

# The modules that the scripts name by regular expressions, by their role here.
_ROLES = {
    ".*SelfAttention.(q|v).*": "self_attention_query_value",
    ".*EncDecAttention.(q|v).*": "cross_attention_query_value",
    ".*self_attn.(q_proj|v_proj).*": "attention_query_value",
    ".*mlp.gate_proj.*": "mlp_gate",
}


@dataclass(frozen=True, slots=True)
class Reader:
    """How the text of a flag is read.

    Attributes:
        expected: What it must be, in words.
        read: The new value; raises `ValueError`. None stands for "as if it were not written".
    """

    expected: str
    read: Callable[[str], Plain]


@dataclass(frozen=True, slots=True)
class OldFlag:
    """A flag of the launch scripts.

    Attributes:
        name: Without its dashes.
        key: The new key, dotted; empty if there is none.
        reader: How its value becomes that of the key.
        why: Why it had no effect, or has none here; beside a key, what differs.
        default: The old default where it differs from ours: it holds where the flag is not written.
        neutral: Of a flag without a key: the values that change nothing, in lower case; all others stop the import.
        methods: The methods whose scripts it means this in; empty for all.
    """

    name: str
    key: str = ""
    reader: Reader | None = None
    why: str = ""
    default: Plain = None
    neutral: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()


def truth(text: str) -> bool:
    """A Boolean as ``HfArgumentParser`` reads it.

    Raises:
        ValueError: If it is none.
    """
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError(text)
    return text.lower() in _TRUE


def _number(text: str) -> int | float:
    value = int(text) if text.isdecimal() else float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _whole(text: str) -> int:
    value = float(text)
    if value != int(value):
        raise ValueError(text)
    return int(value)


def _one_of(words: Mapping[str, str]) -> Reader:
    def read(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(text)
        return words[text.lower()]

    return Reader(f"one of {', '.join(words)}", read)


def _if_true(value: str) -> Reader:
    return Reader("true or false", lambda text: value if truth(text) else None)


def _modules(text: str) -> Plain:
    """Modules by their role where it is known, by the regular expression otherwise."""
    parts = text.replace(" ", "").split(",")
    for part in parts:
        try:
            re.compile(part)
        except re.error as error:
            raise ValueError(text) from error
    if len(parts) == 1:
        return _ROLES.get(parts[0], parts[0])
    return "|".join(f"(?:{part})" for part in parts)


NUMBER = Reader("a number", _number)
WHOLE = Reader("a whole number", _whole)
TRUTH = Reader("true or false", truth)
TEXT = Reader("a text", str)
MODULES = Reader("module names or a regular expression", _modules)
SCHEDULE = _one_of(
    {name: name for name in ("constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt")}
)
OPTIMISER = _one_of(
    {
        "adamw_torch": "adamw_torch",
        "adamw_hf": "adamw_torch",
        "adamw_torch_fused": "adamw_torch",
        "sgd": "sgd",
        "adafactor": "adafactor",
    }
)
INSTRUCTIONS = _one_of({"single": "first", "multiple": "random"})
KIND = _one_of({kind: kind for kind in ("std", "reverse_std", "left", "right", "full")})

_DEAD_IN_GORP = "GORP's code never adds this term: the flag was dead there"
_SCORED = "every task so far is scored after each stage, always from generated answers"
_SAVED = "every stage is saved when it ends; `train.save_steps` checkpoints in between"
_ONE_RUN = "a run has one folder, with one stage for each task"
_PLACED = "devices are chosen where the run is started, not in the configuration"
_TOKENIZER = "the tokenizer and the configuration are those of the model folder"
_BOTH_LINES = "one key for both lines, of task and data set"
_NO_DEV = "the published task lists have no dev rows"
_ALL_ROWS = "the published task lists take every row, and the cap holds only for sampled ones"
_LOADER = "rows are encoded once and kept in memory"
_CHOSEN_ON_TEST = "there was nothing but test rows to choose by; `evaluation.keep: best` chooses by held-out rows"
_PRECISION = "tasks are scored in the precision of the model"
_LOGGED = "every `train.logging_steps` steps are logged"

# A flag that stands here twice means different things in the scripts of different methods.
FLAGS: tuple[OldFlag, ...] = (
    # Model.
    OldFlag("model_name_or_path", "backbone.path", why="of the first command; later ones continue from its adapter"),
    OldFlag("model_revision", "backbone.revision", Reader("a text", lambda text: None if text == "main" else text)),
    OldFlag("bf16", "backbone.dtype", _if_true("bfloat16")),
    OldFlag("fp16", "backbone.dtype", _if_true("float16")),
    OldFlag("gradient_checkpointing", "backbone.gradient_checkpointing", TRUTH),
    *(OldFlag(name, why=_TOKENIZER) for name in ("config_name", "tokenizer_name", "use_fast_tokenizer")),
    *(OldFlag(name, why="the hub's own settings decide") for name in ("cache_dir", "use_auth_token")),
    OldFlag("resize_position_embeddings", neutral=("false", "none"), why="position embeddings are never changed"),
    # Adapter.
    OldFlag("lora_dim", "adapter.r", WHOLE, default=8),
    OldFlag("lora_rank", why="GORP's code reads --lora_dim instead", methods=("gorp",)),
    OldFlag("lora_rank", "adapter.r", WHOLE),
    OldFlag("lora_r", "adapter.r", WHOLE),
    OldFlag("lora_alpha", "adapter.lora_alpha", NUMBER, default=32),
    OldFlag("lora_dropout", "adapter.lora_dropout", NUMBER, default=0.1),
    OldFlag("lora_modules", "adapter.target", MODULES),
    OldFlag("proj_lora_modules", why="the protected space holds for every adapter", methods=("gorp",)),
    # Method.
    OldFlag("lamda_1", "method.lambda_1", NUMBER, default=0.5, methods=("o-lora", "n-lora")),
    OldFlag("lamda_2", "method.lambda_2", NUMBER, methods=("o-lora",)),
    OldFlag("lamda_2", why="N-LoRA's loss has one term, that of --lamda_1", methods=("n-lora",)),
    *(OldFlag(name, why=_DEAD_IN_GORP, methods=("gorp",)) for name in ("lamda_1", "lamda_2", "lamda_3")),
    OldFlag("optim_target_modules", "method.full_rank", MODULES, methods=("gorp",)),
    OldFlag("galore_rank", "method.projection_rank", WHOLE, default=16, methods=("gorp",)),
    OldFlag("galore_update_proj_gap", "method.refresh_gap", WHOLE, methods=("gorp",)),
    OldFlag("update_proj_gap", "method.refresh_gap", WHOLE, methods=("gorp",)),
    OldFlag("galore_scale", "method.projection_scale", NUMBER, methods=("gorp",)),
    OldFlag("galore_lr", "method.full_rank_learning_rate", NUMBER, default=5e-5, methods=("gorp",)),
    OldFlag("galore_proj_type", "method.projection_kind", KIND, methods=("gorp",)),
    # Stream.
    OldFlag("data_dir", "stream.root", TEXT, default="CL_Benchmark"),
    OldFlag("task_config_dir", "stream.order", why="its last folder names the task"),
    OldFlag("instruction_file", "stream.instruction_file", TEXT),
    OldFlag("instruction_strategy", "stream.instructions", INSTRUCTIONS),
    OldFlag("add_task_name", "stream.task_names_in_prompt", TRUTH, why=_BOTH_LINES),
    OldFlag("add_dataset_name", "stream.task_names_in_prompt", TRUTH, why=_BOTH_LINES),
    OldFlag("max_train_samples", "stream.max_train_samples", WHOLE, why="the first rows there, a sample by seed here"),
    OldFlag("max_eval_samples", "stream.max_dev_samples", WHOLE, why="the first rows there, a sample by seed here"),
    OldFlag("max_predict_samples", "stream.max_test_samples", WHOLE, why="the first rows there, a sample by seed here"),
    OldFlag("max_num_instances_per_task", why=_ALL_ROWS),
    OldFlag("max_num_instances_per_eval_task", why=_ALL_ROWS),
    OldFlag("num_examples", neutral=("0",), why="prompts hold no solved examples"),
    OldFlag("lang", why="it named the language of a multilingual tokenizer"),
    OldFlag("input_record_file", why="`evertune inspect` shows rows as the model sees them"),
    *(OldFlag(name, why=_LOADER) for name in ("overwrite_cache", "preprocessing_num_workers")),
    *(OldFlag(name, why=_LOADER) for name in ("dataloader_num_workers", "dataloader_pin_memory")),
    OldFlag("remove_unused_columns", why=_LOADER),
    OldFlag("ignore_pad_token_for_loss", neutral=("true",), why="padding is never part of the loss"),
    # Training.
    OldFlag("do_train", why="every task of the stream is learnt"),
    OldFlag("seed", "seed", WHOLE),
    OldFlag("num_train_epochs", "train.num_train_epochs", NUMBER, default=3),
    OldFlag("max_steps", "train.max_steps", WHOLE),
    OldFlag("learning_rate", "train.learning_rate", NUMBER, default=5e-5),
    OldFlag("per_device_train_batch_size", "train.per_device_train_batch_size", WHOLE),
    OldFlag("gradient_accumulation_steps", "train.gradient_accumulation_steps", WHOLE),
    OldFlag("lr_scheduler_type", "train.lr_scheduler_type", SCHEDULE, default="linear"),
    OldFlag("warmup_steps", "train.warmup_steps", WHOLE),
    OldFlag("warmup_ratio", "train.warmup_ratio", NUMBER),
    OldFlag("optim", "train.optim", OPTIMISER),
    OldFlag("weight_decay", "train.weight_decay", NUMBER),
    OldFlag("adam_beta1", "train.adam_beta1", NUMBER),
    OldFlag("adam_beta2", "train.adam_beta2", NUMBER),
    OldFlag("adam_epsilon", why="GORP's optimiser is built with 1e-6", methods=("gorp",)),
    OldFlag("adam_epsilon", "train.adam_epsilon", NUMBER),
    OldFlag("max_grad_norm", "train.max_grad_norm", NUMBER),
    OldFlag("max_source_length", "train.max_source_length", WHOLE),
    OldFlag("max_target_length", "train.max_target_length", WHOLE),
    OldFlag("group_by_length", "train.group_by_length", TRUTH, default=False),
    OldFlag("logging_steps", "train.logging_steps", WHOLE),
    OldFlag("label_smoothing_factor", neutral=("0", "0.0"), why="labels are not smoothed"),
    # Scores.
    OldFlag("per_device_eval_batch_size", "evaluation.per_device_eval_batch_size", WHOLE),
    OldFlag("num_beams", "evaluation.num_beams", WHOLE),
    OldFlag("generation_num_beams", why="the code reads --num_beams instead"),
    OldFlag("generation_max_length", why="answers are as long as `train.max_target_length` allows"),
    OldFlag("repetition_penalty", neutral=("1", "1.0"), why="answers are decoded as the model gives them"),
    *(OldFlag(name, why=_SCORED) for name in ("do_eval", "do_predict", "predict_with_generate")),
    *(OldFlag(name, why=_NO_DEV) for name in ("evaluation_strategy", "eval_strategy", "eval_steps")),
    *(OldFlag(name, why=_CHOSEN_ON_TEST) for name in ("load_best_model_at_end", "metric_for_best_model")),
    OldFlag("greater_is_better", why=_CHOSEN_ON_TEST),
    OldFlag("denser_evaluation", why="`evaluation.during_training` scores at chosen steps"),
    OldFlag("do_demo", neutral=("false",), why="`evertune generate` answers prompts"),
    # The run.
    *(OldFlag(name, why=_ONE_RUN) for name in ("output_dir", "overwrite_output_dir", "run_name", "logging_dir")),
    OldFlag("resume_from_checkpoint", why="`evertune run --resume` goes on with a run"),
    *(OldFlag(name, why=_SAVED) for name in ("save_strategy", "save_steps", "save_total_limit", "save_safetensors")),
    *(OldFlag(name, why=_LOGGED) for name in ("logging_strategy", "logging_first_step", "disable_tqdm", "report_to")),
    *(OldFlag(name, why=_PLACED) for name in ("deepspeed", "deepspeed_config", "local_rank", "ddp_timeout")),
    *(OldFlag(name, why=_PLACED) for name in ("ddp_find_unused_parameters", "sharded_ddp", "fsdp", "no_cuda")),
    *(OldFlag(name, why=_PRECISION) for name in ("fp16_full_eval", "bf16_full_eval")),
    OldFlag("tf32", why="matrix products have the precision that PyTorch is set to"),
)  # fmt: skip

ONLY_GORP = frozenset(
    {
        "galore_lr", "galore_rank", "galore_scale", "galore_update_proj_gap", "galore_proj_type",
        "update_proj_gap",
        "optim_target_modules", "proj_lora_modules", "lora_modules", "lamda_3",
    }
)  # fmt: skip
"""Flags that only GORP's scripts have."""


def find_flag(name: str, method: str) -> OldFlag | None:
    """What a flag means in the scripts of a method.

    Returns:
        Its entry; one without key, that says so, if the flag belongs to other methods alone; None if nobody has it.
    """
    entries = [flag for flag in FLAGS if flag.name == name]
    own = next((flag for flag in entries if not flag.methods or method in flag.methods), None)
    if own is None and entries:
        owners = " and ".join(dict.fromkeys(owner for flag in entries for owner in flag.methods))
        return OldFlag(name, why=f"an option of {owners}, which {method} does not have")
    return own
