"""What a continual-learning method may do, and when.

A method is a frozen dataclass of its hyperparameters. What it remembers is a `MethodState` that the runner saves
after every stage and with every checkpoint. All hooks have defaults, so that a method is only what it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from evertune.adapters.spec import AdapterPlan
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stage, Stream, Task, sequential_stages

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from evertune.adapters.bank import AdapterBank
    from evertune.backbones.base import Backbone, Batch, LossOutput

SHARED = "shared"


@dataclass
class MethodState:
    """What a method remembers between stages and over a resume.

    Attributes:
        tensors: Tensors, saved as safetensors.
        values: JSON values.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)


def _unheard(text: str) -> None:
    """Where nobody listens."""


def _no_batch(rows: Sequence[PromptTarget]) -> Batch:
    raise AssertionError("nothing is trained here")


@dataclass(frozen=True)
class Context:
    """What a hook may look at.

    Attributes:
        stream: The whole stream.
        stage: The running stage.
        bank: The adapters on the model.
        backbone: The model family.
        seed: Seed of the run; derive from it with `evertune.randomness`.
        num_train_epochs: Epochs of each task of this stage, by task name (differs in multi-task training only).
        slow: The adapters that the methods declare as slow: shared by all tasks and meant to change little.
        batches: All rows of the stage once, in batches on the device, the same on every process.
        batch: Rows of any task of the stream as one batch on the device, cut to the lengths of this stage.
        computing: Held open while a hook runs the model, so that it computes in the type in which it learns.
        warn: Says a sentence to the user and keeps it for the report.
        derived: What hooks have computed from the rest and can compute again, by a name of their own: it goes with the
            stage, is not saved, and is empty in a resumed one. Nothing may depend on whether it is there.
    """

    stream: Stream
    stage: Stage
    bank: AdapterBank
    backbone: Backbone
    seed: int
    num_train_epochs: Mapping[str, float] = field(default_factory=dict)
    slow: tuple[str, ...] = ()
    batches: Callable[[], Iterable[Batch]] = tuple
    batch: Callable[[Sequence[PromptTarget]], Batch] = _no_batch
    computing: Callable[[], AbstractContextManager[Any]] = nullcontext
    warn: Callable[[str], None] = _unheard
    derived: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks learnt in this stage."""
        return tuple(self.stream.tasks[index] for index in self.stage.tasks)

    @property
    def seen(self) -> tuple[Task, ...]:
        """The tasks learnt up to and with this stage, in order."""
        return self.stream.tasks[: max(self.stage.tasks) + 1]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A method; every hook has a default.

    Class attributes:
        owns: What only one method of a composition may decide: ``adapters``, ``optimizer``, ``stages``,
            ``earlier_rows`` (which rows of other tasks are mixed in).
        requires: Capabilities that it can ask for, shown by ``describe`` and refused where they are missing:
            ``old_data`` (rows of earlier tasks may be kept), ``task_id_at_test`` (the task of a test row is known),
            ``trainable_base`` (weights of the base model change), ``new_adapters`` (adapters begin as it sets them,
            not from others), ``slow_adapters`` (a method beside it declares some), ``text_answers`` (the model
            answers token by token).
        adapter_needs: What adapters must be able to do, by the names in `evertune.adapters.kinds.NEEDS`; any kind does
            where there is none.
        term_keys: Which option scales a term of `step_loss`, by the term's name.
    """

    owns: ClassVar[frozenset[str]] = frozenset()
    requires: ClassVar[frozenset[str]] = frozenset()
    adapter_needs: ClassVar[frozenset[str]] = frozenset()
    term_keys: ClassVar[Mapping[str, str]] = {}

    def required(self) -> frozenset[str]:
        """Which of `requires` it asks for with these options: all of them."""
        return self.requires

    def stages(self, stream: Stream) -> tuple[Stage, ...]:
        """The stages of the run: one a task, in order."""
        return sequential_stages(stream.tasks)

    def init_state(self) -> MethodState:
        """What is remembered before the first stage."""
        return MethodState()

    def adapters(self, stage: Stage) -> AdapterPlan:
        """Which adapters take part and which learn in a stage: one that is trained on and on."""
        return AdapterPlan((SHARED,), (SHARED,))

    def eval_adapters(self, stage: Stage, task: int) -> AdapterPlan:
        """What answers for the task with index `task` after a stage: what took part in training."""
        plan = self.adapters(stage)
        return AdapterPlan(plan.active, base=replace(plan.base, learn=False) if plan.base else None)

    def kept_adapters(self, stage: Stage) -> tuple[str, ...]:
        """The adapters that are saved when a stage ends: those that learnt."""
        return self.adapters(stage).trainable

    def slow_adapters(self, stage: Stage) -> tuple[str, ...]:
        """The learning adapters that are shared by all tasks and meant to change little: none."""
        return ()

    def param_groups(self, state: MethodState, context: Context) -> list[dict[str, Any]] | None:
        """Parameter groups with ``params``, ``lr`` and ``weight_decay``; None for one group of all that trains."""
        return None

    def optimizer(self, state: MethodState, context: Context, groups: Sequence[Mapping[str, Any]]) -> Optimizer | None:
        """An optimiser of the method's own over complete groups of AdamW; None for the configured one."""
        return None

    def watch(self, state: MethodState, context: Context) -> AbstractContextManager[Any]:
        """Held open while a stage trains, after a resume too: the place for hooks on modules."""
        return nullcontext()

    def check_model(self, bank: AdapterBank) -> None:
        """Before any row is read: whether the method works on a model; the bank holds one adapter, without weights.

        Raises:
            ConfigError: If it does not.
        """

    def begin_task(self, state: MethodState, context: Context) -> None:
        """Before the first step of a stage."""

    def train_data(
        self, state: MethodState, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        """The rows of one epoch of the stage, given the stage's own.

        Must be a pure function of its arguments, and give equally many rows for every epoch: a resumed run asks again.
        """
        return rows

    def batch_loss(
        self, state: MethodState, context: Context, batch: Batch, output: LossOutput
    ) -> Mapping[str, Tensor]:
        """Named terms of one micro-batch, summed over its scored tokens; divided as the data loss is."""
        return {}

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        """Named scalars that are added once per optimiser step, unscaled; the same on every process."""
        return {}

    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """After the last backward pass and before clipping: may change gradients in place."""

    def after_step(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """After each optimiser step: may change parameters in place."""

    def end_task(self, state: MethodState, context: Context) -> None:
        """After the last step of a stage, before it is saved and scored."""

    def facts(self, state: MethodState, context: Context) -> Mapping[str, Any]:
        """What is worth knowing of a stage that has ended: JSON, kept in its ``metrics.json`` for the report."""
        return {}


def named_terms(terms: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the named terms of several methods; a name used twice is a bug of ours."""
    merged: dict[str, Any] = {}
    for mapping in terms:
        assert not merged.keys() & mapping.keys(), f"two methods name a term alike: {merged.keys() & mapping.keys()}"
        merged.update(mapping)
    return merged


def task_adapter(index: int) -> str:
    """Name of the adapter that belongs to the task learnt at place `index` (0 is the first): ``task-01``."""
    return f"task-{index + 1:02d}"
