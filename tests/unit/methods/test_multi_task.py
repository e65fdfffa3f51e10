"""All tasks at once, with the budget that they would have had one by one."""

from __future__ import annotations

from collections import Counter

import pytest

from evertune.methods.base import MethodState
from evertune.methods.multi_task import MultiTask
from tests.unit.builders import context, stream

STREAM = stream(3, 2, 4)


@pytest.mark.parametrize(
    ("epochs", "times"),
    [
        ({"a": 1, "b": 1, "c": 1}, {"a": 1, "b": 1, "c": 1}),
        ({"a": 1, "b": 3, "c": 2}, {"a": 1, "b": 3, "c": 2}),
        ({"a": 2, "b": 6, "c": 2}, {"a": 1, "b": 3, "c": 1}),
        ({"a": 0.5, "b": 0.5, "c": 1}, {"a": 1, "b": 1, "c": 2}),
    ],
)
def test_rows_of_a_task_come_as_often_as_its_epochs_say(epochs: dict[str, float], times: dict[str, int]) -> None:
    method = MultiTask()
    here = context(STREAM, method.stages(STREAM)[0], epochs=epochs)
    rows = [row for task in STREAM.tasks for row in task.train]
    found = Counter(row.id for row in method.train_data(MethodState(), here, rows, 0))
    assert found == Counter({row.id: times[task.name] for task in STREAM.tasks for row in task.train})


@pytest.mark.parametrize("epochs", [{"a": 2, "b": 6, "c": 4}, {"a": 2, "b": 5, "c": 2.5}])
def test_the_budget_is_that_of_the_tasks_one_by_one(epochs: dict[str, float]) -> None:
    """Rows per pass times passes equals the rows that the single tasks see."""
    method = MultiTask()
    here = context(STREAM, method.stages(STREAM)[0], epochs=epochs)
    passes = min(epochs.values())
    seen = passes * len(method.train_data(MethodState(), here, [], 0))
    assert seen == sum(epochs[task.name] * len(task.train) for task in STREAM.tasks)


def test_every_epoch_has_the_same_rows() -> None:
    method = MultiTask()
    here = context(STREAM, method.stages(STREAM)[0], epochs={"a": 1, "b": 1.5, "c": 1.25})
    first, second = (method.train_data(MethodState(), here, [], epoch) for epoch in (0, 1))
    assert list(first) == list(second)
