"""The Fisher diagonal against its closed form, and the penalty against its formula."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from evertune.functional.fisher import diagonal_fisher, drawn_tokens, flat, quadratic_penalty, top_share

CLASSES, WIDTH = 5, 4


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def softmax_regression(weight: Tensor, inputs: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """The loss of each row of a linear model."""
    for x, label in zip(inputs, labels, strict=True):
        yield functional.cross_entropy(weight @ x, label)


def test_labels_that_the_model_draws_give_the_closed_form() -> None:
    """Of ``softmax(W x)`` the diagonal is ``p_c (1 - p_c) x_j^2``."""
    weight, x, count = drawn(CLASSES, WIDTH).requires_grad_(), drawn(WIDTH, seed=1), 4000
    logits = weight.detach() @ x
    labels = drawn_tokens(logits.expand(count, -1), torch.Generator().manual_seed(2))
    (fisher,) = diagonal_fisher(softmax_regression(weight, x.expand(count, -1), labels), [weight])
    p = logits.softmax(-1)
    wanted = torch.outer(p * (1 - p), x.square())
    # A squared gradient is (1 - p)^2 x^2 with probability p, else p^2 x^2.
    deviation = torch.outer((p * (1 - p)).sqrt() * (1 - 2 * p).abs(), x.square()) / count**0.5
    assert ((fisher - wanted).abs() <= 4 * deviation + 1e-6).all()
    assert (deviation < 0.2 * wanted).all()


def test_given_labels_give_the_mean_of_squares_and_not_the_square_of_the_mean() -> None:
    weight, inputs = drawn(CLASSES, WIDTH).requires_grad_(), drawn(7, WIDTH, seed=1)
    labels = torch.arange(7) % CLASSES
    errors = (inputs @ weight.detach().T).softmax(-1) - functional.one_hot(labels, CLASSES)
    by_row = torch.einsum("nc,nj->ncj", errors, inputs)
    (fisher,) = diagonal_fisher(softmax_regression(weight, inputs, labels), [weight])
    assert torch.allclose(fisher, by_row.square().mean(0), atol=1e-6)
    assert (fisher - by_row.mean(0).square()).abs().max() > 0.1


def test_it_is_that_of_gradients_taken_all_at_once() -> None:
    """Against `torch.func`, on a network with more than one tensor; what plays no part has 0."""
    layers = {"first": drawn(6, WIDTH), "second": drawn(CLASSES, 6, seed=1)}
    inputs, labels = drawn(9, WIDTH, seed=2), torch.arange(9) % CLASSES

    def loss(weights: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(weights["second"] @ (weights["first"] @ x).tanh(), label)

    rows = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(layers, inputs, labels)
    learning = {name: weight.clone().requires_grad_() for name, weight in layers.items()}
    idle = drawn(3).requires_grad_()
    losses = (loss(learning, x, label) for x, label in zip(inputs, labels, strict=True))
    first, second, nothing = diagonal_fisher(losses, [*learning.values(), idle])
    assert torch.allclose(first, rows["first"].square().mean(0), atol=1e-6)
    assert torch.allclose(second, rows["second"].square().mean(0), atol=1e-6)
    assert torch.equal(nothing, torch.zeros(3))
    assert not first.requires_grad
    assert learning["first"].grad is None


def test_half_precision_is_squared_in_float32() -> None:
    weight = torch.full((2,), 1.0, dtype=torch.float16, requires_grad=True)
    (fisher,) = diagonal_fisher([(weight * 1e-4).sum()], [weight])  # the square, 1e-8, is below what float16 holds
    assert fisher.dtype == torch.float32
    assert fisher.tolist() == pytest.approx([1e-8] * 2, rel=1e-2)


# Drawn tokens


def test_tokens_come_as_often_as_the_model_says() -> None:
    logits = drawn(6)
    logits[2] = -torch.inf
    count = 20000
    tokens = drawn_tokens(logits.expand(count, -1), torch.Generator().manual_seed(0))
    p = logits.softmax(-1)
    deviation = (p * (1 - p) * count).sqrt()
    counts = tokens.bincount(minlength=6)
    assert (counts[2], counts.sum()) == (0, count)
    assert ((counts - p * count).abs() <= 4 * deviation).all()


@given(st.integers(1, 50), st.integers(0, 99), st.booleans())
@settings(max_examples=50, deadline=None)
def test_impossible_tokens_are_never_drawn(size: int, seed: int, last: bool) -> None:
    logits = drawn(40, size + 2, seed=seed)
    logits[:, -1 if last else 0] = -torch.inf
    tokens = drawn_tokens(logits, torch.Generator().manual_seed(seed))
    assert not (logits.gather(1, tokens[:, None]) == -torch.inf).any()


@pytest.mark.parametrize(("place", "token"), [(0.0, 1), (1.0, 2)])
def test_places_at_either_end_are_possible_tokens(monkeypatch: pytest.MonkeyPatch, place: float, token: int) -> None:
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, place))
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf, -torch.inf]])
    assert drawn_tokens(logits, torch.Generator()).tolist() == [token]


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    drawn_tokens(drawn(4, 5), torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), before)


# The penalty


def test_the_penalty_and_its_gradient_are_the_formulas() -> None:
    parameters = [drawn(2, 3).requires_grad_(), drawn(4, seed=1).requires_grad_()]
    importance, anchor = drawn(10, seed=2).square(), drawn(10, seed=3)
    value = quadratic_penalty(parameters, importance, anchor)
    now = [number for parameter in parameters for number in parameter.flatten().tolist()]
    terms = [f * (t - a) ** 2 / 2 for f, t, a in zip(importance.tolist(), now, anchor.tolist(), strict=True)]
    assert value.item() == pytest.approx(sum(terms), rel=1e-6)
    gradient = flat(torch.autograd.grad(value, parameters))
    assert torch.allclose(gradient, importance * (torch.tensor(now) - anchor), atol=1e-6)


def test_at_the_anchor_nothing_pulls() -> None:
    parameter = drawn(5).requires_grad_()
    value = quadratic_penalty([parameter], torch.ones(5), parameter.detach().clone())
    value.backward()
    assert value.item() == 0
    assert parameter.grad is not None
    assert not parameter.grad.any()


@pytest.mark.parametrize(
    ("values", "share"),
    [([1.0] * 200, 0.01), ([0.0] * 199 + [5.0], 1.0), ([0.0] * 10, 0.0), ([3.0, 1.0], 0.75)],
)
def test_what_the_largest_hold(values: list[float], share: float) -> None:
    assert top_share(torch.tensor(values), 0.01) == pytest.approx(share)
