"""One optimiser step: its gradient against autograd over single rows, its scale, and what stops it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evertune.backbones.base import Batch, LossOutput
from evertune.methods.base import Context, Method, MethodState
from evertune.training.job import FitJob
from evertune.training.step import Stepper
from tests.unit.training.toys import toy_bank, toy_job

Gradients = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Watch(Method):
    """Notes the gradients as they are before clipping, and every call."""

    gradients: Gradients = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)

    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        self.calls.append("project")
        self.gradients.update({name: parameter.grad.clone() for name, parameter in parameters.items()})  # type: ignore[union-attr]

    def after_step(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        self.calls.append("after")


@dataclass(frozen=True, kw_only=True)
class Pull(Method):
    """Half the squared norm of the weights, once a step: its gradient is the weights."""

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        squares = [(parameter**2).sum() for parameter in context.bank.trainable_parameters().values()]
        return {"pull": 0.5 * torch.stack(squares).sum()}


@dataclass(frozen=True, kw_only=True)
class Calm(Method):
    """A term of each scored token: the square of its log-partition."""

    def batch_loss(self, state: MethodState, context: Context, batch: Batch, output: LossOutput) -> dict[str, Tensor]:
        return {"calm": calm(output.logits, output.extra["labels"])}


def calm(logits: Tensor, labels: Tensor) -> Tensor:
    scored = labels != -100
    return 0.1 * (logits.logsumexp(-1) ** 2 * scored).sum()


@dataclass(frozen=True, kw_only=True)
class Broken(Method):
    """A term that is not what it should be; `make` gets the sum of the weights' squares."""

    make: Callable[[Tensor], Tensor]

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        squares = [(parameter**2).sum() for parameter in context.bank.trainable_parameters().values()]
        return {"penalty": self.make(torch.stack(squares).sum())}


@dataclass(frozen=True, kw_only=True)
class BrokenData(Broken):
    """The same in every micro-batch, under the scale of float16."""

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        return {}

    def batch_loss(self, state: MethodState, context: Context, batch: Batch, output: LossOutput) -> dict[str, Tensor]:
        return super().step_loss(state, context)


def batches_of(job: FitJob, sizes: Sequence[int]) -> list[Batch]:
    """The first rows of a job in micro-batches of these sizes."""
    encoded = job.context.backbone.encode(list(job.rows), max_source_length=99, max_target_length=99)
    batches, start = [], 0
    for size in sizes:
        batches.append(job.context.backbone.collate(encoded[start : start + size]))
        start += size
    return batches


def oracle(job: FitJob, rows: int, *, with_calm: bool = False, with_pull: bool = False) -> tuple[Gradients, float, int]:
    """Gradient, summed loss and count from one row at a time, without padding."""
    singles = batches_of(job, [1] * rows)
    parameters = job.context.bank.trainable_parameters()
    count = sum(batch.count for batch in singles)
    total = torch.zeros(())
    data = 0.0
    for batch in singles:
        logits = job.context.bank.model(input_ids=batch.inputs["input_ids"]).logits
        likelihood = nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
        )
        data += likelihood.item()
        total = total + (likelihood + (calm(logits[:, :-1], batch.labels[:, 1:]) if with_calm else 0)) / count
    if with_pull:
        total = total + sum((0.5 * (parameter**2).sum() for parameter in parameters.values()), start=torch.zeros(()))
    found = torch.autograd.grad(total, list(parameters.values()))
    return dict(zip(parameters, found, strict=True)), data, count


def weights(job: FitJob) -> dict[str, Tensor]:
    return job.context.bank.adapter_tensors("shared")


def norm_of(gradients: Gradients) -> float:
    return torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()


# Scale


