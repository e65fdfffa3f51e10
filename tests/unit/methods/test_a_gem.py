"""A-GEM: its correction against the formula, what it remembers, and that it changes nothing where it need not."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from evertune.adapters.spec import AdapterSpec
from evertune.errors import Interrupted, NonFiniteError
from evertune.methods.a_gem import AGEM, remove_conflict_
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.seq_lora import SeqLoRA
from evertune.streams.task import Stream
from evertune.training.fit import fit
from tests.unit.builders import context, stream
from tests.unit.methods.walks import Walked, walk

# The correction


def test_two_vectors_in_the_plane() -> None:
    gradient, reference = torch.tensor([2.0, 1.0]), torch.tensor([-4.0, 3.0])
    parts = [gradient[:1], gradient[1:]]
    assert remove_conflict_(parts, [reference[:1], reference[1:]])
    # <g, r> = -5 and <r, r> = 25: g + r / 5; what is left is at a right angle.
    assert gradient.tolist() == pytest.approx([1.2, 1.6])
    assert (gradient * reference).sum().item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("reference", [[3.0, 0.0], [0.0, 5.0], [0.0, 0.0], [math.nan, -9.0], [-math.inf, 0.0]])
def test_a_gradient_that_does_no_harm_is_left_as_it_is(reference: list[float]) -> None:
    gradient = torch.tensor([2.0, 0.0])
    assert not remove_conflict_([gradient], [torch.tensor(reference)])
    assert gradient.tolist() == [2.0, 0.0]


def test_a_gradient_that_is_not_finite_is_left_to_the_check_of_the_step() -> None:
    gradient = torch.tensor([math.inf, 1.0])
    assert not remove_conflict_([gradient], [torch.tensor([-1.0, 0.0])])
    assert gradient.tolist() == [math.inf, 1.0]
    assert not remove_conflict_([], [])


@given(st.integers(0, 10_000), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_afterwards_they_agree_and_nothing_shorter_would(seed: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradients = [torch.randn(7, 3, generator=generator) for _ in range(parts)]
    reference = [torch.randn(7, 3, generator=generator) for _ in range(parts)]
    g, r = (torch.cat([part.flatten() for part in vector]).double() for vector in (gradients, reference))
    changed = remove_conflict_(gradients, reference)
    after = torch.cat([part.flatten() for part in gradients]).double()
    assert changed == ((g @ r).item() < 0)
    wanted = g - min((g @ r).item(), 0.0) / (r @ r) * r
    assert torch.allclose(after, wanted, atol=1e-5)
    assert after @ r >= -1e-5


# In training


def walked(folder: Path, method: Method, **options: Any) -> list[dict[str, Tensor]]:
    """What the adapters hold after every stage."""
    stages = walk(folder, method, **options)
    return [stage.bank.adapter_tensors("shared") for number, stage in enumerate(stages) if number % 2]


def test_the_first_task_is_learnt_as_without_it_and_the_second_is_not(tmp_path: Path) -> None:
    plain, guarded = walked(tmp_path / "plain", SeqLoRA()), walked(tmp_path / "a-gem", AGEM(batch_size=4))
    assert all(torch.equal(guarded[0][key], tensor) for key, tensor in plain[0].items())
    assert any(not torch.equal(guarded[1][key], tensor) for key, tensor in plain[1].items())


def test_dropout_draws_the_same_with_a_memory_that_never_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = AdapterSpec(r=2, lora_alpha=4, lora_dropout=0.3)
    plain = walked(tmp_path / "plain", SeqLoRA(), spec=spec)
    monkeypatch.setattr("evertune.methods.a_gem.remove_conflict_", lambda gradients, reference: False)
    silent = walked(tmp_path / "silent", AGEM(), spec=spec)
    for wanted, found in zip(plain, silent, strict=True):
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def reference(stage: Walked, context: Context, ids: list[str]) -> Tensor:
    """Gradient of the mean loss per token of these rows, one row at a time."""
    backbone, model = context.backbone, stage.bank.model
    rows = {row.id: row for task in context.stream.tasks for row in task.train}
    parameters = list(stage.bank.trainable_parameters().values())
    total, count = torch.zeros(()), 0
    for id in ids:
        batch = backbone.collate(backbone.encode([rows[id]], max_source_length=99, max_target_length=99))
        total = total + backbone.loss(model, batch).sum
        count += batch.count
    return torch.cat([part.flatten() for part in torch.autograd.grad(total / count, parameters)]).double()


def test_every_step_is_checked_against_rows_of_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method = AGEM(batch_size=5, buffer_size=8)
    seen: list[tuple[Tensor, Tensor, Tensor, list[str]]] = []
    project = AGEM.project
    drawn: list[list[str]] = []

    def noting(self: AGEM, state: MethodState, context: Context, parameters: Any) -> None:
        def gradient() -> Tensor:
            return torch.cat([p.grad.flatten() for p in parameters.values()]).double()

        before = gradient()
        project(self, state, context, parameters)
        if state.values["memory"]:
            seen.append((before, gradient(), reference(current[0], context, drawn[-1]), drawn[-1]))

    draw = AGEM._drawn

    def drawing(self: AGEM, state: MethodState, context: Context) -> Any:
        rows = draw(self, state, context)
        drawn.append([row.id for row in rows])
        return rows

    monkeypatch.setattr(AGEM, "project", noting)
    monkeypatch.setattr(AGEM, "_drawn", drawing)
    current: list[Walked] = []
    for stage in walk(tmp_path, method):
        current[:] = [stage]
    last = current[0]
    assert len(seen) == last.state.values["step"] > 10
    corrected = 0
    for before, after, wanted, ids in seen:
        assert len(set(ids)) == 5
        assert all(id.startswith("a/") for id in ids)
        if before @ wanted < 0:
            corrected += 1
            assert torch.allclose(after, before - (before @ wanted) / (wanted @ wanted) * wanted, atol=1e-5)
            assert after @ wanted >= -1e-6 * after.norm() * wanted.norm()
        else:
            assert torch.equal(after, before)
    assert 0 < corrected < len(seen)
    assert method.facts(last.state, last.context) == {"corrected_share": corrected / len(seen)}
    assert len({tuple(ids) for *_, ids in seen}) > len(seen) / 2, "every step draws anew"


def test_a_stage_that_is_resumed_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = walked(tmp_path / "whole", AGEM(batch_size=3))[-1]
    *_, second = islice(walk(tmp_path / "stopped", AGEM(batch_size=3)), 3)
    job, before = second.job, copy.deepcopy(second.state)
    project = AGEM.project

    def stopping(self: AGEM, state: MethodState, context: Context, parameters: Any) -> None:
        project(self, state, context, parameters)
        job.stop.requested = state.values["step"] == 7

    monkeypatch.setattr(AGEM, "project", stopping)
    with pytest.raises(Interrupted, match="step 8 of 18"):
        fit(job)
    job.stop.requested = False
    # What a new process has: the state of the stage before, and nothing derived.
    job.states.update({"method-0": before})
    fit(dataclasses.replace(job, context=dataclasses.replace(job.context, derived={})))
    found = second.bank.adapter_tensors("shared")
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    assert job.states["method-0"].values["step"] == 18


def test_every_stage_is_counted_by_itself(tmp_path: Path) -> None:
    stages = walk(tmp_path, AGEM(batch_size=3), tasks=3)
    assert [stage.state.values["step"] for number, stage in enumerate(stages) if number % 2] == [0, 18, 18]


class Broken(AGEM):
    """Makes the gradient infinite before looking at it."""

    def project(self, state: MethodState, context: Context, parameters: Any) -> None:
        """See the class."""
        if state.values["memory"]:
            next(iter(parameters.values())).grad.fill_(math.inf)
        super().project(state, context, parameters)


def test_a_broken_step_is_still_reported(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match="gradient norm is not finite at step 1"):
        walked(tmp_path, Broken())


# The memory


def remembered(method: AGEM, of: Stream, *, seed: int = 7) -> list[list[str]]:
    """The memory after every task."""
    state, found = method.init_state(), []
    for stage in range(len(of.tasks)):
        method.end_task(state, context(of, stage, seed=seed))
        found.append(list(state.values["memory"]))
        assert json.loads(json.dumps(state.values)) == state.values
    return found


@given(st.lists(st.integers(0, 12), min_size=1, max_size=5), st.integers(1, 30), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_tasks_share_the_memory_alike_and_rows_never_come_back(sizes: list[int], room: int, seed: int) -> None:
    of = stream(*sizes)
    before: set[str] = set()
    for stage, kept in enumerate(remembered(AGEM(buffer_size=room), of, seed=seed)):
        own = {row.id for row in of.tasks[stage].train}
        assert len(kept) == len(set(kept)) == min(room, sum(sizes[: stage + 1]))
        assert set(kept) <= before | own
        counts = Counter(id.split("/")[0] for id in kept)
        for task, size in zip("abcde", sizes[: stage + 1], strict=False):
            assert counts[task] == size or counts[task] >= max(counts.values()) - 1
        before = set(kept)


def test_rows_of_a_task_are_a_uniform_sample_that_the_seed_decides() -> None:
    of, trials = stream(10, 10), 1200
    counts: Counter[str] = Counter()
    for seed in range(trials):
        counts.update(remembered(AGEM(buffer_size=6), of, seed=seed)[-1])
    deviation = (trials * 0.3 * 0.7) ** 0.5
    assert len(counts) == 20
    assert max(abs(count - trials * 0.3) for count in counts.values()) < 4.5 * deviation
    assert remembered(AGEM(buffer_size=6), of) == remembered(AGEM(buffer_size=6), of)


def test_what_it_asks_for() -> None:
    assert AGEM().required() == {"old_data"}
    assert AGEM().owns == frozenset()
    assert AGEM().facts(AGEM().init_state(), context(stream(2), 0)) == {}
