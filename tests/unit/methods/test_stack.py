"""Several methods as one, and the compositions that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from evertune.adapters.spec import AdapterPlan
from evertune.errors import CapabilityError
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.multi_task import MultiTask
from evertune.methods.per_task_lora import PerTaskLoRA
from evertune.methods.replay import Replay
from evertune.methods.seq_lora import SeqLoRA
from evertune.methods.stack import MethodStack, composition_problems
from evertune.streams.examples import PromptTarget
from tests.unit.builders import context, row, stream

STREAM = stream(2, 2)


@dataclass(frozen=True, kw_only=True)
class Noting(Method):
    """Notes every call in its state and does something recognisable."""

    mark: str
    groups: bool = False

    def init_state(self) -> MethodState:
        return MethodState(values={"calls": []})

    def _note(self, state: MethodState, what: str) -> None:
        state.values["calls"].append(what)

    def begin_task(self, state: MethodState, context: Context) -> None:
        self._note(state, "begin")

    def train_data(
        self, state: MethodState, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        return [*rows, row("extra", epoch, self.mark)]

    def param_groups(self, state: MethodState, context: Context) -> list[dict[str, Any]] | None:
        return [{"params": [], "mark": self.mark}] if self.groups else None

    def batch_loss(self, state: MethodState, context: Context, batch: Any, output: Any) -> dict[str, Any]:
        return {f"{self.mark} batch": output}

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Any]:
        return {f"{self.mark} step": self.mark}

    def project(self, state: MethodState, context: Context, parameters: Any) -> None:
        self._note(state, "project")

    def after_step(self, state: MethodState, context: Context, parameters: Any) -> None:
        self._note(state, "after")

    def end_task(self, state: MethodState, context: Context) -> None:
        self._note(state, "end")


@dataclass(frozen=True, kw_only=True)
class OwnOptimizer(Method):
    owns: ClassVar[frozenset[str]] = frozenset({"optimizer"})

    def optimizer(self, state: MethodState, context: Context, groups: Any) -> Any:
        return f"mine over {groups}"


def test_hooks_are_called_in_order_with_the_state_of_each() -> None:
    stack = MethodStack((("one", Noting(mark="1")), ("two", Noting(mark="2", groups=True))))
    states, here = stack.init_state(), context(STREAM, 0)
    stack.begin_task(states, here)
    stack.project(states, here, {})
    stack.after_step(states, here, {})
    stack.end_task(states, here)
    assert states["one"].values == states["two"].values == {"calls": ["begin", "project", "after", "end"]}
    assert states["one"] is not states["two"]
    rows = stack.train_data(states, here, STREAM.tasks[0].train, 4)
    assert [r.prompt_text for r in rows] == ["a 0", "a 1", "1", "2"]
    nothing: Any = None
    assert stack.batch_loss(states, here, nothing, nothing) == {"1 batch": None, "2 batch": None}
    assert stack.step_loss(states, here) == {"1 step": "1", "2 step": "2"}
    assert stack.param_groups(states, here) == [{"params": [], "mark": "2"}]


def test_the_owner_decides_wherever_it_stands_in_the_list() -> None:
    for methods in ((("replay", Replay()), ("inc-lora", IncLoRA())), (("inc-lora", IncLoRA()), ("replay", Replay()))):
        stack = MethodStack(methods)
        stage = stack.stages(STREAM)[1]
        assert stack.adapters(stage) == AdapterPlan(("task-01", "task-02"), ("task-02",))
        assert stack.eval_adapters(stage, 0) == AdapterPlan(("task-01", "task-02"))
    joint = MethodStack((("multi-task", MultiTask()),))
    assert [stage.name for stage in joint.stages(STREAM)] == ["multi-task"]
    own = MethodStack((("own", OwnOptimizer()),))
    assert own.optimizer(own.init_state(), context(STREAM, 0), []) == "mine over []"


def test_without_owners_the_defaults_hold() -> None:
    stack = MethodStack((("replay", Replay()),))
    assert stack.adapters(stack.stages(STREAM)[0]) == AdapterPlan(("shared",), ("shared",))
    assert stack.param_groups(stack.init_state(), context(STREAM, 0)) is None
    assert stack.optimizer(stack.init_state(), context(STREAM, 0), []) is None


def test_two_that_decide_on_adapters_are_refused() -> None:
    with pytest.raises(CapabilityError) as caught:
        MethodStack((("seq-lora", SeqLoRA()), ("replay", Replay()), ("inc-lora", IncLoRA())))
    wanted = "method: `seq-lora` and `inc-lora` both decide on which adapters learn. Keep one of them."
    assert str(caught.value) == wanted


def test_every_contradiction_is_named_at_once() -> None:
    methods = [
        ("replay", Replay()),
        ("replay", Replay()),
        ("replay", Replay()),
        ("multi-task", MultiTask()),
        ("per-task-lora", PerTaskLoRA()),
        ("own", OwnOptimizer()),
        ("other", OwnOptimizer()),
    ]
    problems = composition_problems(methods, where="run.yaml:3:1")
    assert [str(problem) for problem in problems] == [
        "run.yaml:3:1: Method `replay` is written 3 times. Write it once.",
        "run.yaml:3:1: `multi-task` and `per-task-lora` both decide on which adapters learn. Keep one of them.",
        "run.yaml:3:1: `own` and `other` both decide on the optimiser. Keep one of them.",
        "run.yaml:3:1: `replay` and `multi-task` both decide on which rows of other tasks are mixed in. "
        "Keep one of them.",
    ]


def test_a_method_written_twice_is_said_once() -> None:
    problems = composition_problems([("seq-lora", SeqLoRA()), ("seq-lora", SeqLoRA())])
    assert [problem.what for problem in problems] == ["Method `seq-lora` is written 2 times."]


def test_what_goes_together() -> None:
    for methods in (
        [],
        [("inc-lora", IncLoRA()), ("replay", Replay())],
        [("multi-task", MultiTask()), ("own", OwnOptimizer())],
    ):
        assert composition_problems(methods) == []
