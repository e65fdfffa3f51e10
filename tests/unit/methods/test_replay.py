"""What the buffer keeps, and what is drawn from it."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.methods.base import MethodState
from evertune.methods.multi_task import MultiTask
from evertune.methods.replay import Replay
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stream
from tests.unit.builders import context, row, stream, task


def walk(method: Replay, of: Stream, *, seed: int = 7) -> list[MethodState]:
    """The state after every task."""
    state, states = method.init_state(), []
    for stage in range(len(of.tasks)):
        method.end_task(state, context(of, stage, seed=seed))
        states.append(copy.deepcopy(state))
    return states


def by_task(state: MethodState) -> Counter[str]:
    return Counter(id.split("/")[0] for id in state.values["buffer"])


def replayed(method: Replay, state: MethodState, of: Stream, stage: int, epoch: int, *, seed: int = 7) -> list[str]:
    """Ids behind the task's own rows."""
    own = of.tasks[stage].train
    rows = method.train_data(state, context(of, stage, seed=seed), own, epoch)
    assert tuple(rows[: len(own)]) == own
    return [r.id for r in rows[len(own) :]]


def row_bytes(r: PromptTarget) -> int:
    return len(r.prompt_text.encode("utf-8")) + len(r.target.encode("utf-8"))


# The buffer


@pytest.mark.parametrize("buffer", ["reservoir", "balanced"])
def test_a_buffer_with_room_keeps_everything(buffer: Any) -> None:
    of = stream(5, 3, 4)
    for stage, state in enumerate(walk(Replay(buffer=buffer, buffer_size=100), of)):
        assert state.values["buffer"] == [r.id for t in of.tasks[: stage + 1] for r in t.train]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=5),
    st.integers(1, 30),
    st.sampled_from(["reservoir", "balanced"]),
    st.sampled_from(["rows", "bytes"]),
    st.integers(0, 9),
)
def test_the_budget_is_never_exceeded_and_rows_never_come_back(
    sizes: list[int], budget: int, buffer: Any, unit: Any, seed: int
) -> None:
    texts = ["x", "éé", "東京 tower", "a longer text of one row"]
    tasks = [task(f"t{n}", [row(f"t{n}", i, texts[(i + n) % 4]) for i in range(size)]) for n, size in enumerate(sizes)]
    of = Stream("s", tuple(tasks))
    cost = {r.id: row_bytes(r) if unit == "bytes" else 1 for t in tasks for r in t.train}
    size = budget * (10 if unit == "bytes" else 1)
    before: set[str] = set()
    for stage, state in enumerate(walk(Replay(buffer=buffer, buffer_size=size, buffer_unit=unit), of, seed=seed)):
        kept = state.values["buffer"]
        assert len(kept) == len(set(kept))
        assert sum(cost[id] for id in kept) <= size
        own = {r.id for r in tasks[stage].train}
        assert set(kept) <= before | own
        before = set(kept)
    if unit == "rows":
        assert len(before) == min(size, sum(sizes))


def test_balanced_shares_are_equal_at_every_stage() -> None:
    states = walk(Replay(buffer="balanced", buffer_size=12), stream(50, 20, 30, 90))
    assert [dict(by_task(state)) for state in states] == [
        {"a": 12},
        {"a": 6, "b": 6},
        {"a": 4, "b": 4, "c": 4},
        {"a": 3, "b": 3, "c": 3, "d": 3},
    ]
    small = walk(Replay(buffer="balanced", buffer_size=12), stream(50, 2, 30))
    assert [dict(by_task(state)) for state in small] == [{"a": 12}, {"a": 10, "b": 2}, {"a": 5, "b": 2, "c": 5}]


def test_a_reservoir_is_a_uniform_sample_of_all_rows_so_far() -> None:
    """12 of 48 rows that came in tasks of 30, 6 and 12: each row stays with probability 1/4, whenever it came."""
    of, method, trials = stream(30, 6, 12), Replay(buffer="reservoir", buffer_size=12), 1500
    counts: Counter[str] = Counter()
    for seed in range(trials):
        counts.update(walk(method, of, seed=seed)[-1].values["buffer"])
    chance = 12 / 48
    deviation = (trials * chance * (1 - chance)) ** 0.5
    assert sum(counts.values()) == 12 * trials
    ids = [r.id for t in of.tasks for r in t.train]
    assert max(abs(counts[id] - trials * chance) for id in ids) < 4.5 * deviation
    for t in of.tasks:  # and so do the tasks as wholes
        share = sum(counts[r.id] for r in t.train) / trials
        assert share == pytest.approx(12 * len(t.train) / 48, abs=0.2)


