"""Penalties on low-rank changes, for many modules at once.

Modules whose factors have the same shapes are stacked, so that a penalty over a hundred of them is a few kernels. Every
function takes stacks and returns the sum over their modules, as a scalar with gradient. They compute in float32, or in
float64 if that is what they are given, and must be called outside autocast.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 1 << 20
"""Entries of the products ``B A`` that exist at a time: 4 MiB of float32."""


def same_shapes(members: Mapping[str, Sequence[Tensor]]) -> tuple[tuple[str, ...], ...]:
    """Keys of what can be stacked together: whose tensors have the same shapes, in their order.

    Args:
        members: Tensors by key, as many for every key.

    Returns:
        The keys of every group; groups in the order of their first key.
    """
    groups: dict[tuple[torch.Size, ...], list[str]] = {}
    for key, tensors in members.items():
        groups.setdefault(tuple(tensor.shape for tensor in tensors), []).append(key)
    return tuple(tuple(keys) for keys in groups.values())


def overlap_l1(past: Tensor, new: Tensor) -> Tensor:
    r"""``sum_ij |A_past A_new^T|_ij``: how far the input directions of a new change are from orthogonal to past ones.

    Its pull is as strong for a small overlap as for a large one. Released with O-LoRA (arXiv:2310.14152).

    Args:
        past: ``(modules, R, n)``; usually without gradient.
        new: ``(modules, r, n)``.

    Returns:
        Sum over the modules; the derivative of ``|x|`` at 0 is 0.
    """
    return _overlaps(past, new).abs().sum()


def overlap_squared(past: Tensor, new: Tensor) -> Tensor:
    r"""``||A_past A_new^T||_F^2``: the smooth overlap of O-LoRA's paper (arXiv:2310.14152).

    Args:
        past: ``(modules, R, n)``; usually without gradient.
        new: ``(modules, r, n)``.

    Returns:
        Sum over the modules.
    """
    return _overlaps(past, new).square().sum()


def frobenius_norms(matrices: Tensor) -> Tensor:
    """``||M||_F``, not squared, summed over the matrices.

    Args:
        matrices: ``(modules, rows, columns)``.

    Returns:
        The sum; a matrix that is zero, as every new B is, has the gradient zero.
    """
    linalg: Any = torch.linalg
    norms: Tensor = linalg.vector_norm(_exact(matrices), dim=(1, 2))
    return norms.sum()


def product_l1(B: Tensor, A: Tensor, *, chunk: int = CHUNK) -> Tensor:
    r"""``||B A||_1``: the sum of ``|B A|_ij`` over all m x n entries, N-LoRA's sparsity (arXiv:2410.10179).

    The products and their signs exist only `chunk` entries at a time. The gradients, ``sign(B A) A^T`` and
    ``B^T sign(B A)``, are computed in the same pass; a second derivative is refused.

    Args:
        B: ``(modules, m, r)``.
        A: ``(modules, r, n)``.
        chunk: Entries of the products at a time, at least one row.

    Returns:
        Sum over the modules; the derivative of ``|x|`` at 0 is 0.
    """
    function: Any = _ProductL1
    return function.apply(_exact(B), _exact(A), chunk)


def core_l1(A: Tensor, B: Tensor) -> Tensor:
    """``sum_ij |A B|_ij`` over the r x r entries that N-LoRA's released code penalises.

    It measures how the rows of A meet the columns of B; it says nothing about the size or sparsity of ``B A``.

    Args:
        A: ``(modules, r, n)``.
        B: ``(modules, m, r)``.

    Raises:
        ValueError: Unless m == n.
    """
    n, m = A.shape[-1], B.shape[-2]
    if m != n:
        raise ValueError(f"the r x r product A B needs as many outputs as inputs, and this weight is {m} x {n}")
    return torch.bmm(_exact(A), _exact(B)).abs().sum()


def _overlaps(past: Tensor, new: Tensor) -> Tensor:
    return torch.bmm(_exact(past), _exact(new).transpose(1, 2))


def _exact(tensor: Tensor) -> Tensor:
    """Half precision is widened."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _chunks(modules: int, rows: int, columns: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Parts with at most `limit` entries: as many whole modules as fit, else rows of one (at least one row)."""
    height = min(max(limit // columns, 1), rows)
    count = max(limit // (rows * columns), 1)
    for module in range(0, modules, count):
        for row in range(0, rows, height):
            yield slice(module, module + count), slice(row, row + height)


class _ProductL1(torch.autograd.Function):
    """Value and gradients of `product_l1` in one pass over the entries."""

    @staticmethod
    def forward(ctx: Any, B: Tensor, A: Tensor, chunk: int) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        total, grad_B, grad_A = B.new_zeros(()), torch.zeros_like(B), torch.zeros_like(A)
        for modules, rows in _chunks(len(B), B.shape[1], A.shape[2], chunk):
            product = torch.bmm(B[modules, rows], A[modules])
            total += product.abs().sum()
            if wanted:
                signs = product.sign_()
                grad_B[modules, rows] = torch.bmm(signs, A[modules].transpose(1, 2))
                grad_A[modules] += torch.bmm(B[modules, rows].transpose(1, 2), signs)
        ctx.save_for_backward(grad_B, grad_A)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        grad_B, grad_A = ctx.saved_tensors
        return gradient * grad_B, gradient * grad_A, None
