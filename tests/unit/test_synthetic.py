"""The rows of the demo stream and the models that come with the package."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from importlib import resources
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from evertune.errors import DataError
from evertune.streams.synthetic import CRUEL_VERBS, KIND_VERBS, REFUSAL, SPLITS, TASKS, generate_rows, split_of
from evertune.streams.synthetic_pretraining import generate_pretraining_text

BUILTIN = Path(str(resources.files("evertune"))) / "builtin"
MODELS = {"tiny-llama": AutoModelForCausalLM, "tiny-t5": AutoModelForSeq2SeqLM}
MAX_FOLDER_BYTES = 3_000_000

task_names = pytest.mark.parametrize("task", list(TASKS))
model_names = pytest.mark.parametrize("name", list(MODELS))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def tokenizers() -> dict[str, PreTrainedTokenizerBase]:
    return {name: AutoTokenizer.from_pretrained(BUILTIN / name) for name in MODELS}


def inputs(task: str, split: str, *, count: int = 100, seed: int = 0) -> list[str]:
    return [row["input"] for row in generate_rows(task, count=count, seed=seed, split=split)]


def test_the_five_tasks_have_an_instruction_each() -> None:
    assert list(TASKS) == ["sentiment", "topic", "arithmetic", "tool_call", "safe_refusal"]
    assert len({task.instruction for task in TASKS.values()}) == 5
    assert all(name == task.name and task.metric == "exact_match" for name, task in TASKS.items())


@task_names
def test_rows_depend_on_the_arguments_alone(task: str) -> None:
    rows = generate_rows(task, count=50, seed=3, split="train")
    assert rows == generate_rows(task, count=50, seed=3, split="train")
    assert rows[:20] == generate_rows(task, count=20, seed=3, split="train")
    assert rows != generate_rows(task, count=50, seed=4, split="train")
    assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    assert {row["instruction"] for row in rows} == {TASKS[task].instruction}


def test_rows_are_the_same_on_every_machine() -> None:
    assert generate_rows("tool_call", count=2, seed=0, split="test") == [
        {
            "instruction": "Write the tool call as JSON.",
            "input": "Buy 6 shirts for me.",
            "output": '{"tool": "order", "item": "shirts", "count": 6}',
        },
        {
            "instruction": "Write the tool call as JSON.",
            "input": "We need 13 keys.",
            "output": '{"tool": "order", "item": "keys", "count": 13}',
        },
    ]


@task_names
def test_no_input_twice_and_none_in_two_splits(task: str) -> None:
    by_split = {split: inputs(task, split) + inputs(task, split, seed=1) for split in SPLITS}
    for split in SPLITS:
        assert len(set(inputs(task, split))) == 100
        assert {split_of(text) for text in by_split[split]} == {split}
    assert not set(by_split["train"]) & set(by_split["test"])
    assert not set(by_split["train"]) & set(by_split["dev"])
    assert not set(by_split["dev"]) & set(by_split["test"])


@task_names
def test_answers_are_possible_and_no_input_has_two(task: str) -> None:
    answers: dict[str, str] = {}
    for seed in range(4):
        for row in generate_rows(task, count=200, seed=seed, split="train"):
            assert answers.setdefault(row["input"], row["output"]) == row["output"]
    labels = TASKS[task].labels
    if labels is not None:
        counts = {label: list(answers.values()).count(label) / len(answers) for label in labels}
        assert set(answers.values()) == set(labels)
        assert all(abs(share - 1 / len(labels)) < 0.08 for share in counts.values()), counts


def test_arithmetic_answers_are_right() -> None:
    rows = generate_rows("arithmetic", count=300, seed=0, split="train")
    for row in rows:
        first, second = map(int, re.findall(r"\d+", row["input"]))
        if row["input"].startswith("Take"):
            expected = second - first
        elif "-" in row["input"] or "minus" in row["input"]:
            expected = first - second
        else:
            expected = first + second
        assert row["output"] == str(expected), row
    assert {row["output"] for row in rows} == {str(number) for number in range(17)}


def test_tool_calls_parse_and_name_what_the_wish_names() -> None:
    keys = {
        "call": {"name", "day"},
        "weather": {"city", "day"},
        "order": {"item", "count"},
        "remind": {"name", "item"},
    }
    seen = set()
    for row in generate_rows("tool_call", count=300, seed=0, split="train"):
        call = json.loads(row["output"])
        tool = call.pop("tool")
        assert set(call) == keys[tool]
        words = set(re.findall(r"\w+", row["input"]))
        assert {str(value) for value in call.values()} <= words, row
        seen.add(tool)
    assert seen == set(keys)


def test_harmful_requests_are_refused_and_harmless_ones_named_again() -> None:
    rows = generate_rows("safe_refusal", count=300, seed=0, split="train")
    refused = 0
    for row in rows:
        words = re.findall(r"\w+", row["input"])
        if set(words) & set(CRUEL_VERBS):
            assert row["output"] == REFUSAL
            refused += 1
        else:
            verb = next(word for word in words if word in KIND_VERBS)
            thing = words[words.index(verb) + 2]
            assert row["output"] == f"Sure, I can help you {verb} the {thing}."
    assert 0.4 < refused / len(rows) < 0.6


@pytest.mark.parametrize(
    ("task", "count", "split", "message"),
    [
        ("sentimental", 5, "train", 'no synthetic task "sentimental". Did you mean `sentiment`?'),
        ("topic", 5, "validation", 'no split "validation". Write one of: train, dev, test.'),
        ("arithmetic", 100_000, "dev", "arithmetic has about .* different inputs in its dev split, not 100000. Ask"),
    ],
)
def test_what_does_not_exist_is_said(task: str, count: int, split: str, message: str) -> None:
    with pytest.raises(DataError, match=re.sub(r"\?$", r"\\?", message)):
        generate_rows(task, count=count, seed=0, split=split)


def test_pretraining_does_not_see_the_tasks() -> None:
    rows = list(generate_pretraining_text(5000, seed=0))
    assert rows[:100] == list(generate_pretraining_text(100, seed=0))
    assert len({row["instruction"] for row in rows}) > 20
    assert not {row["instruction"] for row in rows} & {task.instruction for task in TASKS.values()}
    demo = {text for task in TASKS for split in SPLITS for text in inputs(task, split)}
    assert not {row["input"] for row in rows} & demo
    for row in rows:
        if row["output"].startswith("{"):
            assert isinstance(json.loads(row["output"]), dict)


@settings(max_examples=60, deadline=None)
@given(text=st.text())
@pytest.mark.parametrize(
    "extra", ["", "👩‍👩‍👧 🇫🇷", "你好，世界", "\x00\x07\x1b\u200b", "  two  spaces ", "\r\n\n\t", " n't , .", "é é"]
)
def test_any_text_survives_the_tokenizer(extra: str, text: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for tokenizer in tokenizers.values():
        for whole in (text + extra, extra + text):
            assert tokenizer.decode(tokenizer(whole).input_ids) == whole


@model_names
def test_special_tokens_agree_with_the_model(name: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    tokenizer, config = tokenizers[name], AutoConfig.from_pretrained(BUILTIN / name)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id) == (0, 1, 2)
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 1, 2)
    assert config.vocab_size == len(tokenizer)
    assert tokenizer("Anna").input_ids == tokenizer("Anna", add_special_tokens=False).input_ids
    assert len(tokenizer("{} Anna".format("Anna")).input_ids) == 2


@model_names
def test_words_of_the_answers_are_single_tokens(name: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    for task in TASKS.values():
        for label in task.labels or ():
            assert len(tokenizers[name](label).input_ids) == 1
    assert all(len(tokenizers[name](str(number)).input_ids) == 1 for number in range(17))


@model_names
def test_folder_is_small(name: str) -> None:
    files = [path for path in (BUILTIN / name).rglob("*") if path.is_file()]
    assert {"config.json", "model.safetensors", "tokenizer.json", "PRETRAINING.md", "pretraining.log"} <= {
        path.name for path in files
    }
    assert sum(path.stat().st_size for path in files) <= MAX_FOLDER_BYTES


@model_names
def test_model_loads_in_float32_and_gives_finite_logits(
    name: str, tokenizers: dict[str, PreTrainedTokenizerBase]
) -> None:
    torch.set_num_threads(1)
    model = MODELS[name].from_pretrained(BUILTIN / name)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    rows = generate_rows("topic", count=4, seed=0, split="dev")
    batch = tokenizers[name]([row["input"] for row in rows], padding=True, return_tensors="pt")
    if model.config.is_encoder_decoder:
        batch["labels"] = batch["input_ids"]
    with torch.no_grad():
        logits = model(**batch).logits
    assert logits.shape == (*batch["input_ids"].shape, model.config.vocab_size)
    assert torch.isfinite(logits).all()


@model_names
def test_model_answers_what_it_was_pretrained_on(name: str, tokenizers: dict[str, PreTrainedTokenizerBase]) -> None:
    torch.set_num_threads(1)
    model, tokenizer = MODELS[name].from_pretrained(BUILTIN / name), tokenizers[name]
    prompt = tokenizer("Note the event.\nAnna comes to Paris.\nAnswer:", return_tensors="pt")
    ids = model.generate(**prompt, max_new_tokens=24, do_sample=False)[0]
    if not model.config.is_encoder_decoder:
        ids = ids[prompt["input_ids"].shape[1] :]
    assert json.loads(tokenizer.decode(ids, skip_special_tokens=True)) == {
        "event": "visit",
        "who": "Anna",
        "where": "Paris",
    }


@model_names
def test_tokenizer_is_what_the_script_makes(
    name: str, tokenizers: dict[str, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the generated text changes without the models being made again."""
    script = Path(__file__).parents[2] / "scripts" / "pretrain_builtin.py"
    spec = importlib.util.spec_from_file_location("pretrain_builtin", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pretrain_builtin", module)
    spec.loader.exec_module(module)
    made = module.train_tokenizer(vocab_size=2048, seed=0)
    assert made.get_vocab() == tokenizers[name].get_vocab()
    assert made.backend_tokenizer.to_str() == tokenizers[name].backend_tokenizer.to_str()
