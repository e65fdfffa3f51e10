"""The configured optimiser and schedule, against closed forms and the optimisers' own state."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from evertune.training.config import TrainConfig
from evertune.training.optimizer import build_optimizer, build_schedule, optimizer_bytes


def parameters(*shapes: tuple[int, ...]) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


def one_step(optimizer: torch.optim.Optimizer, of: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in of:
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def test_adamw_by_hand() -> None:
    config = TrainConfig(learning_rate=0.1, adam_beta1=0.8, adam_beta2=0.9, adam_epsilon=1e-3, weight_decay=0.2)
    (weight,) = parameters((3, 2))
    start = weight.detach().clone()
    optimizer = build_optimizer(config, [{"params": [weight]}])
    first = second = torch.zeros(3, 2)
    wanted = start.clone()
    for step in (1, 2, 3):
        gradient = torch.full((3, 2), 0.5 * step) + start
        weight.grad = gradient.clone()
        optimizer.step()
        first = 0.8 * first + 0.2 * gradient
        second = 0.9 * second + 0.1 * gradient**2
        wanted = wanted * (1 - 0.1 * 0.2)
        wanted = wanted - 0.1 * (first / (1 - 0.8**step)) / ((second / (1 - 0.9**step)).sqrt() + 1e-3)
    assert torch.allclose(weight.detach(), wanted, atol=1e-6)


def test_sgd_by_hand_has_no_momentum() -> None:
    (weight,) = parameters((3,))
    start = weight.detach().clone()
    optimizer = build_optimizer(TrainConfig(optim="sgd", learning_rate=0.1, weight_decay=0.5), [{"params": [weight]}])
    wanted = start
    for _ in range(2):
        weight.grad = torch.ones(3)
        optimizer.step()
        wanted = wanted - 0.1 * (1 + 0.5 * wanted)
    assert torch.allclose(weight.detach(), wanted)


def test_groups_keep_what_they_say_themselves() -> None:
    one, two = parameters((2,), (2,))
    for optim in ("adamw_torch", "sgd", "adafactor"):
        config = TrainConfig(optim=optim, learning_rate=0.1, weight_decay=0.3)  # type: ignore[arg-type]
        groups = build_optimizer(config, [{"params": [one]}, {"params": [two], "lr": 0.01, "weight_decay": 0.0}])
        found = [(group["lr"], group["weight_decay"]) for group in groups.param_groups]
        assert found == [(0.1, 0.3), (0.01, 0.0)]


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_bytes_of_state_are_those_that_the_optimiser_holds(optim: Any) -> None:
    shapes = [(8, 32), (64, 8), (5,)]
    held = parameters(*shapes)
    config = TrainConfig(optim=optim)
    optimizer = build_optimizer(config, [{"params": held}])
    one_step(optimizer, held)
    states = [state for entry in optimizer.state.values() for name, state in entry.items() if name != "step"]
    assert optimizer_bytes(config, shapes) == sum(state.numel() * state.element_size() for state in states)


# Schedules


def rates(config: TrainConfig, total: int) -> list[float]:
    """The learning rate of every step."""
    (weight,) = parameters((1,))
    optimizer = build_optimizer(config, [{"params": [weight]}])
    schedule = build_schedule(config, optimizer, total)
    found = []
    for _ in range(total):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


_FORMS: dict[str, Any] = {
    "constant": lambda step, warm, total: 1.0,
    "constant_with_warmup": lambda step, warm, total: min(1.0, step / warm),
    "linear": lambda step, warm, total: step / warm if step < warm else (total - step) / (total - warm),
    "cosine": lambda step, warm, total: (
        step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
    ),
    "polynomial": lambda step, warm, total: (
        step / warm if step < warm else (1 - 1e-7 / 0.2) * (1 - (step - warm) / (total - warm)) + 1e-7 / 0.2
    ),
    "inverse_sqrt": lambda step, warm, total: step / warm if step < warm else math.sqrt(warm / step),
}


@pytest.mark.parametrize("name", _FORMS)
@pytest.mark.parametrize("warm", [{"warmup_steps": 4}, {"warmup_ratio": 0.2}, {"warmup_steps": 4, "warmup_ratio": 0.9}])
def test_schedules_follow_their_formulas(name: Any, warm: dict[str, Any]) -> None:
    config = TrainConfig(lr_scheduler_type=name, learning_rate=0.2, **warm)
    wanted = [0.2 * _FORMS[name](step, 4, 20) for step in range(20)]
    assert rates(config, 20) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("name", _FORMS)
def test_a_schedule_goes_on_from_json(name: Any) -> None:
    config = TrainConfig(lr_scheduler_type=name, learning_rate=0.2, warmup_steps=3)
    wanted = rates(config, 12)
    (weight,) = parameters((1,))
    optimizer = build_optimizer(config, [{"params": [weight]}])
    schedule = build_schedule(config, optimizer, 12)
    for _ in range(5):
        optimizer.step()
        schedule.step()
    text = json.dumps(schedule.state_dict(), allow_nan=False)
    rate = optimizer.param_groups[0]["lr"]

    optimizer = build_optimizer(config, [{"params": [weight]}])
    schedule = build_schedule(config, optimizer, 12)
    schedule.load_state_dict(json.loads(text))
    optimizer.param_groups[0]["lr"] = rate  # comes with the optimiser's state
    found = []
    for _ in range(7):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert found == wanted[5:]
