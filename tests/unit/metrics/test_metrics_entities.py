"""Entities: answers in JSON, and scores that are those of seqeval."""

from __future__ import annotations

import json
import random
import warnings

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2

from evertune.metrics import METRICS
from evertune.metrics.base import Row
from evertune.metrics.entities import entities_of, entity_answer, tags_of

TOKENS = ["the", "Empire", "State", "of", "New", "York", ",", "and", "New", "York", "itself"]
ENTITIES = [("building", 1, 3), ("city", 4, 6), ("city", 8, 10)]
TAGS = ["O", "B-building", "I-building", "O", "B-city", "I-city", "O", "O", "B-city", "I-city", "O"]


def row(tokens: list[str], tags: list[str]) -> Row:
    return Row(facts={"entities": {"tokens": tokens, "tags": tags}})


def scored(name: str, answers: list[str], rows: list[Row]) -> float | None:
    return METRICS.get(name).score(answers, [""] * len(answers), None, rows)


def test_entities_and_their_answer() -> None:
    assert entities_of(TAGS) == ENTITIES
    assert entities_of(["I-a", "B-b", "I-c", "B-creative-work", "I-creative-work"]) == [
        ("b", 1, 2),
        ("creative-work", 3, 5),
    ]
    assert entities_of([]) == []
    answer = entity_answer(TOKENS, ENTITIES[::-1], places=False)
    assert json.loads(answer) == [
        {"type": "building", "text": "Empire State"},
        {"type": "city", "text": "New York"},
        {"type": "city", "text": "New York"},
    ]
    assert entity_answer(["北", "京"], [("城市", 0, 2)], places=True) == (
        '[{"type": "城市", "text": "北 京", "start": 0, "end": 2}]'
    )


@pytest.mark.parametrize("places", [False, True])
def test_answers_come_back(places: bool) -> None:
    answer = entity_answer(TOKENS, ENTITIES, places=places)
    assert tags_of(answer, TOKENS) == TAGS
    assert tags_of(f'Sure ["1"]: ```json\n{answer}\n``` "that" is: it', TOKENS) == TAGS
    # The vocabulary of T5 has no braces.
    assert tags_of(answer.replace("{", "").replace("}", ""), TOKENS) == TAGS


def test_answers_that_are_cut_off_or_odd() -> None:
    answer = entity_answer(TOKENS, ENTITIES, places=False)
    first = ["O", "B-building", "I-building", *["O"] * 8]
    assert tags_of(answer[: answer.index("New")], TOKENS) == first
    assert (
        tags_of('[{"text": "Empire State", "type": "building"}, {"text": "nobody", "type": "person"}]', TOKENS) == first
    )
    for nothing in ("", "[]", "no entities", '{"type": 3, "text": "New York"}', '[{"type": "city"}]', "[" * 5000):
        assert tags_of(nothing, TOKENS) == ["O"] * len(TOKENS)
    assert tags_of('[{"type": "city", "text": "x", "start": 9, "end": 99}]', TOKENS) == ["O"] * len(TOKENS)


def test_mentions_are_aligned_from_left_to_right() -> None:
    city = {"type": "city", "text": "New York"}
    assert [start for _, start, _ in entities_of(tags_of(json.dumps([city]), TOKENS))] == [4]
    behind = [{"type": "x", "text": "and"}, city]
    assert entities_of(tags_of(json.dumps(behind), TOKENS)) == [("x", 7, 8), ("city", 8, 10)]
    # Out of order: the free one is found.
    assert tags_of(json.dumps([city, city, {"type": "building", "text": "EmpireState"}]), TOKENS) == TAGS


def test_scores_are_those_of_seqeval() -> None:
    numbers = random.Random(0)
    choices = ["O", "O", "O", "B-a", "B-b", "I-a", "I-b"]
    right = [[numbers.choice(choices) for _ in range(9)] for _ in range(80)]
    found = [[tag if numbers.random() < 0.7 else numbers.choice(choices) for tag in tags] for tags in right]
    tokens = [str(index) for index in range(9)]
    answers = [entity_answer(tokens, entities_of(tags), places=True) for tags in found]
    rows = [row(tokens, tags) for tags in right]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = [
            score(right, found, mode="strict", scheme=IOB2) for score in (f1_score, precision_score, recall_score)
        ]
    assert 0.2 < expected[0] < 0.9
    assert [scored(f"entity_{name}", answers, rows) for name in ("f1", "precision", "recall")] == pytest.approx(
        expected
    )


def test_mentions_that_do_not_stand_in_the_sentence_are_wrong() -> None:
    answer = json.dumps([{"type": "city", "text": "New York"}, {"type": "city", "text": "Boston"}])
    rows = [row(TOKENS, ["O"] * 4 + ["B-city", "I-city"] + ["O"] * 5)]
    assert scored("entity_precision", [answer], rows) == 0.5
    assert scored("entity_recall", [answer], rows) == 1
    assert METRICS.get("entity_f1").rows(["[]", answer], ["", ""], None, [row(["a"], ["O"]), row(["a"], ["O"])]) == [
        1,
        0,
    ]
    assert METRICS.get("entity_f1").beside == ("entity_precision", "entity_recall")
