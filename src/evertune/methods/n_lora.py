"""N-LoRA: sparse changes, so that tasks hardly ever change the same entries of a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from annotated_types import Ge

from evertune.errors import ConfigError, Problem
from evertune.functional.penalties import core_l1, product_l1, same_shapes
from evertune.methods.base import Context, MethodState
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.o_lora import learning_factors, sum_of

if TYPE_CHECKING:
    from torch import Tensor

    from evertune.adapters.bank import AdapterBank
    from evertune.adapters.layers import Factors


@dataclass(frozen=True, kw_only=True)
class NLoRA(IncLoRA):
    """A new adapter for every task as in inc-lora, whose change is kept sparse, so that it collides with few others.

    One term is added to the loss of a step, from the first task on, summed over the adapted modules; A is (r, inputs)
    and B (outputs, r). `sparsity` is lambda_1 times ``||B A||_1`` over all outputs x inputs entries (paper) or
    ``sum_jk |A B|_jk`` over r x r entries (released).

    The released code multiplies the stored factors the other way round, which only square weights allow, and so never
    penalises the size of the change. B A is taken without the scaling ``lora_alpha / r``. A lambda of 0 leaves the term
    out, and then this is inc-lora. No entry becomes exactly zero: collisions are counted with a threshold.

    Attributes:
        lambda_1: Weight of the term. The name is the authors'; it has nothing to do with O-LoRA's orthogonality.
        variant: ``paper``, or ``released``: what the published numbers and lambdas belong to.
        normalize: Divide the term by the number of modules.

    Source: Yang et al. (2024), arXiv:2410.10179; the default is that of the released scripts for T5-large, orders 1
    to 3, which train ten epochs a task.
    """

    lambda_1: Annotated[float, Ge(0)] = 0.4
    variant: Literal["paper", "released"] = "paper"
    normalize: bool = False

    adapter_needs: ClassVar[frozenset[str]] = frozenset({"low_rank_factors"})
    term_keys: ClassVar[Mapping[str, str]] = {"sparsity": "lambda_1"}

    def check_model(self, bank: AdapterBank) -> None:
        """Refuses modules that the released form cannot be computed on.

        Raises:
            ConfigError: Naming them.
        """
        if self.variant == "paper" or not self.lambda_1:
            return
        factors = bank.factors(bank.names[-1])
        shapes = {path: (len(factor.B), factor.A.shape[1]) for path, factor in factors.items()}
        if oblong := {path: shape for path, shape in shapes.items() if shape[0] != shape[1]}:
            raise ConfigError(_not_square(oblong, len(shapes)))

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        """The term, if its lambda is not 0."""
        if not self.lambda_1:
            return {}
        new = learning_factors(context)
        groups = same_shapes({path: (factors.A, factors.B) for path, factors in new.items()})
        total = sum_of([self._sparsity([new[path] for path in paths]) for paths in groups])
        return {"sparsity": self.lambda_1 * total / (len(new) if self.normalize else 1)}

    def _sparsity(self, group: list[Factors]) -> Tensor:
        A, B = torch.stack([factors.A for factors in group]), torch.stack([factors.B for factors in group])
        return product_l1(B, A) if self.variant == "paper" else core_l1(A, B)


def _not_square(oblong: Mapping[str, tuple[int, int]], modules: int) -> Problem:
    path, (outputs, inputs) = next(iter(oblong.items()))
    others = f", as are {len(oblong) - 1} more of the {modules} adapted modules" if len(oblong) > 1 else ""
    return Problem(
        "method.variant",
        f"N-LoRA's released form needs square weights, and `{path}` is {outputs} x {inputs}{others}.",
        "Write `variant: paper`, or adapt modules with as many outputs as inputs (`adapter.target`).",
    )
