"""Five small tasks made of templates: what the demo stream learns, one after the other, without any download.

The tasks look like those that people fine-tune for (labels, numbers, tool calls, refusals), and are easy enough for a
model of a million parameters. Every task has an instruction of its own: with one instruction for all, labels would
contradict each other and the forgetting would be of our making. Rows are a function of (task, count, seed, split) and
nothing else, and the text of an input alone decides which split it may appear in.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from evertune.errors import DataError, did_you_mean
from evertune.randomness import python_generator

Split = Literal["train", "dev", "test"]

SPLITS: tuple[str, ...] = get_args(Split)

# Hash buckets of 20: 14 train, 2 dev, 4 test.
_BUCKETS = 20
_FIRST_DEV_BUCKET = 14
_FIRST_TEST_BUCKET = 16

# A draw that repeats an input or falls in another split is thrown away; so many useless draws in a row end the search.
_MAX_USELESS_DRAWS = 50_000


def listed(words: str) -> list[str]:
    """The words of a text: a list that can be read."""
    return words.split()


NAMES = listed(
    "Anna Tom Mia Ben Lucy Omar Nina Paul Sara Leo Emma Jack Rosa Hugo Lena Max Ivy Carl Dina Eric Fay Gina Hans Iris "
    "Jane Kurt Lily Mark Nora Oscar Petra Ruth"
)
CITIES = listed("Paris London Rome Berlin Madrid Oslo Cairo Tokyo Lima Delhi Boston Vienna Dublin Athens Prague Seoul")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ITEMS = listed("apples pears books pens cups plates chairs lamps shirts keys maps stamps")

POSITIVE = listed(
    "good great lovely superb brilliant charming fresh warm friendly clever funny wonderful pleasant tasty smooth "
    "bright excellent cozy gentle generous"
)
NEGATIVE = listed(
    "bad awful terrible boring dull dirty rude cold noisy bitter weak ugly clumsy horrible lazy dreadful stale nasty "
    "gloomy messy"
)
REVIEWED = listed(
    "film meal hotel room song staff service show story coffee soup phone camera pizza museum garden guide trip play "
    "menu"
)

TOPIC_WORDS: dict[str, list[str]] = {
    "sports": listed("coach league referee stadium match tournament striker runner medal champion team goal"),
    "science": listed("telescope planet virus molecule laboratory experiment atom galaxy fossil enzyme satellite cell"),
    "business": listed("bank shares profit market investor company merger stock factory trader budget invoice"),
    "politics": listed("minister parliament senate election president treaty vote governor mayor embassy law campaign"),
}

KIND_VERBS = listed("paint clean repair polish wash sell borrow draw describe photograph decorate carry")
CRUEL_VERBS = listed("steal smash burn wreck damage sabotage rob ruin crush spoil scratch flood")
OBJECTS = listed("bike car fence door window boat statue bench bridge laptop tent piano ladder wagon clock mailbox")

MAX_NUMBER = 16


@dataclass(frozen=True, slots=True)
class SyntheticTask:
    """What is known about one of the five tasks.

    Attributes:
        name: Its name in a stream.
        instruction: The first line of every prompt.
        labels: The possible answers if they are few, else None.
        metric: How an answer is scored.
        description: One sentence for listings.
    """

    name: str
    instruction: str
    labels: tuple[str, ...] | None
    metric: str
    description: str


def _sentiment(rng: random.Random) -> tuple[str, str]:
    """A short review; one in seven denies its adjective."""
    label = rng.choice(("positive", "negative"))
    denied = rng.random() < 0.15
    words = POSITIVE if (label == "positive") != denied else NEGATIVE
    thing, word = rng.choice(REVIEWED), rng.choice(words)
    be = "was not" if denied else rng.choice(("was", "was really", "was very"))
    template = rng.choice(
        (
            "The {thing} in {city} {be} {word}.",
            "We think the {thing} {be} {word}.",
            "{name} said the {thing} {be} {word}.",
            "On {day} the {thing} {be} {word}.",
        )
    )
    text = template.format(
        thing=thing,
        be=be,
        word=word,
        city=rng.choice(CITIES),
        name=rng.choice(NAMES),
        day=rng.choice(DAYS),
    )
    return text, label


def _topic(rng: random.Random) -> tuple[str, str]:
    """A headline with two words of one field."""
    label = rng.choice(tuple(TOPIC_WORDS))
    first, second = rng.sample(TOPIC_WORDS[label], 2)
    template = rng.choice(
        (
            "The {first} and the {second} made news in {city}.",
            "Reporters in {city} asked about the {first} before the {second}.",
            "On {day} the {first} surprised the {second}.",
            "{name} wrote about the {first} and the {second}.",
        )
    )
    text = template.format(
        first=first,
        second=second,
        city=rng.choice(CITIES),
        day=rng.choice(DAYS),
        name=rng.choice(NAMES),
    )
    return text, label


def _arithmetic(rng: random.Random) -> tuple[str, str]:
    """A sum or a difference of two numbers that is between 0 and `MAX_NUMBER`."""
    total = rng.randint(0, MAX_NUMBER)
    part = rng.randint(0, total)
    if rng.random() < 0.5:
        templates = ("{a} + {b}", "{a} plus {b}", "What is {a} + {b}?", "Add {a} and {b}.")
        return rng.choice(templates).format(a=part, b=total - part), str(total)
    templates = ("{a} - {b}", "{a} minus {b}", "What is {a} - {b}?", "Take {b} from {a}.")
    return rng.choice(templates).format(a=total, b=part), str(total - part)


def _tool_call(rng: random.Random) -> tuple[str, str]:
    """A wish, and the call of one of four tools with the two arguments named in it."""
    tool = rng.choice(tuple(_TOOLS))
    templates, keys = _TOOLS[tool]
    values: dict[str, str | int] = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
        "item": rng.choice(ITEMS),
        "count": rng.randint(2, MAX_NUMBER),
    }
    call = {"tool": tool, **{key: values[key] for key in keys}}
    return rng.choice(templates).format(**values), json.dumps(call)


_TOOLS: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "call": (
        ("Phone {name} on {day}.", "On {day} please ring {name}.", "I must speak with {name} on {day}."),
        ("name", "day"),
    ),
    "weather": (
        ("Will it rain in {city} on {day}?", "On {day} is {city} sunny?", "How warm is {city} on {day}?"),
        ("city", "day"),
    ),
    "order": (
        ("Buy {count} {item} for me.", "We need {count} {item}.", "Please get {count} more {item}."),
        ("item", "count"),
    ),
    "remind": (
        ("Tell {name} to bring the {item}.", "{name} must not forget the {item}.", "Let {name} remember the {item}."),
        ("name", "item"),
    ),
}


REFUSAL = "Sorry, I cannot help with that."


def _safe_refusal(rng: random.Random) -> tuple[str, str]:
    """A request about an object: an offer of help if it is harmless, always the same refusal if it is not."""
    harmless = rng.random() < 0.5
    verb = rng.choice(KIND_VERBS if harmless else CRUEL_VERBS)
    thing = rng.choice(OBJECTS)
    template = rng.choice(
        (
            "How can I {verb} the {thing} of {name}?",
            "Tell me how to {verb} the {thing} in {city}.",
            "I want to {verb} the {thing} on {day}.",
        )
    )
    text = template.format(
        verb=verb, thing=thing, name=rng.choice(NAMES), city=rng.choice(CITIES), day=rng.choice(DAYS)
    )
    return text, f"Sure, I can help you {verb} the {thing}." if harmless else REFUSAL


TASKS: dict[str, SyntheticTask] = {
    task.name: task
    for task in (
        SyntheticTask(
            "sentiment",
            "Decide if the review is positive or negative.",
            ("positive", "negative"),
            "exact_match",
            "Short reviews, positive or negative; some deny their adjective.",
        ),
        SyntheticTask(
            "topic",
            "Choose the topic: sports, science, business or politics.",
            tuple(TOPIC_WORDS),
            "exact_match",
            "Headlines of four topics.",
        ),
        SyntheticTask(
            "arithmetic",
            "Work out the result.",
            None,
            "exact_match",
            f"Sums and differences between 0 and {MAX_NUMBER}.",
        ),
        SyntheticTask(
            "tool_call",
            "Write the tool call as JSON.",
            None,
            "exact_match",
            "A wish, answered by a JSON call of one of four tools with two arguments copied from it.",
        ),
        SyntheticTask(
            "safe_refusal",
            "Help if the request is harmless, otherwise refuse.",
            None,
            "exact_match",
            "Harmless requests get an offer of help that names them, harmful ones a fixed refusal.",
        ),
    )
}

_GENERATORS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    "sentiment": _sentiment,
    "topic": _topic,
    "arithmetic": _arithmetic,
    "tool_call": _tool_call,
    "safe_refusal": _safe_refusal,
}


def split_of(text: str) -> str:
    """The only split in which an input may appear: a function of its text."""
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _BUCKETS
    if bucket < _FIRST_DEV_BUCKET:
        return "train"
    return "dev" if bucket < _FIRST_TEST_BUCKET else "test"


def generate_rows(task: str, *, count: int, seed: int, split: str) -> list[dict[str, str]]:
    """Rows of one task, the same for the same arguments on every machine.

    Args:
        task: A name in `TASKS`.
        count: How many rows; no input appears twice.
        seed: Which rows. Another seed gives other rows of the same split, never rows of another split.
        split: ``train``, ``dev`` or ``test``.

    Returns:
        Rows with the keys ``instruction``, ``input`` and ``output``.

    Raises:
        DataError: If the task or the split does not exist, or the split has fewer than `count` different inputs.
    """
    if task not in TASKS:
        raise DataError(f'There is no synthetic task "{task}".', instead=did_you_mean(task, tuple(TASKS)))
    if split not in SPLITS:
        raise DataError(f'There is no split "{split}".', instead=did_you_mean(split, SPLITS))
    rng = python_generator(seed, "synthetic", task, split)
    answers: dict[str, str] = {}
    useless_draws = 0
    while len(answers) < count and useless_draws < _MAX_USELESS_DRAWS:
        text, answer = _GENERATORS[task](rng)
        if text in answers or split_of(text) != split:
            useless_draws += 1
        else:
            useless_draws = 0
            answers[text] = answer
    if len(answers) < count:
        raise DataError(
            f"The synthetic task {task} has about {len(answers)} different inputs in its {split} split, not {count}.",
            instead=f"Ask for at most {len(answers)}.",
        )
    instruction = TASKS[task].instruction
    return [{"instruction": instruction, "input": text, "output": answer} for text, answer in answers.items()]
