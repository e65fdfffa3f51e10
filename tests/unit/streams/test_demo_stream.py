from __future__ import annotations

import pytest
from pydantic import TypeAdapter

from evertune.errors import ConfigError, DataError
from evertune.streams import STREAMS
from evertune.streams.audit import prompt_key
from evertune.streams.demo import Synthetic
from evertune.streams.synthetic import TASKS, generate_rows


def test_five_tasks_with_disjoint_splits(console):
    stream = Synthetic().load(seed=3, console=console)
    assert (stream.name, stream.names) == ("synthetic", list(TASKS))
    for task in stream.tasks:
        assert (len(task.train), len(task.dev), len(task.test)) == (450, 50, 100)
        prompts = [{prompt_key(row) for row in task.rows(split)} for split in ("train", "dev", "test")]
        assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
        assert (task.labels, task.metric) == (TASKS[task.name].labels, TASKS[task.name].metric)
        assert not any(task.audit["duplicates"].values())
    assert console.out.getvalue() == ""


def test_prompts(console):
    task = Synthetic(tasks=("topic",), test_rows=3).load(seed=3, console=console).tasks[0]
    source = generate_rows("topic", count=3, seed=3, split="test")
    assert [row.prompt_text for row in task.test] == [
        f"{row['instruction']}\n{row['input']}\nAnswer:" for row in source
    ]
    assert [row.target for row in task.test] == [row["output"] for row in source]
    assert [piece.text for piece in task.test[0].prompt if piece.cut] == [source[0]["input"]]


def test_seed_decides(console):
    first, again, other = (Synthetic(tasks=("topic",)).load(seed=seed, console=console) for seed in (1, 1, 2))
    assert first == again
    assert first.tasks[0].splits["train"].sha256 != other.tasks[0].splits["train"].sha256


def test_wrong_options(console):
    with pytest.raises(ConfigError) as error:
        Synthetic(tasks=("topics", "x")).load(seed=1, console=console)
    assert (
        str(error.value).splitlines()[0] == "stream.tasks: There is no synthetic task `topics`. Did you mean `topic`?"
    )
    assert len(error.value.problems) == 2
    with pytest.raises(ConfigError, match="Two tasks are named `topic`"):
        Synthetic(tasks=("topic", "topic")).load(seed=1, console=console)
    with pytest.raises(DataError, match="different inputs in its train split"):
        Synthetic(tasks=("arithmetic",), train_rows=100_000).load(seed=1, console=console)


def test_every_registered_stream_is_a_configuration_section():
    assert STREAMS.names() == ["cl-benchmark", "five-tasks", "instructions", "synthetic"]
    for name in STREAMS.names():
        assert TypeAdapter(STREAMS.get(name)).json_schema()["type"] == "object"
