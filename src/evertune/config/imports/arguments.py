"""Arguments of training as Hugging Face, TRL, peft's examples and LLaMA-Factory write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evertune.config.imports.data_sets import FILE, add_data_sets
from evertune.config.imports.draft import Draft, add_model, relative
from evertune.config.marks import Plain
from evertune.config.single_task import shared_length, task_name
from evertune.errors import InputError

_DATA = ("dataset", "dataset_dir", "template", "eval_dataset")
_OF_LLAMA_FACTORY = ("finetuning_type", "lora_rank", "lora_target", "cutoff_len", "template", "dataset_dir", "stage")
_HF_DATA = (
    "dataset_name",
    "dataset_config",
    "dataset_config_name",
    "dataset_train_split",
    "dataset_test_split",
    "splits",
    "train_file",
    "validation_file",
    "test_file",
    "task_type",
)
_NO_TEMPLATE = ("empty", "vanilla", "default", "none")
# What holds there where nothing is written, and differs from what holds here.
_HF_DEFAULTS: Mapping[str, Plain] = {
    "train.num_train_epochs": 3,
    "train.learning_rate": 5e-5,
    "train.lr_scheduler_type": "linear",
}
_LLAMA_FACTORY_DEFAULTS: Mapping[str, Plain] = {"adapter.target": "all-linear"}


def is_llama_factory(arguments: Mapping[str, Any]) -> bool:
    """Whether these are arguments of LLaMA-Factory."""
    return any(key in arguments for key in _OF_LLAMA_FACTORY)


def from_llama_factory(draft: Draft, arguments: Mapping[str, Any], file: Path, folder: Path) -> None:
    """A training YAML of LLaMA-Factory.

    Args:
        draft: What is made of it.
        arguments: Its keys.
        file: The file; its folder and those above are searched for the data.
        folder: Folder of the configuration.

    Raises:
        InputError: If it does not fine-tune on answers, or the data are not to be found.
    """
    stage = arguments.get("stage", "sft")
    if stage != "sft":
        raise InputError(
            f"`stage: {stage}` is not fine-tuning on answers.", where=str(file), instead="Only `stage: sft` is read."
        )
    _take(draft, {key: value for key, value in arguments.items() if key not in _DATA and key != "stage"})
    _fill(draft, {**_HF_DEFAULTS, **_LLAMA_FACTORY_DEFAULTS}, "default of LLaMA-Factory")
    rank = draft.values.get("adapter.r", 8)
    if draft.values.get("adapter.kind", "lora") == "lora" and isinstance(rank, int):
        _fill(draft, {"adapter.lora_alpha": 2 * rank}, "default of LLaMA-Factory: twice the rank")
    if draft.values.get("adapter.kind") == "full":
        _drop_adapter_options(draft)
    add_model(draft, folder)
    names = [name.strip() for name in str(arguments.get("dataset") or "").split(",") if name.strip()]
    if "eval_dataset" in arguments:
        draft.leave("eval_dataset", arguments["eval_dataset"], "write it as `test:` of its task")
    if names:
        info = _find_info(file, str(arguments.get("dataset_dir", "data")))
        add_data_sets(draft, info, folder, names, _template(draft, arguments.get("template")))
    if len(draft.tasks) > 1:
        draft.notes.append(
            "There the data sets are mixed; here each is a task, learnt in this order (see `multi-task`)."
        )
    _share_length(draft)


def from_hugging_face(draft: Draft, arguments: Mapping[str, Any], folder: Path) -> None:
    """Arguments of a script on ``TrainingArguments``, of TRL, or of peft's examples."""
    _take(draft, {key: value for key, value in arguments.items() if key not in _HF_DATA and key != "dataset"})
    _fill(draft, _HF_DEFAULTS, "default of transformers")
    add_model(draft, folder, arguments.get("task_type"))
    _add_hub_data(draft, arguments, folder)
    _share_length(draft)


def _take(draft: Draft, arguments: dict[str, Any]) -> None:
    """Takes the arguments over; two of them say one thing together."""
    for name in ("eval_strategy", "evaluation_strategy"):
        steps = arguments.get("eval_steps")
        if arguments.get(name) == "steps" and isinstance(steps, int) and steps > 0:
            draft.put("evaluation.during_training", {"steps": steps}, f"{name}, eval_steps")
            arguments = {key: value for key, value in arguments.items() if key not in (name, "eval_steps")}
    draft.take(arguments)


