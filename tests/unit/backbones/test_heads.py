"""Heads: one a task, each line through its own, the same whatever other tasks there are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.encoder import Encoder
from evertune.backbones.heads import RoutedHead, head_line, head_names, new_heads
from evertune.errors import ConfigError

from .encoder_tasks import labelled, passages, pictures, tagged

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def bert() -> BertForSequenceClassification:
    return BertForSequenceClassification(BertConfig(vocab_size=60, **SIZES))


def loaded(task_type: str, *tasks, seed: int = 1) -> Encoder:
    backbone = BACKBONES.get(task_type).load(BackboneConfig(path="builtin:tiny-bert", task_type=task_type))
    backbone.prepare(tasks, seed=seed)
    return backbone


@pytest.mark.parametrize("shape", [(5, 8), (5, 3, 8)])
def test_each_line_goes_through_its_own_head(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    heads = [nn.Linear(8, width) for width in (2, 4, 3)]
    routed = RoutedHead(heads)
    routed.route = [2, 0, -1, 0, 1]
    features = torch.randn(shape)
    found = routed(features)
    for line, index in enumerate(routed.route):
        expected = torch.zeros(*shape[1:-1], 4)
        if index >= 0:
            own = heads[index](features[line])
            expected[..., : own.shape[-1]] = own
        torch.testing.assert_close(found[line], expected)


def test_only_the_heads_of_a_batch_get_a_gradient() -> None:
    routed = RoutedHead([nn.Linear(8, 2) for _ in range(3)])
    routed.route = [1, 1, 2]
    routed(torch.randn(3, 8)).sum().backward()
    assert [head.weight.grad is None for head in routed.task_heads] == [True, False, False]


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (bert, ["classifier"]),
        (
            lambda: DistilBertForSequenceClassification(
                DistilBertConfig(vocab_size=60, dim=32, n_layers=1, n_heads=4, hidden_dim=64)
            ),
            ["pre_classifier", "classifier"],
        ),
        (lambda: LlamaForSequenceClassification(LlamaConfig(vocab_size=60, **SIZES)), ["score"]),
    ],
)
def test_the_head_is_what_stands_beside_the_encoder(model, names: list[str]) -> None:
    assert head_names(model()) == names


def test_new_heads_are_drawn_as_the_architecture_draws_them_and_touch_no_generator() -> None:
    model = bert()
    before = torch.get_rng_state()
    first, again, other = (new_heads(model, 64, seed=seed)["classifier"] for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)
    assert float(first.bias.abs().max()) == 0
    assert abs(float(first.weight.std()) - model.config.initializer_range) < 2e-3


def test_a_head_depends_on_its_task_alone() -> None:
    one, two = labelled("one", ["a", "b"]), labelled("two", ["a", "b", "c"])
    alone = loaded("sequence_classification", two).head_parameters(["two"])
    among = loaded("sequence_classification", one, two).head_parameters(["two"])
    assert alone.keys() == among.keys() == {"two/classifier.weight", "two/classifier.bias"}
    assert all(torch.equal(alone[name], among[name]) for name in alone)


def test_heads_are_written_and_read_back() -> None:
    tasks = (labelled("one", ["a", "b"]), tagged("two"))
    backbone = loaded("sequence_classification", *tasks)
    names = [task.name for task in tasks]
    kept = {name: parameter.detach() + 1 for name, parameter in backbone.head_parameters(names).items()}
    fresh = loaded("sequence_classification", *tasks)
    fresh.load_heads(copy.deepcopy(kept))
    found = fresh.head_parameters(names)
    assert all(torch.equal(found[name], kept[name]) for name in kept)
    assert set(fresh.head_in_model("one")) == {"classifier.weight", "classifier.bias"}
    assert fresh.head_in_model("two") == {}, "a text classifier has no head for words"


def test_what_is_said_of_heads() -> None:
    assert head_line(dict(nn.Linear(768, 2).named_parameters())) == "heads trained: 2, 1 538 parameters"


@pytest.fixture
def without_pooler(tmp_path):
    """The folder of a BERT whose weights come from filling gaps alone."""
    from safetensors.torch import load_file, save_file

    from evertune.backbones.builtin import builtin_folder

    for file in builtin_folder("tiny-bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "pooler" not in k}, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def test_a_pooler_that_the_weights_lack_is_a_part_of_every_head(without_pooler) -> None:
    config = BackboneConfig(path=str(without_pooler), task_type="sequence_classification", dtype="bfloat16")
    tasks = [labelled("one", ["a", "b"]), labelled("two", ["a", "b"])]

    def heads(*chosen):
        backbone = BACKBONES.get("sequence_classification").load(config)
        backbone.prepare(chosen, seed=1)
        return backbone.head_parameters([task.name for task in chosen])

    both, alone = heads(*tasks), heads(tasks[1])
    assert {f"{task}/bert.pooler.dense.weight" for task in ("one", "two")} <= set(both)
    assert all(torch.equal(both[name], alone[name]) for name in alone), "drawn from the seed and the task alone"
    assert {parameter.dtype for parameter in both.values()} == {torch.float32}
    assert not torch.equal(both["one/bert.pooler.dense.weight"], both["two/bert.pooler.dense.weight"])


@pytest.mark.parametrize(
    ("task_type", "task", "says"),
    [
        ("token_classification", labelled("notes", ["a", "b"]), "task_type: sequence_classification"),
        ("sequence_classification", pictures("squares"), "task_type: image_classification"),
        ("question_answering", tagged("names"), "task_type: token_classification"),
    ],
)
def test_a_stream_that_the_model_cannot_read_is_refused(task_type: str, task, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        loaded(task_type, task)


def test_a_stream_may_mix_what_is_read_as_text() -> None:
    backbone = loaded("question_answering", passages("questions"), labelled("notes", ["a", "b"]))
    assert set(backbone.head_parameters(["notes"])) == {"notes/task_heads.1.weight", "notes/task_heads.1.bias"}
