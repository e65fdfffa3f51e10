"""Adapters in another precision, wrappers for several processes, and the models that come with the package."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from torch import nn

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.builtin import builtin_names
from evertune.backbones.language_model import LanguageModel

from .conftest import ROWS, task_type

LENGTHS = {"max_source_length": 64, "max_target_length": 16}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("kind", "targets"), [("llama", ["q_proj", "v_proj"]), ("t5", ["q", "v"])])
def test_float32_adapters_on_a_bfloat16_base(
    kind: str, targets: list[str], autocast: bool, model_folder: Callable[[str], Path]
) -> None:
    config = BackboneConfig(path=str(model_folder(kind)), task_type=task_type(kind), dtype="bfloat16")
    backbone = BACKBONES.get(config.task_type).load(config)
    model = peft.get_peft_model(backbone.model, peft.LoraConfig(target_modules=targets, init_lora_weights=False))
    adapters = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in adapters} == {torch.float32}
    rows = backbone.encode(ROWS, **LENGTHS)
    labels = backbone.label_ids(["good", "bad"])
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        output = backbone.loss(model, backbone.collate(rows))
        sums, _ = backbone.answer_loss(model, backbone.collate(rows))
        scores = backbone.label_scores(model, rows, labels)
        answers = backbone.generate(model, rows, max_new_tokens=4)
    output.sum.backward()
    assert output.sum.dtype == sums.dtype == scores.dtype == torch.float32
    assert sum(float(p.grad.abs().sum()) for p in adapters if p.grad is not None) > 0
    assert torch.isfinite(scores).all()
    assert len(answers) == len(rows)


class Wrapper(nn.Module):
    """Like DistributedDataParallel: the model inside, nothing of its interface but the forward pass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_wrapped_models_answer_alike(kind: str, loaded: Callable[[str], LanguageModel]) -> None:
    backbone = loaded(kind)
    wrapped = Wrapper(backbone.model)
    rows = backbone.encode(ROWS, **LENGTHS)
    batch = backbone.collate(rows)
    labels = backbone.label_ids(["good", "bad"])
    assert torch.equal(backbone.loss(wrapped, batch).sum, backbone.loss(backbone.model, batch).sum)
    assert torch.equal(backbone.answer_loss(wrapped, batch)[0], backbone.answer_loss(backbone.model, batch)[0])
    scores = [backbone.label_scores(model, rows, labels) for model in (wrapped, backbone.model)]
    assert torch.equal(*scores)
    assert backbone.generate(wrapped, rows, max_new_tokens=4) == backbone.generate(
        backbone.model, rows, max_new_tokens=4
    )


@pytest.mark.parametrize(("name", "task"), [("tiny-llama", "causal_lm"), ("tiny-t5", "seq2seq_lm")])
def test_models_that_come_with_the_package(name: str, task: str) -> None:
    if name not in builtin_names():
        pytest.skip(f"{name} is not in the package yet")
    backbone = BACKBONES.get(task).load(BackboneConfig(path=f"builtin:{name}", task_type=task))
    identity = backbone.identity
    assert identity.source == "built in"
    assert identity.notes == (f"`builtin:{name}` comes with Evertune.",), "its files agree with each other"
    text = "Größe 🙂\n\t日本語 </s> a  b "
    (row,) = backbone.encode([replace(ROWS[0], target=text)], max_source_length=64, max_target_length=99)
    body = row.target[:-1]
    assert backbone.tokenizer.decode(body, clean_up_tokenization_spaces=False) == text
    rows = backbone.encode(ROWS, **LENGTHS)
    assert len(backbone.generate(backbone.model, rows, max_new_tokens=4)) == len(rows)
    assert torch.isfinite(backbone.loss(backbone.model, backbone.collate(rows)).sum)
