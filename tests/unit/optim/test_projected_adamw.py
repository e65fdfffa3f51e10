"""Projected AdamW against plain float64 loops and torch's AdamW, and its promises about the protected space."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy
import pytest
import torch
from torch import Tensor, nn

from evertune.files import read_tensors, write_tensors
from evertune.optim import projected_adamw
from evertune.optim.low_rank import folded
from evertune.optim.projected_adamw import ProjectedAdamW, projected_bytes
from evertune.training.checkpoint import pack_optimizer, unpack_optimizer

KINDS = ("std", "reverse_std", "left", "right", "full")
SHAPES = ((16, 12), (12, 16), (6, 4, 2, 2))
# Projected from both sides, a gradient is diagonal at a refresh; a small epsilon would blow up the rounding beside it.
RATE, BETAS, EPS = 0.01, (0.8, 0.95), 1e-3


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def orthonormal(n: int, count: int, seed: int = 0) -> Tensor:
    return torch.linalg.qr(drawn(n, count, seed=seed)).Q


def weights_of(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(drawn(*shape, seed=index).to(dtype)) for index, shape in enumerate(shapes)]


def give_gradients(weights: list[nn.Parameter], step: int) -> None:
    for index, weight in enumerate(weights):
        weight.grad = drawn(*weight.shape, seed=1000 * (step + 1) + index).to(weight.dtype)


def steps(optimizer: ProjectedAdamW, weights: list[nn.Parameter], first: int, last: int) -> None:
    for step in range(first, last):
        give_gradients(weights, step)
        optimizer.step()


def projected(weights: list[nn.Parameter], *, protected=None, decay: float = 0.1, **group) -> ProjectedAdamW:
    values = {"rank": 3, "refresh_gap": 4, **group}
    return ProjectedAdamW(
        [{"params": weights, **values}], lr=RATE, betas=BETAS, eps=EPS, weight_decay=decay, seed=7, protected=protected
    )


class PlainAdam:
    """Bias-corrected AdamW of one matrix in float64, as in the paper, on coordinates that are given to it."""

    def __init__(self) -> None:
        self.first: numpy.ndarray | float = 0.0
        self.second: numpy.ndarray | float = 0.0
        self.count = 0

    def direction(self, gradient: numpy.ndarray) -> numpy.ndarray:
        self.count += 1
        self.first = BETAS[0] * self.first + (1 - BETAS[0]) * gradient
        self.second = BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2
        first = self.first / (1 - BETAS[0] ** self.count)
        second = self.second / (1 - BETAS[1] ** self.count)
        return first / (numpy.sqrt(second) + EPS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("protects", [False, True])
def test_steps_equal_plain_loops_in_float64(kind, shape, protects):
    """Of the optimiser only its directions are taken over; they have tests of their own."""
    weights = weights_of(shape)
    n = math.prod(shape[1:])
    basis = orthonormal(n, 4, 9) if protects else torch.zeros(n, 0)
    optimizer = projected(
        weights, protected={weights[0]: basis}, projection_kind=kind, projection_scale=0.5, refresh_gap=3,
        rotate_moments=False,
    )  # fmt: skip
    S, W, adam = basis.double().numpy(), folded(weights[0].detach()).double().numpy(), PlainAdam()
    for step in range(8):
        steps(optimizer, weights, step, step + 1)
        assert weights[0].grad is not None
        G = folded(weights[0].grad).double().numpy()
        G = G - G @ S @ S.T
        state = optimizer.state[weights[0]]
        P, Q = (
            state[key].double().numpy() if key in state else None for key in ("input_directions", "output_directions")
        )
        low = G if P is None else G @ P.T
        low = low if Q is None else Q @ low
        change = adam.direction(low)
        change = change if P is None else change @ P
        change = change if Q is None else Q.T @ change
        change = change - change @ S @ S.T
        W = W - RATE * 0.1 * (W - W @ S @ S.T) - RATE * 0.5 * change
        numpy.testing.assert_allclose(folded(weights[0].detach()).numpy(), W, atol=3e-6)


@pytest.mark.parametrize("shape", [(16, 12), (12, 16), (9, 9)])
def test_with_full_rank_it_is_torch_adamw_in_rotated_coordinates(shape):
    weights = weights_of(shape)
    optimizer = projected(weights, rank=99, projection_kind="std", refresh_gap=1000)
    rotated = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
    oracle = torch.optim.AdamW([rotated], lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.1)
    for step in range(10):
        steps(optimizer, weights, step, step + 1)
        state, gradient = optimizer.state[weights[0]], weights[0].grad
        assert gradient is not None
        left, right = torch.eye(shape[0]), torch.eye(shape[1])
        if "input_directions" in state:
            right = state["input_directions"]
        else:
            left = state["output_directions"]
        left, right = left.double(), right.double()
        assert right.shape[0] == right.shape[1], "the whole shorter side"
        assert left.shape[0] == left.shape[1], "the whole shorter side"
        if step == 0:
            rotated.data = left @ drawn(*shape).double() @ right.T
        rotated.grad = left @ gradient.double() @ right.T
        oracle.step()
        torch.testing.assert_close(weights[0].double(), left.T @ rotated @ right, atol=3e-6, rtol=0)


def test_with_directions_that_are_the_axes_it_is_torch_adamw():
    """A diagonal gradient of falling entries has the axes as singular vectors, up to sign, which Adam does not see."""
    weights = weights_of((6, 6))
    other = nn.Parameter(weights[0].detach().clone())
    optimizer = projected(weights, rank=6, projection_kind="right", refresh_gap=1000)
    oracle = torch.optim.AdamW([other], lr=RATE, betas=BETAS, eps=EPS, weight_decay=0.1)
    for step in range(10):
        gradient = torch.diag(10.0 ** -torch.arange(6.0)) if step == 0 else drawn(6, 6, seed=step)
        weights[0].grad, other.grad = gradient.clone(), gradient.clone()
        optimizer.step()
        oracle.step()
        axes = optimizer.state[weights[0]]["input_directions"].abs()
        torch.testing.assert_close(axes, torch.eye(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[0], other, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_of_a_plain_group_follow_a_float32_master(dtype):
    """Steps far below the resolution of the weight add up."""
    (weight,) = weights_of((5, 3), dtype=dtype)
    master = nn.Parameter(weight.detach().float())
    optimizer, oracle = ProjectedAdamW([weight], lr=1e-5), torch.optim.AdamW([master], lr=1e-5, fused=True)
    before = weight.detach().clone()
    for step in range(300):
        give_gradients([weight], 0)
        master.grad = weight.grad.float()
        optimizer.step()
        oracle.step()
        if step == 0:
            assert torch.equal(weight, before)
        if step == 150:
            stored = {name: value.clone() for name, value in optimizer.state[weight].items()}
            optimizer.load_state_dict(optimizer.state_dict())
            assert all(torch.equal(value, optimizer.state[weight][name]) for name, value in stored.items())
            assert optimizer.state[weight]["exp_avg"].dtype == torch.float32
    assert torch.equal(weight, master.to(dtype))
    assert not torch.equal(weight, before)


def test_directions_are_chosen_anew_every_refresh_gap_and_no_sooner():
    weights = weights_of((16, 12))
    optimizer, seen = projected(weights, refresh_gap=3), []
    for step in range(10):
        steps(optimizer, weights, step, step + 1)
        seen.append(optimizer.state[weights[0]]["input_directions"].clone())
    changed = [step for step in range(1, 10) if not torch.equal(seen[step], seen[step - 1])]
    assert changed == [3, 6, 9]


def test_a_group_without_rank_is_torch_adamw_bit_for_bit():
    ours, theirs = weights_of((5, 3), (7,)), weights_of((5, 3), (7,))
    options = {"lr": RATE, "betas": BETAS, "eps": EPS, "weight_decay": 0.1}
    optimizer, oracle = ProjectedAdamW(ours, **options), torch.optim.AdamW(theirs, fused=True, **options)
    for step in range(6):
        for weights in (ours, theirs):
            give_gradients(weights, step)
        if step == 3:  # a parameter that had no part in a step
            ours[1].grad = theirs[1].grad = None
        optimizer.step()
        oracle.step()
    for own, other in zip(ours, theirs, strict=True):
        assert torch.equal(own, other)
        for key, value in oracle.state[other].items():
            assert torch.equal(optimizer.state[own][key], value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rotate", [False, True])
def test_nothing_enters_the_protected_space(kind, shape, rotate):
    weights = weights_of(shape)
    basis = orthonormal(math.prod(shape[1:]), 5, 9)
    optimizer = projected(
        weights, protected={weights[0]: basis}, projection_kind=kind, rotate_moments=rotate, decay=1.0
    )
    before = folded(weights[0].detach()).clone()
    steps(optimizer, weights, 0, 30)
    change = folded(weights[0].detach()) - before
    assert float((change @ basis).norm() / change.norm()) < 1e-4
    inputs = (basis @ drawn(5, 20, seed=3)).T
    torch.testing.assert_close(inputs @ (before + change).T, inputs @ before.T, atol=1e-4, rtol=0)
    others = drawn(20, basis.shape[0], seed=3)
    assert float((others @ change.T).abs().max()) > 0.1, "other inputs do learn"
    directions = optimizer.state[weights[0]].get("input_directions")
    if directions is not None:
        assert float((directions @ basis).abs().max()) < 1e-5


def test_a_basis_that_leaves_no_direction_leaves_the_weight_alone():
    weights = weights_of((6, 4))
    optimizer = projected(weights, protected={weights[0]: torch.eye(4)})
    before = weights[0].detach().clone()
    steps(optimizer, weights, 0, 3)
    assert torch.equal(weights[0], before)
    assert optimizer.state_bytes == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_follow_a_float32_master(dtype):
    """Updates too small for half precision add up: the master is what a float32 weight would be."""
    half, full = weights_of((16, 12), dtype=dtype), weights_of((16, 12))
    full[0].data.copy_(half[0].data.float())
    basis = orthonormal(12, 3)
    optimizers = [projected(weights, protected={weights[0]: basis}) for weights in (half, full)]
    for group in (optimizers[0].param_groups[0], optimizers[1].param_groups[0]):
        group["lr"] = 1e-5
    for step in range(12):
        give_gradients(half, step)
        assert half[0].grad is not None
        full[0].grad = half[0].grad.float()
        for optimizer in optimizers:
            optimizer.step()
    master = optimizers[0].state[half[0]]["master"]
    assert torch.equal(master, full[0])
    assert torch.equal(half[0], master.to(dtype))
    assert not torch.equal(master, half[0].float())


def test_a_layout_that_does_not_fold_is_updated_all_the_same():
    plain = weights_of((6, 4, 3, 3))
    other = [nn.Parameter(plain[0].detach().clone().to(memory_format=torch.channels_last))]
    assert folded(other[0]).data_ptr() != other[0].data_ptr()
    for weights in (plain, other):
        steps(projected(weights), weights, 0, 6)
    torch.testing.assert_close(plain[0], other[0])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_gradient_that_is_not_finite_changes_nothing(bad, at):
    """At the first step, between refreshes, and when a refresh is due (every 4 steps)."""
    weights, twin = weights_of((16, 12), (16, 12)), weights_of((16, 12), (16, 12))
    optimizer, untouched = projected(weights), projected(twin)
    steps(optimizer, weights, 0, at)
    steps(untouched, twin, 0, at)
    before = weights[0].detach().clone()
    state = {key: value.clone() for key, value in optimizer.state[weights[0]].items()} if at else {}
    give_gradients(weights, 50)
    assert weights[0].grad is not None
    weights[0].grad[3, 4] = bad
    optimizer.step()
    assert torch.equal(weights[0], before)
    found = optimizer.state.get(weights[0], {})
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value) for key, value in state.items())
    assert int(optimizer.state[weights[1]]["step"]) == at + 1, "the other one goes on"
    give_gradients(weights, at)
    give_gradients(twin, at)
    optimizer.step()
    untouched.step()
    torch.testing.assert_close(weights[0], twin[0], atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_resumed_run_goes_on_bit_for_bit(kind, dtype, tmp_path):
    def build(weights: list[nn.Parameter]) -> ProjectedAdamW:
        groups = [
            {"params": weights[:3], "rank": 3, "refresh_gap": 3, "projection_kind": kind},
            {"params": weights[3:], "weight_decay": 0.0},
        ]
        return ProjectedAdamW(groups, lr=RATE, seed=3, protected={weights[1]: orthonormal(12, 4)})

    shapes = ((16, 12), (16, 12), (5, 3, 2, 2), (7, 3), (5,))
    straight = weights_of(*shapes, dtype=dtype)
    optimizer = build(straight)
    steps(optimizer, straight, 0, 4)
    tensors, groups = pack_optimizer(optimizer)
    write_tensors(tmp_path / "optimizer.safetensors", tensors)
    stored = (tmp_path / "optimizer.safetensors").stat().st_size
    assert stored < optimizer.state_bytes + 200 * len(tensors), "nothing is stored twice"
    assert optimizer.state_bytes == sum(value.nbytes for value in tensors.values())
    text = json.dumps(groups)
    resumed = [nn.Parameter(weight.detach().clone()) for weight in straight]
    other = build(resumed)
    unpack_optimizer(other, read_tensors(tmp_path / "optimizer.safetensors"), json.loads(text))
    for weight, copy in zip(straight, resumed, strict=True):
        for key, value in optimizer.state[weight].items():
            assert other.state[copy][key].dtype == value.dtype
    steps(optimizer, straight, 4, 10)
    steps(other, resumed, 4, 10)
    for weight, copy in zip(straight, resumed, strict=True):
        assert torch.equal(weight, copy)
        assert all(torch.equal(other.state[copy][key], value) for key, value in optimizer.state[weight].items())


def test_a_loaded_state_is_a_copy():
    weights = weights_of((16, 12))
    optimizer, other = projected(weights), projected(weights_of((16, 12)))
    steps(optimizer, weights, 0, 2)
    before = optimizer.state[weights[0]]["exp_avg"].clone()
    other.load_state_dict(optimizer.state_dict())
    steps(other, other.param_groups[0]["params"], 2, 3)
    assert torch.equal(optimizer.state[weights[0]]["exp_avg"], before)


def test_together_or_one_by_one_is_the_same(monkeypatch):
    shapes = ((16, 12), (16, 12), (8, 12), (16, 12))
    together, alone = weights_of(*shapes), weights_of(*shapes)
    basis = orthonormal(12, 3)
    steps(projected(together, protected={together[1]: basis}), together, 0, 9)
    monkeypatch.setattr(projected_adamw, "BATCH", 1)
    steps(projected(alone, protected={alone[1]: basis}), alone, 0, 9)
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_weights_of_a_batch_may_differ_in_their_number_of_steps():
    weights, alone = weights_of((16, 12), (16, 12)), weights_of((16, 12), (16, 12))
    optimizer, other = projected(weights), projected(alone)
    for step in range(7):
        for group in (weights, alone):
            give_gradients(group, step)
        if step in (1, 2):
            weights[0].grad = None
        alone[0].grad = None
        optimizer.step()
        other.step()
    torch.testing.assert_close(weights[1], alone[1], atol=1e-6, rtol=0)
    assert [int(optimizer.state[weight]["step"]) for weight in weights] == [5, 7]


def test_the_seed_and_the_index_decide_the_directions():
    def directions(seed: int, position: int) -> Tensor:
        weights = weights_of((16, 12), (16, 12))
        for weight in weights:
            weight.data.zero_()
            weight.grad = drawn(16, 12)
        ProjectedAdamW([{"params": weights, "rank": 2}], seed=seed).step()
        optimizer = ProjectedAdamW([{"params": weights, "rank": 2}], seed=seed)
        optimizer.step()
        return optimizer.state[weights[position]]["input_directions"]

    assert torch.equal(directions(0, 0), directions(0, 0))
    assert not torch.equal(directions(0, 0), directions(1, 0))
    assert not torch.equal(directions(0, 0), directions(0, 1))


def test_state_is_as_small_as_the_formula_says():
    weights = weights_of((40, 30))
    optimizer = projected(weights, rank=4, projection_kind="right")
    steps(optimizer, weights, 0, 1)
    assert optimizer.state_bytes == 4 * (2 * 4 * 40 + 4 * 30) + 4
    alive = {
        value.untyped_storage().data_ptr(): value.untyped_storage() for value in optimizer.state[weights[0]].values()
    }
    assert sum(storage.nbytes() for storage in alive.values()) == optimizer.state_bytes, "no view of something larger"


def test_a_closure_is_evaluated_with_gradients_and_its_loss_returned():
    weights = weights_of((16, 12))
    optimizer = projected(weights)

    def closure() -> float:
        optimizer.zero_grad()
        loss = weights[0].square().sum()
        loss.backward()
        return float(loss.detach())

    losses = [optimizer.step(closure) for _ in range(60)]
    assert losses[0] == pytest.approx(float(drawn(16, 12).square().sum()))
    assert losses[-1] < losses[0]


def test_schedulers_set_the_rate():
    weights = weights_of((16, 12))
    optimizer = projected(weights, decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == 0))
    steps(optimizer, weights, 0, 1)
    schedule.step()
    before = weights[0].detach().clone()
    steps(optimizer, weights, 1, 2)
    assert torch.equal(weights[0], before)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: projected(weights_of((5,))), "has no rank"),
        (lambda: projected(weights_of((5, 3), dtype=torch.float64)), "torch.float64 cannot be projected"),
        (lambda: projected(weights_of((5, 3)), rank=0), "rank is 0"),
        (lambda: projected(weights_of((5, 3)), projection_kind="both"), "projection_kind is 'both'"),
        (lambda: ProjectedAdamW(weights_of((5, 3)), lr=-1.0), "lr is -1.0"),
        (lambda: ProjectedAdamW(weights_of((5, 3)), betas=(0.9, 1.0)), "betas are"),
    ],
)
def test_what_cannot_be_is_refused(build: Callable[[], object], message: str):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_basis_that_fits_no_weight_is_refused():
    weights = weights_of((5, 3))
    with pytest.raises(ValueError, match=r"a basis of shape \(5, 2\) fits no weight of \(5, 3\)"):
        projected(weights, protected={weights[0]: torch.zeros(5, 2)})
    with pytest.raises(ValueError, match="in no group with a rank"):
        ProjectedAdamW(weights, protected={weights[0]: torch.zeros(3, 2)})


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_the_state_is_known_before_the_first_step(kind: str) -> None:
    weights = weights_of((16, 12), (12, 16), (2, 30))
    plain = nn.Parameter(drawn(5, 5))
    optimizer = projected(weights, projection_kind=kind)
    optimizer.add_param_group({"params": [plain]})
    steps(optimizer, weights, 0, 1)
    assert optimizer.state_bytes == projected_bytes(optimizer.param_groups)
