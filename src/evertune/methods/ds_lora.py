"""DS-LoRA: a slow adapter that all tasks share, and a fast one for the running task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Gt

from evertune.adapters.spec import AdapterPlan
from evertune.errors import ConfigError
from evertune.functional.truncation import truncated_sum
from evertune.methods.base import Context, Method, MethodState, task_adapter
from evertune.streams.task import Stage

SLOW, FAST = "slow", "fast"


@dataclass(frozen=True, kw_only=True)
class DSLoRA(Method):
    """Two adapters on the same modules, which learn from the same loss at two rates; their changes add up.

    The slow one is shared by all tasks. Both step together at the end of every accumulation (in the published code the
    slow one stands still while the first task is learnt). They usually sit on the upper layers only: see
    `adapter.num_frozen_layers`. With slsd beside it, self-distillation holds the slow adapter in place.

    Attributes:
        slow_learning_rate: Of the slow adapter.
        fast_learning_rate: Of the fast adapter; None for `train.learning_rate`.
        fast: ``per_task``: every task has a fast adapter of its own, which begins at zero; ``shared``: one goes on from
            task to task, as in the published code; ``merged``: one for every task, which is added to the slow one when
            the task ends, ``slow <- slow + merge_weight * fast``, cut back to the rank by a singular value
            decomposition.
        at_test: What answers. ``sum``: the slow adapter with the fast one of the task that is tested (of a task not
            learnt yet: the slow one); ``slow``: the slow one alone; ``fast``: the task's fast one alone; ``last``: the
            slow one with the latest fast one, whatever the task.
        merge_weight: See `fast`.

    Source: DS-LoRA (2025), the published code of that name; its own rates are 5e-6 and 2e-5, its text says 1e-5 and
    5e-5. Not as there: the fast adapter is the task's own, weights and moments are float32, and gradients are clipped
    by their common norm.
    """

    slow_learning_rate: Annotated[float, Gt(0)] = 1e-5
    fast_learning_rate: Annotated[float, Gt(0)] | None = None
    fast: Literal["per_task", "shared", "merged"] = "per_task"
    at_test: Literal["sum", "slow", "fast", "last"] = "sum"
    merge_weight: Annotated[float, Gt(0)] = 1.0

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    requires: ClassVar[frozenset[str]] = frozenset({"task_id_at_test"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    def __post_init__(self) -> None:
        """Refuses what would have no effect.

        Raises:
            ConfigError: If it is asked for a fast adapter that is merged away, or to merge where nothing is merged.
        """
        if self.fast == "merged" and self.at_test in ("fast", "last"):
            what = "After a task its fast adapter is a part of the slow one."
            raise ConfigError(what, where="at_test", instead="Write `sum` or `slow`.")
        if self.fast != "merged" and self.merge_weight != 1.0:
            raise ConfigError("Nothing is merged.", where="merge_weight", instead="Write `fast: merged` beside it.")

    def required(self) -> frozenset[str]:
        """Whether it must know whose fast adapter answers."""
        chooses = self.fast == "per_task" and self.at_test in ("sum", "fast")
        return self.requires if chooses else frozenset()

    def adapters(self, stage: Stage) -> AdapterPlan:
        """Both, and both learn."""
        names = (SLOW, self._fast(stage.index))
        return AdapterPlan(names, names)

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """See `at_test`."""
        if self.fast == "merged" or self.at_test == "slow":
            return AdapterPlan((SLOW,))
        own = stage.index if self.at_test == "last" or self.fast == "shared" else task
        fast = (self._fast(own),) if own <= stage.index else ()
        return AdapterPlan(fast if self.at_test == "fast" else (SLOW, *fast))

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """Both; the slow one alone where the fast one is merged into it."""
        return (SLOW,) if self.fast == "merged" else self.adapters(stage).trainable

    def slow_adapters(self, stage: Stage) -> tuple[str, ...]:
        """The slow one."""
        return (SLOW,)

    def param_groups(self, state: MethodState, context: Context) -> list[dict[str, Any]] | None:
        """One group for each of them."""
        slow, fast = (
            [weight for factors in context.bank.factors(name).values() for weight in (factors.A, factors.B)]
            for name in self.adapters(context.stage).trainable
        )
        rate = {} if self.fast_learning_rate is None else {"lr": self.fast_learning_rate}
        return [{"params": fast, **rate}, {"params": slow, "lr": self.slow_learning_rate}]

    def end_task(self, state: MethodState, context: Context) -> None:
        """Merges the fast adapter into the slow one, where it should."""
        if self.fast == "merged":
            state.values["kept_energy"] = self._merge(context)
            context.bank.remove(self._fast(context.stage.index))

    @torch.no_grad()
    def _merge(self, context: Context) -> float:
        """Returns the smallest share of a module's squared norm that the cut to the rank left."""
        bank = context.bank
        fast = bank.factors(self._fast(context.stage.index))
        lowest = 1.0
        for path, slow in bank.factors(SLOW).items():
            B = torch.cat([slow.B, self.merge_weight * fast[path].B], dim=1)
            A = torch.cat([slow.A, fast[path].A])
            merged_B, merged_A, kept = truncated_sum(B, A, len(slow.A))
            # Rows of A keep their length: B alone is zero in directions that hold nothing, so these can still learn.
            length = slow.A.norm(dim=1).mean()
            slow.A.copy_(merged_A * length)
            slow.B.copy_(merged_B / length)
            lowest = min(lowest, kept.item())
        return lowest

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """How much of the sum was left after the cut."""
        return dict(state.values)

    def _fast(self, index: int) -> str:
        """Name of the fast adapter of the task learnt at place `index`."""
        return FAST if self.fast == "shared" else task_adapter(index)
