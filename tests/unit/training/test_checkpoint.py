"""A checkpoint gives back bit for bit what it was given, or says what is wrong with it."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from evertune.errors import CheckpointError, RunError
from evertune.methods.base import MethodState
from evertune.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    load_method_states,
    pack_optimizer,
    save_checkpoint,
    save_method_states,
    unpack_optimizer,
)
from evertune.training.config import TrainConfig
from evertune.training.optimizer import build_optimizer, build_schedule


def checkpoint(step: int = 3, size: int = 4, **changes: Any) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    drawn = lambda: torch.randn(size, generator=generator)  # noqa: E731
    given: dict[str, Any] = {
        "adapters": {
            "shared": {"layer.0.lora_A.weight": drawn(), "layer.0.lora_B.weight": drawn()},
            "fast": {"w": drawn()},
        },
        "optimizer": ({"0/exp_avg": drawn(), "11/step": torch.tensor(3.0)}, [{"lr": 0.1, "betas": [0.9, 0.999]}]),
        "random": [({"torch": drawn(), "numpy": drawn()}, {"rank": 0}), ({"torch": drawn()}, {"rank": 1})],
        "methods": {"replay": MethodState({}, {"buffer": ["a/train/1"]}), "ewc": MethodState({"fisher": drawn()}, {})},
        "best": {"shared": {"w": drawn()}},
        "values": {"counters": {"loss": 1 / 3, "best_step": None}},
    }
    return Checkpoint(step, **{**given, **changes})


def flat(value: Any) -> Any:
    """With tensors as lists and types, so that `==` compares bits."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: flat(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(item) for item in value]
    if isinstance(value, (Checkpoint, MethodState)):
        return flat(vars(value))
    return value


@contextlib.contextmanager
def full_disk(limit: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Out and in


def test_a_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    saved = checkpoint()
    save_checkpoint(tmp_path, saved)
    path = latest_checkpoint(tmp_path)
    assert path == tmp_path / "step-00000003"
    assert flat(load_checkpoint(path)) == flat(saved)
    bare = checkpoint(4, best={}, methods={}, optimizer=({}, []))
    save_checkpoint(tmp_path, bare)
    assert flat(load_checkpoint(tmp_path / "step-00000004")) == flat(bare)


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None
    assert latest_checkpoint(tmp_path) is None
    for step in (9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step))
        assert [path.name for path in tmp_path.iterdir()] == [f"step-{step:08d}"]


def test_the_newest_counts_where_a_process_was_killed_before_it_removed_the_older(tmp_path: Path) -> None:
    for step in (9, 10):
        save_checkpoint(tmp_path / str(step), checkpoint(step))
        (tmp_path / str(step) / f"step-{step:08d}").rename(tmp_path / f"step-{step:08d}")
    (tmp_path / ".step-00000011.x.tmp").mkdir()  # half written
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000010"


def test_states_of_methods_come_back(tmp_path: Path) -> None:
    states = checkpoint().methods
    save_method_states(tmp_path, states)
    assert {path.name for path in tmp_path.iterdir()} == {"method.json", "method.safetensors"}
    assert flat(load_method_states(tmp_path)) == flat(states)


# Damage


@pytest.mark.parametrize("name", ["tensors.safetensors", "method.safetensors", "method.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered"])
def test_damaged_files_are_noticed(tmp_path: Path, name: str, damage: str) -> None:
    save_checkpoint(tmp_path, checkpoint())
    path = tmp_path / "step-00000003"
    whole = (path / name).read_bytes()
    if damage == "missing":
        (path / name).unlink()
    elif damage == "truncated":
        (path / name).write_bytes(whole[:-3])
    else:
        (path / name).write_bytes(whole[:-3] + bytes([whole[-3] ^ 1]) + whole[-2:])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(caught.value) == (
        f"{path}: This checkpoint is damaged: its files are not those that were written. "
        "Delete this folder and run again: the stage starts anew, finished stages are kept."
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "This file is missing"),
        (b'{"step": 3', "This file is damaged"),
        (b"{}", "This checkpoint is damaged"),
        (b"[]", "This checkpoint is damaged"),
    ],
)
def test_a_damaged_index(tmp_path: Path, content: bytes | None, what: str) -> None:
    save_checkpoint(tmp_path, checkpoint())
    path = tmp_path / "step-00000003"
    if content is None:
        (path / "checkpoint.json").unlink()
    else:
        (path / "checkpoint.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(path)


def test_a_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path: Path) -> None:
    old = checkpoint(3)
    save_checkpoint(tmp_path, old)
    with full_disk(20_000), pytest.raises(RunError, match=r"Cannot write: .*File too large.*Free some space"):
        save_checkpoint(tmp_path, checkpoint(4, size=50_000))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert flat(load_checkpoint(tmp_path / "step-00000003")) == flat(old)


