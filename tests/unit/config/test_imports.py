"""`evertune init --from` of other fine-tuners' files: every key is taken over, or named with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from evertune.config.imports.importing import ImportedFile, import_file, is_old_run, write_imported
from evertune.config.load import load_config
from evertune.errors import ConfigError, InputError
from evertune.settings import RunSettings

INFO: dict[str, Any] = {
    "identity": {"file_name": "identity.json"},
    "alpaca_en": {
        "hf_hub_url": "own/alpaca",
        "ms_hub_url": "x/y",
        "subset": "s",
        "split": "train[:9]",
        "num_samples": 5,
    },
    "renamed": {"file_name": "sub/r.jsonl", "columns": {"prompt": "text", "response": "label", "history": "h"}},
    "chat": {
        "file_name": "c.json",
        "formatting": "sharegpt",
        "columns": {"messages": "dialog", "tools": "tools"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "bot"},
    },
    "openai": {
        "file_name": "o.json",
        "formatting": "sharegpt",
        "columns": {"messages": "messages"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    },
    "pairs": {"file_name": "d.json", "ranking": True},
    "elsewhere": {"ms_hub_url": "x/y"},
    "liked": {"file_name": "k.json", "columns": {"prompt": "p", "response": "r", "kto_tag": "label"}},
    "plain": {"file_name": "wiki.txt", "columns": {"prompt": "text"}},
    "re-named": {"hf_hub_url": "wiki_qa", "columns": {"prompt": "input", "response": "target"}},
    "re_named": {"file_name": "a.json", "columns": {"prompt": "instruction", "query": "q", "response": "output"}},
    "pictures": {"file_name": "p.json", "formatting": "sharegpt", "columns": {"messages": "m", "images": "i"}},
}
FACTORY: dict[str, Any] = {
    "model_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": 16,
    "lora_target": "all",
    "dataset": "identity,alpaca_en,chat",
    "template": "llama3",
    "cutoff_len": 2048,
    "max_samples": 1000,
    "output_dir": "saves/sft",
    "per_device_train_batch_size": 1,
    "learning_rate": "1.0e-4",
    "lr_scheduler_type": "cosine",
    "warmup_ratio": 0.1,
    "bf16": True,
    "ddp_timeout": 180000000,
    "val_size": 0.1,
    "eval_strategy": "steps",
    "eval_steps": 500,
    "unheard_of": 3,
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_info.json").write_text(json.dumps(INFO))
    return tmp_path


def imported(content: Mapping[str, Any], name: str = "theirs.yaml", **options: Any) -> tuple[ImportedFile, RunSettings]:
    """The file, and the settings that it loads to from a folder of its own."""
    Path(name).write_text(json.dumps(content))  # which is YAML too
    target = Path("ours/own.yaml")
    found = import_file(Path(name), target, **options)
    write_imported(found, target)
    return found, load_config(target)


def left(found: ImportedFile) -> dict[str, str]:
    return {each.key: each.why for each in found.draft.left}


def test_a_training_file_of_llama_factory(here: Path) -> None:
    found, settings = imported(FACTORY)
    train, backbone, adapter = settings.first.train, settings.backbone, settings.adapter
    assert (train.learning_rate, train.lr_scheduler_type, train.warmup_ratio) == (1e-4, "cosine", 0.1)
    assert train.num_train_epochs == 3  # what holds there where nothing is written
    assert (train.max_source_length, train.max_target_length) == (1536, 512)  # 2048 together
    assert (backbone.path, backbone.dtype, backbone.trust_remote_code) == (
        FACTORY["model_name_or_path"],
        "bfloat16",
        True,
    )
    assert (adapter.kind, adapter.r, adapter.lora_alpha, adapter.target) == ("lora", 16, 32, "all-linear")
    assert settings.output_dir == here / "saves" / "sft"
    assert settings.first.evaluation.during_training.steps == 500  # type: ignore[union-attr]
    stream: Any = settings.stream
    assert (stream.dev_fraction, stream.max_train_samples) == (0.1, 1000)
    assert [task.name for task in stream.tasks] == ["identity", "alpaca-en", "chat"]
    assert stream.tasks[0].train == here / "data" / "identity.json"
    assert {task.template for task in stream.tasks} == {"chat"}
    assert {key: left(found)[key] for key in ("unheard_of", "do_train", "ddp_timeout")} == {
        "unheard_of": "nothing here is known by this name",
        "do_train": "a run trains, and scores every task",
        "ddp_timeout": "devices and processes are chosen where the run is started",
    }
    assert "#   unheard_of: 3: nothing here is known by this name" in found.text.splitlines()
    assert any("mixed" in note for note in found.draft.notes)


def test_no_key_is_dropped_silently(here: Path) -> None:
    found, _ = imported(FACTORY)
    named = set(left(found)) | {name for comment in found.draft.comments.values() for name in comment.split(", ")}
    said = named | {key.rpartition(".")[2] for key in found.draft.values}
    said |= {"dataset", "template", "stage", "cutoff_len"}  # which became tasks, lengths, and what is read at all
    assert set(FACTORY) - said == set()
    assert "cutoff_len 2048" in found.text
    assert "`template: llama3`" in found.text


def test_every_entry_of_a_list_of_data_sets(here: Path) -> None:
    found = import_file(Path("data/dataset_info.json"), Path("ours/own.yaml"), method="replay")
    tasks = {task["name"]: task for task in yaml.safe_load(found.text)["stream"]["tasks"]}
    assert list(tasks) == ["identity", "alpaca-en", "renamed", "chat", "openai", "re-named", "re-named-2"]
    assert (tasks["re-named"]["train"], tasks["re-named"]["columns"]) == ("hub:wiki_qa", {"output": "target"})
    assert tasks["re-named-2"]["columns"] == {"input": "q"}
    assert tasks["alpaca-en"]["train"] == {"path": "hub:own/alpaca", "subset": "s", "split": "train[:9]"}
    assert tasks["alpaca-en"]["max_train_samples"] == 5
    assert tasks["renamed"] == {
        "name": "renamed",
        "train": "../data/sub/r.jsonl",
        "template": "alpaca",
        "columns": {"input": "text", "output": "label"},
    }
    assert (tasks["chat"]["template"], tasks["chat"]["columns"]) == ("chat", {"conversations": "dialog"})
    assert "columns" not in tasks["openai"]
    assert left(found) == {
        "alpaca_en.ms_hub_url": "no such option here",
        "renamed.columns.history": "earlier turns in pairs are not read: write rows of messages",
        "chat.tags.assistant_tag": "only the usual tags are read: rewrite the file",
        "pairs": "pairs of a better and a worse answer are not learnt here",
        "liked": "marks of good and bad answers are not learnt here",
        "plain": "its rows have no answers",
        "elsewhere": "it is had through ms_hub_url alone, which is not read",
        "pictures": "rows with images are not read as dialogues here",
    }
    assert "name: replay" in found.text


PEFT_ARGUMENTS = {
    "model_name_or_path": "mistralai/Mistral-7B-v0.1",
    "dataset_name": "smangrul/ultrachat-10k",
    "splits": "train,test",
    "chat_template_format": "chatml",
    "max_seq_length": 400,
    "num_train_epochs": 1,
    "learning_rate": 2e-5,
    "use_peft_lora": True,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": "q_proj,v_proj",
    "use_4bit_quantization": True,
    "bnb_4bit_quant_type": "nf4",
    "fp16": False,
    "bf16": True,
    "use_flash_attn": True,
    "push_to_hub": True,
    "optim": "paged_adamw_8bit",
    "load_best_model_at_end": True,
    "eval_strategy": "epoch",
}


def test_arguments_of_peft_examples(here: Path) -> None:
    found, settings = imported(PEFT_ARGUMENTS, "arguments.json")
    assert settings.adapter.target == ("q_proj", "v_proj")
    assert (settings.adapter.r, settings.adapter.lora_alpha, settings.adapter.lora_dropout) == (8, 16, 0.1)
    backbone, train, evaluation = settings.backbone, settings.first.train, settings.first.evaluation
    assert (backbone.quantization, backbone.dtype, backbone.attn_implementation) == (
        "nf4",
        "bfloat16",
        "flash_attention_2",
    )
    assert (train.max_source_length, train.max_target_length, train.lr_scheduler_type) == (300, 100, "linear")
    assert (evaluation.during_training, evaluation.keep) == ("epoch", "best")
    stream: Any = settings.stream
    (task,) = stream.tasks
    assert (task.train, task.test.name, task.test.split) == (
        "hub:smangrul/ultrachat-10k",
        "smangrul/ultrachat-10k",
        "test",
    )
    reasons = left(found)
    assert reasons["optim"] == "no such optimiser here"
    assert reasons["fp16"] == "`backbone.dtype` is not set by it"
    assert set(reasons) == {
        "optim",
        "fp16",
        "push_to_hub",
        "bnb_4bit_quant_type",
        "use_peft_lora",
        "chat_template_format",
    }


@pytest.mark.parametrize(
    ("value", "target"),
    [
        ("all-linear", "all-linear"),
        ("all", "all-linear"),
        ("q_proj", ("q_proj",)),
        ("q_proj, k_proj", ("q_proj", "k_proj")),
        (["q", "v"], ("q", "v")),
        (r".*\.(q|v)_proj", r".*\.(q|v)_proj"),
    ],
)
def test_target_modules_in_all_their_forms(here: Path, value: Any, target: Any) -> None:
    _, settings = imported({"model_name_or_path": "builtin:tiny-llama", "lora_target_modules": value})
    assert settings.adapter.target == target
    assert type(settings.stream).__name__ == "Synthetic"  # no data were named


def test_files_as_data_and_two_ways_to_say_one_thing(here: Path) -> None:
    content = {"model_name_or_path": "t5-small", "train_file": "a.json", "test_file": "b.json", "bf16": True}
    found, settings = imported({**content, "torch_dtype": "float16"})
    stream: Any = settings.stream
    assert (stream.tasks[0].train, stream.tasks[0].test) == (here / "a.json", here / "b.json")
    assert settings.backbone.task_type == "seq2seq_lm"
    assert left(found) == {"torch_dtype": '`backbone.dtype` is "bfloat16" already'}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**FACTORY, "stage": "dpo"}, "theirs.yaml: `stage: dpo` is not fine-tuning on answers."),
        ({**FACTORY, "dataset": "identty"}, "There is no data set `identty` here. Did you mean `identity`?"),
        ({**FACTORY, "dataset": "pairs"}, "No data set of this file can be read. pairs: "),
        ({**FACTORY, "dataset_dir": "gone"}, "theirs.yaml: dataset_dir: There is no dataset_info.json in `gone`"),
        ({**FACTORY, "learning_rate": 0}, "theirs.yaml: learning_rate: must be greater than 0, got 0."),
        ({**FACTORY, "lora_rank": 0}, "theirs.yaml: lora_rank: must be at least 1, got 0."),
        ({"a": 1, "b": 2}, "theirs.yaml: No key of this file is known."),
        ({}, "theirs.yaml: This file holds no keys and values."),
    ],
)
def test_what_cannot_be_imported(here: Path, content: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        imported(content)
    assert said in str(caught.value)
    assert not Path("ours/own.yaml").exists()


def test_which_files_are_launch_scripts(here: Path) -> None:
    contents: dict[str, tuple[str, bool]] = {
        "run.sh": ("python train.py", True),
        "noending": ("", True),
        "old.json": ('{"task_config_dir": "x", "lamda_1": 0.5}', True),
        "broken.json": ("{", True),
        "list.json": ("[1]", True),
        "peft.json": ('{"peft_type": "LORA"}', False),
        "info.json": (json.dumps(INFO), False),
        "new.json": ('{"lora_r": 8}', False),
        "new.yml": ("lora_r: 8", False),
    }
    for name, (text, _) in contents.items():
        Path(name).write_text(text)
    assert {name: is_old_run(Path(name)) for name in contents} == {name: old for name, (_, old) in contents.items()}


@pytest.mark.parametrize(
    ("line", "advice"),
    [
        ("model_name_or_path: x", "Did you mean `backbone.path`?"),
        ("lora_r: 8", "Did you mean `adapter.r`?"),
        ("lora_target_modules: [q]", "Did you mean `adapter.target`?"),
        ("bf16: true", "Write `backbone.dtype: bfloat16`."),
        ("dataset: x", "Did you mean `stream`?"),
        ("cutoff_len: 9", "Did you mean `train.max_source_length`?"),
        ("adapter: {lora_rank: 8}", "Did you mean `r`?"),
        ("train: {fp16: true}", "Write `backbone.dtype: float16`."),
    ],
)
def test_their_words_in_our_file_are_answered_with_ours(here: Path, line: str, advice: str) -> None:
    Path("own.yaml").write_text(f"stream: synthetic\nbackbone: {{path: builtin:tiny-llama}}\n{line}\n")
    with pytest.raises(ConfigError) as caught:
        load_config("own.yaml")
    assert str(caught.value).endswith(advice)
