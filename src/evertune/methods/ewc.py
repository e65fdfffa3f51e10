"""EWC: a spring holds every weight where earlier tasks left it, as stiffly as it mattered to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Le
from torch.nn import functional

from evertune.backbones.base import IGNORED
from evertune.backbones.language_model import without_dropout
from evertune.functional.fisher import diagonal_fisher, drawn_tokens, flat, quadratic_penalty, top_share
from evertune.methods.base import Context, Method, MethodState
from evertune.randomness import derive_seed, python_generator

if TYPE_CHECKING:
    from torch import Tensor, nn

_SPRINGS = "ewc springs"


@dataclass(frozen=True, kw_only=True)
class EWC(Method):
    """Elastic weight consolidation of the adapters that learn, without any row of earlier tasks.

    When a task ends, the diagonal of its Fisher information F is measured row by row and added to that of the tasks
    before, ``F <- decay * F + F_task``, and the weights at this moment become the anchor. In later tasks the term
    `fisher`, ``lambda_penalty / 2 * sum F (theta - anchor)^2``, enters the loss once per optimiser step. Two float32
    numbers per weight are kept, however many tasks there are. A row's log-likelihood is the mean over its answer
    tokens, the scale of the data loss.

    Only parameters that learn again are held: beside seq-lora all of them, beside ds-lora the slow adapter (and the
    fast one if it is shared), beside methods with an adapter for every task none, which is said. Beside a method that
    changes its adapters when a task ends write ewc last, so that it measures what they have become.

    Attributes:
        lambda_penalty: Stiffness; 0 leaves the term out. At the mean length of an answer, in tokens, the penalty is a
            diagonal guess at the earlier tasks' own loss, as if they were learnt along; a diagonal underrates it, hence
            more. On the built-in stream the default keeps what was learnt and leaves room for the next task (the
            gradient of the penalty is a few tenths of the task's); 1 holds hardly anything, 1000 too much.
        fisher_rows: Rows of a task on which F is measured, drawn at random; each costs a pass with a batch of one.
        labels: ``sampled``: the answer's tokens are drawn from the model's own distributions, which gives the Fisher
            information; ``data``: the reference answer, the empirical one, which vanishes as the task is learnt.
        decay: Factor of what earlier tasks hold whenever another ends.

    Source: Kirkpatrick et al. (2017), arXiv:1612.00796; one F and one anchor for all tasks as in online EWC, Schwarz et
    al. (2018), arXiv:1805.06370.
    """

    lambda_penalty: Annotated[float, Ge(0)] = 100.0
    fisher_rows: Annotated[int, Ge(1)] = 200
    labels: Literal["sampled", "data"] = "sampled"
    decay: Annotated[float, Ge(0), Le(1)] = 1.0

    requires: ClassVar[frozenset[str]] = frozenset({"text_answers"})
    term_keys: ClassVar[Mapping[str, str]] = {"fisher": "lambda_penalty"}

    def required(self) -> frozenset[str]:
        """Answers token by token, where labels are drawn from them."""
        return self.requires if self.labels == "sampled" else frozenset()

    def begin_task(self, state: MethodState, context: Context) -> None:
        """Says if nothing that learns now is held."""
        if context.stage.index > 0 and not _held(state, context):
            context.warn(
                f"{context.stage.name}: ewc holds nothing, since no parameter that learns now did so before; "
                "write it beside a method whose adapter goes on learning, such as seq-lora or ds-lora"
            )

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        """The penalty, where there is something to hold."""
        if not self.lambda_penalty:
            return {}
        if _SPRINGS not in context.derived:
            context.derived[_SPRINGS] = _springs(state, context)
        springs = context.derived[_SPRINGS]
        return {"fisher": self.lambda_penalty * quadratic_penalty(*springs)} if springs else {}

    def end_task(self, state: MethodState, context: Context) -> None:
        """Measures F and drops the anchor; what did not learn is forgotten: an adapter of one task does not return."""
        learning = context.bank.trainable_parameters()
        before, state.tensors = state.tensors, {}
        if not learning:
            return
        measured = diagonal_fisher(self._losses(context), list(learning.values()))
        for (name, parameter), fisher in zip(learning.items(), measured, strict=True):
            key, total = f"fisher {name}", fisher.cpu()
            state.tensors[key] = total + self.decay * before[key] if key in before else total
            state.tensors[f"anchor {name}"] = parameter.detach().float().to("cpu", copy=True)

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """How large F is, and how few weights hold most of it."""
        held = [tensor for key, tensor in state.tensors.items() if key.startswith("fisher ")]
        if not held:
            return {}
        values = flat(held)
        return {
            "fisher_mean": values.mean().item(),
            "fisher_max": values.max().item(),
            "fisher_in_top_1_percent": top_share(values, 0.01),
        }

    def _losses(self, context: Context) -> Iterator[Tensor]:
        """Of each drawn row alone: mean negative log-likelihood (nats) over the answer, with gradient."""
        rows = [row for task in context.tasks for row in task.train]
        draw = python_generator(context.seed, "ewc", context.stage.index)
        tokens = torch.Generator().manual_seed(derive_seed(context.seed, "ewc labels", context.stage.index))
        model = context.bank.model
        with without_dropout(model):
            for row in draw.sample(rows, min(self.fisher_rows, len(rows))):
                with context.computing():
                    output = context.backbone.loss(model, context.batch([row]))
                if self.labels == "data":
                    yield output.sum / max(output.count, 1)
                    continue
                logits = output.logits[output.extra["labels"] != IGNORED].float()
                yield functional.cross_entropy(logits, drawn_tokens(logits, tokens))


def _held(state: MethodState, context: Context) -> dict[str, nn.Parameter]:
    """What learns now and did so before, by name."""
    learning = context.bank.trainable_parameters()
    return {name: parameter for name, parameter in learning.items() if f"fisher {name}" in state.tensors}


def _springs(state: MethodState, context: Context) -> tuple[list[nn.Parameter], Tensor, Tensor] | None:
    """Held parameters, their F and their anchors, end to end on the device; None if nothing is held."""
    held = _held(state, context)
    if not held:
        return None
    device = next(iter(held.values())).device
    fisher, anchor = (flat([state.tensors[f"{kind} {name}"] for name in held]) for kind in ("fisher", "anchor"))
    return list(held.values()), fisher.to(device), anchor.to(device)