@pytest.mark.parametrize("sizes", [(8,), (2, 2, 2, 2), (1, 4, 3)])
def test_the_gradient_is_that_of_single_rows_however_they_are_split(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Micro-batches with unequal numbers of tokens; a method's term counted as the data, another once a step."""
    watch = Watch()
    job = toy_job(tmp_path, watch, Calm(), Pull())
    wanted, data, count = oracle(job, 8, with_calm=True, with_pull=True)
    outcome = Stepper(job, 1).take(batches_of(job, sizes))
    assert outcome.count == count
    assert outcome.loss.item() == pytest.approx(data, rel=1e-5)
    assert watch.gradients.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(watch.gradients[name], gradient, rtol=1e-4, atol=1e-6), name
    assert outcome.gradient_norm == pytest.approx(norm_of(wanted), rel=1e-4)
    assert outcome.broken == ()
    assert outcome.stop is False


@pytest.mark.parametrize("sizes", [(8,), (3, 3, 2)])
def test_terms_are_reported_as_they_enter(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    job = toy_job(tmp_path, Calm(), Pull())
    squares = sum(float((tensor**2).sum()) for tensor in weights(job).values())
    (whole,) = batches_of(job, (8,))
    with torch.no_grad():
        logits = job.context.bank.model(**whole.inputs).logits
    terms = Stepper(job, 1).take(batches_of(job, sizes)).terms
    assert terms.keys() == {"calm", "pull"}
    assert terms["pull"] == pytest.approx(0.5 * squares, rel=1e-5)
    assert terms["calm"] == pytest.approx(calm(logits[:, :-1], whole.labels[:, 1:]).item() / whole.count, rel=1e-4)


def test_filler_rows_count_for_nothing(tmp_path: Path) -> None:
    watch = Watch()
    job = toy_job(tmp_path, watch)
    wanted, _, count = oracle(job, 4)
    backbone = job.context.backbone
    filler = backbone.collate(
        [backbone.filler(backbone.encode(list(job.rows[:1]), max_source_length=9, max_target_length=9)[0])]
    )
    outcome = Stepper(job, 1).take([*batches_of(job, (4,)), filler])
    assert outcome.count == count
    for name, gradient in wanted.items():
        assert torch.allclose(watch.gradients[name], gradient, rtol=1e-4, atol=1e-6)


# The update


@pytest.mark.parametrize("limit", [0.0, 0.05, 1e6])
def test_clipping_scales_the_whole_gradient(tmp_path: Path, limit: float) -> None:
    job = toy_job(tmp_path, Pull(), max_grad_norm=limit, learning_rate=0.5)
    wanted, _, _ = oracle(job, 8, with_pull=True)
    norm = norm_of(wanted)
    assert 1.5 < norm < 1e6
    before = list(job.context.bank.trainable_parameters().values())
    start = {name: parameter.detach().clone() for name, parameter in job.context.bank.trainable_parameters().items()}
    outcome = Stepper(job, 1).take(batches_of(job, (4, 4)))
    factor = min(1.0, limit / norm) if limit else 1.0
    for name, parameter in job.context.bank.trainable_parameters().items():
        assert torch.allclose(parameter.detach(), start[name] - 0.5 * factor * wanted[name], rtol=1e-4, atol=1e-6)
    assert outcome.gradient_norm == pytest.approx(norm, rel=1e-4)  # before clipping
    assert all(parameter.grad is None for parameter in before)  # nothing is left for the next step


def test_methods_are_called_once_a_step_in_order(tmp_path: Path) -> None:
    watch = Watch()
    job = toy_job(tmp_path, watch, lr_scheduler_type="linear", learning_rate=1.0)
    stepper = Stepper(job, 4)
    for _ in range(2):
        stepper.take(batches_of(job, (2, 2, 2)))
    assert watch.calls == ["project", "after"] * 2
    assert stepper.schedule.get_last_lr() == [0.5]


@dataclass(frozen=True, kw_only=True)
class Hold(Method):
    """Lets nothing move."""

    def project(self, state: MethodState, context: Context, parameters: Mapping[str, nn.Parameter]) -> None:
        for parameter in parameters.values():
            assert parameter.grad is not None
            parameter.grad.zero_()


def test_projection_decides_what_moves(tmp_path: Path) -> None:
    job = toy_job(tmp_path, Hold())
    before = weights(job)
    outcome = Stepper(job, 1).take(batches_of(job, (8,)))
    assert outcome.gradient_norm == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(job).items())


@dataclass(frozen=True, kw_only=True)
class TwoRates(Method):
    """A rate of zero for B."""

    def param_groups(self, state: MethodState, context: Context) -> list[dict[str, Any]]:
        by_matrix: dict[str, list[nn.Parameter]] = {"lora_A": [], "lora_B": []}
        for name, parameter in context.bank.trainable_parameters().items():
            by_matrix["lora_A" if "lora_A" in name else "lora_B"].append(parameter)
        return [{"params": by_matrix["lora_A"]}, {"params": by_matrix["lora_B"], "lr": 0.0}]


def test_a_method_may_group_the_parameters(tmp_path: Path) -> None:
    job = toy_job(tmp_path, TwoRates(), learning_rate=0.1)
    before = weights(job)
    Stepper(job, 1).take(batches_of(job, (8,)))
    moved = {name for name, tensor in weights(job).items() if not torch.equal(before[name], tensor)}
    assert moved == {name for name in before if "lora_A" in name}


@dataclass(frozen=True, kw_only=True)
class OwnOptimizer(Method):
    """Adagrad, which is not among the configured ones."""

    owns = frozenset({"optimizer"})

    def optimizer(
        self, state: MethodState, context: Context, groups: Sequence[Mapping[str, Any]]
    ) -> torch.optim.Optimizer:
        return torch.optim.Adagrad([{"params": group["params"]} for group in groups], lr=0.25)


def test_a_method_may_bring_its_optimiser(tmp_path: Path) -> None:
    job = toy_job(tmp_path, OwnOptimizer())
    before = weights(job)
    stepper = Stepper(job, 1)
    stepper.take(batches_of(job, (8,)))
    assert isinstance(stepper.optimizer, torch.optim.Adagrad)
    steps = torch.cat([(tensor - before[name]).abs().flatten() for name, tensor in weights(job).items()])
    assert steps.max().item() == pytest.approx(0.25, rel=1e-3)  # Adagrad's first step has the size of its rate


def test_a_request_to_stop_is_reported_with_the_step(tmp_path: Path) -> None:
    job = toy_job(tmp_path)
    job.stop.requested = True
    before = weights(job)
    outcome = Stepper(job, 1).take(batches_of(job, (8,)))
    assert outcome.stop is True
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(job).items())  # the step was taken