def _share_length(draft: Draft) -> None:
    """What limits prompt and answer together there is shared between them here."""
    length = draft.values.get("train.max_source_length")
    if isinstance(length, int) and "train.max_target_length" not in draft.values:
        name = draft.comments["train.max_source_length"].partition(",")[0]
        causal = draft.values.get("backbone.task_type", "causal_lm") == "causal_lm"
        for key, value in shared_length(length, causal=causal).items():
            draft.put(f"train.{key}", value, f"{name} {length}, which holds for prompt and answer together")


def _fill(draft: Draft, defaults: Mapping[str, Plain], why: str) -> None:
    for key, value in defaults.items():
        if key not in draft.values:
            draft.put(key, value, why)


def _drop_adapter_options(draft: Draft) -> None:
    """Full fine-tuning has no rank and no targets."""
    for key in [key for key in draft.values if key.startswith("adapter.") and key != "adapter.kind"]:
        draft.leave(key, draft.values.pop(key), "full fine-tuning has no adapters")


def _template(draft: Draft, name: Plain) -> str:
    if name is None or name in _NO_TEMPLATE:
        return "none"
    if name == "alpaca":
        return "alpaca"
    draft.notes.append(f"`template: {name}` is the chat template that the model's own tokenizer brings (`chat`).")
    return "chat"


def _find_info(file: Path, named: str) -> Path:
    """The ``dataset_info.json``: the folder is relative to where LLaMA-Factory is started, often above the file.

    Raises:
        InputError: If it is nowhere.
    """
    if named.startswith("ONLINE") or "://" in named:
        raise InputError(f"`dataset_dir: {named}` is not on this machine.", where=str(file))
    starts = [Path.cwd(), *file.resolve().parents]
    for start in starts:
        info = start / Path(named).expanduser() / FILE
        if info.is_file():
            return info
    raise InputError(
        f"There is no {FILE} in `{named}`, here or above this file.",
        where=f"{file}: dataset_dir",
        instead="Run this in the folder that LLaMA-Factory is started in, or write an absolute `dataset_dir`.",
    )


def _add_hub_data(draft: Draft, arguments: Mapping[str, Any], folder: Path) -> None:
    name = arguments.get("dataset_name") or arguments.get("dataset")
    files = {key: arguments.get(f"{theirs}_file") for key, theirs in _FILES}
    if isinstance(name, str) and name:
        task: dict[str, Plain] = {"name": task_name(name), **dict(_of_name(name, arguments, folder))}
        draft.tasks.append(task)
    elif isinstance(files["train"], str):
        found = {key: relative(Path(path), folder) for key, path in files.items() if isinstance(path, str)}
        draft.tasks.append({"name": task_name(files["train"]), **found})
    for key in ("dataset_config", "dataset_config_name"):
        if isinstance(arguments.get(key), dict):
            draft.leave(key, arguments[key], "write its parts by hand")


_FILES = (("train", "train"), ("dev", "validation"), ("test", "test"))


def _of_name(name: str, arguments: Mapping[str, Any], folder: Path) -> Iterator[tuple[str, Plain]]:
    """Sources of the splits of a data set that is named: a local path wins, as in `datasets`."""
    if Path(name).expanduser().exists():
        yield "train", relative(Path(name), folder)
        return
    subset = arguments.get("dataset_config") or arguments.get("dataset_config_name")
    splits = [part.strip() for part in str(arguments.get("splits") or "").split(",") if part.strip()]
    train = arguments.get("dataset_train_split") or (splits[0] if splits else None)
    test = arguments.get("dataset_test_split") or (splits[1] if len(splits) > 1 else None)
    yield "train", _hub(name, subset, train if train != "train" else None)
    if test:
        yield "test", _hub(name, subset, test)


def _hub(name: str, subset: object, split: object) -> Plain:
    further = {"subset": subset, "split": split}
    given: dict[str, Plain] = {key: value for key, value in further.items() if isinstance(value, str)}
    return {"path": f"hub:{name}", **given} if given else f"hub:{name}"
