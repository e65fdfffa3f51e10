"""GORP: full weights in a low-rank gradient space and LoRA, learnt together, both kept off what earlier tasks used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le

from evertune.adapters.spec import AdapterPlan, BaseWeights
from evertune.functional.subspace import GradientSketch, remove_
from evertune.methods import protected
from evertune.methods.base import Context, MethodState, task_adapter
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.input_moments import input_moments, square_root
from evertune.randomness import derive_seed
from evertune.streams.task import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

_BASES = "gorp bases"
SKETCHED = 2  # random mixtures of the rows of a gradient that enter its sketch


@dataclass(frozen=True, kw_only=True)
class GORP(IncLoRA):
    """A new adapter for every task, as in inc-lora, beside base weights that learn by projected gradients.

    Of every module that learns, the directions of its *inputs* in which gradients of a finished task had their energy
    are protected: gradients lose their part in them, and so does the update, whatever the optimiser made of it. Since
    ``(W + dW) x = W x`` for every x in that space, later tasks leave the answers to such inputs as they were. With
    `full_rank` and `shared_space` switched off it is inc-lora; the published ablation is B (neither), B+L
    (`full_rank`), B+S (`shared_space`) and B+L+S.

    What differs from the released code, which protected directions of the rank index of LoRA and lost the full weights
    after every task: the space is the input side of each module, it is collected over the whole task, it is used for
    the next one, and the change of the full weights is kept (``delta.safetensors``). The paper projects full gradients
    from both sides (`projection_kind: full`), the code from one (`std`); the default keeps to the input side, on which
    the protected space lives.

    Attributes:
        full_rank: Base weights that learn: a role, names or a regular expression, as `adapter.target`; none of them may
            have an adapter. ``null``: none learn.
        shared_space: Protect the gradient space of earlier tasks.
        projection_rank: Rank of the projected gradients.
        projection_kind: Which side is projected: ``right`` (inputs), ``left`` (outputs), ``std`` (the shorter),
            ``reverse_std`` (the longer), ``full`` (both).
        projection_scale: Factor of the projected update.
        refresh_gap: Steps after which the projection is chosen anew.
        rotate_moments: Carry the first moment over into the new projection.
        full_rank_learning_rate: Peak learning rate of the full weights; LoRA has `train.learning_rate`.
        space: Where the directions come from: ``gradients`` of the task, as published, or its ``inputs``, which hold
            more of what old rows can look like and cost one pass over the rows when a task ends.
        energy_threshold: Share of a task's energy, of either, that is protected after it.
        max_protected_share: At most this share of a module's input directions is ever protected.
        sketch_rows: Rows of the sketch of a task's gradients, which bounds its memory.
        sketch_every: Steps between two gradients that enter it.

    Source: Wang et al. (2025), "GORP", ACL 2025, arXiv:2507.02503; projected gradients from GaLore, Zhao et al.
    (2024), arXiv:2403.03507; sketches by Frequent Directions, Liberty (2013), arXiv:1206.0594.
    """

    full_rank: str | tuple[str, ...] | None = "mlp_gate"
    shared_space: bool = True
    projection_rank: Annotated[int, Ge(1)] = 8
    projection_kind: Literal["std", "reverse_std", "left", "right", "full"] = "right"
    projection_scale: Annotated[float, Gt(0)] = 1.0
    refresh_gap: Annotated[int, Ge(1)] = 20
    rotate_moments: bool = True
    full_rank_learning_rate: Annotated[float, Gt(0)] = 1e-5
    space: Literal["gradients", "inputs"] = "gradients"
    energy_threshold: Annotated[float, Gt(0), Le(1)] = 0.95
    max_protected_share: Annotated[float, Gt(0), Le(1)] = 0.5
    sketch_rows: Annotated[int, Ge(2)] = 64
    sketch_every: Annotated[int, Ge(1)] = 1

    owns: ClassVar[frozenset[str]] = frozenset({"adapters", "optimizer"})
    requires: ClassVar[frozenset[str]] = frozenset({"trainable_base"})
    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})

    def required(self) -> frozenset[str]:
        """Without `full_rank` no base weights change."""
        return frozenset() if self.full_rank is None else self.requires

    def adapters(self, stage: Stage) -> AdapterPlan:
        """As inc-lora, and the base weights."""
        plan = super().adapters(stage)
        base = None if self.full_rank is None else BaseWeights(self.full_rank, learn=True, key="method.full_rank")
        return AdapterPlan(plan.active, plan.trainable, base=base)

    def init_state(self) -> MethodState:
        """Nothing protected."""
        return MethodState(values={"step": 0})

    def param_groups(self, state: MethodState, context: Context) -> list[dict[str, Any]] | None:
        """LoRA by AdamW, the base weights by projected AdamW."""
        weights = list(context.bank.base_weights().values())
        if not weights:
            return None
        full = {id(weight) for weight in weights}
        adapter = [p for p in context.bank.trainable_parameters().values() if id(p) not in full]
        projected = {
            "params": weights,
            "lr": self.full_rank_learning_rate,
            "rank": self.projection_rank,
            "projection_kind": self.projection_kind,
            "projection_scale": self.projection_scale,
            "refresh_gap": self.refresh_gap,
            "rotate_moments": self.rotate_moments,
        }
        return [{"params": adapter}, projected]

    def optimizer(self, state: MethodState, context: Context, groups: Sequence[Mapping[str, Any]]) -> Optimizer | None:
        """Projected AdamW where base weights learn."""
        from evertune.optim.projected_adamw import ProjectedAdamW

        weights = context.bank.base_weights()
        if not weights:
            return None
        held = self._bases(state, context)
        return ProjectedAdamW(
            [dict(group) for group in groups],
            seed=derive_seed(context.seed, "gorp projection", context.stage.index),
            protected={weight: held[path] for path, weight in weights.items() if path in held},
        )

    @torch.no_grad()
    def begin_task(self, state: MethodState, context: Context) -> None:
        """Takes the protected directions out of the new A, and starts with empty sketches."""
        state.values["step"] = 0
        held = self._bases(state, context)
        for path, A in self._input_bases(context):
            if path in held:
                remove_(A, held[path])

    @torch.no_grad()
    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Notes the gradients of the task, then takes their protected part away."""
        if not self.shared_space:
            return
        step = state.values["step"]
        if self.space == "gradients" and step % self.sketch_every == 0:
            seed = derive_seed(context.seed, "gorp sketch", context.stage.index, step)
            draw = torch.Generator().manual_seed(seed)
            for path, learning in self._learning(context):
                if learning.grad is not None:
                    self._sketch(state, path, learning).add(learning.grad, draw, SKETCHED)
        state.values["step"] = step + 1
        held = self._bases(state, context)
        for path, learning in self._learning(context):
            if learning.grad is not None and path in held:
                remove_(learning.grad, held[path])

    @torch.no_grad()
    def after_step(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        """Takes away what the optimiser moved into the protected space: A held nothing there before."""
        held = self._bases(state, context)
        for path, A in self._input_bases(context):
            if path in held:
                remove_(A, held[path])

    @torch.no_grad()
    def end_task(self, state: MethodState, context: Context) -> None:
        """Protects the directions of the task."""
        if not self.shared_space:
            return
        if self.space == "inputs":
            sketches = {path: square_root(moment) for path, moment in input_moments(context).items()}
        else:
            sketches = self._finished_sketches(state, context)
        protected.grow(state, sketches, threshold=self.energy_threshold, max_share=self.max_protected_share)
        protected.warn_of_little_room(state, context, "method.energy_threshold")

    def facts(self, state: MethodState, context: Context) -> dict[str, Any]:
        """The protected space."""
        return protected.facts(state) if self.shared_space else {}

    def _bases(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        """Protected directions on the device of the model; they stay what they are while a task is learnt."""
        if _BASES not in context.derived:
            device = next(context.bank.model.parameters()).device
            held = protected.bases(state) if self.shared_space else {}
            context.derived[_BASES] = {path: basis.to(device) for path, basis in held.items()}
        return context.derived[_BASES]

    def _input_bases(self, context: Context) -> Iterator[tuple[str, nn.Parameter]]:
        """A of the adapter that learns, ``(r, d_in)``, by module path."""
        for path, factors in context.bank.factors(task_adapter(context.stage.index)).items():
            yield path, factors.A

    def _learning(self, context: Context) -> Iterator[tuple[str, nn.Parameter]]:
        """All that learns on the input side, ``(.., d_in)``, by module path."""
        yield from self._input_bases(context)
        yield from context.bank.base_weights().items()

    def _finished_sketches(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        """The rows of every sketch, whose tensors leave the state."""
        sketches: dict[str, Tensor] = {}
        for path, learning in self._learning(context):
            sketches[path] = self._sketch(state, path, learning).rows()
            for name in _sketch_names(path):
                del state.tensors[name]
        return sketches

    def _sketch(self, state: MethodState, path: str, learning: Tensor) -> GradientSketch:
        """The sketch of a module, which lives in the state."""
        buffer, counts = _sketch_names(path)
        if buffer not in state.tensors:
            empty = GradientSketch.empty(self.sketch_rows, learning.shape[1], learning.device)
            state.tensors[buffer], state.tensors[counts] = empty.buffer, empty.counts
        elif state.tensors[buffer].device != learning.device:  # read from a checkpoint
            state.tensors[buffer] = state.tensors[buffer].to(learning.device)
        return GradientSketch(state.tensors[buffer], state.tensors[counts])


def _sketch_names(path: str) -> tuple[str, str]:
    return f"sketch/{path}", f"sketch counts/{path}"
