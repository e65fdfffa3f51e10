"""Divergences against float64 formulas and scipy, and what is lost by keeping the most likely tokens alone."""

import math

import pytest
import torch
from scipy.special import rel_entr
from scipy.stats import entropy as scipy_entropy

from evertune.functional.divergence import divergence, entropy, top_distribution, top_divergence


def drawn(positions: int, vocabulary: int, *, spread: float = 3.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(positions, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    return (logits.double() / temperature).softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_whole_divergence_is_scipys(temperature: float) -> None:
    student, teacher = drawn(5, 40, seed=1), drawn(5, 40, seed=2)
    p, q = probabilities(teacher, temperature).numpy(), probabilities(student, temperature).numpy()
    found = divergence(student, teacher, temperature)
    torch.testing.assert_close(found.double(), torch.from_numpy(rel_entr(p, q).sum(-1)), rtol=1e-5, atol=1e-6)


def test_entropy_is_scipys() -> None:
    logits = drawn(6, 30)
    expected = scipy_entropy(probabilities(logits, 1.0).numpy(), axis=-1)
    torch.testing.assert_close(entropy(logits).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    assert entropy(torch.zeros(1, 7)).item() == pytest.approx(math.log(7))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_kept_tokens_and_the_rest_give_the_divergence_of_the_merged_distributions(temperature: float) -> None:
    student, teacher, k = drawn(5, 40, seed=1), drawn(5, 40, seed=2), 6
    p, q = probabilities(teacher, temperature), probabilities(student, temperature)
    found = top_divergence(student, top_distribution(teacher, k, temperature), temperature)
    for position in range(5):
        order = sorted(range(40), key=lambda token: -p[position, token].item())
        pairs = [(p[position, token].item(), q[position, token].item()) for token in order]
        pairs = [*pairs[:k], (sum(a for a, _ in pairs[k:]), sum(b for _, b in pairs[k:]))]
        expected = sum(a * math.log(a / b) for a, b in pairs)
        assert found[position].item() == pytest.approx(expected, rel=2e-3)


def test_all_tokens_kept_are_the_whole_divergence_with_its_gradient() -> None:
    teacher = drawn(4, 20, seed=2)
    student = drawn(4, 20, seed=1).requires_grad_()
    kept = top_distribution(teacher, 100)
    assert kept.ids.shape == (4, 20)
    assert torch.isinf(kept.rest).all()
    (ours,) = torch.autograd.grad(top_divergence(student, kept).sum(), student)
    (whole,) = torch.autograd.grad(divergence(student, teacher).sum(), student)
    assert torch.isfinite(ours).all()
    assert ((ours - whole).norm() / whole.norm()).item() < 2e-3  # float16 log-probabilities


def test_it_is_never_above_the_whole_and_zero_only_for_equal_answers() -> None:
    student, teacher = drawn(50, 60, seed=1), drawn(50, 60, seed=2)
    kept = top_distribution(teacher, 5)
    assert (top_divergence(student, kept) <= divergence(student, teacher) + 1e-3).all()
    assert top_divergence(teacher, kept).abs().max().item() < 1e-4


def test_a_certain_teacher_gives_finite_numbers() -> None:
    teacher = torch.full((1, 50), -1e4)
    teacher[0, 3] = 0.0
    student = drawn(1, 50).requires_grad_()
    value = top_divergence(student, top_distribution(teacher, 4)).sum()
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == pytest.approx(-student.log_softmax(-1)[0, 3].item(), rel=1e-4)
    assert torch.isfinite(gradient).all()


def test_a_position_takes_388_bytes_where_the_logits_take_64_000() -> None:
    logits = torch.randn(512, 32_000, dtype=torch.bfloat16)
    kept = top_distribution(logits, 64)
    assert logits.nbytes == 32_768_000
    assert kept.nbytes == 512 * 388
    assert logits.nbytes / kept.nbytes > 150
