"""Evaluation of real models against calls of transformers that are made here, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from bigram import row, task_of

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.evaluation.cell import Cell
from evertune.evaluation.config import EvaluationConfig
from evertune.evaluation.evaluate import evaluate_rows
from evertune.streams.examples import PromptTarget
from evertune.streams.synthetic import generate_rows
from evertune.training.config import TrainConfig

MODELS = [("builtin:tiny-llama", "causal_lm"), ("builtin:tiny-t5", "seq2seq_lm")]
LABELS = ("positive", "negative")


@pytest.fixture(scope="module", params=MODELS, ids=[name for _, name in MODELS])
def backbone(request: pytest.FixtureRequest) -> Any:
    path, task_type = request.param
    return BACKBONES.get(task_type).load(BackboneConfig(path=path, task_type=task_type))


@pytest.fixture(scope="module")
def rows() -> tuple[PromptTarget, ...]:
    # Prompts of very different lengths, so that padding would show.
    data = generate_rows("sentiment", count=9, seed=3, split="test")
    return tuple(
        row(index, f"{(each['input'] + ' ') * (1 + index % 3)}\nAnswer:", each["output"])
        for index, each in enumerate(data)
    )


def evaluate(backbone: Any, rows: Sequence[PromptTarget], *, labels: tuple[str, ...] | None, **config: Any) -> Cell:
    return evaluate_rows(
        backbone,
        backbone.model,
        task_of(rows, labels=labels),
        rows,
        config=EvaluationConfig(per_device_eval_batch_size=4, **config),
        train=TrainConfig(max_target_length=6),
        device="cpu",
    )


def test_answers_and_loss_are_those_of_single_rows(backbone: Any, rows: tuple[PromptTarget, ...]) -> None:
    backbone.model.train()
    cell = evaluate(backbone, rows, labels=None)
    assert backbone.model.training
    backbone.model.eval()
    total, tokens = 0.0, 0
    for encoded, prediction in zip(
        backbone.encode(rows, max_source_length=512, max_target_length=6), cell.predictions, strict=True
    ):
        prompt, target = torch.tensor([encoded.prompt]), torch.tensor([encoded.target])
        with torch.no_grad():
            answer = backbone.model.generate(
                input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False
            )[0]
            if backbone.model.config.is_encoder_decoder:
                loss = backbone.model(input_ids=prompt, labels=target).loss
            else:
                answer = answer[prompt.shape[1] :]
                whole = torch.cat([prompt, target], 1)
                labels = torch.cat([torch.full_like(prompt, -100), target], 1)
                loss = backbone.model(input_ids=whole, labels=labels).loss
        assert prediction.prediction == backbone.tokenizer.decode(answer, skip_special_tokens=True).strip()
        total, tokens = total + float(loss) * target.numel(), tokens + target.numel()
    assert cell.loss == pytest.approx(total / tokens, rel=1e-4)
    assert len({prediction.prediction for prediction in cell.predictions}) > 1, "the rows are told apart"


def test_likeliest_labels_are_those_of_single_rows(backbone: Any, rows: tuple[PromptTarget, ...]) -> None:
    cell = evaluate(backbone, rows, labels=LABELS, decoding="label_likelihood")
    for each, prediction in zip(rows, cell.predictions, strict=True):
        losses = []
        for label in LABELS:
            other = PromptTarget(each.id, each.prompt, label)
            encoded = backbone.encode([other], max_source_length=512, max_target_length=6)
            losses.append(float(backbone.answer_loss(backbone.model, backbone.collate(encoded))[0]))
        assert prediction.prediction == LABELS[losses.index(min(losses))]


def test_a_classification_answer_is_no_longer_than_its_longest_label(
    backbone: Any, rows: tuple[PromptTarget, ...]
) -> None:
    free = evaluate(backbone, rows, labels=None)
    bound = evaluate(backbone, rows, labels=("no", "yes"))
    longest = max(len(ids) for ids in backbone.label_ids(("no", "yes")))
    assert longest < 6
    for long, short in zip(free.predictions, bound.predictions, strict=True):
        assert long.prediction.startswith(short.prediction)
    assert (bound.generated_tokens or 0) < (free.generated_tokens or 0)
    assert bound.score == 0, "none of the references is a label"
