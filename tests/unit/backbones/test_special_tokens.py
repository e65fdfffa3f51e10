"""Contradictory and missing special tokens: said aloud, and settled without touching the embeddings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig

from evertune.backbones.base import BackboneConfig
from evertune.backbones.causal_lm import CausalLM
from evertune.backbones.special_tokens import left_out, reconcile
from evertune.errors import BackboneError

from .conftest import ROWS, build_model, train_tokenizer

SETTINGS = LlamaConfig(vocab_size=400, bos_token_id=1, eos_token_id=2, pad_token_id=0)


def test_agreement_needs_no_words() -> None:
    generation = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    found = reconcile(train_tokenizer(), SETTINGS, generation)
    assert (found.bos, found.eos, found.pad, found.stop, found.notes) == (1, 2, 0, (2,), ())


def test_the_tokenizer_is_right() -> None:
    settings = LlamaConfig(vocab_size=400, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    found = reconcile(train_tokenizer(), settings, GenerationConfig(eos_token_id=[7, 8]))
    assert (found.bos, found.eos) == (1, 2)
    assert found.notes == (
        "Contradictory bos_token_id: config.json says 2, the tokenizer says 1 (`<s>`). 1 is used.",
        "Contradictory eos_token_id: config.json says 1, generation_config.json says [7, 8], "
        "the tokenizer says 2 (`</s>`). 2 is used.",
    )
    assert found.stop == (2,), "ordinary tokens do not end an answer"


def test_a_list_of_end_tokens_that_holds_the_right_one_is_no_contradiction() -> None:
    tokenizer = train_tokenizer(chat=True)
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    found = reconcile(tokenizer, SETTINGS, GenerationConfig(eos_token_id=[end, 2]))
    assert found.notes == ()
    assert found.stop == (2, end)


def test_padding_with_the_end_token_adds_none() -> None:
    tokenizer = train_tokenizer(pad=False)
    size = len(tokenizer)
    found = reconcile(tokenizer, LlamaConfig(vocab_size=400, pad_token_id=None), None)
    assert (found.pad, tokenizer.pad_token, len(tokenizer)) == (2, "</s>", size)
    assert found.notes[-1] == (
        "The tokenizer names no padding token; `</s>` (end token; padding is masked, nothing is added) "
        "is used for padding."
    )


def test_padding_that_the_configuration_names() -> None:
    tokenizer = train_tokenizer(pad=False)
    found = reconcile(tokenizer, SETTINGS, None)
    assert (found.pad, tokenizer.pad_token) == (0, "<pad>")
    assert found.notes[-1].startswith("The tokenizer names no padding token; `<pad>` of the configuration")


def test_padding_outside_of_the_embedding() -> None:
    tokenizer = train_tokenizer(pad=False)
    tokenizer.add_special_tokens({"pad_token": "<new>"})
    found = reconcile(tokenizer, LlamaConfig(vocab_size=len(tokenizer) - 1, pad_token_id=None), None)
    assert found.pad == 2
    assert f"pads with id {len(tokenizer) - 1}, which the model does not have" in found.notes[-1]


def test_an_end_token_of_the_configuration_helps_out() -> None:
    tokenizer = train_tokenizer()
    tokenizer.eos_token = None
    found = reconcile(tokenizer, SETTINGS, None)
    assert (found.eos, tokenizer.eos_token) == (2, "</s>")
    assert "The tokenizer names no end token; `</s>` (2) of the configuration is used." in found.notes


def test_no_end_token_anywhere() -> None:
    tokenizer = train_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(BackboneError, match=r"names an end token, so no answer could end\. Set `eos_token`"):
        reconcile(tokenizer, LlamaConfig(vocab_size=400, eos_token_id=None), None)


def test_an_end_token_that_the_model_does_not_have() -> None:
    tokenizer = train_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<new>"})
    with pytest.raises(BackboneError, match=r"end token has id \d+, but the model knows 100 tokens"):
        reconcile(tokenizer, LlamaConfig(vocab_size=100), None)


def test_generation_defaults_that_are_not_used() -> None:
    assert left_out(None) is None
    assert left_out(GenerationConfig(eos_token_id=2, max_length=20)) is None
    assert left_out(GenerationConfig(do_sample=True, temperature=0.6, num_beams=4)) == (
        "generation_config.json asks for do_sample True, temperature 0.6, num_beams 4: "
        "not used, answers are the most likely ones."
    )


@pytest.fixture
def without_padding(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(pad=False)
    tokenizer.save_pretrained(tmp_path)
    model = build_model("gpt2", len(tokenizer))
    model.config.pad_token_id = None
    model.generation_config.pad_token_id = None
    model.save_pretrained(tmp_path)
    return tmp_path


def test_a_model_without_padding_token_pads_harmlessly(without_padding: Path) -> None:
    backbone = CausalLM.load(BackboneConfig(path=str(without_padding), task_type="causal_lm"))
    embedding = backbone.model.get_input_embeddings().weight
    assert len(embedding) == len(train_tokenizer(pad=False))
    assert embedding is backbone.model.get_output_embeddings().weight
    rows = backbone.encode(ROWS, max_source_length=64, max_target_length=16)
    batch = backbone.collate(rows)
    assert backbone.pad_id == 2
    assert (batch.labels == 2).sum() == len(rows), "each answer's own end is scored, padding is not"
    single = [backbone.loss(backbone.model, backbone.collate([one])).sum for one in rows]
    torch.testing.assert_close(backbone.loss(backbone.model, batch).sum, sum(single), rtol=1e-4, atol=1e-4)
    answers = backbone.generate(backbone.model, rows, max_new_tokens=6)
    assert answers == [backbone.generate(backbone.model, [one], max_new_tokens=6)[0] for one in rows]


def test_contradictions_are_kept_with_the_identity(tmp_path: Path, model_folder: Callable[[str], Path]) -> None:
    folder = Path(shutil.copytree(model_folder("llama"), tmp_path / "llama"))
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, "eos_token_id": 5}))
    backbone = CausalLM.load(BackboneConfig(path=str(folder), task_type="causal_lm"))
    assert any(note.startswith("Contradictory eos_token_id: config.json says 5") for note in backbone.identity.notes)
    assert backbone.model.config.eos_token_id == 2
    assert backbone.model.generation_config.eos_token_id == [2]
