"""Rows that must not get lost, and labels and pixels that must keep their meaning."""

from __future__ import annotations

import json

import pytest

from evertune.errors import DataError
from evertune.metrics import METRICS
from evertune.metrics.classification import label_of
from evertune.streams.instructions import Instructions, TaskSource


def load(console, **task):
    return Instructions(tasks=(TaskSource(name="t", **task),), dev_fraction=0).load(seed=1, console=console).tasks[0]


@pytest.mark.parametrize("extra", [{"data": []}, {"paragraphs": [1]}, {"data": {"id": 4}}])
def test_columns_that_happen_to_be_called_like_squad(console, write, extra):
    path = write("rows.jsonl", [{"text": f"a{n}", "label": "xy"[n % 2], **extra} for n in range(4)])
    task = load(console, train=path, test=path)
    assert [(row.prompt_text, row.target) for row in task.test] == [("a0", "x"), ("a1", "y"), ("a2", "x"), ("a3", "y")]
    path = write("own.jsonl", [{"tweet": f"a{n}", "mood": "xy"[n % 2], **extra} for n in range(4)])
    assert len(load(console, train=path, test=path, columns={"text": "tweet", "label": "mood"}).test) == 4


@pytest.mark.parametrize("content", [{"data": []}, {"data": [{"title": "Cats", "paragraphs": []}]}])
def test_squad_without_rows_is_refused(console, write, content):
    path = write("squad.json", json.dumps(content, indent=1))
    with pytest.raises(DataError, match=r"This row is SQuAD as published, and holds no rows\."):
        load(console, train=path, test=path)


@pytest.mark.parametrize("labels", [("-1", "1"), ("c++", "c#"), ("Yes", "yes")])
def test_labels_that_only_punctuation_tells_apart(console, write, labels):
    path = write("rows.jsonl", [{"text": f"row {n}", "label": labels[n % 2]} for n in range(8)])
    task = load(console, train=path, test=path)
    assert task.metric == "accuracy"
    assert any(note.startswith("Only case or punctuation tells the labels") for note in task.audit["notes"])
    metric, references = METRICS.get(task.metric), [row.target for row in task.test]
    assert metric.score(references, references, task.labels, ()) == 1.0
    assert metric.score([labels[0]] * 8, references, task.labels, ()) == 0.5
    assert "exact_match" not in console.out.getvalue()
    load(console, train=path, test=path, metrics=("exact_match",))
    assert "warning: t: exact_match drops case and punctuation" in console.out.getvalue()


def test_labels_with_blanks_at_the_end_are_met():
    assert [label_of(answer, ["Yes", "yes ", "no"]) for answer in ("yes ", "yes", " Yes", "NO.")] == [1, 1, 0, 2]


def test_pixels_of_all_splits_are_scaled_alike(console, write):
    dark = write("dark.jsonl", [{"pixels": [0, 1, 1, n % 2], "label": n % 2} for n in range(4)])
    light = write("light.jsonl", [{"pixels": [0, 8, 16, n], "label": n % 2} for n in range(4)])
    task = load(console, train=light, test=dark)
    assert task.train[0].content.pixels == bytes([0, 128, 255, 0])
    assert task.test[1].content.pixels == bytes([0, 16, 16, 16])
    assert "Pixels are numbers from 0 to 16 and were scaled to 0 to 255: 8 images." in task.audit["notes"]


@pytest.mark.parametrize("tag", ["B-x ", "B- x", "B-x-", "B--", "B- ", "I-a b\n"])
def test_entity_types_that_answers_cannot_hold(console, write, tag):
    path = write("ner.jsonl", [{"tokens": ["a"], "tags": [tag]}])
    with pytest.raises(DataError, match="is no tag"):
        load(console, train=path, test=path)
