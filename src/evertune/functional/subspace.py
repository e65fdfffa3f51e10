"""Subspaces of input directions: which a gradient uses, which a task used, and matrices without their part in them.

Half precision is computed in float32. A subspace is a basis with orthonormal vectors: ``(n, s)`` columns where it is
protected, ``(rank, n)`` rows where it projects. A dense ``S S^T`` is never formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_linalg: Any = torch.linalg

# What counts as orthogonal in float32; cancelled directions are completed anew beyond it.
_ORTHOGONAL = 1e-6
# Noise on warm starts, relative to a direction: one that is orthogonal to all of the new gradient would never move.
_WARM_NOISE = 0.3
# Columns of a block: wide enough for fast products, narrow enough that several iterations cost what one of all would.
_BLOCK = 48


def remove(matrix: Tensor, basis: Tensor) -> Tensor:
    """``M - (M S) S^T``: every row without its part in a subspace.

    Args:
        matrix: ``(.., n)``.
        basis: ``(n, s)``, orthonormal columns; s may be 0.

    Returns:
        A new tensor of the same shape and dtype.
    """
    rows = _exact(matrix).reshape(-1, matrix.shape[-1])
    columns = basis.to(rows)
    return torch.addmm(rows, rows @ columns, columns.T, alpha=-1).view(matrix.shape).to(matrix.dtype)


@torch.no_grad()
def remove_(matrix: Tensor, basis: Tensor) -> Tensor:
    """As `remove`, in place; float32 needs no temporary of the size of the matrix.

    Returns:
        The matrix.
    """
    if matrix.dtype != torch.float32 or not matrix.is_contiguous():
        return matrix.copy_(remove(matrix, basis))
    rows, columns = matrix.view(-1, matrix.shape[-1]), basis.to(matrix)
    rows.addmm_(rows @ columns, columns.T, alpha=-1)
    return matrix


@torch.no_grad()
def right_subspace(
    gradient: Tensor,
    rank: int,
    *,
    generator: torch.Generator,
    start: Tensor | None = None,
    power_iterations: int | None = None,
    oversampling: int = 8,
    avoid: Tensor | None = None,
) -> Tensor:
    """The leading right singular vectors of a matrix, by randomized subspace iteration that forgets nothing.

    Only products with thin matrices, thin QR and one small symmetric eigenproblem; the iteration runs on the shorter
    side. The iterates are all kept (block Krylov), so that a block may be narrower than the rank, and the same work
    captures more where the spectrum decays slowly. Directions in which the matrix is zero are completed by arbitrary
    ones.

    Args:
        gradient: ``(m, n)``, finite.
        rank: Directions wanted; at most ``n - s`` exist.
        generator: On the CPU, so that every device draws the same numbers.
        start: Former directions ``(rows, n)``, from which to go on: about one product with the matrix less.
        power_iterations: Multiplications by ``G^T G`` after the first block; None for as many as keep one and a half
            times `rank` directions, at least one.
        oversampling: How much wider than `rank` a block is, up to the width beyond which wider ones do not pay.
        avoid: ``(n, s)``, orthonormal columns: the singular vectors are those of ``G - G S S^T``, and orthogonal to S.

    Returns:
        ``(min(rank, n - s), n)``, orthonormal rows, the strongest first, float32.

    Source: Halko, Martinsson and Tropp (2011), arXiv:0909.4061; Musco and Musco (2015), arXiv:1504.05477.
    """
    operator = _Operator.of(gradient.float(), avoid)
    m, n = gradient.shape
    shorter = min(m, n)
    rank = min(rank, n - (0 if avoid is None else avoid.shape[1]))
    if rank == 0:
        return torch.zeros(0, n, device=gradient.device)
    width = min(rank + oversampling, max(_BLOCK, oversampling), shorter)
    wanted = min(rank, shorter) * 3 // 2
    iterations = max(math.ceil(wanted / width) - 1, 1) if power_iterations is None else power_iterations
    short, long = _iterate(operator, operator.start(width, generator, start), iterations)
    while short.shape[1] < min(rank, shorter):  # fewer iterations were asked for than the rank needs
        more = _orthogonal_to(_normal((shorter, min(width, rank - short.shape[1])), generator, short), short)
        short, long = torch.cat([short, more], 1), torch.cat([long, operator.to_long(more)], 1)
    vectors = _linalg.eigh(long.T @ long)[1].flip(-1)[:, :rank]
    if operator.tall and avoid is None:
        return (short @ vectors).T.contiguous()
    # Carried over to the inputs if those are the longer side: their lengths are the singular values.
    directions = (short if operator.tall else long) @ vectors
    missing = _normal((n, rank - directions.shape[1]), generator, directions)
    return _orthogonal_to(torch.cat([directions, missing], 1), avoid).T.contiguous()


def compress(rows: Tensor, size: int) -> Tensor:
    """Fewer rows with nearly the same ``B^T B``: one shrinking step of Frequent Directions.

    All squared singular values lose the first one that does not fit, ``sigma_{size+1}^2``: the result never
    overestimates the energy of a direction, and underestimates it by at most that.

    Args:
        rows: ``(p, n)``, finite.
        size: Rows to keep.

    Returns:
        ``(min(p, size), n)``, float32; orthogonal rows, the longest first, if anything had to be dropped.

    Source: Liberty (2013), arXiv:1206.0594; Ghashami et al. (2016), arXiv:1501.01711.
    """
    rows = rows.float()
    count, width = rows.shape
    if count <= size:
        return rows
    # The smaller of the two Gram matrices has the same values. Its error is relative to the whole energy, as the bound.
    by_rows = count <= width
    values, vectors = _linalg.eigh((rows @ rows.T if by_rows else rows.T @ rows).double())
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)[:, :size]
    dropped = values[size] if len(values) > size else values.new_zeros(())
    values = values[:size]
    kept = (values - dropped).clamp(min=0)
    if by_rows:
        # U^T B has rows of length sigma; what is below the rounding of the Gram matrix is no direction.
        lengths = torch.where(values > values[0] * 1e-12, kept / values, 0).sqrt()
        return (vectors * lengths).float().T @ rows
    return (vectors * kept.sqrt()).float().T.contiguous()


@torch.no_grad()
def random_rows(gradient: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``omega^T G / sqrt(count)`` with a fresh Gaussian omega: rows with ``E[rows^T rows] = G^T G``.

    Omega must be fresh for every gradient. With one that stays, gradients of opposite sign cancel.

    Args:
        gradient: ``(m, ..)``; more than two dimensions are folded to ``(m, n)``.
        count: Rows wanted.
        generator: On the CPU.

    Returns:
        ``(count, n)``, float32.
    """
    matrix = gradient.reshape(gradient.shape[0], -1).float()
    omega = _normal((count, matrix.shape[0]), generator, matrix)
    return (omega @ matrix) / math.sqrt(count)


