"""Which rows a buffer takes by what the model makes of them, against a plain pass over the rows one by one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evertune.adapters.spec import AdapterSpec
from evertune.methods.replay import Replay
from evertune.randomness import derive_seed
from evertune.streams.examples import PromptTarget
from evertune.streams.task import sequential_stages
from evertune.training.checkpoint import load_method_states, save_method_states
from evertune.training.fit import fit
from evertune.training.job import FitJob
from tests.unit.methods.parts_of_stages import fed, interrupt
from tests.unit.methods.walks import OPTIONS, Walked, walk
from tests.unit.training.toys import toy_bank, toy_job, toy_stream

SELECTIONS = ("low_entropy", "surprise")


def plain_scores(at: Walked, selection: str, rows: tuple[PromptTarget, ...]) -> dict[str, float]:
    """Mean entropy, or minus the mean log-likelihood, of an answer's tokens: one row and one token at a time."""
    model, scores = at.bank.model, {}
    model.eval()
    for row in rows:
        (encoded,) = at.context.backbone.encode([row], max_source_length=50, max_target_length=50)
        ids = torch.tensor([[*encoded.prompt, *encoded.target]])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0].double()
        found = []
        for place in range(len(encoded.prompt), ids.shape[1]):
            p = logits[place - 1].softmax(-1)
            found.append(float(-p[ids[0, place]].log() if selection == "surprise" else -(p * p.log()).sum()))
        scores[row.id] = sum(found) / len(found)
    return scores


def best(scores: Mapping[str, float], selection: str, count: int) -> list[str]:
    return sorted(scores, key=lambda id: scores[id], reverse=selection == "surprise")[:count]


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("buffer", ["balanced", "reservoir"])
def test_the_rows_are_those_of_a_plain_computation(tmp_path: Path, selection: Any, buffer: Any) -> None:
    """Old rows compete with what they had when their task ended, not with what the model makes of them later."""
    method = Replay(buffer=buffer, buffer_size=6, selection=selection)
    stages, held = [], dict[str, float]()
    for number, at in enumerate(walk(tmp_path, method, tasks=3, learning_rate=3e-2)):
        if number % 2 == 0:
            continue
        (task,) = at.context.tasks
        own = plain_scores(at, selection, task.train)
        pools = [{id: score for id, score in held.items() if id.startswith(t.name)} for t in at.context.seen[:-1]]
        if buffer == "balanced":
            share = 6 // (len(pools) + 1)
            kept = [id for pool in [*pools, own] for id in best(pool, selection, share)]
        else:
            kept = best(held | own, selection, 6)
        held = {id: score for id, score in (held | own).items() if id in kept}
        assert set(at.state.values["buffer"]) == set(kept)
        assert at.state.values["scores"] == pytest.approx(held, rel=1e-4)
        assert json.loads(json.dumps(at.state.values)) == at.state.values
        stages.append(kept)
    assert len(stages) == 3
    if buffer == "balanced":
        assert [len(kept) for kept in stages] == [6, 6, 6]


def test_the_two_selections_are_not_the_random_one(tmp_path: Path) -> None:
    kept = {}
    for selection in ("random", *SELECTIONS):
        method = Replay(buffer_size=4, selection=selection)  # type: ignore[arg-type]
        kept[selection] = [*walk(tmp_path / selection, method, tasks=1)][-1].state.values["buffer"]
    assert len({tuple(ids) for ids in kept.values()}) == 3
    assert all(ids == sorted(ids) for ids in kept.values())


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_budget_of_bytes_goes_to_the_first_rows_that_fit(tmp_path: Path, selection: Any) -> None:
    method = Replay(buffer="reservoir", buffer_size=40, buffer_unit="bytes", selection=selection)
    *_, last = walk(tmp_path, method, tasks=1)
    (task,) = last.context.tasks
    size = {row.id: len(row.prompt_text) + len(row.target) for row in task.train}
    order, kept, spent = best(plain_scores(last, selection, task.train), selection, 10), set(), 0
    for id in order:
        if spent + size[id] > 40:
            break
        spent += size[id]
        kept.add(id)
    assert set(last.state.values["buffer"]) == kept
    assert 0 < len(kept) < 10


def test_random_asks_no_model_and_keeps_no_scores(tmp_path: Path) -> None:
    def never() -> list[Any]:
        raise AssertionError("nothing is to be computed")

    of = toy_stream(10, 10)
    *_, last = walk(tmp_path, Replay(buffer_size=4), tasks=1)
    state = Replay().init_state()
    Replay(buffer_size=4).end_task(state, replace(last.context, stream=of, batches=never))
    assert state.values == last.state.values
    (task,) = last.context.tasks
    drawn = {row.id: derive_seed(last.context.seed, "priority", row.id) for row in task.train}
    assert set(state.values["buffer"]) == set(best(drawn, "random", 4))
    assert state.values.keys() == {"buffer"}


def test_rows_are_read_without_dropout_and_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    method = Replay(buffer_size=4, selection="low_entropy")
    spec = AdapterSpec(r=2, lora_alpha=4, lora_dropout=0.5)
    *_, last = walk(tmp_path, method, tasks=1, spec=spec)
    model, context = last.bank.model, fed(last.job)
    found = []
    for training in (True, False):
        model.train(training)
        state, before = method.init_state(), torch.get_rng_state()
        method.end_task(state, context)
        assert model.training is training
        assert torch.equal(torch.get_rng_state(), before)
        found.append(state.values)
    assert found[0] == found[1]


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_run_that_was_interrupted_keeps_the_same_rows(tmp_path: Path, selection: Any) -> None:
    """Scores go through a file between stages and within one."""
    method, stream = Replay(buffer="reservoir", buffer_size=6, ratio=1.0, selection=selection), toy_stream(10, 9)
    *_, first = walk(tmp_path / "first", method, tasks=1)
    (tmp_path / "saved").mkdir()
    save_method_states(tmp_path / "saved", {"method-0": first.state})

    def second(folder: Path) -> FitJob:
        stage = sequential_stages(stream.tasks)[1]
        job = toy_job(folder, method, stream=stream, stage=stage, bank=toy_bank(), **{**OPTIONS, "save_steps": 0})
        job.states.update(load_method_states(tmp_path / "saved"))
        return job

    alone, again = second(tmp_path / "alone"), second(tmp_path / "again")
    fit(alone)
    interrupt(second(tmp_path / "again"), 7)
    fit(again)
    assert again.states["method-0"].values == alone.states["method-0"].values
    kept = alone.states["method-0"].values["buffer"]
    assert {id.split("/")[0] for id in kept} == {"a", "b"}, "nothing competes: the comparison would be empty"
