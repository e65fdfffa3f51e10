"""The encoder that comes with the package: every architecture reads it, and its tokenizer knows where words stand."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from evertune.adapters.spec import AdapterSpec
from evertune.adapters.targets import resolve_targets
from evertune.backbones.builtin import builtin_folder, builtin_names
from evertune.config.models import task_type_of
from evertune.streams.synthetic_pretraining import generate_pretraining_text

FOLDER = builtin_folder("tiny-bert")
TEXT = "Anna paid 3 crêpes (today) in Paris: 日本."


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(FOLDER)


def load(kind: Any) -> tuple[Any, set[str], set[str]]:
    model, report = kind.from_pretrained(FOLDER, output_loading_info=True)
    assert not report["mismatched_keys"]
    return model, set(report["missing_keys"]), set(report["unexpected_keys"])


def test_it_is_small_and_safe() -> None:
    assert "tiny-bert" in builtin_names()
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 3_500_000
    assert {file.suffix for file in FOLDER.iterdir()} == {".json", ".safetensors", ".md", ".log"}
    config = json.loads((FOLDER / "config.json").read_text())
    assert config["architectures"] == ["BertForMaskedLM"]
    assert config["dtype"] == "float32"
    assert task_type_of(FOLDER) is None, "several task types fit"


@pytest.mark.parametrize(
    ("kind", "new", "unused"),
    [
        (AutoModel, "", "cls."),
        (AutoModelForMaskedLM, "", "bert.pooler."),
        (AutoModelForSequenceClassification, "classifier.", "cls."),
        (AutoModelForTokenClassification, "classifier.", ("cls.", "bert.pooler.")),
        (AutoModelForQuestionAnswering, "qa_outputs.", ("cls.", "bert.pooler.")),
    ],
)
def test_every_architecture_reads_it(kind: Any, new: str, unused: str | tuple[str, ...]) -> None:
    model, missing, unexpected = load(kind)
    assert all(name.startswith(new) for name in missing) if new else not missing
    assert all(name.startswith(unused) for name in unexpected)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 5e5 < model.num_parameters() < 1e6
    ids = torch.randint(5, 1600, (1, 512))
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids)[0]).all(), "as long as the positions go"


def test_offsets_are_those_of_words(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.is_fast
    found = tokenizer(TEXT, return_offsets_mapping=True)
    places = [place for place in found["offset_mapping"] if place != (0, 0)]
    assert "".join(TEXT[start:end] for start, end in dict.fromkeys(places)).replace(" ", "") == TEXT.replace(" ", "")
    for word in ("Anna", "Paris", "today"):
        start = TEXT.index(word)
        assert any(place[0] == start for place in places)
        assert any(place[1] == start + len(word) for place in places), word


def test_words_that_are_split_already(tokenizer: PreTrainedTokenizerBase) -> None:
    words = ["Anna", "went", "to", "São", "Paulo"]
    found = tokenizer(words, is_split_into_words=True)
    assert {index for index in found.word_ids() if index is not None} == set(range(len(words)))
    assert found["input_ids"] == tokenizer(" ".join(words))["input_ids"]


def test_frames(tokenizer: PreTrainedTokenizerBase) -> None:
    found = tokenizer("Who is it?", "Anna")
    tokens = tokenizer.convert_ids_to_tokens(found["input_ids"])
    assert tokens[0] == "[CLS]"
    assert tokens.count("[SEP]") == 2
    first = tokens.index("[SEP]") + 1
    assert found["token_type_ids"] == [0] * first + [1] * (len(tokens) - first)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.mask_token == "[MASK]"
    assert tokenizer("Paris")["input_ids"] != tokenizer("paris")["input_ids"], "case is kept"
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"], skip_special_tokens=True).strip() == TEXT


def test_it_fills_gaps(tokenizer: PreTrainedTokenizerBase) -> None:
    model, _, _ = load(AutoModelForMaskedLM)
    right = []
    torch.manual_seed(0)
    for row in generate_pretraining_text(100, seed=7):
        ids = tokenizer(f"{row['instruction']}\n{row['input']}\nAnswer:", row["output"], return_tensors="pt")
        gap = int(torch.randint(1, ids["input_ids"].shape[1] - 1, ()))
        expected = int(ids["input_ids"][0, gap])
        ids["input_ids"][0, gap] = tokenizer.mask_token_id
        with torch.no_grad():
            right.append(int(model(**ids).logits[0, gap].argmax()) == expected)
    assert sum(right) > 60, "the commonest token would be right in 8 of 100"


def test_adapters_find_their_places() -> None:
    model, _, _ = load(AutoModelForSequenceClassification)
    paths = resolve_targets(model, AdapterSpec()).paths
    assert {path.rpartition(".")[2] for path in paths} == {"query", "value"}
    assert len(paths) == 6


def test_the_tokenizer_is_what_the_script_makes(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails when the generated text changes without the model being made again."""
    scripts = Path(__file__).parents[3] / "scripts"
    monkeypatch.syspath_prepend(str(scripts))
    spec = importlib.util.spec_from_file_location("pretrain_builtin_bert", scripts / "pretrain_builtin_bert.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "pretrain_builtin_bert", module)
    spec.loader.exec_module(module)
    made = module.train_tokenizer(vocab_size=2048, seed=0)
    assert made.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
