"""Incremental LoRA: a new adapter for every task on top of the frozen earlier ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evertune.adapters.spec import AdapterPlan
from evertune.methods.base import Method, task_adapter
from evertune.streams.task import Stage


@dataclass(frozen=True, kw_only=True)
class IncLoRA(Method):
    """A new adapter for every task; the earlier ones are frozen, and the model computes with the sum of all.

    Source: the baseline "IncLoRA" of O-LoRA (Wang et al., 2023), arXiv:2310.14152, section 4.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"several_active"})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """All adapters so far take part, the newest learns."""
        names = tuple(task_adapter(index) for index in range(stage.index + 1))
        return AdapterPlan(names, names[-1:])
