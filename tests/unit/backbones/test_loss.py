"""The loss against Hugging Face's own, and its independence of padding."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from evertune.backbones.base import Batch, Encoded
from evertune.backbones.language_model import LanguageModel

from .conftest import CAUSAL, ROWS, SEQ2SEQ

Load = Callable[[str], LanguageModel]
ALL = (*CAUSAL, *SEQ2SEQ)


def encode(backbone: LanguageModel) -> list[Encoded]:
    return backbone.encode(ROWS, max_source_length=64, max_target_length=32)


def own_loss(backbone: LanguageModel, rows: list[Encoded]) -> Tensor:
    """What the model itself makes of labels, times their number: built by hand, without `collate`."""
    total = torch.zeros(())
    for one in rows:
        if backbone.config.task_type == "causal_lm":
            ids = torch.tensor([[*one.prompt, *one.target]])
            labels = torch.tensor([[-100] * len(one.prompt) + list(one.target)])
            loss = backbone.model(input_ids=ids, labels=labels).loss
        else:
            loss = backbone.model(input_ids=torch.tensor([one.prompt]), labels=torch.tensor([one.target])).loss
        total = total + loss * len(one.target)
    return total


@pytest.mark.parametrize("kind", ALL)
def test_loss_of_one_row_is_the_models_own(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    for one in encode(backbone):
        output = backbone.loss(backbone.model, backbone.collate([one]))
        assert output.count == len(one.target)
        torch.testing.assert_close(output.sum, own_loss(backbone, [one]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_padding_changes_nothing(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    output = backbone.loss(backbone.model, backbone.collate(rows))
    assert output.count == sum(len(one.target) for one in rows)
    torch.testing.assert_close(output.sum, own_loss(backbone, rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_answer_loss_is_the_loss_row_by_row(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    sums, counts = backbone.answer_loss(backbone.model, backbone.collate(rows))
    assert counts.tolist() == [len(one.target) for one in rows]
    assert not sums.requires_grad
    expected = torch.stack([own_loss(backbone, [one]) for one in rows])
    torch.testing.assert_close(sums, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_exactly_the_answers_are_labels(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    rows = encode(backbone)
    batch = backbone.collate(rows)
    for one, labels, ids in zip(rows, batch.labels, batch.inputs["input_ids"], strict=True):
        scored = (labels != -100).nonzero().flatten().tolist()
        assert tuple(labels[scored].tolist()) == one.target
        begin = len(one.prompt) if backbone.config.task_type == "causal_lm" else 0
        assert scored == list(range(begin, begin + len(one.target)))
        assert tuple(ids[: len(one.prompt)].tolist()) == one.prompt
    assert one.target[-1] == backbone.tokenizer.eos_token_id
    assert batch.ids == tuple(one.id for one in rows)
    lengths = [len(one.prompt) + (len(one.target) if backbone.config.task_type == "causal_lm" else 0) for one in rows]
    assert batch.inputs["attention_mask"].sum(1).tolist() == lengths


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_filler_rows_count_for_nothing(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    one, *_ = encode(backbone)
    alone = backbone.loss(backbone.model, backbone.collate([one]))
    filler = backbone.filler(one)
    assert filler.id == ""
    beside = backbone.loss(backbone.model, backbone.collate([one, filler]))
    assert beside.count == alone.count
    torch.testing.assert_close(beside.sum, alone.sum, rtol=1e-5, atol=1e-5)
    only = backbone.loss(backbone.model, backbone.collate([filler]))
    assert (only.count, only.sum.item()) == (0, 0.0)
    only.sum.backward()
    gradients = [p.grad for p in backbone.model.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.abs().sum() == 0 for gradient in gradients)
    backbone.model.zero_grad(set_to_none=True)


@pytest.mark.parametrize("kind", CAUSAL)
def test_kept_logits_are_those_of_the_whole_sequence(kind: str, loaded: Load) -> None:
    backbone = loaded(kind)
    batch = backbone.collate(encode(backbone))
    output = backbone.loss(backbone.model, batch)
    labels = output.extra["labels"]
    assert output.logits.shape[:2] == labels.shape
    assert output.logits.shape[1] < batch.labels.shape[1] - 1
    kept = batch.inputs["logits_to_keep"]
    whole = backbone.model(
        input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], use_cache=False
    ).logits
    torch.testing.assert_close(output.logits, whole[:, kept], rtol=1e-4, atol=1e-4)
    assert (labels != -100).sum() == batch.count


def test_models_that_give_all_logits_have_the_same_loss(loaded: Load) -> None:
    backbone = loaded("llama")
    batch = backbone.collate(encode(backbone))
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "logits_to_keep"}
    whole = backbone.loss(backbone.model, Batch(inputs, batch.labels, batch.ids, batch.count))
    assert whole.logits.shape[1] == batch.labels.shape[1] - 1
    torch.testing.assert_close(whole.sum, backbone.loss(backbone.model, batch).sum, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ALL)
def test_gradients_are_those_of_the_models_own_loss(kind: str, loaded: Load) -> None:
    shared = loaded(kind)
    # In double precision: the weights are large, and rounding would hide a small difference.
    backbone = type(shared)(shared.config, shared.identity, copy.deepcopy(shared.model).double(), shared.tokenizer)
    rows = encode(backbone)
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]
    ours = torch.autograd.grad(backbone.loss(backbone.model, backbone.collate(rows)).sum, parameters, allow_unused=True)
    theirs = torch.autograd.grad(own_loss(backbone, rows), parameters, allow_unused=True)
    assert any(one is not None for one in ours)
    for one, other in zip(ours, theirs, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one - other).norm() <= 1e-5 * other.norm() + 1e-6
