"""Multi-task training: all tasks at once, the upper bound that continual methods are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from evertune.methods.base import Context, Method, MethodState
from evertune.randomness import python_generator
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stage, Stream


@dataclass(frozen=True, kw_only=True)
class MultiTask(Method):
    """One adapter learns the rows of all tasks, mixed, as often as the tasks would have been learnt one by one.

    It fills only the last row of the accuracy matrix.
    """

    owns: ClassVar[frozenset[str]] = frozenset({"adapters", "stages", "earlier_rows"})

    def stages(self, stream: Stream) -> tuple[Stage, ...]:
        """One stage with every task."""
        everything = tuple(range(len(stream.tasks)))
        return (Stage(0, "multi-task", everything, everything[-1]),)

    def train_data(
        self, state: MethodState, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        """A task with more epochs of its own has its rows that many times as often; of a part of an epoch, so many."""
        fewest = min(context.num_train_epochs.values())
        mixed: list[PromptTarget] = []
        for task in context.tasks:
            wanted = round(len(task.train) * context.num_train_epochs[task.name] / fewest)
            times, rest = divmod(wanted, len(task.train))
            some = python_generator(context.seed, "multi-task", task.name).sample(task.train, rest)
            mixed += [*task.train * times, *some]
        return mixed
