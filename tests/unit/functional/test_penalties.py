"""Penalties and their gradients against the formulas written plainly, module by module, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from evertune.functional.penalties import (
    core_l1,
    frobenius_norms,
    overlap_l1,
    overlap_squared,
    product_l1,
    same_shapes,
)

MODULES, R_PAST, R, N = 3, 10, 4, 9


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def plain_overlap(past: Tensor, new: Tensor, size: Callable[[Tensor], Tensor]) -> Tensor:
    """One dot product per pair of directions, one module at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for module in range(len(past)):
        for old in past[module].double():
            for direction in new[module].double():
                total = total + size((old * direction).sum())
    return total


def plain_norms(matrices: Tensor) -> Tensor:
    return torch.stack([(matrix.double() ** 2).sum() ** 0.5 for matrix in matrices]).sum()


def plain_product(B: Tensor, A: Tensor) -> Tensor:
    return torch.stack([(left.double() @ right.double()).abs().sum() for left, right in zip(B, A, strict=True)]).sum()


def plain_core(A: Tensor, B: Tensor) -> Tensor:
    return plain_product(A, B)


PENALTIES: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "L1 overlap": (overlap_l1, lambda a, b: plain_overlap(a, b, torch.abs), ((3, 10, 9), (3, 4, 9))),
    "squared overlap": (overlap_squared, lambda a, b: plain_overlap(a, b, torch.square), ((3, 10, 9), (3, 4, 9))),
    "norms": (frobenius_norms, plain_norms, ((3, 4, 9),)),
    "L1 of the product": (product_l1, plain_product, ((3, 7, 4), (3, 4, 9))),
    "L1 of the core": (core_l1, plain_core, ((3, 4, 9), (3, 9, 4))),
}


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_value_and_gradients_are_those_of_the_formula(name: str, dtype: torch.dtype) -> None:
    penalty, plain, shapes = PENALTIES[name]
    ours = [drawn(*shape, seed=seed, dtype=dtype).requires_grad_() for seed, shape in enumerate(shapes)]
    oracle = [tensor.detach().double().requires_grad_() for tensor in ours]
    value, expected = penalty(*ours), plain(*oracle)
    assert value.shape == ()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(value.double(), expected, rtol=tolerance, atol=0)
    # The factor that a lambda and a scaler put before it must reach the gradients.
    gradients = torch.autograd.grad(3.5 * value, ours)
    for gradient, reference in zip(gradients, torch.autograd.grad(3.5 * expected, oracle), strict=True):
        assert gradient.dtype == dtype
        rounding = 1e-2 if dtype == torch.bfloat16 else 10 * tolerance
        torch.testing.assert_close(gradient.double(), reference, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    """The absolute values are smooth where nothing is near zero, and these draws are not."""
    penalty, _, shapes = PENALTIES[name]
    inputs = tuple(drawn(*shape, seed=20 + seed).requires_grad_() for seed, shape in enumerate(shapes))
    assert torch.autograd.gradcheck(penalty, inputs, eps=1e-7, atol=1e-5)


def test_the_past_needs_no_gradient_and_the_new_alone_gets_one() -> None:
    past, new = drawn(2, 6, 5), drawn(2, 3, 5, seed=1).requires_grad_()
    for penalty in (overlap_l1, overlap_squared):
        (gradient,) = torch.autograd.grad(penalty(past, new), new)
        assert gradient.abs().sum() > 0
    A, B = drawn(2, 3, 5), drawn(2, 4, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(product_l1(B, A), B)
    torch.testing.assert_close(gradient, torch.sign(B @ A) @ A.transpose(1, 2))


def test_new_adapters_begin_with_a_zero_b_and_finite_gradients() -> None:
    A, B = drawn(2, 3, 5, dtype=torch.float32).requires_grad_(), torch.zeros(2, 5, 3, requires_grad=True)
    terms = (frobenius_norms(B), product_l1(B, A), core_l1(A, B))
    for term in terms:
        assert term.item() == 0
        for gradient in torch.autograd.grad(term, (A, B), allow_unused=True):
            assert gradient is None or not gradient.any()
    half = torch.stack([torch.zeros(5, 3), torch.eye(5, 3)]).requires_grad_()  # one of two is zero
    (gradient,) = torch.autograd.grad(frobenius_norms(half), half)
    torch.testing.assert_close(gradient, half.detach() / 3**0.5)


def test_orthogonal_directions_cost_nothing() -> None:
    basis = torch.linalg.qr(drawn(9, 9)).Q.T
    past, new = basis[:5].repeat(2, 1, 1), basis[5:8].repeat(2, 1, 1)
    assert overlap_squared(past, new).item() < 1e-28
    assert overlap_l1(past, new).item() < 1e-13
    # and the same directions their whole length: 2 modules, 3 unit vectors each
    assert overlap_squared(past, past[:, :3]).item() == pytest.approx(6)
    assert overlap_l1(past, past[:, :3]).item() == pytest.approx(6)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.integers(1, 200))
def test_chunks_of_any_size_cover_every_entry_once(modules: int, m: int, n: int, r: int, chunk: int) -> None:
    B, A = drawn(modules, m, r).requires_grad_(), drawn(modules, r, n, seed=1).requires_grad_()
    value, expected = product_l1(B, A, chunk=chunk), plain_product(B, A)
    torch.testing.assert_close(value, expected)
    pairs = zip(torch.autograd.grad(value, (B, A)), torch.autograd.grad(expected, (B, A)), strict=True)
    for gradient, reference in pairs:
        torch.testing.assert_close(gradient, reference)


class _Largest(TorchDispatchMode):
    """Entries of the largest tensor that any operation returned, and how many operations there were."""

    def __init__(self) -> None:
        super().__init__()
        self.entries, self.calls = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        self.calls += 1
        if isinstance(result, Tensor):
            self.entries = max(self.entries, result.numel())
        return result


def test_products_never_exist_as_a_whole() -> None:
    B, A = drawn(5, 64, 2).requires_grad_(), drawn(5, 2, 48, seed=1).requires_grad_()
    with _Largest() as seen:
        torch.autograd.grad(product_l1(B, A, chunk=1000), (B, A))
    assert seen.entries <= 1000  # 5 * 64 * 48 = 15360 entries in all, 3072 in one product
    with _Largest() as whole:
        torch.autograd.grad(plain_product(B, A), (B, A))
    assert whole.entries == 3072


@pytest.mark.parametrize("name", PENALTIES)
def test_a_hundred_modules_are_not_a_hundred_kernels(name: str) -> None:
    penalty, _, shapes = PENALTIES[name]
    calls = []
    for modules in (1, 100):
        inputs = [drawn(modules, *shape[1:], seed=seed).requires_grad_() for seed, shape in enumerate(shapes)]
        with _Largest() as seen:
            torch.autograd.grad(penalty(*inputs), inputs)
        calls.append(seen.calls)
    assert calls[0] == calls[1] < 40


def test_a_second_derivative_of_the_product_is_refused() -> None:
    B, A = drawn(1, 3, 2).requires_grad_(), drawn(1, 2, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(product_l1(B, A) ** 2, B, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_the_released_form_needs_square_weights() -> None:
    with pytest.raises(ValueError, match="as many outputs as inputs, and this weight is 7 x 9"):
        core_l1(drawn(1, 4, 9), drawn(1, 7, 4))


def test_the_released_form_is_not_the_size_of_the_change() -> None:
    """What the released code penalises is zero for a change that is not, and the other way round."""
    A = torch.tensor([[[1.0, 0.0]]])
    assert core_l1(A, torch.tensor([[[0.0], [5.0]]])).item() == 0
    assert product_l1(torch.tensor([[[0.0], [5.0]]]), A).item() == 5


def test_what_has_the_same_shapes_is_grouped_in_order() -> None:
    def pair(r: int, n: int, m: int) -> tuple[Tensor, Tensor]:
        return torch.empty(r, n), torch.empty(m, r)

    members = {"q0": pair(2, 8, 8), "v0": pair(2, 8, 4), "q1": pair(2, 8, 8), "v1": pair(2, 8, 4), "o": pair(2, 4, 8)}
    assert same_shapes(members) == (("q0", "q1"), ("v0", "v1"), ("o",))
    assert same_shapes({key: (A,) for key, (A, _) in members.items()}) == (("q0", "v0", "q1", "v1"), ("o",))
    assert same_shapes({}) == ()