def test_a_checkpoint_that_cannot_be_expressed_leaves_the_old_one(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(3))
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_checkpoint(tmp_path, checkpoint(4, values={"loss": float("nan")}))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]


# Optimisers


def gradients(step: int, shapes: list[torch.Size]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(shape, generator=generator) for shape in shapes]


class Training:
    """Two groups under an optimiser with a schedule; the gradients are drawn."""

    def __init__(self, config: TrainConfig) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = [(4, 6), (7,), *[(3, 2)] * 11]  # more than ten, so that "10" sorts before "2"
        self.parameters = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
        groups = [{"params": self.parameters[:1]}, {"params": self.parameters[1:], "lr": 0.02, "weight_decay": 0.1}]
        self.optimizer = build_optimizer(config, groups)
        self.schedule = build_schedule(config, self.optimizer, 12)

    def steps(self, numbers: range) -> None:
        for number in numbers:
            drawn = gradients(number, [parameter.shape for parameter in self.parameters])
            for parameter, gradient in zip(self.parameters, drawn, strict=True):
                parameter.grad = gradient
            self.optimizer.step()
            self.schedule.step()

    def weights(self) -> dict[str, torch.Tensor]:
        return {str(index): parameter.detach().clone() for index, parameter in enumerate(self.parameters)}


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_an_optimiser_goes_on_bit_for_bit_from_files(tmp_path: Path, optim: Any, schedule: Any) -> None:
    config = TrainConfig(optim=optim, lr_scheduler_type=schedule, learning_rate=0.05, weight_decay=0.01)
    whole = Training(config)
    whole.steps(range(12))

    first = Training(config)
    first.steps(range(5))
    packed = pack_optimizer(first.optimizer)
    values = {"schedule": first.schedule.state_dict()}
    save_checkpoint(tmp_path, checkpoint(5, adapters={"w": first.weights()}, optimizer=packed, values=values))

    second = Training(config)
    found = load_checkpoint(tmp_path / "step-00000005")
    with torch.no_grad():
        for index, parameter in enumerate(second.parameters):
            parameter.copy_(found.adapters["w"][str(index)])
    unpack_optimizer(second.optimizer, *found.optimizer)
    second.schedule.load_state_dict(found.values["schedule"])
    assert flat(second.optimizer.state_dict()) == flat(first.optimizer.state_dict())
    second.steps(range(5, 12))
    for name, weight in whole.weights().items():
        assert torch.equal(second.weights()[name], weight)
    assert flat(second.optimizer.state_dict()) == flat(whole.optimizer.state_dict())


def test_the_state_matters() -> None:
    """What the test above would miss if unpacking did nothing."""
    config = TrainConfig(learning_rate=0.05)
    whole, forgetful = Training(config), Training(config)
    whole.steps(range(6))
    forgetful.steps(range(5))
    fresh = build_optimizer(config, [{"params": forgetful.parameters}])
    forgetful.optimizer = fresh
    forgetful.schedule = build_schedule(config, fresh, 12)
    forgetful.steps(range(5, 6))
    assert not torch.equal(whole.weights()["0"], forgetful.weights()["0"])


def test_an_optimiser_of_another_shape_is_refused() -> None:
    config = TrainConfig()
    packed = pack_optimizer(Training(config).optimizer)
    other = build_optimizer(config, [{"params": [torch.nn.Parameter(torch.zeros(2))]}])
    with pytest.raises(ValueError, match="zip"):
        unpack_optimizer(other, *packed)
