"""Low-rank projections of gradients: onto the directions in which a gradient is strongest, anew every few steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from evertune.functional.subspace import right_subspace

Kind = Literal["std", "reverse_std", "left", "right", "full"]


@dataclass(frozen=True)
class Projector:
    """Orthonormal directions of one matrix ``(m, n)``, at least on one side.

    Coordinates have the rank first: ``P G^T (r, m)`` with directions of the inputs, ``Q G (r, n)`` with directions of
    the outputs, ``Q G P^T (r, r)`` with both. A thin left factor times a whole gradient is half the time of the
    transposed product where r is small.

    Attributes:
        inputs: P, ``(r, n)``, or None.
        outputs: Q, ``(r, m)``, or None.
    """

    inputs: Tensor | None
    outputs: Tensor | None

    def shape(self, m: int, n: int) -> tuple[int, int]:
        """Shape of the coordinates of an ``(m, n)`` matrix."""
        if self.inputs is not None and self.outputs is not None:
            return len(self.outputs), len(self.inputs)
        return (len(self.inputs), m) if self.inputs is not None else (len(self._only_outputs), n)

    def down(self, gradient: Tensor, *, out: Tensor | None = None) -> Tensor:
        """Coordinates of a float32 matrix."""
        if self.inputs is None:
            return torch.mm(self._only_outputs, gradient, out=out)
        if self.outputs is None:
            return torch.mm(self.inputs, gradient.T, out=out)
        return torch.mm(self.outputs, torch.mm(self.inputs, gradient.T).T, out=out)

    def up(self, low: Tensor) -> Tensor:
        """The ``(m, n)`` matrix with these coordinates."""
        left, right = self._factors(low)
        return left @ right

    def add_up_(self, weight: Tensor, low: Tensor, *, alpha: float, beta: float = 1.0) -> None:
        """``W <- beta W + alpha up(low)`` in place, in one pass over W."""
        left, right = self._factors(low)
        weight.addmm_(left, right, alpha=alpha, beta=beta)

    def carry(self, former: Projector, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Adam's moments, from the coordinates of a former projector to those of this one.

        With ``T = P P_former^T`` the first moment is rotated, ``T M``. The second, a mean of squares, becomes
        ``(T o T) V``, exact where the former coordinates are uncorrelated. Of a direction that was not in the former
        space only the share ``w = sum_j T_ij^2`` is known; the rest takes what stood in its place, ``(1 - w) V``, lest
        a new direction starts with a denominator of zero.
        """
        turns = [
            None if new is None or old is None else new @ old.T
            for new, old in ((self.outputs, former.outputs), (self.inputs, former.inputs))
        ]
        # One-sided coordinates have the rank first, two-sided ones the outputs, then the inputs.
        both = turns[0] is not None and turns[1] is not None
        one = turns[0] if turns[0] is not None else turns[1]
        assert one is not None
        other = turns[1] if both else None
        known = (one * one).sum(1, keepdim=True).clamp(max=1)
        moved, squares = one @ first, (one * one) @ second
        if other is not None:
            known = known * (other * other).sum(1).clamp(max=1)
            moved, squares = moved @ other.T, squares @ (other * other).T
        return moved, squares + (1 - known) * second

    @property
    def _only_outputs(self) -> Tensor:
        assert self.outputs is not None, "a projector has a side"
        return self.outputs

    def _factors(self, low: Tensor) -> tuple[Tensor, Tensor]:
        if self.inputs is None:
            return self._only_outputs.T, low
        if self.outputs is None:
            return low.T, self.inputs
        return self.outputs.T, low @ self.inputs


@dataclass(frozen=True, kw_only=True)
class LowRankProjection:
    """How gradients are projected.

    Attributes:
        kind: Which side: ``right`` the inputs, ``left`` the outputs, ``std`` the shorter side (the inputs of a square
            matrix), ``reverse_std`` the longer one, ``full`` both.
        rank: Directions, at most as many as the shorter side has and the protected ones leave.
        scale: Factor of the update.
        refresh_gap: Steps after which the directions are chosen anew.

    Source: Zhao et al. (2024), "GaLore", arXiv:2403.03507.
    """

    kind: Kind = "right"
    rank: int = 8
    scale: float = 1.0
    refresh_gap: int = 20

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"projection_kind is {self.kind!r}; write one of {', '.join(get_args(Kind))}")
        for name, value in (("rank", self.rank), ("refresh_gap", self.refresh_gap)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")

    def projects_inputs(self, m: int, n: int) -> bool:
        """Whether a matrix of this shape has directions of its inputs projected."""
        by_shape = {"std": m >= n, "reverse_std": m < n}
        return by_shape.get(self.kind, self.kind in ("right", "full"))

    def projects_outputs(self, m: int, n: int) -> bool:
        """Whether a matrix of this shape has directions of its outputs projected."""
        return self.kind == "full" or not self.projects_inputs(m, n)

    def effective_rank(self, m: int, n: int, protected: int = 0) -> int:
        """Directions of an ``(m, n)`` matrix of whose inputs `protected` directions are taken; may be 0."""
        return max(min(self.rank, m, n - protected), 0)

    def state_size(self, m: int, n: int) -> int:
        """Numbers that Adam's two moments and the directions of an ``(m, n)`` matrix are."""
        rank, inputs, outputs = self.effective_rank(m, n), self.projects_inputs(m, n), self.projects_outputs(m, n)
        coordinates = rank * (rank if inputs and outputs else m if inputs else n)
        return 2 * coordinates + rank * (n * inputs + m * outputs)

    @torch.no_grad()
    def refresh(
        self,
        gradient: Tensor,
        *,
        generator: torch.Generator,
        former: Projector | None = None,
        protected: Tensor | None = None,
    ) -> Projector | None:
        """The directions in which a gradient, without its protected part, is strongest.

        Args:
            gradient: ``(m, n)``.
            generator: On the CPU.
            former: Where to start: spaces move slowly.
            protected: ``(n, s)``, orthonormal columns; directions of inputs are orthogonal to them.

        Returns:
            None if the gradient is not finite.
        """
        matrix = gradient.float()
        # One pass without a temporary: the sum is not finite if an entry is not.
        if not matrix.sum().isfinite():
            return None
        m, n = matrix.shape
        start = None if former is None else former.inputs
        if former is not None and start is None:
            start = former.down(matrix)
        inputs = right_subspace(
            matrix,
            self.effective_rank(m, n, 0 if protected is None else protected.shape[1]),
            generator=generator,
            start=start,
            avoid=protected,
        )
        outputs = None
        if self.projects_outputs(m, n):
            outputs = torch.linalg.qr(matrix @ inputs.T)[0].T.contiguous()
        return Projector(inputs if self.projects_inputs(m, n) else None, outputs)


def folded(tensor: Tensor) -> Tensor:
    """A matrix ``(outputs, inputs)`` of a weight with more than two dimensions; a view where its layout allows."""
    return tensor.reshape(tensor.shape[0], -1)
