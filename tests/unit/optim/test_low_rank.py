"""Low-rank projections: sides, shapes, coordinates and the protected space."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from evertune.optim.low_rank import LowRankProjection, Projector, folded

KINDS = ("std", "reverse_std", "left", "right", "full")
SHAPES = ((12, 8), (8, 12), (9, 9))


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(n: int, count: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(n, count, seed=seed)).Q


def refreshed(kind: str, matrix: Tensor, rank: int = 3, **options) -> Projector:
    projection = LowRankProjection(kind=kind, rank=rank)
    found = projection.refresh(matrix, generator=torch.Generator().manual_seed(0), **options)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("kind", "tall", "wide"),
    [
        ("std", (True, False), (False, True)),
        ("reverse_std", (False, True), (True, False)),
        ("right", (True, False), (True, False)),
        ("left", (False, True), (False, True)),
        ("full", (True, True), (True, True)),
    ],
)
def test_the_kind_and_the_shape_of_the_weight_decide_the_side(kind, tall, wide):
    for shape, sides in (((12, 8), tall), ((9, 9), tall), ((8, 12), wide)):
        projection = LowRankProjection(kind=kind, rank=2)
        assert (projection.projects_inputs(*shape), projection.projects_outputs(*shape)) == sides
        projector = refreshed(kind, drawn(*shape))
        assert (projector.inputs is not None, projector.outputs is not None) == sides


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_down_and_up_equal_the_truncated_decomposition(kind, shape):
    left, right = orthonormal(shape[0], 8, 1), orthonormal(shape[1], 8, 2)
    matrix = (left * 0.1 ** torch.arange(8.0)) @ right.T
    projector = refreshed(kind, matrix)
    low = projector.down(matrix)
    assert tuple(low.shape) == projector.shape(*shape)
    assert torch.equal(low, projector.down(matrix, out=torch.empty_like(low)))
    U, values, V = numpy.linalg.svd(matrix.double().numpy(), full_matrices=False)
    expected = (U[:, :3] * values[:3]) @ V[:3]
    numpy.testing.assert_allclose(projector.up(low).numpy(), expected, atol=1e-4)
    weight = drawn(*shape, seed=5)
    wanted = 0.5 * weight - 2 * projector.up(low)
    projector.add_up_(weight, low, alpha=-2.0, beta=0.5)
    torch.testing.assert_close(weight, wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [2, 20])
def test_directions_of_inputs_are_orthogonal_to_protected_ones(kind, shape, rank):
    basis = orthonormal(shape[1], 5, 3)
    matrix = drawn(*shape)
    first = refreshed(kind, matrix, rank, protected=basis)
    second = refreshed(kind, drawn(*shape, seed=1), rank, protected=basis, former=first)
    for projector in (first, second):
        for rows in (projector.inputs, projector.outputs):
            if rows is not None:
                assert len(rows) == min(rank, *shape, shape[1] - 5)
                assert float((rows @ rows.T - torch.eye(len(rows))).abs().max()) < 1e-5
        if projector.inputs is not None:
            assert float((projector.inputs @ basis).abs().max()) < 1e-5


def test_outputs_are_those_of_the_gradient_without_its_protected_part():
    basis = orthonormal(8, 4, 3)
    free = drawn(12, 8)
    free = free - free @ basis @ basis.T
    loud = free + 100 * drawn(12, 4, seed=2) @ basis.T
    outputs = refreshed("left", loud, 4, protected=basis).outputs
    assert outputs is not None
    values = torch.linalg.svdvals(free)
    assert float((outputs @ free).square().sum()) == pytest.approx(float(values[:4].square().sum()), rel=1e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_gives_no_projector(bad):
    matrix = drawn(12, 8)
    matrix[5, 5] = bad
    assert LowRankProjection(rank=2).refresh(matrix, generator=torch.Generator()) is None


@pytest.mark.parametrize("kind", KINDS)
def test_moments_carried_into_the_same_space_are_turned_exactly(kind):
    matrix = drawn(12, 8)
    former = refreshed(kind, matrix)
    # The same space, its directions exchanged and one of them reversed.
    swap = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    turned = [None if rows is None else swap @ rows for rows in (former.inputs, former.outputs)]
    new = Projector(turned[0], turned[1])
    gradient = drawn(12, 8, seed=3)
    low = former.down(gradient)
    first, second = new.carry(former, low, low.square())
    torch.testing.assert_close(first, new.down(gradient), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(second, new.down(gradient).square(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_carried_into_an_orthogonal_space_keep_their_magnitudes(kind):
    rows, columns = orthonormal(12, 8, 1).T, orthonormal(8, 8, 2).T
    former, new = refreshed(kind, drawn(12, 8)), refreshed(kind, drawn(12, 8))
    sides = [(former.inputs, columns), (former.outputs, rows)]
    former = Projector(*(None if side is None else pool[:3] for side, pool in sides))
    new = Projector(*(None if side is None else pool[3:6] for side, pool in sides))
    first, second = new.carry(former, torch.ones(former.shape(12, 8)), torch.full(former.shape(12, 8), 2.0))
    torch.testing.assert_close(first, torch.zeros_like(first), atol=1e-5, rtol=0)
    torch.testing.assert_close(second, torch.full_like(second, 2.0))


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="projection_kind is 'both'"):
        LowRankProjection(kind="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rank is 0"):
        LowRankProjection(rank=0)
    with pytest.raises(ValueError, match="refresh_gap is 0"):
        LowRankProjection(refresh_gap=0)


def test_folding_keeps_the_first_dimension():
    weight = drawn(4, 3, 2, 2)
    assert folded(weight).shape == (4, 12)
    assert folded(weight).data_ptr() == weight.data_ptr()
