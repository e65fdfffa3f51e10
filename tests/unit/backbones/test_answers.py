"""Generation and label scores against plain loops."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from transformers import GenerationConfig

from evertune.backbones.base import Encoded
from evertune.backbones.language_model import LanguageModel

from .conftest import CAUSAL, ROWS, SEQ2SEQ

Load = Callable[[str], LanguageModel]
ALL = (*CAUSAL, *SEQ2SEQ)
NEW = 12
LABELS = ["good", "bad", "very happy", "science and technology", "x"]


def encode(backbone: LanguageModel) -> list[Encoded]:
    return backbone.encode(ROWS, max_source_length=64, max_target_length=32)


@torch.no_grad()
def plain_greedy(backbone: LanguageModel, prompt: tuple[int, ...], steps: int) -> str:
    """The most likely token, again and again, without batch, padding or cache."""
    stop = backbone.tokenizer.eos_token_id
    is_causal = backbone.config.task_type == "causal_lm"
    written: list[int] = list(prompt) if is_causal else [backbone.model.config.decoder_start_token_id]
    begin = len(written)
    for _ in range(steps):
        if is_causal:
            logits = backbone.model(input_ids=torch.tensor([written]), use_cache=False).logits
        else:
            logits = backbone.model(
                input_ids=torch.tensor([prompt]), decoder_input_ids=torch.tensor([written]), use_cache=False
            ).logits
        written.append(int(logits[0, -1].argmax()))
        if written[-1] == stop:
            break
    ids = [index for index in written[begin:] if index != stop]
    return backbone.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip()


@pytest.mark.parametrize("kind", ALL)
def test_batched_greedy_answers_are_those_of_a_plain_loop(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    expected = [plain_greedy(backbone, one.prompt, NEW) for one in rows]
    assert len(set(expected)) > 1, "the model answers everything alike, so the test shows nothing"
    assert backbone.generate(backbone.model, rows, max_new_tokens=NEW) == expected
    assert [backbone.generate(backbone.model, [one], max_new_tokens=NEW)[0] for one in rows] == expected


@pytest.mark.parametrize("kind", ["llama", "gpt2", "t5", "bart"])
def test_batched_beams_are_those_of_single_rows(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    batched = backbone.generate(backbone.model, rows, max_new_tokens=NEW, num_beams=3)
    assert batched == [backbone.generate(backbone.model, [one], max_new_tokens=NEW, num_beams=3)[0] for one in rows]


@torch.no_grad()
def plain_score(backbone: LanguageModel, prompt: tuple[int, ...], label: tuple[int, ...]) -> float:
    """Sum of log-probabilities of the label's tokens, one forward pass, no padding."""
    if backbone.config.task_type == "causal_lm":
        logits = backbone.model(input_ids=torch.tensor([[*prompt, *label]]), use_cache=False).logits[0]
        logits = logits[len(prompt) - 1 : -1]
    else:
        logits = backbone.model(input_ids=torch.tensor([prompt]), labels=torch.tensor([label])).logits[0]
    return sum(float(step.log_softmax(-1)[index]) for step, index in zip(logits.float(), label, strict=True))


@pytest.mark.parametrize("kind", ALL)
def test_label_scores_are_those_of_a_plain_loop(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    labels = backbone.label_ids(LABELS)
    scores = backbone.label_scores(backbone.model, rows, labels)
    assert scores.shape == (len(rows), len(labels))
    expected = torch.tensor([[plain_score(backbone, one.prompt, label) for label in labels] for one in rows])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_label_of_one_token_is_scored(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = [replace(one, target=()) for one in encode(backbone)]
    scores = backbone.label_scores(backbone.model, rows, [(7,), (9,)])
    expected = torch.tensor([[plain_score(backbone, one.prompt, (index,)) for index in (7, 9)] for one in rows])
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-3)


def test_models_without_a_cache_have_the_same_scores(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = loaded("llama")
    rows, labels = encode(backbone), backbone.label_ids(LABELS)
    expected = backbone.label_scores(backbone.model, rows, labels)
    forward = type(backbone.model).forward

    def without_cache(*args: object, **kwargs: object) -> object:
        output = forward(backbone.model, *args, **{**kwargs, "use_cache": False})
        assert output.cache is None
        return output

    monkeypatch.setattr(backbone.model, "forward", without_cache)
    monkeypatch.setattr(backbone, "_accepts", backbone._accepts)  # the signature of the real forward pass
    torch.testing.assert_close(backbone.label_scores(backbone.model, rows, labels), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_every_label_can_be_the_answer(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = backbone.encode(ROWS[:1], max_source_length=64, max_target_length=32)
    (label,) = backbone.label_ids([ROWS[0].target])
    assert label == rows[0].target
    sums, _ = backbone.answer_loss(backbone.model, backbone.collate(rows))
    score = backbone.label_scores(backbone.model, rows, [label])
    torch.testing.assert_close(score[0], -sums, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_modes_are_restored_module_by_module(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    frozen = next(module for module in backbone.model.modules() if module is not backbone.model)
    backbone.model.train()
    frozen.eval()
    before = [module.training for module in backbone.model.modules()]
    assert len(set(before)) == 2
    backbone.generate(backbone.model, rows, max_new_tokens=2)
    backbone.label_scores(backbone.model, rows, backbone.label_ids(LABELS))
    backbone.answer_loss(backbone.model, backbone.collate(rows))
    assert [module.training for module in backbone.model.modules()] == before
    backbone.model.eval()


def test_dropout_is_off_while_answering(loaded: Load) -> None:
    backbone = loaded("t5")
    rows = encode(backbone)
    assert backbone.model.config.dropout_rate > 0
    expected = backbone.answer_loss(backbone.model, backbone.collate(rows))[0]
    backbone.model.train()
    torch.testing.assert_close(backbone.answer_loss(backbone.model, backbone.collate(rows))[0], expected)
    backbone.model.eval()


@pytest.mark.parametrize("kind", ["llama", "t5", "bart"])
def test_leftover_generation_defaults_neither_sample_nor_warn(
    kind: str, loaded: Load, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    expected = backbone.generate(backbone.model, rows, max_new_tokens=NEW)
    folder = tmp_path / "sampling"
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    GenerationConfig(
        do_sample=True, temperature=0.3, top_p=0.5, top_k=7, repetition_penalty=5.0, no_repeat_ngram_size=1,
        min_length=NEW, max_length=30, eos_token_id=2,
    ).save_pretrained(folder)  # fmt: skip
    again = type(backbone).load(replace(backbone.config, path=str(folder)))
    assert any("temperature 0.3" in note and "not used" in note for note in again.identity.notes), again.identity.notes
    logging.getLogger("transformers").propagate = True
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        assert again.generate(again.model, rows, max_new_tokens=NEW) == expected
    assert not caplog.records, [record.getMessage() for record in caplog.records]


def test_no_rows_no_answers(loaded: Load) -> None:
    backbone = loaded("llama")
    assert backbone.generate(backbone.model, [], max_new_tokens=4) == []


def test_a_batch_ends_with_its_longest_answer(loaded: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that always wants to end is called once for the first token, not `max_new_tokens` times."""
    backbone = loaded("gpt2")
    rows = encode(backbone)
    calls = 0
    forward = backbone.model.forward

    def ending(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        output = forward(*args, **kwargs)
        output.logits[..., backbone.tokenizer.eos_token_id] = 1e4
        return output

    monkeypatch.setattr(backbone.model, "forward", ending)
    assert backbone.generate(backbone.model, rows, max_new_tokens=40) == [""] * len(rows)
    assert calls == 1