# What is not finite


def assert_untouched(job: FitJob, stepper: Stepper, before: dict[str, Tensor]) -> None:
    for name, tensor in weights(job).items():
        assert tensor.numpy().tobytes() == before[name].numpy().tobytes(), name
    assert not stepper.optimizer.state
    assert stepper.schedule.last_epoch == 0


@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (lambda squares: squares * float("nan"), ("penalty", "gradient norm")),
        (lambda squares: squares.detach() * float("inf"), ("penalty",)),  # no gradient, and still wrong
        (lambda squares: (squares * 0).sqrt(), ("gradient norm",)),  # a value of zero, the slope of a root there
    ],
)
@pytest.mark.parametrize("limit", [0.0, 1.0])
def test_a_term_that_is_not_finite_is_named_and_moves_nothing(
    tmp_path: Path, make: Callable[[Tensor], Tensor], broken: tuple[str, ...], limit: float
) -> None:
    watch = Watch()
    job = toy_job(tmp_path, watch, Broken(make=make), optim="adamw_torch", max_grad_norm=limit)
    before, stepper = weights(job), Stepper(job, 2)
    outcome = stepper.take(batches_of(job, (4, 4)))
    assert outcome.broken == broken
    assert_untouched(job, stepper, before)
    assert watch.calls == ["project"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_named_and_moves_nothing(tmp_path: Path, bad: float) -> None:
    job = toy_job(tmp_path, optim="adamw_torch")
    with torch.no_grad():
        job.context.bank.base_model.get_output_embeddings().weight[5, 0] = bad
    before, stepper = weights(job), Stepper(job, 2)
    outcome = stepper.take(batches_of(job, (4, 4)))
    assert outcome.broken == ("loss", "gradient norm")
    assert_untouched(job, stepper, before)


# Precision


@dataclass(frozen=True, kw_only=True)
class Product(Method):
    """A penalty with a matrix product, which autocast would compute in half precision."""

    dtypes: list[torch.dtype] = field(default_factory=list)

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        products = [p @ p.T for name, p in context.bank.trainable_parameters().items() if "lora_A" in name]
        self.dtypes.extend(product.dtype for product in products)
        return {"product": torch.stack([product.sum() for product in products]).sum()}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16, torch.float16])
def test_penalties_on_weights_stay_in_float32(tmp_path: Path, autocast: torch.dtype | None) -> None:
    product = Product()
    job = toy_job(tmp_path, product, autocast=autocast)
    before = weights(job)
    outcome = Stepper(job, 1).take(batches_of(job, (4, 4)))
    assert set(product.dtypes) == {torch.float32}
    matrices = [tensor for name, tensor in before.items() if "lora_A" in name]
    assert outcome.terms["product"] == pytest.approx(sum(float((m @ m.T).sum()) for m in matrices), rel=1e-5)


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_gradient_in_float32(tmp_path: Path, autocast: torch.dtype) -> None:
    watch = Watch()
    job = toy_job(tmp_path, watch, autocast=autocast)
    wanted, data, _ = oracle(job, 8)
    outcome = Stepper(job, 1).take(batches_of(job, (4, 4)))
    assert outcome.broken == ()
    assert outcome.loss.item() == pytest.approx(data, rel=2e-2)
    assert outcome.loss.item() != pytest.approx(data, rel=1e-7)  # it did compute in half precision
    for name, gradient in wanted.items():
        assert watch.gradients[name].dtype == torch.float32
        assert (watch.gradients[name] - gradient).norm() < 0.1 * gradient.norm()


