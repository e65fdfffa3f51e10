from __future__ import annotations

from collections.abc import Callable

import pytest

from evertune.methods.replay import Replay
from evertune.methods.seq_lora import SeqLoRA
from evertune.settings import RunSettings
from evertune.streams.demo import Synthetic

Load = Callable[..., RunSettings]
Refusal = Callable[..., list[str]]

TEXT = "method: {name: replay, ratio: 0.5}\ntrain: {learning_rate: 1e-3, max_steps: 9}\n"


def test_a_value_replaces_one_key_and_leaves_its_neighbours(load: Load) -> None:
    settings = load(TEXT, "train.learning_rate=-2e-4", "train.learning_rate=2e-4")
    assert settings.first.train.learning_rate == 2e-4
    assert settings.first.train.max_steps == 9


def test_a_section_is_replaced_as_a_whole(load: Load) -> None:
    assert load(TEXT, "method=seq-lora").first.methods == (("seq-lora", SeqLoRA()),)
    assert load(TEXT, "method=[replay]").first.methods == (("replay", Replay()),)


def test_options_of_what_was_written_as_a_mere_name(load: Load) -> None:
    text = "stream: synthetic\nbackbone: {path: builtin:tiny-llama}\nmethod: [seq-lora, replay]\n"
    settings = load(text, "stream.train_rows=5", "method.replay.ratio=3", whole=True)
    assert settings.stream == Synthetic(train_rows=5)
    assert dict(settings.first.methods)["replay"] == Replay(ratio=3.0)
    assert load(text, "method.1.ratio=3", whole=True).first.methods == settings.first.methods


def test_sections_that_the_file_does_not_have(load: Load) -> None:
    settings = load("", "evaluation.during_training.steps=5", "adapter={r: 2, target: [a, b]}", "run_name=x y")
    assert settings.first.evaluation.during_training.steps == 5  # type: ignore[union-attr]
    assert (settings.adapter.r, settings.adapter.target) == (2, ("a", "b"))
    assert settings.run_name == "x y"


def test_values_are_yaml_and_may_hold_an_equals_sign(load: Load) -> None:
    assert load("", "run_name=a=b").run_name == "a=b"
    assert load("", "run_name='7'").run_name == "7"
    assert load("adapter: {layers: [1]}\n", "adapter.layers=null").adapter.layers is None


def test_names_of_tasks_may_hold_dots_and_dashes(load: Load) -> None:
    settings = load("", "per_task.v1.2-b.train.max_steps=7", "per_task.v1.2-b.evaluation.during_training.steps=3")
    assert settings.for_task("v1.2-b", 0).train.max_steps == 7
    assert settings.for_task("v1.2-b", 0).evaluation.during_training.steps == 3  # type: ignore[union-attr]
    assert load("", "per_task={v1.2-b: {train.max_steps: 5}}").for_task("v1.2-b", 0).train.max_steps == 5
    assert load("", "per_task.v1.2-b={train.max_steps: 5}").for_task("v1.2-b", 3).train.max_steps == 5


def test_a_key_written_with_dots_in_the_file_is_replaced_not_doubled(load: Load) -> None:
    settings = load("per_task: {A: {train.max_steps: 5}}\n", "per_task.A.train.max_steps=6")
    assert settings.for_task("A", 0).train.max_steps == 6


def test_tasks_written_out_are_found_by_name_or_number(load: Load) -> None:
    text = "stream: [{name: a, train: x.jsonl}, {name: b, train: y.jsonl}]\nbackbone: {path: builtin:tiny-llama}\n"
    settings = load(text, "stream.b.template=alpaca", "stream.0.template=chat", whole=True)
    assert [task.template for task in settings.stream.tasks] == ["chat", "alpaca"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "train.lerning_rate=1",
            "--set train.lerning_rate: is not an option of `train`. Did you mean `learning_rate`?",
        ),
        ("train.max_steps=x", '--set train.max_steps: must be a whole number, got the text "x".'),
        ("train.max_steps", "--set train.max_steps: This is not of the form key.path=value."),
        ("=5", "--set =5: This is not of the form key.path=value."),
        ("train..max_steps=5", "--set train..max_steps=5: This is not of the form key.path=value."),
        ("train.max_steps=[1", "--set train.max_steps: This list is not closed"),
        ("train.max_steps.x=1", "--set train.max_steps.x: `train.max_steps` is a single value here and has no `x`."),
        ("trian.max_steps=1", "--set trian.max_steps: trian: is not a key of a configuration. Did you mean `train`?"),
        ("adapter={rr: 3}", "--set adapter: adapter.rr: is not an option of `adapter`."),
        ("method=relpay", "--set method: method.name: there is no method `relpay`. Did you mean `replay`?"),
        ("backbone.path=builtin:tiny-t6", "--set backbone.path: there is no built-in model `tiny-t6`."),
        ("per_task.A.trian.max_steps=1", "is not a key of train, method or evaluation. Did you mean `train"),
    ],
)
def test_what_is_wrong_on_the_command_line(refusal: Refusal, override: str, message: str) -> None:
    (found,) = refusal(TEXT, override)
    assert message in found


def test_an_item_that_a_list_does_not_have(refusal: Refusal) -> None:
    (found,) = refusal("method: [replay, seq-lora]\n", "method.inc-lora.x=1")
    assert found == "--set method.inc-lora.x: the list `method` has no `inc-lora`. It has: replay, seq-lora."


def test_problems_of_file_and_command_line_come_together(refusal: Refusal) -> None:
    found = refusal("train: {lr: 1}\n", "seed=x", "foo")
    assert [line.split(": ")[0] for line in found] == ["stream.yaml:5:9", "--set foo", "--set seed"]
