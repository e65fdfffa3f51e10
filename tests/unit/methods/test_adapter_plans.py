"""Which adapters learn and which answer, stage by stage."""

from __future__ import annotations

import dataclasses

import pytest

from evertune.adapters.spec import AdapterPlan
from evertune.methods import METHODS
from evertune.methods.base import Method, MethodState, named_terms, task_adapter
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.multi_task import MultiTask
from evertune.methods.per_task_lora import PerTaskLoRA
from evertune.methods.replay import Replay
from evertune.methods.seq_lora import SeqLoRA
from evertune.streams.task import Stage, sequential_stages
from tests.unit.builders import context, stream

STREAM = stream(2, 2, 2)
STAGES = sequential_stages(STREAM.tasks)


@pytest.mark.parametrize("method", [Method(), SeqLoRA(), MultiTask(), Replay()])
@pytest.mark.parametrize("stage", STAGES)
def test_one_adapter_that_is_trained_on(method: Method, stage: Stage) -> None:
    assert method.adapters(stage) == AdapterPlan(("shared",), ("shared",))
    for task in range(3):
        assert method.eval_adapters(stage, task) == AdapterPlan(("shared",))


def test_incremental_adapters_are_summed_and_the_newest_learns() -> None:
    plans = [IncLoRA().adapters(stage) for stage in STAGES]
    assert [plan.active for plan in plans] == [
        ("task-01",),
        ("task-01", "task-02"),
        ("task-01", "task-02", "task-03"),
    ]
    assert [plan.trainable for plan in plans] == [("task-01",), ("task-02",), ("task-03",)]
    for task in range(3):  # whatever is asked, the sum answers; nothing learns
        assert IncLoRA().eval_adapters(STAGES[1], task) == AdapterPlan(("task-01", "task-02"))


def test_an_adapter_of_its_own_answers_for_each_task_and_none_before_it_is_learnt() -> None:
    method = PerTaskLoRA()
    assert [method.adapters(stage) for stage in STAGES] == [
        AdapterPlan((name,), (name,)) for name in ("task-01", "task-02", "task-03")
    ]
    answers = [method.eval_adapters(STAGES[1], task).active for task in range(3)]
    assert answers == [("task-01",), ("task-02",), ()]
    assert not any(method.eval_adapters(stage, task).trainable for stage in STAGES for task in range(3))


def test_joint_training_is_one_stage() -> None:
    assert MultiTask().stages(STREAM) == (Stage(0, "multi-task", (0, 1, 2), 2),)
    assert MultiTask().stages(stream(4)) == (Stage(0, "multi-task", (0,), 0),)
    assert SeqLoRA().stages(STREAM) == STAGES


def test_names_of_adapters_sort_as_their_tasks() -> None:
    names = [task_adapter(index) for index in range(99)]
    assert names[:2] == ["task-01", "task-02"]
    assert names == sorted(names)


def test_a_stage_knows_its_tasks_and_those_before() -> None:
    second = context(STREAM, 1)
    assert [task.name for task in second.tasks] == ["b"]
    assert [task.name for task in second.seen] == ["a", "b"]
    joint = context(STREAM, MultiTask().stages(STREAM)[0])
    assert [task.name for task in joint.tasks] == [task.name for task in joint.seen] == ["a", "b", "c"]


@pytest.mark.parametrize("name", METHODS.names())
def test_options_are_frozen_and_states_are_states(name: str) -> None:
    method = METHODS.get(name)()
    with pytest.raises(dataclasses.FrozenInstanceError):
        method.ratio = 1
    assert method.owns <= {"adapters", "optimizer", "stages", "earlier_rows"}
    assert isinstance(method.init_state(), MethodState)


def test_defaults_change_nothing() -> None:
    method, state, here = Method(), MethodState(), context(STREAM, 1)
    rows = STREAM.tasks[1].train
    assert method.train_data(state, here, rows, 3) is rows
    assert method.param_groups(state, here) is None
    assert method.optimizer(state, here, []) is None
    assert dict(method.step_loss(state, here)) == {}
    assert method.kept_adapters(STAGES[1]) == ("shared",)
    assert dict(method.facts(state, here)) == {}


def test_terms_of_several_methods_are_merged_and_must_differ() -> None:
    assert named_terms([{"a": 1}, {}, {"b": 2}]) == {"a": 1, "b": 2}
    with pytest.raises(AssertionError, match="two methods name a term alike"):
        named_terms([{"a": 1}, {"a": 2}])
