"""The walk over the steps of one stage: what is logged, kept and saved, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from evertune.errors import Interrupted, MemoryExhaustedError, NonFiniteError
from evertune.methods.base import Context, Method, MethodState
from evertune.training.checkpoint import latest_checkpoint, load_checkpoint
from evertune.training.feed import Feed
from evertune.training.fit import fit
from evertune.training.job import FitJob
from tests.unit.training.toys import toy_job


def events(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


def weights(job: FitJob) -> dict[str, Tensor]:
    return job.context.bank.adapter_tensors("shared")


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@dataclass(frozen=True, kw_only=True)
class AtStep(Method):
    """Does something in the step loss of one step (1 is the first)."""

    step: int
    action: Callable[[], float]
    calls: list[str] = field(default_factory=list)

    def begin_task(self, state: MethodState, context: Context) -> None:
        self.calls.append("begin")

    def step_loss(self, state: MethodState, context: Context) -> dict[str, Tensor]:
        self.calls.append("step")
        parameter = next(iter(context.bank.trainable_parameters().values()))
        factor = self.action() if self.calls.count("step") == self.step else 0.0
        return {"extra": parameter.sum() * factor}


class Dev:
    """Scores that are set beforehand; notes the weights that it was asked about."""

    def __init__(self, scores: dict[int, float]) -> None:
        self.scores = scores
        self.job: FitJob | None = None
        self.seen: dict[int, dict[str, Tensor]] = {}
        self.asked: list[tuple[int, bool]] = []

    def due(self, step: int, *, end_of_epoch: bool) -> bool:
        self.asked.append((step, end_of_epoch))
        self.step = step
        return step in self.scores

    def score(self) -> tuple[float, float | None, dict[str, float]]:
        assert self.job is not None
        self.job.context.bank.model.eval()
        self.seen[self.step] = weights(self.job)
        return self.scores[self.step], 1.5 if self.step == 2 else None, {"f1": self.scores[self.step] / 2}


def dev_job(folder: Path, scores: dict[int, float], **more: Any) -> tuple[FitJob, Dev]:
    dev = Dev(scores)
    job = toy_job(folder, num_train_epochs=2, learning_rate=0.1, more=lambda: {"dev": dev, **more})
    dev.job = job
    return job, dev


# What is computed and logged


def test_weights_and_losses_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_train_epochs": 2, "learning_rate": 0.3, "logging_steps": 4, "max_grad_norm": 0.2}
    plain = toy_job(tmp_path / "plain", **options)
    parameters = plain.context.bank.trainable_parameters()
    feed, losses, counts = Feed(plain), [], []
    for step in range(6):
        (batch,) = feed.step(step).batches
        logits = plain.context.bank.model(**batch.inputs).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), reduction="sum")
        gradients = torch.autograd.grad(loss / batch.count, list(parameters.values()))
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        with torch.no_grad():
            for parameter, gradient in zip(parameters.values(), gradients, strict=True):
                parameter -= 0.3 * gradient * min(1.0, 0.2 / float(norm))
        losses.append(loss.item())
        counts.append(batch.count)

    job = toy_job(tmp_path, **options)
    result = fit(job)
    for name, tensor in weights(plain).items():
        assert torch.allclose(weights(job)[name], tensor, rtol=1e-4, atol=1e-6), name
    found = events(tmp_path, "step")
    assert [event["step"] for event in found] == [4, 6]
    wanted = [sum(losses[:4]) / sum(counts[:4]), sum(losses[4:]) / sum(counts[4:])]
    assert [event["loss"] for event in found] == pytest.approx(wanted, rel=1e-5)
    assert result.counters.loss == found[-1]["loss"]
    assert [event["epoch"] for event in found] == [round(4 / 3, 4), 2.0]
    assert found[-1]["gradient_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert found[-1].keys() >= {
        "stage",
        "task",
        "total_steps",
        "terms",
        "learning_rate",
        "tokens_per_second",
        "memory_bytes",
    }
    assert (found[-1]["stage"], found[-1]["task"], found[-1]["total_steps"]) == (0, "a", 6)


def test_what_was_done_is_counted(tmp_path: Path) -> None:
    job = toy_job(tmp_path, num_train_epochs=2, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    result = fit(job)
    encoded = job.context.backbone.encode(list(job.rows), max_source_length=512, max_target_length=50)
    assert (result.steps, result.epochs) == (6, 2.0)
    assert result.counters.samples == 20
    assert result.counters.tokens == 2 * sum(row.length for row in encoded)
    assert result.counters.target_tokens == 2 * sum(len(row.target) for row in encoded)
    assert result.counters.seconds > 0
    assert result.counters.peak_memory_bytes > 10**6
    assert result.truncation == {"rows": 10, "source_cut": 0, "target_cut": 0}
    assert result.foreign_ids == [[], []]


def test_a_part_of_an_epoch(tmp_path: Path) -> None:
    result = fit(toy_job(tmp_path, max_steps=4))
    assert (result.steps, result.epochs) == (4, 4 / 3)


def test_the_same_job_twice_gives_the_same_bits(tmp_path: Path) -> None:
    jobs = [toy_job(tmp_path / str(n), num_train_epochs=2, optim="adamw_torch") for n in range(2)]
    torch.manual_seed(1)
    fit(jobs[0])
    torch.manual_seed(2)  # whatever was drawn before
    fit(jobs[1])
    assert same(weights(jobs[0]), weights(jobs[1]))


def test_progress_is_said(tmp_path: Path) -> None:
    job = toy_job(tmp_path, logging_steps=1)
    fit(job)
    text = job.console.out.getvalue()  # type: ignore[attr-defined]
    last = text.splitlines()[-1]
    assert last.startswith("1/1 a 3/3  loss ")
    for part in ("lr 1.00e-03", "|g| ", "tokens/s", "B"):
        assert part in last


# Checkpoints


@pytest.mark.parametrize(("every", "newest"), [(2, 4), (5, 5), (6, None), (0, None)])
def test_checkpoints_come_at_every_so_many_steps_but_not_at_the_end(
    tmp_path: Path, every: int, newest: int | None
) -> None:
    job = toy_job(tmp_path, num_train_epochs=2, save_steps=every)
    fit(job)
    path = latest_checkpoint(job.checkpoint_root)
    assert (path and path.name) == (newest and f"step-{newest:08d}")


def test_a_request_to_stop_saves_and_ends(tmp_path: Path) -> None:
    job = toy_job(tmp_path, save_steps=0, optim="adamw_torch")
    job.stop.requested = True
    with pytest.raises(Interrupted) as caught:
        fit(job)
    assert str(caught.value).startswith("1/1 a: Stopped at step 1 of 3; the state is saved.")
    path = latest_checkpoint(job.checkpoint_root)
    assert path is not None
    saved = load_checkpoint(path)
    assert saved.step == 1
    assert same(saved.adapters["shared"], weights(job))


# What goes wrong


@pytest.mark.parametrize("save_steps", [0, 1])
def test_a_loss_that_is_not_finite_stops_with_the_rows_and_keeps_the_weights(tmp_path: Path, save_steps: int) -> None:
    watch: list[dict[str, Tensor]] = []

    def poison() -> float:
        watch.append(weights(job))
        return float("nan")

    job = toy_job(tmp_path, AtStep(step=2, action=poison), save_steps=save_steps)
    ids = Feed(job).step(1).ids
    with pytest.raises(NonFiniteError) as caught:
        fit(job)
    text = str(caught.value)
    assert text.startswith("1/1 a: extra and gradient norm are not finite at step 2;")
    assert f"Rows of the step: {', '.join(ids)}." in text
    assert text.endswith("The last checkpoint is whole." if save_steps else "Finished stages are kept.")
    assert same(watch[0], weights(job))
    if save_steps:
        path = latest_checkpoint(job.checkpoint_root)
        assert path is not None
        assert same(load_checkpoint(path).adapters["shared"], watch[0])


def test_memory_that_runs_out_stops_with_the_keys_to_change(tmp_path: Path) -> None:
    job = toy_job(tmp_path, AtStep(step=2, action=lambda: torch.empty(10**15).sum().item()))
    with pytest.raises(MemoryExhaustedError, match=r"1/1 a: Memory ran out in step 2\. Change, cheapest first: `train"):
        fit(job)


class Hungry(Method):
    def end_task(self, state: MethodState, context: Context) -> None:
        torch.empty(10**15).sum().item()


def test_memory_that_runs_out_when_a_task_ends_stops_in_the_same_way(tmp_path: Path) -> None:
    with pytest.raises(MemoryExhaustedError, match="1/1 a: Memory ran out in step 3"):
        fit(toy_job(tmp_path, Hungry()))


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    def fail() -> float:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        fit(toy_job(tmp_path, AtStep(step=1, action=fail)))


def test_a_new_stage_begins_once(tmp_path: Path) -> None:
    method = AtStep(step=0, action=lambda: 0.0)
    fit(toy_job(tmp_path, method))
    assert method.calls == ["begin", "step", "step", "step"]


# Evaluation while training


def test_the_best_is_marked_and_the_last_is_kept(tmp_path: Path) -> None:
    kept: list[int] = []
    job, dev = dev_job(tmp_path, {2: 0.5, 3: 0.75, 5: 0.75, 6: 0.25}, save_evaluated=kept.append)
    result = fit(job)
    assert dev.asked == [(1, False), (2, False), (3, True), (4, False), (5, False), (6, True)]
    found = events(tmp_path, "evaluation")
    assert [(event["step"], event["score"], event["loss"], event["best"]) for event in found] == [
        (2, 0.5, 1.5, True),
        (3, 0.75, None, True),
        (5, 0.75, None, False),  # the first of equals stays
        (6, 0.25, None, False),
    ]
    assert all((event["split"], event["stage"], event["task"]) == ("dev", 0, "a") for event in found)
    assert [(event["metrics"], event["epoch"]) for event in found][:2] == [({"f1": 0.25}, 0.6667), ({"f1": 0.375}, 1.0)]
    assert (result.counters.best_step, result.counters.best_score) == (3, 0.75)
    assert kept == [2, 3, 5, 6]
    assert same(weights(job), dev.seen[6])
    text = job.console.out.getvalue()  # type: ignore[attr-defined]
    assert "1/1 a step 2: dev score 0.5000, loss 1.5000  (best so far)\n" in text
    assert "1/1 a step 5: dev score 0.7500\n" in text


def test_the_best_weights_are_put_in_place_where_they_are_kept(tmp_path: Path) -> None:
    job, dev = dev_job(tmp_path, {2: 0.5, 3: 0.75, 6: 0.25}, keep="best")
    fit(job)
    assert same(weights(job), dev.seen[3])
    assert not same(weights(job), dev.seen[6])


def test_without_any_evaluation_the_last_weights_stay(tmp_path: Path) -> None:
    job, _ = dev_job(tmp_path, {}, keep="best")
    untouched = weights(job)
    result = fit(job)
    assert result.counters.best_step is None
    assert not same(weights(job), untouched)
    (warning,) = events(tmp_path, "warning")
    assert warning["text"] == "1/1 a: nothing was evaluated within its 6 steps, so the last weights are kept"
    assert f"warning: {warning['text']}" in job.console.out.getvalue()  # type: ignore[attr-defined]


def test_training_that_ends_within_an_epoch_ends_the_epoch(tmp_path: Path) -> None:
    dev = Dev({})
    fit(toy_job(tmp_path, max_steps=4, more=lambda: {"dev": dev}))
    assert dev.asked == [(1, False), (2, False), (3, True), (4, True)]


def test_training_goes_on_in_training_mode_after_an_evaluation(tmp_path: Path) -> None:
    modes: list[bool] = []

    def note() -> float:
        modes.append(job.context.bank.model.training)
        return 0.0

    dev = Dev({1: 0.5})
    job = toy_job(tmp_path, AtStep(step=2, action=note), more=lambda: {"dev": dev})
    dev.job = job
    job.context.bank.model.eval()
    fit(job)
    assert modes == [True]


def test_evaluation_changes_nothing_in_training(tmp_path: Path) -> None:
    without = toy_job(tmp_path / "without", num_train_epochs=2, learning_rate=0.1)
    fit(without)
    job, _ = dev_job(tmp_path / "with", {1: 0.1, 2: 0.2, 4: 0.3})
    fit(job)
    assert same(weights(job), weights(without))
