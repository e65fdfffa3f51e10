"""Small tasks of every kind that an encoder reads, with answers that can be learnt from the words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from evertune.streams.contents import Argument, Event, Passage, Picture, TaggedTokens
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task

CITIES = ("Lima", "Oslo", "Delhi", "Paris")
PEOPLE = ("Anna", "Tom", "Vera", "Carl")


def _task(name: str, rows: Sequence[PromptTarget], metric: str, labels: Sequence[str] | None = None) -> Task:
    return Task(name, tuple(rows), (), tuple(rows[:12]), labels=tuple(labels) if labels else None, metric=metric)


def labelled(name: str, labels: Sequence[str], count: int = 24) -> Task:
    """Texts that spell their label."""
    rows = [
        PromptTarget(
            f"{name}/train/{at}", (Segment(f"note {labels[at % len(labels)]} {at}", True),), labels[at % len(labels)]
        )
        for at in range(count)
    ]
    return _task(name, rows, "accuracy", labels)


def tagged(name: str, count: int = 24) -> Task:
    """Sentences with a person of two words and a place."""
    draw, rows = random.Random(name), []
    for at in range(count):
        tokens = ("yesterday", draw.choice(PEOPLE), "Reed", "went", "to", draw.choice(CITIES), "again")
        tags = ("O", "B-person", "I-person", "O", "O", "B-place", "O")
        prompt = (Segment(" ".join(tokens), True),)
        rows.append(PromptTarget(f"{name}/train/{at}", prompt, "[]", content=TaggedTokens(tokens, tags)))
    return _task(name, rows, "entity_f1")


def passages(name: str, count: int = 24, *, unanswerable: bool = False) -> Task:
    """A sentence with the answer among others without any."""
    draw, rows = random.Random(name), []
    for at in range(count):
        city = draw.choice(CITIES)
        front = "The weather was fine. " * draw.randint(0, 12)
        context = f"{front}The train stops in {city}. " + "Nobody was late. " * draw.randint(0, 12)
        none = unanswerable and at % 3 == 0
        content = Passage(
            "Who drives the train?" if none else "Where does the train stop?",
            context,
            () if none else (city,),
            () if none else (context.index(city),),
        )
        answer = "unanswerable" if none else city
        rows.append(PromptTarget(f"{name}/train/{at}", (Segment(context, True),), answer, content=content))
    return _task(name, rows, "squad_f1")


def events(name: str, count: int = 24) -> Task:
    """An attack with an attacker, one or two targets and never a weapon."""
    draw, rows = random.Random(name), []
    for at in range(count):
        who, *whom = draw.sample(PEOPLE, 2 + at % 2)
        front = "It rained. " * draw.choice((0, 1, 2, 3, 4, 26))
        text = f"{front}{who} attacked {' and '.join(whom)} on Monday. " + "They left. " * draw.randint(0, 3)
        trigger = text.index("attacked")
        spans = [Argument("attacker", len(front), len(front) + len(who))]
        for one in whom:
            start = text.index(one, trigger)
            spans.append(Argument("target", start, start + len(one)))
        content = Event(text, "Conflict.Attack", (trigger, trigger + 8), ("attacker", "target", "weapon"), tuple(spans))
        rows.append(PromptTarget(f"{name}/train/{at}", (Segment(text, True),), "{}", content=content))
    return _task(name, rows, "argument_f1")


def pictures(name: str, count: int = 24, width: int = 8) -> Task:
    """Grey squares whose bright half is their label."""
    rows = []
    for at in range(count):
        label = ("left", "right")[at % 2]
        bright = [(column < width // 2) == (label == "left") for _ in range(width) for column in range(width)]
        pixels = bytes(200 + at if one else at for one in bright)
        content = Picture("", f"{at:064x}", pixels, width)
        rows.append(PromptTarget(f"{name}/train/{at}", (), label, content=content))
    return _task(name, rows, "accuracy", ("left", "right"))
