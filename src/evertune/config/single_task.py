"""One task from a few options: the configuration that says the same."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from evertune import dialect
from evertune.backbones import BACKBONES
from evertune.backbones.builtin import PREFIX, builtin_root
from evertune.config.load import load_config
from evertune.config.marks import Plain, parse
from evertune.config.models import task_type_of
from evertune.config.overrides import apply_overrides
from evertune.config.typed import Findings
from evertune.errors import ConfigError, InputError, Problem
from evertune.files import write_text
from evertune.streams.readers import shown_path
from evertune.training.config import TrainConfig

PEFT_TASK_TYPES: Mapping[str, str] = {
    "CAUSAL_LM": "causal_lm",
    "SEQ_2_SEQ_LM": "seq2seq_lm",
    "SEQ_CLS": "sequence_classification",
    "TOKEN_CLS": "token_classification",
    "QUESTION_ANS": "question_answering",
}
"""What peft calls task types, and what they are called here."""

FLAGS: Mapping[str, str] = {
    "backbone.path": "--model",
    "backbone.task_type": "--task-type",
    "backbone.quantization": "--quantization",
    "adapter.config": "--adapter",
    "train.num_train_epochs": "--epochs",
    "train.learning_rate": "--learning-rate",
    "train.per_device_train_batch_size": "--batch-size",
    "train.max_source_length": "--max-length",
    "seed": "--seed",
}
"""Keys to the options of `evertune train` that set them."""

_ALWAYS_WRITTEN = (
    "num_train_epochs",
    "learning_rate",
    "per_device_train_batch_size",
    "max_source_length",
    "max_target_length",
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train",),
    "test": ("test",),
    "dev": ("dev", "validation", "valid", "eval"),
}
_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, kw_only=True)
class SingleTask:
    """One task, as options on the command line say it.

    Attributes:
        model: Local folder, hub id or built-in name.
        dataset: File, folder, ``hub:owner/name`` or ``owner/name``; what exists locally wins.
        adapter: A peft ``adapter_config.json``; None for LoRA with its defaults.
        output_dir: The run folder; ``runs/<name of the data>`` if None.
        task_type: What the model is asked to do; told by the adapter's file or the model's own if None.
        quantization: ``nf4`` or ``int8``.
        max_length: Most tokens of prompt and answer together; of an encoder's input.
        seed: The seed; None for the default.
        train: Options of the section `train` that were given.
        overrides: Further ``key.path=value``.
    """

    model: str
    dataset: str
    adapter: Path | None = None
    output_dir: Path | None = None
    task_type: str | None = None
    quantization: str | None = None
    max_length: int | None = None
    seed: int | None = None
    train: Mapping[str, Plain] = field(default_factory=dict[str, Plain])
    overrides: Sequence[str] = ()


def configuration_file(task: SingleTask) -> Path:
    """Where the configuration is written: beside the run folder where that is named, else in the current folder.

    Not in the run folder, which holds what a run writes and nothing else.

    Raises:
        InputError: If the run folder is the root of the file system.
    """
    if task.output_dir is not None:
        # `.` and `..` have no name of their own.
        folder = task.output_dir.expanduser().resolve() if task.output_dir.name in ("", "..") else task.output_dir
        if not folder.name:
            what = f"{task.output_dir} has no folder around it, where the configuration would stand."
            raise InputError(what, where="--output-dir", instead="Name a folder.")
        return folder.expanduser().with_name(f"{folder.name}.yaml")
    return Path(f"{task_name(task.dataset)}.yaml")


def configuration_text(task: SingleTask, file: Path) -> str:
    """The configuration as YAML.

    Args:
        task: What was asked for.
        file: Where the configuration will stand: its relative paths start there.

    Raises:
        InputError: If data or adapter are not there, or nothing tells the task type.
    """
    folder = file.expanduser().resolve().parent
    name = task_name(task.dataset)
    output = task.output_dir.expanduser().resolve() if task.output_dir is not None else folder / "runs" / name
    backbone = _backbone(task, folder)
    written: dict[str, Any] = {
        "seed": 42 if task.seed is None else task.seed,
        "output_dir": _relative(output, folder),
        "stream": {"name": "instructions", "tasks": [{"name": name, **_sources(task.dataset, folder)}]},
        "backbone": backbone,
        "adapter": _adapter(task.adapter, folder),
        "method": "seq-lora",
        "train": {
            **{key: getattr(TrainConfig(), key) for key in _ALWAYS_WRITTEN},
            **_lengths(task, str(backbone["task_type"])),
            **task.train,
        },
    }
    shown = _with_overrides(written, task.overrides, folder)
    return f"# One task, as `evertune train` was asked for it. Paths are relative to this file.\n{dialect.dump(shown)}"


def write_configuration(task: SingleTask) -> Path:
    """Writes the configuration and loads it once; a file that says the same already is left as it is.

    Returns:
        Its path.

    Raises:
        InputError: If anything is wrong, by the option that it was given with; nothing is left behind then.
    """
    file = configuration_file(task)
    text = configuration_text(task, file)
    if file.exists():
        if file.read_text(encoding="utf-8", errors="replace") != text:
            raise InputError(
                "This file exists and says something else.",
                where=str(file),
                instead="Name another `--output-dir`, or remove the file.",
            )
        load_config(file)
        return file
    write_text(file, text)
    try:
        load_config(file)
    except ConfigError as error:
        file.unlink()
        raise InputError([_at_option(problem, file) for problem in error.problems]) from error
    return file


def task_name(dataset: str) -> str:
    """A name for the task that can become a file name: of the file, the folder or the data set."""
    last = dataset.removeprefix("hub:").rstrip("/").rpartition("/")[2]
    stem = last.removesuffix(Path(last).suffix) if Path(last).suffix in _ENDINGS else last
    kept = "".join(character if character.isascii() and character.isalnum() else "-" for character in stem)
    return re.sub("-+", "-", kept).strip("-").lower() or "task"


def peft_task_type(file: Path) -> str | None:
    """The task type that a peft file names, in our words; None if it names none that exists here.

    Raises:
        InputError: If it cannot be read.
    """
    return PEFT_TASK_TYPES.get(str(read_peft_file(file).get("task_type")))


def read_peft_file(file: Path) -> dict[str, Any]:
    """The keys of an ``adapter_config.json``, or of one in a folder of that name.

    Raises:
        InputError: If it is not there or is no JSON object.
    """
    file = file / "adapter_config.json" if file.is_dir() else file
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(
            f"This file cannot be read: {error.strerror}.", where=str(file), instead="Name an adapter_config.json."
        ) from error
    except ValueError as error:
        raise InputError(f"This is not JSON: {error}.", where=str(file)) from error
    if not isinstance(content, dict):
        raise InputError("This file holds no JSON object.", where=str(file), instead="Name an adapter_config.json.")
    return cast("dict[str, Any]", content)


def shared_length(length: int, *, causal: bool) -> dict[str, Plain]:
    """A limit of prompt and answer together, as ours of each: a quarter is the answer's.

    Args:
        length: The limit, in tokens.
        causal: Whether both stand in one sequence; otherwise the prompt has the whole length for itself.
    """
    answer = max(length // 4, 2)
    return {"max_source_length": length - answer if causal else length, "max_target_length": answer}


def _lengths(task: SingleTask, task_type: str) -> dict[str, Plain]:
    if task.max_length is None:
        return {}
    if task_type in ("causal_lm", "seq2seq_lm"):
        return shared_length(task.max_length, causal=task_type == "causal_lm")
    return {"max_source_length": task.max_length}


def _backbone(task: SingleTask, folder: Path) -> dict[str, Plain]:
    path = Path(task.model).expanduser()
    local = not task.model.startswith(PREFIX) and path.exists()
    found: dict[str, Plain] = {"path": _relative(path.resolve(), folder) if local else task.model}
    found["task_type"] = task.task_type or _task_type(task, path)
    if task.quantization is not None:
        found["quantization"] = task.quantization
    return found


def _task_type(task: SingleTask, path: Path) -> str:
    told = peft_task_type(task.adapter) if task.adapter is not None else None
    if told is None:
        built_in = task.model.startswith(PREFIX)
        told = task_type_of(builtin_root() / task.model.removeprefix(PREFIX) if built_in else path)
    if told is None and _HUB_ID.fullmatch(task.model) and not path.exists():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(task.model, "config.json")
        told = task_type_of(Path(cached).parent) if isinstance(cached, str) else None
    if told is None:
        what = f"Neither the adapter's file nor the configuration of {task.model} tells what it is asked to do."
        raise InputError(what, where="--task-type", instead=f"Write one of: {', '.join(BACKBONES.names())}.")
    return told


def _adapter(file: Path | None, folder: Path) -> dict[str, Plain]:
    if file is None:
        return {"kind": "lora", "r": 8, "lora_alpha": 16}
    read_peft_file(file)
    path = file / "adapter_config.json" if file.is_dir() else file
    return {"config": _relative(path.expanduser().resolve(), folder)}


def _sources(dataset: str, folder: Path) -> dict[str, Plain]:
    """The splits of the data, and where each is."""
    path = Path(dataset).expanduser()
    if path.is_dir():
        return {split: _relative(source.resolve(), folder) for split, source in _in_folder(path).items()}
    if path.exists():
        return {"train": _relative(path.resolve(), folder)}
    if dataset.startswith("hub:"):
        return {"train": dataset}
    if _HUB_ID.fullmatch(dataset) and path.suffix not in _ENDINGS:
        return {"train": f"hub:{dataset}"}
    raise InputError(
        f"There is no such file: {shown_path(path)}.",
        where="--dataset",
        instead="Name a file, a folder, or a data set of the hub as `hub:owner/name`.",
    )


def _in_folder(path: Path) -> dict[str, Path]:
    """Splits of a folder: one that `datasets` saved, or one with a file for each."""
    if (path / "state.json").is_file():
        return {"train": path}
    if (path / "dataset_dict.json").is_file():
        names = _saved_splits(path / "dataset_dict.json")
        return {split: path for split, known in _SPLITS.items() if split == "train" or set(known) & names}
    files = [entry for entry in sorted(path.iterdir()) if entry.suffix.lower() in _ENDINGS]
    found = {
        split: next(file for file in files if file.stem.lower() in names)
        for split, names in _SPLITS.items()
        if any(file.stem.lower() in names for file in files)
    }
    if "train" in found:
        return found
    if len(files) == 1:
        return {"train": files[0]}
    inside = ", ".join(entry.name for entry in sorted(path.iterdir())[:12]) or "nothing"
    raise InputError(
        f"The folder {shown_path(path)} has no file of training rows; in it: {inside}.",
        where="--dataset",
        instead="Name the file, or call it train.jsonl.",
    )


def _saved_splits(file: Path) -> set[str]:
    """The splits of a folder that `datasets` saved.

    Raises:
        InputError: If its list of them is damaged.
    """
    try:
        content: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        content = None
    names = cast("dict[str, Any]", content).get("splits", ["train"]) if isinstance(content, dict) else None
    if not isinstance(names, list):
        instead = "Save the data again with `save_to_disk`."
        raise InputError("This file lists no splits.", where=str(file), instead=instead)
    return {str(name) for name in cast("list[Any]", names)}


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def _with_overrides(written: dict[str, Any], overrides: Sequence[str], folder: Path) -> Plain:
    """The configuration with further keys set; a path among them is written as it must be read there."""
    findings = Findings()
    root = parse(dialect.dump(written), source="evertune train", folder=folder)
    root = apply_overrides(root, [_moved(override, folder) for override in overrides], findings, folder)
    if findings.problems:
        raise InputError(findings.problems)
    return root.plain


def _moved(override: str, folder: Path) -> str:
    key, _, value = override.partition("=")
    is_path = "/" in value or Path(value).suffix in _ENDINGS
    return f"{key}={_relative(Path(value).resolve(), folder)}" if is_path and Path(value).exists() else override


def _at_option(problem: Problem, file: Path) -> Problem:
    """A problem of the file, which is gone by now, at the option that wrote what is wrong; others where they are."""
    if re.match(r".*:\d+:\d+", problem.where) and not problem.where.startswith(f"{file}:"):
        return problem
    key = re.sub(r"^.*:\d+:\d+:? ?", "", problem.where)
    return Problem(FLAGS.get(key) or (f"--set {key}" if key else "evertune train"), problem.what, problem.instead)
