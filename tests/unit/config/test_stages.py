from __future__ import annotations

from collections.abc import Callable

import pytest

from evertune.methods.replay import Replay
from evertune.settings import RunSettings

Load = Callable[..., RunSettings]
Refusal = Callable[..., list[str]]

TEXT = """\
method: {name: replay, ratio: 0.1}
train: {learning_rate: 1e-3, max_steps: 100, weight_decay: 0.1}
after_first: {train.learning_rate: 1e-4, method.ratio: 0.2, train: {max_steps: 50}}
per_task:
  B: {train.learning_rate: 1e-5}
  C: {method: {replay: {ratio: 0.3}}, evaluation: {during_training: {steps: 9}}}
"""


@pytest.mark.parametrize(
    ("task", "index", "rate", "steps", "ratio"),
    [
        ("A", 0, 1e-3, 100, 0.1),
        ("A", 1, 1e-4, 50, 0.2),
        ("B", 0, 1e-5, 100, 0.1),
        ("B", 2, 1e-5, 50, 0.2),
        ("C", 0, 1e-3, 100, 0.3),
        ("C", 3, 1e-4, 50, 0.3),
    ],
)
def test_the_base_gives_way_to_after_first_and_that_to_per_task(
    load: Load, task: str, index: int, rate: float, steps: int, ratio: float
) -> None:
    stage = load(TEXT).for_task(task, index)
    assert stage.train.learning_rate == rate
    assert stage.train.max_steps == steps
    assert stage.train.weight_decay == 0.1
    assert stage.methods == (("replay", Replay(ratio=ratio)),)


def test_only_what_was_written_is_resolved(load: Load) -> None:
    resolved = load(TEXT).resolved
    assert resolved["train"]["learning_rate"] == 1e-3
    assert resolved["after_first"] == {
        "train": {"learning_rate": 1e-4, "max_steps": 50},
        "method": {"replay": {"ratio": 0.2}},
    }
    assert resolved["per_task"] == {
        "B": {"train": {"learning_rate": 1e-5}},
        "C": {"method": {"replay": {"ratio": 0.3}}, "evaluation": {"during_training": {"steps": 9}}},
    }


def test_an_override_may_undo_what_makes_the_base_wrong_for_one_task_only(refusal: Refusal, load: Load) -> None:
    assert load("per_task: {A: {evaluation: {during_training: epoch, keep: best}}}\n")
    (found,) = refusal("per_task: {A: {evaluation.keep: best}}\n")
    assert found.startswith("stream.yaml:5:16: per_task.A.evaluation.keep: `best` chooses among evaluations")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("per_task: {A: {train.lr: 1}}", "per_task.A.train.lr: is not an option of `train`. Did you mean"),
        ("per_task: {A: {train: {max_stepz: 1}}}", "per_task.A.train.max_stepz: is not an option of `train`."),
        ("per_task: {A: {train.max_steps: x}}", "per_task.A.train.max_steps: must be a whole number"),
        ("per_task: {A: {adapter.r: 1}}", "per_task.A.adapter.r: is not a key of train, method or evaluation."),
        ("per_task: {A: {max_steps: 1}}", "Did you mean `train.max_steps`?"),
        ("per_task: {A: {trian.max_steps: 1}}", "Did you mean `train.max_steps`?"),
        ("per_task: {A: 5}", "per_task.A: must be a mapping of options, got 5."),
        ("per_task: [A]", "per_task: must be a mapping of task names, got a list."),
        ("per_task: {A: {method: replay}}", "per_task.A.method: must be a mapping of options here"),
        ("per_task: {A: {method.name: replay}}", "cannot change from task to task"),
        ("per_task: {A: {train..max_steps: 1}}", "has an empty part in its dotted key."),
        ("per_task: {A: {train.max_steps: 1, train: {max_steps: 2}}}", "is written twice, in two ways."),
        ("after_first: {evaluation.zero_shot: false}", "after_first.evaluation.zero_shot: has no meaning here"),
        ("method: [replay, seq-lora]\nafter_first: {method.ratio: 1}", "Write `method.replay.ratio`"),
        ("after_first: {method.ratio: 1}", "after_first.method.ratio: is not an option of method seq-lora."),
    ],
)
def test_what_is_wrong_in_a_block(refusal: Refusal, text: str, message: str) -> None:
    assert any(message in line for line in refusal(text + "\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: [seq-lora, inc-lora]", "`seq-lora` and `inc-lora` both decide on which adapters learn."),
        ("method: [replay, replay]", "Method `replay` is written 2 times."),
        ("evaluation: {keep: best}", "evaluation.keep: `best` chooses among evaluations while training"),
        ("evaluation: {during_training: []}", "must be a list of rising step numbers."),
        ("evaluation: {during_training: [5, 1]}", "must be a list of rising step numbers."),
        ("train: {warmup_steps: 5}", "train.warmup_steps: has no effect: the schedule `constant` has no warm-up."),
        ("train: {lr_scheduler_type: linear, warmup_steps: 5, warmup_ratio: 0.1}", "train.warmup_ratio: has no effect"),
        ("train: {lr_scheduler_type: linear, warmup_steps: 5, max_steps: 5}", "train.warmup_steps: a warm-up of 5"),
        ("train: {max_steps: 0}", "train.max_steps: 0 steps would learn nothing."),
        ("train: {optim: sgd, adam_beta1: 0.5}", "train.adam_beta1: has no effect with `optim: sgd`."),
    ],
)
def test_options_that_contradict_each_other(refusal: Refusal, text: str, message: str) -> None:
    (found,) = refusal(text + "\n")
    assert message in found
    assert found.startswith("stream.yaml:5:")


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("{path: builtin:tiny-llama, revision: main}", "backbone.revision: only a hub id has revisions"),
        ("{path: /nowhere, task_type: causal_lm, revision: main}", "backbone.revision: only a hub id has revisions"),
        (
            "{path: o/n, task_type: causal_lm, attn_implementation: flash_attention_2}",
            "backbone.attn_implementation: flash_attention_2 does not compute in float32.",
        ),
    ],
)
def test_options_of_the_model_that_contradict_each_other(refusal: Refusal, backbone: str, message: str) -> None:
    (found,) = refusal(f"stream: synthetic\nbackbone: {backbone}\n", whole=True)
    assert message in found