@dataclass(frozen=True)
class GradientSketch:
    """A sketch of ``C = sum_k G_k^T G_k`` over a stream of gradients, of bounded memory.

    It is these two tensors and nothing else, changed in place: whoever stores both, stores the sketch.

    Rows up to the count stand for the stream: ``0 <= x^T (A^T A - B^T B) x <= (|A|_F^2 - |B|_F^2) / (size + 1)`` for
    unit x, where A are all rows that were appended. Twice `size` rows fit in, so that a shrinking step serves many.

    Attributes:
        buffer: ``(2 * size, n)``, float32.
        counts: int64 ``(2,)`` on the CPU: rows of the buffer that are in use; rows appended so far.
    """

    buffer: Tensor
    counts: Tensor

    @classmethod
    def empty(cls, size: int, width: int, device: torch.device | str = "cpu") -> GradientSketch:
        """A sketch of nothing, with `size` rows of `width` entries."""
        return cls(torch.zeros(2 * size, width, device=device), torch.zeros(2, dtype=torch.int64))

    @property
    def size(self) -> int:
        """Rows that survive a shrinking step."""
        return self.buffer.shape[0] // 2

    def rows(self) -> Tensor:
        """``(rows in use, n)``, at most ``2 * size``, a view."""
        return self.buffer[: int(self.counts[0])]

    def add(self, gradient: Tensor, generator: torch.Generator, count: int = 1) -> None:
        """Takes in a gradient as `count` random rows; one that is not finite counts as zero.

        Args:
            gradient: ``(m, ..)``, folded to ``(m, n)``.
            generator: See `random_rows`.
            count: More rows, less variance.
        """
        rows = random_rows(gradient, count, generator)
        # Any entry that is not finite reaches the rows; chosen on the device, which need not be waited for.
        self.append(torch.where(rows.isfinite().all(), rows, 0))

    @torch.no_grad()
    def append(self, rows: Tensor) -> None:
        """Takes in rows ``(q, n)``."""
        for start in range(0, len(rows), self.size):
            part = rows[start : start + self.size]
            used, capacity = int(self.counts[0]), self.buffer.shape[0]
            if used + len(part) > capacity:
                # A copy: products round by the alignment of memory, and a buffer read from a file has another one.
                kept = compress(self.rows().clone(), self.size)
                self.buffer[: len(kept)] = kept
                self.buffer[len(kept) :] = 0
                used = len(kept)
            self.buffer[used : used + len(part)] = part
            self.counts[0] = used + len(part)
            self.counts[1] += len(part)


