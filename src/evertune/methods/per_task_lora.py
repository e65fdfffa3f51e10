"""One adapter a task, chosen at test by the task: no forgetting, no sharing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evertune.adapters.spec import AdapterPlan
from evertune.methods.base import Method, task_adapter
from evertune.streams.task import Stage


@dataclass(frozen=True, kw_only=True)
class PerTaskLoRA(Method):
    """Every task has an adapter of its own on the untouched model; which one answers is told at test.

    A task that was not learnt yet is answered by the untouched model.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    requires: ClassVar[frozenset[str]] = frozenset({"task_id_at_test"})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """The task's own adapter, alone."""
        name = task_adapter(stage.index)
        return AdapterPlan((name,), (name,))

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """The adapter of the task that is tested."""
        return AdapterPlan((task_adapter(task),) if task <= stage.index else ())