def test_balanced_rows_of_a_task_are_a_uniform_sample() -> None:
    of, method, trials = stream(10, 10), Replay(buffer="balanced", buffer_size=6), 1500
    counts: Counter[str] = Counter()
    for seed in range(trials):
        counts.update(walk(method, of, seed=seed)[-1].values["buffer"])
    deviation = (trials * 0.3 * 0.7) ** 0.5
    assert len(counts) == 20
    assert max(abs(count - trials * 0.3) for count in counts.values()) < 4.5 * deviation


def test_bytes_count_prompt_answer_and_turns_in_utf8() -> None:
    chat = PromptTarget(
        "t/train/0", (), "ja", ({"role": "user", "content": "é"}, {"role": "assistant", "content": None})
    )
    text = row("t", 1, "東", "no")  # 3 + 2 bytes; the chat row has 2 + 2
    of = Stream("s", (task("t", [chat, text]),))
    kept = [
        walk(Replay(buffer="reservoir", buffer_size=n, buffer_unit="bytes"), of)[0].values["buffer"] for n in (3, 9)
    ]
    assert kept == [[], ["t/train/0", "t/train/1"]]
    one = walk(Replay(buffer="reservoir", buffer_size=8, buffer_unit="bytes"), of)[0].values["buffer"]
    assert len(one) == 1


def test_joint_training_offers_all_rows() -> None:
    of = stream(3, 2)
    method, state = Replay(), Replay().init_state()
    method.end_task(state, context(of, MultiTask().stages(of)[0]))
    assert len(state.values["buffer"]) == 5


def test_the_buffer_depends_on_the_seed_alone() -> None:
    of = stream(40, 40)
    for buffer in ("reservoir", "balanced"):
        method = Replay(buffer=buffer, buffer_size=10)
        again, other = walk(method, of)[-1], walk(method, of, seed=8)[-1]
        assert walk(method, of)[-1] == again
        assert again != other
    assert json.loads(json.dumps(again.values)) == again.values


# What is drawn


def test_the_first_task_has_nothing_to_replay() -> None:
    of, method = stream(8, 8), Replay(ratio=1.0)
    rows = method.train_data(method.init_state(), context(of, 0), of.tasks[0].train, 0)
    assert list(rows) == list(of.tasks[0].train)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 40), st.integers(1, 20), st.floats(0.01, 4), st.integers(0, 5), st.integers(0, 5)
)
def test_how_many_are_drawn_and_from_where(
    first: int, second: int, size: int, ratio: float, epoch: int, seed: int
) -> None:
    of, method = stream(first, second, 3), Replay(buffer_size=size, ratio=ratio)
    state = walk(method, of, seed=seed)[0]
    ids = replayed(method, state, of, 1, epoch, seed=seed)
    kept = state.values["buffer"]
    assert len(ids) == round(ratio * second)
    assert set(ids) <= set(kept)
    assert all(id.startswith("a/") for id in ids)  # never of the running or a later task
    counts = [ids.count(id) for id in kept]
    assert max(counts) - min(counts) <= 1  # a small buffer is gone through again and again, evenly


def test_rows_are_drawn_uniformly_over_epochs() -> None:
    of, method, epochs = stream(20, 25), Replay(buffer_size=20, ratio=0.2), 2000
    state = walk(method, of)[0]
    counts: Counter[str] = Counter()
    for epoch in range(epochs):
        counts.update(replayed(method, state, of, 1, epoch))
    chance = 5 / 20
    deviation = (epochs * chance * (1 - chance)) ** 0.5
    assert max(abs(counts[r.id] - epochs * chance) for r in of.tasks[0].train) < 4.5 * deviation


def test_drawing_is_pure_and_differs_by_epoch_stage_and_seed() -> None:
    of, method = stream(30, 30, 30), Replay(buffer_size=20, ratio=0.2)
    state = walk(method, of)[1]
    before = copy.deepcopy(state)
    draws = {key: replayed(method, state, of, 2, key[0], seed=key[1]) for key in ((0, 7), (1, 7), (0, 8))}
    assert replayed(method, state, of, 2, 0) == draws[0, 7]
    assert len({tuple(ids) for ids in draws.values()}) == 3
    assert replayed(method, state, of, 1, 0) != draws[0, 7]
    assert state == before


def test_replayed_rows_are_the_rows_of_the_stream() -> None:
    of, method = stream(4, 10), Replay(ratio=0.4)
    state = walk(method, of)[0]
    rows = method.train_data(state, context(of, 1), of.tasks[1].train, 0)
    assert sorted((r for r in rows[10:]), key=lambda r: r.id) == list(of.tasks[0].train)


def test_a_stage_keeps_its_replayed_rows_when_another_method_adds_to_it() -> None:
    """The ratio counts the rows that come in, whoever put them there."""
    of, method = stream(30, 10), Replay(ratio=0.5)
    state = walk(method, of)[0]
    doubled = [*of.tasks[1].train, *of.tasks[1].train]
    assert len(method.train_data(state, context(of, 1), doubled, 0)) == 30