def covered_energy(sketch: Tensor, basis: Tensor) -> float:
    """Share of ``|B|_F^2`` that lies in a subspace, 0 to 1; 1 if there is no energy at all.

    Args:
        sketch: ``(rows, n)``.
        basis: ``(n, s)``, orthonormal columns.
    """
    rows = sketch.float()
    total = float(rows.double().square().sum())
    held = float((rows @ basis.to(rows)).double().square().sum())
    return min(held / total, 1.0) if total > 0 else 1.0


@torch.no_grad()
def grow_basis(basis: Tensor | None, sketch: Tensor, *, threshold: float, limit: int) -> tuple[Tensor, float]:
    """Adds the fewest directions with which a basis holds a share of a sketch's energy.

    Args:
        basis: ``(n, s)``, orthonormal columns; None for none.
        sketch: ``(rows, n)``, finite.
        threshold: Share of the energy, above 0 and at most 1.
        limit: Columns at most; a basis that has more already stays as it is.

    Returns:
        The basis ``(n, s + new)``, float32, on the device of the sketch, and the share of the energy that it holds.

    Source: gradient projection memory, Saha et al. (2021), arXiv:2103.09762.
    """
    # A copy: products round by the alignment of memory, and a sketch that was read from a file has another one.
    rows = sketch.to(torch.float32, copy=True)
    held = rows.new_zeros(rows.shape[1], 0) if basis is None else basis.to(rows)
    total = float(rows.double().square().sum())
    room = max(min(limit, rows.shape[1]) - held.shape[1], 0)
    if total == 0 or room == 0:
        return held, covered_energy(rows, held)
    _, values, directions = _linalg.svd(remove(rows, held), full_matrices=False)
    energies = values.double().square() / total
    # Beyond rounding there are no directions, even if all of the energy is asked for.
    energies = energies[energies > (torch.finfo(torch.float32).eps * 8) ** 2]
    reached = covered_energy(rows, held) + energies.cumsum(0)
    # Each energy is counted before it is added: as many as leave the share below the threshold.
    before = reached - energies
    new = min(int((before < threshold).sum()), room)
    # The old columns stay what they are, bit for bit.
    grown = torch.cat([held, _orthogonal_to(directions[:new].T, held)], 1) if new else held
    return grown, covered_energy(rows, grown)


