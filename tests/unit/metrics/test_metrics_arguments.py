"""Arguments of events: answers in JSON, where they stand in the text, and scores by span, role and head."""

from __future__ import annotations

import json
import random

import pytest

from evertune.metrics import METRICS
from evertune.metrics.arguments import NOWHERE, argument_answer, arguments_of, head_of
from evertune.metrics.base import Row

TEXT = "The gang hit us. Trust in the city of Lyon fell after the gang attacked the city hall, and the gang left."
TRIGGER = (TEXT.index("attacked"), TEXT.index("attacked") + 8)
ROLES = ("attacker", "target", "tool")


def span(role: str, words: str, number: int = 0) -> tuple[str, int, int]:
    start = -1
    for _ in range(number + 1):
        start = TEXT.index(words, start + 1)
    return role, start, start + len(words)


SPANS = [span("attacker", "the gang"), span("target", "the city hall")]


def event(*arguments: dict[str, object]) -> Row:
    facts = {"text": TEXT, "type": "Attack", "trigger": TRIGGER, "roles": ROLES, "arguments": list(arguments)}
    return Row(facts={"event": facts})


def gold(*spans: tuple[str, int, int], head: tuple[int, int] | None = None) -> Row:
    return event(*({"role": role, "start": start, "end": end, "head": head} for role, start, end in spans))


def scores(answer: str, row: Row) -> list[float]:
    names = ("argument_precision", "argument_recall", "argument_f1", "argument_identification_f1", "argument_head_f1")
    return [METRICS.get(name).score([answer], [""], None, [row]) for name in names]


def test_the_answer_has_every_role() -> None:
    assert argument_answer(TEXT, SPANS, ROLES, places=False) == (
        '{"attacker": ["the gang"], "target": ["the city hall"], "tool": []}'
    )
    places = json.loads(argument_answer(TEXT, SPANS, ROLES, places=True))
    assert places["attacker"] == [{"text": "the gang", "start": SPANS[0][1], "end": SPANS[0][2]}]
    assert json.loads(argument_answer(TEXT, [("new", 0, 3)], (), places=False)) == {"new": ["The"]}


@pytest.mark.parametrize("places", [False, True])
def test_answers_come_back(places: bool) -> None:
    answer = argument_answer(TEXT, SPANS, ROLES, places=places)
    assert arguments_of(answer, TEXT, TRIGGER, ROLES) == SPANS
    assert arguments_of(f"Here: {answer} and so on", TEXT, TRIGGER, ROLES) == SPANS
    assert arguments_of(answer[1:-1], TEXT, TRIGGER, ROLES) == SPANS  # T5 writes no braces
    assert arguments_of(answer.replace("attacker", "Attacker"), TEXT, TRIGGER, ROLES) == SPANS


def test_any_spans_with_places_come_back() -> None:
    numbers = random.Random(1)
    for _ in range(50):
        starts = sorted(numbers.sample(range(len(TEXT)), 4))
        spans = {(numbers.choice(ROLES), start, min(start + numbers.randint(1, 9), len(TEXT))) for start in starts}
        answer = argument_answer(TEXT, spans, ROLES, places=True)
        assert set(arguments_of(answer, TEXT, TRIGGER, ROLES)) == spans


def test_words_stand_nearest_to_the_trigger() -> None:
    def places(words: object) -> list[tuple[str, int, int]]:
        return arguments_of(json.dumps({"attacker": words}), TEXT, TRIGGER, ROLES)

    assert places(["the gang", "the gang"]) == [span("attacker", "the gang", 0), span("attacker", "the gang", 1)]
    assert places("us") == [span("attacker", "us")]  # and not in "Trust", which is nearer
    assert places(["gan"]) == [span("attacker", "gan", 1)]
    assert places(["the   city\nhall"]) == [span("attacker", "the city hall")]
    assert places(["nobody", "nobody"]) == [("attacker", *NOWHERE)] * 2
    assert places([{"start": 5, "end": 500}]) == [("attacker", *NOWHERE)]
    assert places(["", 3, None, {"a": 1}]) == []


def test_answers_that_are_cut_off() -> None:
    answer = argument_answer(TEXT, SPANS, ROLES, places=False)
    assert arguments_of(answer[: answer.index("hall")], TEXT, TRIGGER, ROLES) == SPANS[:1]
    assert arguments_of('{"attacker": ["the gang", "us"', TEXT, TRIGGER, ROLES) == [SPANS[0], span("attacker", "us")]
    assert arguments_of("none", TEXT, TRIGGER, ROLES) == []


@pytest.mark.parametrize(
    ("words", "head"),
    [
        ("the authors of the program", "authors"),
        ("a New York-based company, which failed", "company"),
        ("in the city", "city"),
        ("Ryuk", "Ryuk"),
        ("the city's mayor who left", "mayor"),
        ("市政府的网站", "市政府的网站"),
        ("...", "..."),
    ],
)
def test_heads(words: str, head: str) -> None:
    start, end = head_of(f"x {words} y", 2, 2 + len(words))
    assert f"x {words} y"[start:end] == head


def test_scores() -> None:
    row = gold(*SPANS)
    assert scores(argument_answer(TEXT, SPANS, ROLES, places=True), row) == [1, 1, 1, 1, 1]
    wrong_role = [("tool", *SPANS[0][1:]), SPANS[1]]
    assert scores(argument_answer(TEXT, wrong_role, ROLES, places=True), row) == [0.5, 0.5, 0.5, 1, 0.5]
    head_only = [span("attacker", "gang", 1), SPANS[1]]
    assert scores(argument_answer(TEXT, head_only, ROLES, places=True), row) == [0.5, 0.5, 0.5, 0.5, 1]
    invented = json.dumps({"attacker": ["the gang", "nobody"], "target": ["the city hall", "nothing"]})
    assert scores(invented, row) == pytest.approx([0.5, 1, 2 / 3, 2 / 3, 2 / 3])
    assert scores("{}", row) == [0, 0, 0, 0, 0]
    assert scores("{}", gold()) == [1, 1, 1, 1, 1]
    assert scores(argument_answer(TEXT, SPANS, ROLES, places=True), gold()) == [0, 0, 0, 0, 0]


def test_heads_that_the_data_name() -> None:
    whole = span("target", "the city hall")
    named = span("target", "city", 1)[1:]
    row = gold(whole, head=named)
    assert scores(argument_answer(TEXT, [whole], ROLES, places=True), row)[-1] == 1
    assert scores(argument_answer(TEXT, [("target", *named)], ROLES, places=True), row)[-1] == 1
    assert scores(argument_answer(TEXT, [span("target", "hall")], ROLES, places=True), row)[-1] == 0


def test_an_argument_counts_once() -> None:
    twice = gold(SPANS[0], SPANS[0])
    assert scores(argument_answer(TEXT, SPANS[:1], ROLES, places=True), twice) == [1, 1, 1, 1, 1]
    two_roles = [SPANS[0], ("target", *SPANS[0][1:])]
    assert scores(argument_answer(TEXT, two_roles, ROLES, places=True), gold(SPANS[0]))[2:4] == pytest.approx(
        [2 / 3, 1]
    )
