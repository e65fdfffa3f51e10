"""LoRA-EMA: a fast adapter learns, and a slow one that follows it at a distance answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from torch.optim.swa_utils import get_ema_multi_avg_fn

from evertune.adapters.spec import AdapterPlan
from evertune.methods.base import Context, Method, MethodState
from evertune.streams.task import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

FAST, SLOW = "fast", "slow"
_PAIRS = "lora-ema pairs"


@dataclass(frozen=True, kw_only=True)
class LoRAEMA(Method):
    """Two adapters: after every optimiser step ``slow <- decay * slow + (1 - decay) * fast``.

    The average is that of the factors A and B, each by itself: the product of averages is not the average of products,
    but close to it while both adapters are in one basis, which is why the slow one starts as a copy of the fast one and
    is never drawn anew. It learns by no gradient, and neither memory nor the cost of an answer grows with the stream.
    Evaluation while training scores the fast adapter, and where the best weights are kept these are its own; the slow
    one is the average up to the last step.

    Attributes:
        decay: How much of itself the slow adapter keeps at a step. It holds the mean of about
            ``1 / (1 - decay)`` steps; of a task with fewer it takes up little, which is said. 0 makes it a copy of the
            fast one.
        restart: Whether the fast adapter begins every later task as the slow one, or goes on from where it is.

    Source: averaged weights, Polyak and Juditsky (1992); as a slow learner, Tarvainen and Valpola (2017),
    arXiv:1703.01780.
    """

    decay: Annotated[float, Ge(0), Lt(1)] = 0.999
    restart: bool = True

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    def init_state(self) -> MethodState:
        """No step taken."""
        return MethodState(values={"step": 0})

    def adapters(self, stage: Stage) -> AdapterPlan:
        """The fast one."""
        return AdapterPlan((FAST,), (FAST,))

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """The slow one."""
        return AdapterPlan((SLOW,))

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """Both."""
        return (FAST, SLOW)

    @torch.no_grad()
    def begin_task(self, state: MethodState, context: Context) -> None:
        """Copies the fast adapter before the first task, and the slow one before the others, where it should."""
        state.values["step"] = 0
        fast = _factors(context, FAST)
        if context.stage.index == 0:
            # Kept here and not on the model: a checkpoint holds adapters that learn and the states of methods.
            state.tensors = {key: factor.detach().clone() for key, factor in fast.items()}
        elif self.restart:
            for key, factor in fast.items():
                factor.copy_(state.tensors[key])

    @torch.no_grad()
    def after_step(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Lets the slow adapter follow."""
        if _PAIRS not in context.derived:
            context.derived[_PAIRS] = _pairs(state, context)
        slow, fast = context.derived[_PAIRS]
        get_ema_multi_avg_fn(self.decay)(slow, fast, state.values["step"])
        state.values["step"] += 1

    @torch.no_grad()
    def end_task(self, state: MethodState, context: Context) -> None:
        """Puts the slow adapter on the model."""
        if SLOW not in context.bank.names:
            context.bank.add(SLOW, seed=0)
        for key, factor in _factors(context, SLOW).items():
            factor.copy_(state.tensors[key])
        left = self._left(state)
        if left > 0.5:
            context.warn(
                f"{context.stage.name}: {left:.0%} of the slow adapter is still what it was before the "
                f"{state.values['step']} steps of this task; lower method.decay"
            )

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """How much of the slow adapter is older than the task."""
        return {"older_share": self._left(state)}

    def _left(self, state: MethodState) -> float:
        return self.decay ** state.values["step"]


def _factors(context: Context, name: str) -> dict[str, nn.Parameter]:
    """A and B of every module."""
    held = context.bank.factors(name)
    return {f"{path} {side}": getattr(factors, side) for path, factors in held.items() for side in ("A", "B")}


def _pairs(state: MethodState, context: Context) -> tuple[list[Tensor], list[Tensor]]:
    """Slow and fast factors, in the same order; the slow ones, read from a file, move to the device for good."""
    fast = _factors(context, FAST)
    for key, factor in fast.items():
        state.tensors[key] = state.tensors[key].to(factor.device)
    return [state.tensors[key] for key in fast], list(fast.values())