def _iterate(operator: _Operator, start: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """An orthonormal basis, on the shorter side, of all that the iteration met, and its image on the longer one."""
    short = _orthonormal(start)
    long = image = operator.to_long(short)
    for _ in range(iterations):
        left = short.shape[0] - short.shape[1]
        if left == 0:  # the shorter side is spanned, there is nothing to search for
            break
        block = _orthogonal_to(operator.to_short(image)[:, :left], short)
        image = operator.to_long(block)
        short, long = torch.cat([short, block], 1), torch.cat([long, image], 1)
    return short, long


@dataclass(frozen=True)
class _Operator:
    """``c (G - G S S^T)`` between its shorter and its longer side, where c makes the largest entry 1.

    Attributes:
        matrix: G, ``(m, n)``.
        avoid: S.
        tall: Whether the inputs are the shorter side.
        factor: c, so that squares of small gradients do not vanish.
    """

    matrix: Tensor
    avoid: Tensor | None
    tall: bool
    factor: Tensor

    @classmethod
    def of(cls, matrix: Tensor, avoid: Tensor | None) -> _Operator:
        lowest, highest = torch.aminmax(matrix)
        largest = torch.maximum(-lowest, highest)
        factor = torch.where(largest > 0, 1 / largest, 1)
        return cls(matrix, None if avoid is None else avoid.to(matrix), matrix.shape[0] >= matrix.shape[1], factor)

    def start(self, width: int, generator: torch.Generator, former: Tensor | None) -> Tensor:
        """``width`` columns on the shorter side: a mixture of former directions, or the image of random columns."""
        if former is None:
            return self.to_short(_normal((max(self.matrix.shape), width), generator, self.matrix))
        # Of unit length, also where a caller's directions are as long as their singular values.
        directions = _orthonormal(former.to(self.matrix).T)
        count = directions.shape[1]
        mixing = _normal((count, width), generator, directions) / math.sqrt(count)
        if width >= count:
            mixing[:, :count] = torch.eye(count, device=mixing.device)
        noise = _normal((directions.shape[0], width), generator, directions) / math.sqrt(directions.shape[0])
        columns = directions @ mixing + _WARM_NOISE * noise
        return columns if self.tall else self._down(columns)

    def to_long(self, columns: Tensor) -> Tensor:
        return self._down(columns) if self.tall else self._back(columns)

    def to_short(self, columns: Tensor) -> Tensor:
        return self._back(columns) if self.tall else self._down(columns)

    def _down(self, columns: Tensor) -> Tensor:
        # Thin times whole is faster than whole times thin, and its result is laid out as QR wants it.
        return (self._free(columns).T @ self.matrix.T).T * self.factor

    def _back(self, columns: Tensor) -> Tensor:
        return self._free((columns.T @ self.matrix).T) * self.factor

    def _free(self, columns: Tensor) -> Tensor:
        return columns if self.avoid is None else columns - self.avoid @ (self.avoid.T @ columns)


def _exact(tensor: Tensor) -> Tensor:
    """Half precision is widened."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    """Gaussian numbers, drawn on the CPU: the same on every device."""
    return torch.randn(shape, generator=generator).to(like.device)


def _orthonormal(columns: Tensor) -> Tensor:
    """Orthonormal columns that span the given ones; Householder's QR completes where those are dependent."""
    return _linalg.qr(columns)[0]


def _orthogonal_to(columns: Tensor, avoid: Tensor | None) -> Tensor:
    """Orthonormal columns, orthogonal to `avoid` whatever cancels."""
    if avoid is None or avoid.shape[1] == 0:
        return _orthonormal(columns)
    avoid = avoid.to(columns)
    for _ in range(2):  # twice is enough (Kahan, Parlett): what the first leaves is rounding, unless all cancelled
        columns = _orthonormal(columns - avoid @ (avoid.T @ columns))
        if float((avoid.T @ columns).abs().max()) < _ORTHOGONAL:
            return columns
    return _orthonormal(torch.cat([avoid, columns], 1))[:, avoid.shape[1] :]