@pytest.mark.parametrize("optim", ["adamw_torch", "sgd", "adafactor"])
def test_float16_finds_its_scale_by_skipping_steps(tmp_path: Path, optim: str) -> None:
    """A gradient that overflows under the scale is no fault: the step is skipped and the scale halved."""
    watch, slopes = Watch(), iter([0.0, 0.0, 1.0, 1.0])  # the slope of a root at 0, and then at 1
    overflows = BrokenData(make=lambda squares: ((squares * 0) + next(slopes)).sqrt())
    job = toy_job(tmp_path, watch, overflows, autocast=torch.float16, optim=optim)
    before, stepper = weights(job), Stepper(job, 3)
    scale = stepper.scaler.get_scale()
    assert stepper.take(batches_of(job, (4, 4))).broken == ()
    assert stepper.scaler.get_scale() == scale / 2
    assert_untouched(job, stepper, before)
    assert watch.calls == ["project"]

    outcome = stepper.take(batches_of(job, (4, 4)))
    assert outcome.broken == ()
    assert math.isfinite(outcome.gradient_norm)
    assert all(not torch.equal(before[name], tensor) for name, tensor in weights(job).items())
    assert stepper.schedule.last_epoch == 1
    assert watch.calls == ["project", "project", "after"]


def test_float16_gives_up_when_no_scale_is_small_enough(tmp_path: Path) -> None:
    job = toy_job(tmp_path, BrokenData(make=lambda squares: (squares * 0).sqrt()), autocast=torch.float16)
    stepper = Stepper(job, 3)
    stepper.scaler.load_state_dict({**stepper.scaler.state_dict(), "scale": 0.5})
    assert stepper.take(batches_of(job, (4, 4))).broken == ("gradient norm",)


def test_a_penalty_that_overflows_is_a_fault_in_float16_too(tmp_path: Path) -> None:
    """It is not scaled: no smaller scale would mend it."""
    job = toy_job(tmp_path, Broken(make=lambda squares: (squares * 0).sqrt()), autocast=torch.float16)
    assert Stepper(job, 3).take(batches_of(job, (4, 4))).broken == ("gradient norm",)


def test_the_gradient_of_a_term_is_compared_with_that_of_the_data(tmp_path: Path) -> None:
    job = toy_job(tmp_path, Broken(make=lambda squares: 3 * squares))
    without = toy_job(tmp_path, Watch())
    watch = Watch()
    Stepper(toy_job(tmp_path, watch), 1).take(batches_of(without, (8,)))
    of_data = math.sqrt(sum(float((gradient**2).sum()) for gradient in watch.gradients.values()))
    of_term = 6 * math.sqrt(sum(float((tensor**2).sum()) for tensor in weights(job).values()))
    outcome = Stepper(job, 1).take(batches_of(job, (8,)), measure=True)
    assert outcome.ratios == {"penalty": pytest.approx(of_term / of_data, rel=1e-4)}


def test_measuring_changes_no_bit(tmp_path: Path) -> None:
    measured, plain = (toy_job(tmp_path, Broken(make=lambda squares: 3 * squares)) for _ in range(2))
    Stepper(measured, 1).take(batches_of(measured, (4, 4)), measure=True)
    assert Stepper(plain, 1).take(batches_of(plain, (4, 4))).ratios == {}
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(measured).items())


def test_a_gradient_that_overflows_without_a_scale_is_a_fault(tmp_path: Path) -> None:
    job = toy_job(tmp_path, Broken(make=lambda squares: (squares * 0).sqrt()), autocast=torch.bfloat16)
    assert Stepper(job, 3).take(batches_of(job, (4, 4))).broken == ("gradient norm",)


def test_the_bank_of_the_toys_has_gradients_everywhere(tmp_path: Path) -> None:
    """What the comparisons above would miss if B were zero, as in a new adapter."""
    moved, _, _ = oracle(toy_job(tmp_path), 8)
    assert all(gradient.norm() > 1e-4 for gradient in moved.values())
    new, _, _ = oracle(toy_job(tmp_path, bank=toy_bank(moved=False)), 8)
    assert any(gradient.norm() == 0 for gradient in new.values())
