"""LwF: while a task is learnt, the model's answers to its rows stay near those that it gave before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Gt

from evertune.backbones.base import IGNORED
from evertune.functional.divergence import TopDistribution, top_distribution, top_divergence
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.row_answers import row_answers

if TYPE_CHECKING:
    from torch import Tensor

    from evertune.backbones.base import Batch, LossOutput

_ANSWERS = "lwf answers"
MUCH_MEMORY = 2 * 2**30  # bytes


@dataclass(frozen=True, kw_only=True)
class LwF(Method):
    """Learning without forgetting: the rows of the new task say what must not change, no old row is needed.

    The teacher is the model as it was before the task. Once, before the first step, it answers the new rows, and the
    `top_k` most likely tokens at every position of the answers are kept in memory with the mass of all others: no
    second model, and no forward pass of a teacher in any step. The term `distillation_of_rows` is

    ``lambda_distillation * temperature^2 * sum over answer tokens of KL(teacher || model)``,

    both at `temperature`, divided by the scored tokens of a step as the loss of the data is. Rows that other methods
    mix in have no teacher. The first task has none either; at a lambda of 0 nothing is computed or kept.

    Beside a method that changes adapters when a task begins (`slao`), write this one first: methods act in the order
    written, and the teacher is what this one finds.

    Attributes:
        lambda_distillation: Weight of the term; at 1 a token counts as much to the teacher as to its label.
        temperature: What logits are divided by; above 1 unlikely tokens count for more.
        top_k: Tokens kept at each position; with 64 a position takes 388 bytes.

    Source: Li and Hoiem (2016), "Learning without Forgetting", arXiv:1606.09282, with its temperature of 2; a language
    model has one output layer for all tasks, so the old answers are those at the answer tokens of the new rows.
    """

    lambda_distillation: Annotated[float, Ge(0)] = 1.0
    temperature: Annotated[float, Gt(0)] = 2.0
    top_k: Annotated[int, Ge(1)] = 64

    requires: ClassVar[frozenset[str]] = frozenset({"text_answers"})

    def init_state(self) -> MethodState:
        """No teacher."""
        return MethodState(values={"told": False})

    def begin_task(self, state: MethodState, context: Context) -> None:
        """Remembers the adapters as they are: a resumed stage has no other way to its teacher."""
        if self._teaches(context):
            learning = context.bank.learning_tensors()
            state.tensors = {f"{name}/{key}": held for name, part in learning.items() for key, held in part.items()}

    @contextmanager
    def watch(self, state: MethodState, context: Context) -> Iterator[None]:
        """Has the teacher answer the rows of the stage, before its first step and after a resume."""
        if self._teaches(context):
            with _as_before(state, context):
                context.derived[_ANSWERS] = self._answers(state, context)
        yield

    def batch_loss(
        self, state: MethodState, context: Context, batch: Batch, output: LossOutput
    ) -> Mapping[str, Tensor]:
        """How far the answers have moved, from the second task on."""
        if not self._teaches(context):
            return {}
        answers: dict[str, TopDistribution] = context.derived[_ANSWERS]
        taught = [id in answers for id in batch.ids]
        if not any(taught):
            return {"distillation_of_rows": output.sum.new_zeros(())}
        labels = output.extra["labels"]
        chosen = (labels != IGNORED) & torch.tensor(taught, device=labels.device)[:, None]
        teacher = _joined([answers[id] for id in batch.ids if id in answers]).to(labels.device)
        moved = top_divergence(output.logits[chosen], teacher, self.temperature).sum()
        return {"distillation_of_rows": self.lambda_distillation * self.temperature**2 * moved}

    def end_task(self, state: MethodState, context: Context) -> None:
        """Forgets the teacher."""
        state.tensors.clear()

    def facts(self, state: MethodState, context: Context) -> Mapping[str, Any]:
        """Memory that the teacher's answers took."""
        answers: dict[str, TopDistribution] = context.derived.get(_ANSWERS, {})
        return {"bytes": sum(answer.nbytes for answer in answers.values())} if answers else {}

    def _teaches(self, context: Context) -> bool:
        return self.lambda_distillation > 0 and context.stage.index > 0

    def _answers(self, state: MethodState, context: Context) -> dict[str, TopDistribution]:
        """What the model answers now, by row id, on the CPU."""
        answers: dict[str, TopDistribution] = {}
        size = 0
        for batch in row_answers(context):
            kept = top_distribution(batch.logits, self.top_k, self.temperature).to("cpu")
            answers |= {id: kept[place] for id, place in batch.places.items()}
            size += kept.nbytes
            if size > MUCH_MEMORY and not state.values["told"]:
                state.values["told"] = True
                what = f"the answers of the teacher of {context.stage.name} take more than {MUCH_MEMORY / 2**30:g} GiB"
                context.warn(f"lwf: {what} of memory in every process; if that is too much, lower `method.top_k`")
        return answers


@contextmanager
def _as_before(state: MethodState, context: Context) -> Iterator[None]:
    """Held open: the adapters are those that `begin_task` remembered."""
    teacher: dict[str, dict[str, Tensor]] = {}
    for path, held in state.tensors.items():
        name, _, key = path.partition("/")
        teacher.setdefault(name, {})[key] = held
    now = context.bank.learning_tensors()
    context.bank.load_learning_tensors(teacher)
    try:
        yield
    finally:
        context.bank.load_learning_tensors(now)


def _joined(parts: Sequence[TopDistribution]) -> TopDistribution:
    fields = ((part.ids, part.log_probs, part.rest) for part in parts)
    with torch.autocast("cpu", enabled=False):  # which could not place float16 there
        return TopDistribution(*(torch.cat(field) for field in zip(*fields, strict=True)))
