"""Scores that need no model: constant answers, the majority label, words seen in training."""

from __future__ import annotations

import pytest

from evertune.evaluation.baselines import baseline_lines, constant_baselines
from evertune.streams.contents import Argument, Content, Event, Passage, Picture, TaggedTokens
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task


def rows(*pairs: tuple[str, Content | None]) -> tuple[PromptTarget, ...]:
    return tuple(
        PromptTarget(f"t/test/{number}", (Segment(f"row {number}"),), target, content=content)
        for number, (target, content) in enumerate(pairs)
    )


def texts(*targets: str) -> tuple[PromptTarget, ...]:
    return rows(*((target, None) for target in targets))


def test_labels() -> None:
    task = Task("t", texts("a", "a", "b"), (), texts("b", "b", "b", "a"), labels=("a", "b"), metric="accuracy")
    assert constant_baselines(task) == {"majority label": 0.25, "best constant answer": 0.75}
    macro = Task("t", texts("a", "a", "b"), (), texts("b", "b", "b", "a"), labels=("a", "b"), metric="f1")
    assert constant_baselines(macro) == pytest.approx({"majority label": 0.2, "best constant answer": 3 / 7})
    image = Task("t", rows(("a", Picture("x", "1"))), (), rows(("a", Picture("x", "2"))), ("a", "b"), "accuracy")
    assert constant_baselines(image)["majority label"] == 1


def test_lines_of_what_is_quick() -> None:
    labelled = Task("l", texts("a", "a", "b"), (), texts("b", "b", "b", "a"), labels=("a", "b"), metric="accuracy")
    free = Task("f", texts("yes"), (), texts("no"), metric="rougeL")
    long = Task("m", texts("a"), (), texts("a") * 5001, labels=("a", "b"), metric="accuracy")
    many = Task("n", texts("a"), (), texts("a") * 600, labels=tuple(map(str, range(90))), metric="accuracy")
    passage = Passage("Who?", "A cat. It sat.", ("cat",), (2,))
    asked = Task("q", (), (), rows(("cat", passage)), metric="squad_f1")
    assert baseline_lines([labelled, free, long, many, asked]) == [
        "baselines of l: majority label 0.250, best constant answer 0.750",
        "baselines of q: no answer 0.000, first sentence 1.000",
    ]


def test_free_text() -> None:
    task = Task("t", texts("yes", "yes", "no one"), (), texts("no one", "no"), metric="rougeL")
    assert constant_baselines(task) == pytest.approx(
        {"most frequent answer": 0, "best constant answer": (1 + 2 / 3) / 2}
    )


def test_entities() -> None:
    def sentence(tokens: str, tags: str) -> tuple[str, Content]:
        return "[]", TaggedTokens(tuple(tokens.split()), tuple(tags.split()))

    train = rows(sentence("in New York", "O B-city I-city"), sentence("York runs", "I-city O"))
    test = rows(
        sentence("New York sleeps", "B-city I-city O"),
        sentence("York is new", "B-city O O"),
        sentence("Ann", "B-person"),
    )
    task = Task("t", train, (), test, metric="entity_f1")
    assert constant_baselines(task) == pytest.approx({"no entities": 0, "words seen in training": 2 * 2 / (2 + 3)})


def test_questions() -> None:
    first = Passage("Who?", "A cat. It sat.", ("cat",), (2,))
    task = Task(
        "t", (), (), rows(("cat", first), ("unanswerable", Passage("?", "Nothing.", (), ()))), metric="squad_f1"
    )
    assert constant_baselines(task) == {"no answer": 0.5, "first sentence": 0.5}
    chinese = Task("t", (), (), rows(("猫", Passage("?", "是猫。它坐着。", ("是猫",), (0,)))), metric="squad_exact")
    assert constant_baselines(chinese)["first sentence"] == 1


def test_events() -> None:
    text = "It rained. He left. All slept."
    whole = Event(text, "Go", (14, 18), ("who", "where"), (Argument("who", 11, 19),))
    nothing = Event(text, "Go", (14, 18), ("who",), ())
    task = Task("t", (), (), rows(("{}", whole), ("{}", nothing)), metric="argument_f1")
    assert constant_baselines(task) == pytest.approx({"no arguments": 0, "sentence of the trigger": 2 / (3 + 1)})


def test_what_has_none() -> None:
    assert constant_baselines(Task("t", texts("a"), (), (), metric="rougeL")) == {}
    assert constant_baselines(Task("t", texts("a"), (), texts("a"), metric="preference_accuracy")) == {}
    drawn = rows(("a cat", Picture("x", "1", caption=True)))
    assert constant_baselines(Task("t", drawn, (), drawn, metric="noise_explained")) == {"no noise predicted": 0.0}


def test_what_labels_and_other_metrics_have() -> None:
    first = Task("one", texts("a", "b"), (), texts("b"), labels=("a", "b"), metric="accuracy")
    second = Task("two", texts("a"), (), texts("a"), metric="preference_accuracy")
    assert constant_baselines(first) == {"majority label": 0.0, "best constant answer": 1.0}
    assert constant_baselines(second) == {}
