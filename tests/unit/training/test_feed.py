"""Which rows a step gets, encoded once, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from evertune.methods.base import Context, Method, MethodState
from evertune.methods.multi_task import MultiTask
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stage
from evertune.training.feed import Feed
from tests.unit.training.toys import ToyBackbone, toy_bank, toy_job, toy_stream


@dataclass(frozen=True, kw_only=True)
class TwoMore(Method):
    """Mixes in two rows of task b, other ones in every epoch, one of them twice."""

    def train_data(
        self, state: MethodState, context: Context, rows: Sequence[PromptTarget], epoch: int
    ) -> Sequence[PromptTarget]:
        row = context.stream.tasks[1].train[epoch]
        return [*rows, row, row]


def ids_of(feed: Feed, steps: range) -> list[str]:
    return [id for step in steps for id in feed.step(step).ids]


@pytest.mark.parametrize("grouped", [True, False])
def test_an_epoch_has_every_row_once_and_the_batches_hold_them(tmp_path: Path, grouped: bool) -> None:
    job = toy_job(tmp_path, group_by_length=grouped, gradient_accumulation_steps=2, per_device_train_batch_size=2)
    feed = Feed(job)
    assert (feed.steps_per_epoch, feed.total_steps) == (3, 3)
    assert sorted(ids_of(feed, range(3))) == sorted(row.id for row in job.rows)
    for step in range(3):
        rows = feed.step(step)
        assert sorted(id for batch in rows.batches for id in batch.ids) == sorted(rows.ids)
        assert all(len(batch.ids) <= 2 for batch in rows.batches)
        assert rows.tokens == sum(int(batch.inputs["attention_mask"].sum()) for batch in rows.batches)
    assert len(feed.step(2).ids) == len(job.rows) % 4 or grouped


def test_any_step_can_be_asked_for_first_as_after_a_resume(tmp_path: Path) -> None:
    one, other = Feed(toy_job(tmp_path, num_train_epochs=3)), Feed(toy_job(tmp_path, num_train_epochs=3))
    forwards = [one.step(step).ids for step in range(one.total_steps)]
    assert [other.step(step).ids for step in reversed(range(other.total_steps))] == forwards[::-1]
    assert forwards[:3] != forwards[3:6]


def test_every_row_is_encoded_once(tmp_path: Path) -> None:
    bank = toy_bank()
    backbone = ToyBackbone(bank.base_model)  # type: ignore[arg-type]
    job = toy_job(tmp_path, TwoMore(), bank=bank, backbone=backbone, stream=toy_stream(10, 6), num_train_epochs=3)
    feed = Feed(job)
    ids_of(feed, range(feed.total_steps))
    feed.truncation()
    assert max(Counter(backbone.encoded).values()) == 1
    assert len(backbone.encoded) == 10 + 3


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 3),  # 10 rows in steps of 4
        ({"num_train_epochs": 1.5}, 5),
        ({"num_train_epochs": 0.1}, 1),
        ({"num_train_epochs": 2, "per_device_train_batch_size": 16}, 2),
        ({"num_train_epochs": 9, "max_steps": 7}, 7),
        ({"gradient_accumulation_steps": 4}, 1),
    ],
)
def test_how_many_steps(tmp_path: Path, options: dict[str, float], steps: int) -> None:
    assert Feed(toy_job(tmp_path, **options)).total_steps == steps


def test_joint_training_has_the_steps_of_all_tasks(tmp_path: Path) -> None:
    stream = toy_stream(8, 4)
    stage = Stage(0, "multi-task", (0, 1), 1)
    two_epochs_each = Feed(toy_job(tmp_path, MultiTask(), stream=stream, stage=stage, epochs={"a": 2, "b": 2}))
    assert two_epochs_each.total_steps == 2 * 2 + 2 * 1
    one_and_three = Feed(toy_job(tmp_path, MultiTask(), stream=stream, stage=stage, epochs={"a": 1, "b": 3}))
    assert one_and_three.total_steps == 1 * 2 + 3 * 1
    capped = Feed(toy_job(tmp_path, MultiTask(), stream=stream, stage=stage, max_steps=7))
    assert capped.total_steps == 14


def test_truncation_is_counted_over_the_own_rows(tmp_path: Path) -> None:
    stream = toy_stream(10, 6)  # prompts of 2 to 8 letters; answers of 1 to 4 letters and the end
    feed = Feed(toy_job(tmp_path, TwoMore(), stream=stream, max_source_length=8, max_target_length=3))
    lengths = [len(row.target) for row in stream.tasks[0].train]
    cut = sum(length > 2 for length in lengths)
    assert feed.truncation() == {"rows": 10, "source_cut": 0, "target_cut": cut}
    assert 0 < cut < 10


def test_rows_that_methods_mix_in_are_listed_by_epoch(tmp_path: Path) -> None:
    feed = Feed(toy_job(tmp_path, TwoMore(), stream=toy_stream(10, 6), num_train_epochs=3))
    assert feed.steps_per_epoch == 3
    assert feed.foreign_ids(9) == [["b/train/0"] * 2, ["b/train/1"] * 2, ["b/train/2"] * 2]
    assert feed.foreign_ids(3) == [["b/train/0"] * 2]
    for steps in range(10):  # of an epoch that was not finished only what was seen
        seen = [id for id in ids_of(feed, range(steps)) if id.startswith("b/")]
        assert [id for ids in feed.foreign_ids(steps) for id in ids] == seen
    assert sorted(ids_of(feed, range(3))) == sorted([f"a/train/{n}" for n in range(10)] + ["b/train/0"] * 2)


def test_processes_share_the_rows_and_fill_up_where_there_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    job = toy_job(tmp_path, per_device_train_batch_size=3, stream=toy_stream(7))
    found = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        feed = Feed(job)
        assert feed.steps_per_epoch == 2
        found.append([feed.step(step) for step in range(2)])
    for mine, theirs in zip(*found, strict=True):
        assert mine.ids == theirs.ids
        assert mine.tokens == theirs.tokens
        assert len(mine.batches) == len(theirs.batches)
        real = [id for rows in (mine, theirs) for batch in rows.batches for id in batch.ids if id]
        assert sorted(real) == sorted(mine.ids)
    (filler,) = [batch for rows in found[1] for batch in rows.batches if batch.ids == ("",)]
    assert filler.count == 0
    assert (filler.labels == -100).all()
