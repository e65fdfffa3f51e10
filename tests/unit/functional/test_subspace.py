"""Subspaces against float64 numpy, exact spectra and the bounds of the algorithms."""

from __future__ import annotations

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evertune.files import read_tensors, write_tensors
from evertune.functional.subspace import (
    GradientSketch,
    compress,
    covered_energy,
    grow_basis,
    random_rows,
    remove,
    remove_,
    right_subspace,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeded(seed))


def orthonormal(n: int, count: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(n, count, seed=seed)).Q


def with_values(values: Tensor, m: int, n: int, seed: int = 0) -> Tensor:
    return (orthonormal(m, len(values), seed) * values) @ orthonormal(n, len(values), seed + 1).T


def captured(matrix: Tensor, rows: Tensor) -> float:
    """Share of the best possible energy for as many directions, in float64."""
    exact = matrix.double().numpy()
    best = (numpy.linalg.svd(exact, compute_uv=False)[: len(rows)] ** 2).sum()
    return float(((exact @ rows.double().numpy().T) ** 2).sum() / best)


def departure(rows: Tensor) -> float:
    """Largest entry of P P^T - I."""
    return float((rows @ rows.T - torch.eye(len(rows))).abs().max()) if len(rows) else 0.0


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7)])
def test_remove_equals_plain_projection_in_float64(shape):
    matrix, basis = drawn(*shape), orthonormal(7, 3, seed=1)
    exact = matrix.double().numpy()
    expected = exact - exact @ basis.double().numpy() @ basis.double().numpy().T
    numpy.testing.assert_allclose(remove(matrix, basis).numpy(), expected, atol=2e-6)
    again = matrix.clone()
    assert remove_(again, basis) is again
    numpy.testing.assert_allclose(again.numpy(), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_projected_in_float32(dtype):
    matrix, basis = drawn(5, 64).to(dtype), orthonormal(64, 9, seed=1)
    expected = remove(matrix.float(), basis).to(dtype)
    assert torch.equal(remove(matrix, basis), expected)
    assert torch.equal(remove_(matrix.clone(), basis), expected)


def test_removing_in_place_works_on_a_layout_that_is_not_contiguous():
    matrix, basis = drawn(7, 5).T, orthonormal(7, 3, seed=1)
    expected = remove(matrix, basis)
    remove_(matrix, basis)
    torch.testing.assert_close(matrix, expected)


def test_an_empty_basis_removes_nothing():
    matrix = drawn(5, 7)
    assert torch.equal(remove(matrix, torch.zeros(7, 0)), matrix)


@pytest.mark.parametrize("shape", [(256, 256), (400, 256), (256, 400)])
@pytest.mark.parametrize("rank", [8, 128])
@pytest.mark.parametrize("spectrum", ["1/i", "0.9^i", "0.5^i"])
def test_captures_nearly_all_that_is_possible(shape, rank, spectrum):
    index = torch.arange(1, 257.0)
    values = {"1/i": 1 / index, "0.9^i": 0.9**index, "0.5^i": 0.5**index}[spectrum]
    matrix = with_values(values, *shape)
    for seed in range(3):
        rows = right_subspace(matrix, rank, generator=seeded(seed))
        assert rows.shape == (rank, shape[1])
        assert departure(rows) < 1e-5
        assert captured(matrix, rows) > 0.999


def test_a_warm_start_near_the_space_captures_more_than_a_cold_one():
    matrix = with_values(torch.arange(1, 257.0) ** -0.5, 400, 256)
    former = torch.linalg.svd(matrix + 0.004 * drawn(400, 256, seed=5))[2][:8]
    cold = right_subspace(matrix, 8, generator=seeded())
    warm = right_subspace(matrix, 8, generator=seeded(), start=former)
    assert captured(matrix, warm) > max(captured(matrix, cold), 0.99)


@pytest.mark.parametrize("shape", [(60, 40), (40, 60)])
def test_a_warm_start_that_the_matrix_annihilates_finds_the_space_all_the_same(shape):
    matrix = with_values(0.5 ** torch.arange(8.0), *shape)
    dead = torch.linalg.svd(matrix)[2][10:14]
    assert float((matrix @ dead.T).abs().max()) < 1e-6
    assert captured(matrix, right_subspace(matrix, 4, generator=seeded(), start=dead)) > 0.999


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(1, 12),
    n=st.integers(1, 12),
    rank=st.integers(1, 15),
    true_rank=st.integers(0, 12),
    protected=st.integers(0, 12),
    warm=st.booleans(),
    exponent=st.integers(-15, 15),
)
def test_any_shape_rank_and_scale_gives_orthonormal_rows_beside_the_avoided_space(
    m, n, rank, true_rank, protected, warm, exponent
):
    matrix = drawn(m, true_rank) @ drawn(true_rank, n, seed=1) * 10.0**exponent
    avoid = orthonormal(n, min(protected, n), seed=2)
    start = orthonormal(n, min(rank, n), seed=3).T if warm else None
    rows = right_subspace(matrix, rank, generator=seeded(), avoid=avoid, start=start)
    assert rows.shape == (min(rank, n - avoid.shape[1]), n)
    assert departure(rows) < 1e-5
    assert not rows.numel() or not avoid.numel() or float((rows @ avoid).abs().max()) < 1e-5
    rest = remove(matrix, avoid).double().numpy()
    best = (numpy.linalg.svd(rest, compute_uv=False)[: len(rows)] ** 2).sum()
    held = ((rest @ rows.double().numpy().T) ** 2).sum()
    # So small a matrix is spanned as a whole: nothing is left to chance.
    assert held >= 0.999 * best


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e30])
def test_neither_tiny_nor_huge_gradients_lose_their_directions(scale):
    matrix = torch.diag(torch.tensor([5.0, 3.0, 2.0, 1.0, 0.5])) * scale
    found = right_subspace(matrix, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(found.abs(), torch.eye(5)[:2], atol=1e-3, rtol=0)


def test_the_strongest_direction_comes_first():
    matrix = with_values(torch.tensor([8.0, 4.0, 2.0, 1.0]), 30, 20)
    lengths = (matrix @ right_subspace(matrix, 4, generator=seeded()).T).norm(dim=0)
    torch.testing.assert_close(lengths, torch.tensor([8.0, 4.0, 2.0, 1.0]), rtol=1e-4, atol=0)


def test_fewer_iterations_than_the_rank_needs_still_give_all_directions():
    rows = right_subspace(drawn(90, 80), 70, generator=seeded(), power_iterations=0)
    assert rows.shape == (70, 80)
    assert departure(rows) < 1e-5


def test_the_same_seed_gives_the_same_bits():
    matrix = drawn(40, 30)
    first, second, other = (right_subspace(matrix, 4, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(1, 20), width=st.integers(1, 20), size=st.integers(1, 12), seed=st.integers(0, 10))
def test_compressing_is_one_shrinking_step(count, width, size, seed):
    rows = drawn(count, width, seed=seed)
    kept = compress(rows, size)
    exact = rows.double().numpy()
    if count <= size:
        assert torch.equal(kept, rows)
        return
    _, values, directions = numpy.linalg.svd(exact, full_matrices=False)
    dropped = values[size] ** 2 if len(values) > size else 0.0
    squares = numpy.maximum(values**2 - dropped, 0)
    expected = (directions.T * squares) @ directions
    found = kept.double().numpy()
    numpy.testing.assert_allclose(found.T @ found, expected, atol=1e-5 * (exact**2).sum())
    assert len(kept) <= size


@pytest.mark.parametrize(("size", "width", "part"), [(8, 40, 1), (8, 40, 3), (8, 40, 20), (12, 10, 5)])
def test_a_sketch_stays_within_the_bound_of_frequent_directions(size, width, part):
    stream = drawn(300, width) * torch.arange(1, width + 1.0) ** -1
    sketch = GradientSketch.empty(size, width)
    for rows in stream.split(part):
        sketch.append(rows)
        assert len(sketch.rows()) <= 2 * size
    exact, found = stream.double().numpy(), sketch.rows().double().numpy()
    errors = numpy.linalg.eigvalsh(exact.T @ exact - found.T @ found)
    total = (exact**2).sum()
    bound = (total - (found**2).sum()) / (size + 1)
    assert errors.min() > -1e-5 * total
    assert errors.max() <= bound + 1e-5 * total
    assert sketch.counts.tolist()[1] == 300


def test_a_sketch_that_was_stored_goes_on_bit_for_bit(tmp_path):
    straight = GradientSketch.empty(4, 9)
    straight.append(drawn(13, 9))
    write_tensors(tmp_path / "sketch.safetensors", {"buffer": straight.buffer, "counts": straight.counts})
    resumed = GradientSketch(**read_tensors(tmp_path / "sketch.safetensors"))
    for sketch in (straight, resumed):
        sketch.append(drawn(10, 9, seed=1))
    assert torch.equal(straight.buffer, resumed.buffer)
    assert torch.equal(straight.counts, resumed.counts)


def test_random_rows_have_the_energy_of_the_gradient_on_average():
    gradient, draw = drawn(6, 5), seeded(1)
    total = sum((rows.T @ rows for rows in (random_rows(gradient, 2, draw) for _ in range(4000))), torch.zeros(5, 5))
    expected = gradient.T @ gradient
    assert float((total / 4000 - expected).norm() / expected.norm()) < 0.05


def test_gradients_of_opposite_sign_do_not_cancel_in_a_sketch():
    gradient, sketch, draw = drawn(6, 5), GradientSketch.empty(16, 5), seeded(1)
    for step in range(400):
        sketch.add(gradient if step % 2 else -gradient, draw, count=4)
    found = sketch.rows().T @ sketch.rows() / 400
    expected = gradient.T @ gradient
    assert float((found - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_adds_nothing(bad):
    gradient, sketch = drawn(6, 5), GradientSketch.empty(4, 5)
    sketch.add(gradient, seeded())
    before = sketch.rows().T @ sketch.rows()
    gradient[3, 2] = bad
    sketch.add(gradient, seeded(1))
    assert torch.equal(sketch.rows().T @ sketch.rows(), before)


def test_gradients_of_more_than_two_dimensions_are_folded():
    gradient = drawn(6, 5, 2, 2)
    assert torch.equal(random_rows(gradient, 3, seeded()), random_rows(gradient.reshape(6, 20), 3, seeded()))


def test_the_fewest_directions_that_reach_the_threshold_are_added():
    # Energies 16, 9, 4, 1: shares 0.533, 0.833, 0.967, 1.
    sketch = with_values(torch.tensor([4.0, 3.0, 2.0, 1.0]), 20, 12)
    for threshold, count, share in ((0.5, 1, 16 / 30), (0.6, 2, 25 / 30), (0.95, 3, 29 / 30), (1.0, 4, 1.0)):
        basis, covered = grow_basis(None, sketch, threshold=threshold, limit=12)
        assert basis.shape == (12, count)
        assert covered == pytest.approx(share, abs=1e-5)
        assert covered_energy(sketch, basis) == covered


def test_old_directions_stay_bit_for_bit():
    basis, _ = grow_basis(None, torch.randn(6, 20), threshold=0.6, limit=20)
    grown, _ = grow_basis(basis, torch.randn(6, 20), threshold=0.9, limit=20)
    assert grown.shape[1] > basis.shape[1] > 0
    assert torch.equal(grown[:, : basis.shape[1]], basis)


def test_a_basis_counts_what_it_holds_already():
    sketch = with_values(torch.tensor([4.0, 3.0, 2.0, 1.0]), 20, 12)
    strongest = torch.linalg.svd(sketch)[2][:1].T
    basis, covered = grow_basis(strongest, sketch, threshold=0.83, limit=12)
    assert basis.shape == (12, 2)
    assert covered == pytest.approx(25 / 30, abs=1e-5)
    assert float(remove(strongest.T, basis).abs().max()) < 1e-6, "what was protected stays protected"
    same, _ = grow_basis(strongest, sketch, threshold=0.5, limit=12)
    assert torch.equal(same, strongest)


def test_a_basis_grows_up_to_its_limit_and_says_what_it_covers():
    sketch = with_values(torch.tensor([4.0, 3.0, 2.0, 1.0]), 20, 12)
    basis, covered = grow_basis(None, sketch, threshold=0.99, limit=2)
    assert basis.shape == (12, 2)
    assert covered == pytest.approx(25 / 30, abs=1e-5)
    full, _ = grow_basis(basis, drawn(20, 12, seed=3), threshold=0.99, limit=1)
    assert torch.equal(full, basis)


def test_a_sketch_without_energy_adds_nothing_and_counts_as_covered():
    basis, covered = grow_basis(None, torch.zeros(4, 6), threshold=0.9, limit=6)
    assert basis.shape == (6, 0)
    assert covered == 1.0


def test_a_basis_stays_orthonormal_over_many_tasks():
    basis = None
    for task in range(15):
        values = 0.6 ** torch.arange(20.0)
        basis, covered = grow_basis(basis, with_values(values, 30, 64, seed=2 * task), threshold=0.95, limit=60)
        assert departure(basis.T) < 1e-5
    assert basis is not None
    assert basis.shape[1] == 60 or covered >= 0.95
