"""Several methods as one: losses add, data is mixed in the order written, one of them decides on adapters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evertune.adapters.spec import AdapterPlan
from evertune.errors import CapabilityError, Problem
from evertune.methods.base import Context, Method, MethodState, named_terms
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stage, Stream

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from evertune.backbones.base import Batch, LossOutput

States = dict[str, MethodState]

# For questions that have the same answer in every stage, before there is a stream.
FIRST_STAGE = Stage(0, "check", (0,), 0)

_TITLES = {
    "adapters": "which adapters learn",
    "optimizer": "the optimiser",
    "stages": "the stages",
    "earlier_rows": "which rows of other tasks are mixed in",
}


def composition_problems(methods: Sequence[tuple[str, Method]], where: str = "method") -> list[Problem]:
    """What is wrong with composing these methods: one named twice, or two that decide the same thing."""
    problems: list[Problem] = []
    names = [name for name, _ in methods]
    for name in sorted({name for name in names if names.count(name) > 1}):
        problems.append(Problem(where, f"Method `{name}` is written {names.count(name)} times.", "Write it once."))
    for what, title in _TITLES.items():
        owners = list(dict.fromkeys(name for name, method in methods if what in method.owns))
        if len(owners) > 1:
            listed = " and ".join(f"`{name}`" for name in owners)
            problems.append(Problem(where, f"{listed} both decide on {title}.", "Keep one of them."))
    if not any(method.slow_adapters(FIRST_STAGE) for _, method in methods):
        for name, method in methods:
            if "slow_adapters" in method.required():
                what = f"`{name}` moves the slow adapters of a method, and none here has any."
                problems.append(Problem(where, what, f"Write `[ds-lora, {name}]`, or `{{name: {name}, reach: all}}`."))
    return problems


@dataclass(frozen=True)
class MethodStack:
    """The methods of a stage, called as one.

    Attributes:
        methods: ``(name, method)``, in the order written.

    Raises:
        CapabilityError: If two of them decide the same thing.
    """

    methods: tuple[tuple[str, Method], ...]

    def __post_init__(self) -> None:
        problems = composition_problems(self.methods)
        if problems:
            raise CapabilityError(problems)

    def _owner(self, what: str) -> Method:
        return next((method for _, method in self.methods if what in method.owns), Method())

    def stages(self, stream: Stream) -> tuple[Stage, ...]:
        """The stages of the run."""
        return self._owner("stages").stages(stream)

    def init_state(self) -> States:
        """Fresh states, by method name."""
        return {name: method.init_state() for name, method in self.methods}

    def adapters(self, stage: Stage) -> AdapterPlan:
        """Which adapters take part and which learn."""
        return self._owner("adapters").adapters(stage)

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """Which adapters answer for a task."""
        return self._owner("adapters").eval_adapters(stage, task)

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """The adapters that are saved when a stage ends."""
        return self._owner("adapters").kept_adapters(stage)

    def slow_adapters(self, stage: Stage) -> tuple[str, ...]:
        """The adapters that are meant to change little."""
        return self._owner("adapters").slow_adapters(stage)

    def param_groups(self, states: States, context: Context) -> list[dict[str, Any]] | None:
        """Parameter groups, from the first method that has any."""
        for name, method in self.methods:
            groups = method.param_groups(states[name], context)
            if groups is not None:
                return groups
        return None

    def optimizer(self, states: States, context: Context, groups: Sequence[Mapping[str, Any]]) -> Optimizer | None:
        """The optimiser of the method that owns it, None for the configured one."""
        for name, method in self.methods:
            if "optimizer" in method.owns:
                return method.optimizer(states[name], context, groups)
        return None

    @contextmanager
    def watch(self, states: States, context: Context) -> Iterator[None]:
        """What the methods hold open while a stage trains."""
        with ExitStack() as held:
            for name, method in self.methods:
                held.enter_context(method.watch(states[name], context))
            yield

    def term_key(self, term: str) -> str:
        """The option that scales a term of the loss."""
        keys = {key: value for _, method in self.methods for key, value in method.term_keys.items()}
        return f"method.{keys[term]}" if term in keys else "its weight in `method`"

    def facts(self, states: States, context: Context) -> dict[str, Any]:
        """What the methods tell of a stage that has ended, by method; those with nothing to tell are left out."""
        told = {name: dict(method.facts(states[name], context)) for name, method in self.methods}
        return {name: facts for name, facts in told.items() if facts}

    def begin_task(self, states: States, context: Context) -> None:
        """Before the first step of a stage."""
        for name, method in self.methods:
            method.begin_task(states[name], context)

    def train_data(
        self, states: States, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        """The rows of one epoch."""
        for name, method in self.methods:
            rows = method.train_data(states[name], context, rows, epoch)
        return rows

    def batch_loss(self, states: States, context: Context, batch: Batch, output: LossOutput) -> dict[str, Tensor]:
        """Named sums of one micro-batch."""
        return named_terms(method.batch_loss(states[name], context, batch, output) for name, method in self.methods)

    def step_loss(self, states: States, context: Context) -> dict[str, Tensor]:
        """Named scalars of one optimiser step."""
        return named_terms(method.step_loss(states[name], context) for name, method in self.methods)

    def project(self, states: States, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Changes gradients in place."""
        for name, method in self.methods:
            method.project(states[name], context, parameters)

    def after_step(self, states: States, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Changes parameters in place."""
        for name, method in self.methods:
            method.after_step(states[name], context, parameters)

    def end_task(self, states: States, context: Context) -> None:
        """After the last step of a stage."""
        for name, method in self.methods:
            method.end_task(states[name], context)
