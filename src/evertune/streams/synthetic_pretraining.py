"""The text that the built-in language models are pretrained on: abilities, not the tasks of the demo.

The demo must have something to teach, so no instruction, no sentence and no label scheme of `synthetic` is used here.
What a pretrained model brings to a task is: the words and which of them go together, copying a name from the prompt
into an answer, numbers, the syntax of JSON. Each skill below trains one of these under several wordings.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator

from evertune.randomness import python_generator
from evertune.streams.synthetic import (
    CITIES,
    CRUEL_VERBS,
    DAYS,
    ITEMS,
    KIND_VERBS,
    MAX_NUMBER,
    NAMES,
    NEGATIVE,
    OBJECTS,
    POSITIVE,
    REVIEWED,
    TOPIC_WORDS,
    listed,
)

Draw = tuple[str, str, str]

_FEELINGS = (("happy", "sad"), ("smile", "frown"))
_FIELDS = {"sports": "play", "science": "study", "business": "money", "politics": "state"}
_OTHER_FIELDS = {"sports": "field", "science": "lab", "business": "office", "politics": "palace"}
_NUMBER_WORDS = listed("zero one two three four five six seven eight nine ten eleven twelve")
# Words of the demo's instructions and answers that no skill below needs: they must be known, not learnt from nothing.
_ANSWER_WORDS = listed(
    "positive negative sports science business politics tool call weather order remind name city day item count Sorry "
    "Sure I can cannot help you with that the rain sunny buy bring forget remember ring add take plus minus "
    "result request harmless refuse review topic choose decide write work JSON"
)
_ALL_WORDS = [
    *NAMES,
    *CITIES,
    *DAYS,
    *ITEMS,
    *POSITIVE,
    *NEGATIVE,
    *REVIEWED,
    *(word for words in TOPIC_WORDS.values() for word in words),
    *KIND_VERBS,
    *CRUEL_VERBS,
    *OBJECTS,
    *_ANSWER_WORDS,
]
_KEYS = listed("name city day item count tool who where when what number person place thing date verb")


def _value(rng: random.Random) -> str | int:
    """A word or a number, as it may stand in a record."""
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randint(0, MAX_NUMBER)
    return rng.choice((NAMES, CITIES, DAYS, (*ITEMS, *OBJECTS, *_ANSWER_WORDS))[kind - 1])


def _words(rng: random.Random, least: int, most: int) -> list[str]:
    """Different words and numbers in any order."""
    return rng.sample([*_ALL_WORDS, *map(str, range(MAX_NUMBER + 1))], rng.randint(least, most))


def _repeat(rng: random.Random) -> Draw:
    """Copies a list of words, or the one that stands at a named place."""
    words = _words(rng, 1, 5)
    choice = rng.randrange(6)
    if choice == 0:
        return "Say the first word.", " ".join(words), words[0]
    if choice == 1:
        return "Say the last word.", " ".join(words), words[-1]
    if choice == 2:
        index = rng.randrange(len(words))
        following = words[index + 1] if index + 1 < len(words) else "nothing"
        return f"What follows {words[index]}?", " ".join(words), following
    return rng.choice(("Repeat the words.", "Copy this.")), " ".join(words), " ".join(words)


def _quote(rng: random.Random) -> Draw:
    """Copies one word out of a sentence into quotation marks or a short answer."""
    name, city, day, item = rng.choice(NAMES), rng.choice(CITIES), rng.choice(DAYS), rng.choice(ITEMS)
    text = rng.choice(
        (
            "{name} went to {city} with {item} last {day}.",
            "Last {day} there were {item} in {city}, says {name}.",
            "In {city} {name} found {item} this {day}.",
            "{name} sees {item} at home in {city} each {day}.",
        )
    ).format(name=name, city=city, day=day, item=item)
    question, answer = rng.choice((("Who", name), ("Where", city), ("When", day), ("What", item)))
    if rng.random() < 0.4:
        return f"{question} is it? Quote it.", text, f'"{answer}"'
    return f"{question} is it?", text, answer


def _lookup(rng: random.Random) -> Draw:
    """Finds the partner of a word in a list of pairs."""
    keys, values = rng.sample(NAMES, 4), rng.sample((*ITEMS, *OBJECTS, *CITIES), 4)
    count = rng.randint(2, 4)
    pairs = list(zip(keys[:count], values[:count], strict=True))
    key, value = rng.choice(pairs)
    text = ", ".join(f"{left} has {right}" for left, right in pairs)
    if rng.random() < 0.5:
        return "What does the person have?", f"{text}. {key}?", value
    return "Who has it?", f"{text}. {value}?", key


def _record(rng: random.Random) -> Draw:
    """Writes named values as JSON, as a full record or of the fields that are asked for."""
    keys = rng.sample(_KEYS, rng.randint(2, 4))
    record = {key: _value(rng) for key in keys}
    text = rng.choice((", ", "; ", " and ")).join(f"{key} {value}" for key, value in record.items())
    if rng.random() < 0.3:
        chosen = rng.sample(keys, rng.randint(1, len(keys)))
        return f"Make a record of {', '.join(chosen)}.", text, json.dumps({key: record[key] for key in chosen})
    return "Make a record.", text, json.dumps(record)


def _read_record(rng: random.Random) -> Draw:
    """Reads one field of a JSON record."""
    keys = rng.sample(_KEYS, rng.randint(2, 3))
    record = {key: _value(rng) for key in keys}
    key = rng.choice(keys)
    return f"Read the field {key}.", json.dumps(record), str(record[key])


_EVENTS: tuple[tuple[str, str, tuple[str, str]], ...] = (
    ("meeting", "{name} meets people this {day}.", ("who", "when")),
    ("travel", "A train leaves for {city} this {day}.", ("where", "when")),
    ("stock", "The shop holds {count} {item}.", ("number", "what")),
    ("gift", "{name} gives away {item}.", ("who", "what")),
    ("visit", "{name} comes to {city}.", ("who", "where")),
)


def _event(rng: random.Random) -> Draw:
    """Writes a sentence as a JSON record: entities are found and put into fields."""
    values: dict[str, str | int] = {
        "name": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
        "item": rng.choice(ITEMS),
        "count": rng.randint(0, MAX_NUMBER),
    }
    kind, template, keys = rng.choice(_EVENTS)
    source = {"who": "name", "when": "day", "where": "city", "what": "item", "number": "count"}
    record: dict[str, str | int] = {"event": kind, **{key: values[source[key]] for key in keys}}
    return "Note the event.", template.format(**values), json.dumps(record)


def _feeling(rng: random.Random) -> Draw:
    """Which of two sides an adjective is on, also when it is denied."""
    glad = rng.random() < 0.5
    denied = rng.random() < 0.4
    word = rng.choice(POSITIVE if glad != denied else NEGATIVE)
    up, down = rng.choice(_FEELINGS)
    plain = ("so {word}", "a {word} {thing}", "it seems {word}", "this {thing} is {word}", "the {word} {thing} here")
    negated = ("not {word}", "a {thing} that is not {word}", "it was not {word}", "this {thing} is not {word}")
    text = rng.choice(negated if denied else plain).format(word=word, thing=rng.choice(REVIEWED))
    return f"Mood: {up} or {down}?", text, up if glad else down


def _field(rng: random.Random) -> Draw:
    """To which group a word belongs, or whether two words belong together."""
    group = rng.choice(tuple(TOPIC_WORDS))
    first, second = rng.sample(TOPIC_WORDS[group], 2)
    if rng.random() < 0.3:
        same = rng.random() < 0.5
        other = group if same else rng.choice([name for name in TOPIC_WORDS if name != group])
        second = second if same else rng.choice(TOPIC_WORDS[other])
        return "Do they belong together?", f"{first} and {second}", "yes" if same else "no"
    labels = rng.choice((_FIELDS, _OTHER_FIELDS))
    text = rng.choice(("{first}", "{first}, {second}", "the {first} near the {second}", "my {first}"))
    return f"Group: {', '.join(labels.values())}?", text.format(first=first, second=second), labels[group]


_SUMS = (
    "{a} with {b}",
    "{a} and {b} together",
    "{a} + {b} =",
    "({a}) + ({b})",
    "first {a}, then {b} plus",
    "{a} plus {b} more",
    "the sum of {a} and {b}",
    "{name} has {a} and finds {b}",
)
_DIFFERENCES = (
    "{a} without {b}",
    "{a} less {b}",
    "{a} - {b} =",
    "({a}) - ({b})",
    "{b} off {a}, minus",
    "{a} minus {b} again",
    "remove {b} from {a}",
    "{name} has {a} and loses {b}",
)


def _numbers(rng: random.Random) -> Draw:
    """Sums, differences and order of small numbers, in forms that the demo's task does not use."""
    total = rng.randint(0, MAX_NUMBER)
    part = rng.randint(0, total)
    name = rng.choice(NAMES)
    choice = rng.randrange(8)
    if choice < 3:
        instruction = rng.choice(("Join the heaps.", "How many?", "Say the number."))
        return instruction, rng.choice(_SUMS).format(a=part, b=total - part, name=name), str(total)
    if choice < 6:
        instruction = rng.choice(("What stays?", "How many?", "Say the number."))
        return instruction, rng.choice(_DIFFERENCES).format(a=total, b=part, name=name), str(total - part)
    if choice == 6:
        pair = rng.sample(range(MAX_NUMBER + 1), 2)
        return "Which is larger?", f"{pair[0]} or {pair[1]}", str(max(pair))
    start = rng.randint(0, MAX_NUMBER - 3)
    return "What comes next?", f"{start}, {start + 1}, {start + 2}", str(start + 3)


def _number_words(rng: random.Random) -> Draw:
    """Digits and words of the same number, and counting."""
    choice = rng.randrange(3)
    number = rng.randrange(len(_NUMBER_WORDS))
    if choice == 0:
        return "Write it in digits.", _NUMBER_WORDS[number], str(number)
    if choice == 1:
        return "Write it in letters.", str(number), _NUMBER_WORDS[number]
    words = _words(rng, 1, 6)
    return "Count the words.", " ".join(words), str(len(words))


_DEEDS = (
    "{name} and {other} {verb} a {thing} today",
    "to {verb} the {thing}",
    "{name} will {verb} the {thing} in {city}",
    "on {day} they {verb} a {thing}",
    "who can {verb} this {thing} with {name}",
    "{verb} {thing}",
)
_RETELLINGS = (
    ("What happens to what?", "They {verb} the {thing}."),
    ("Make a sentence.", "You {verb} the {thing}."),
    ("Promise it.", "Yes, we {verb} your {thing}."),
    ("Verb and thing?", "{verb} {thing}"),
    ("Thing and verb?", "{thing} {verb}"),
)


def _deed(rng: random.Random) -> Draw:
    """Whether a deed is fine, and sentences that name a deed again."""
    kind = rng.random() < 0.5
    words = {
        "verb": rng.choice(KIND_VERBS if kind else CRUEL_VERBS),
        "thing": rng.choice(OBJECTS),
        "name": rng.choice(NAMES),
        "other": rng.choice(NAMES),
        "city": rng.choice(CITIES),
        "day": rng.choice(DAYS),
    }
    text = rng.choice(_DEEDS).format(**words)
    choice = rng.random()
    if choice < 0.25:
        return "Fine or wrong?", text, "fine" if kind else "wrong"
    if choice < 0.4:
        answer = "Well, we {verb} the {thing}." if kind else "No, never do that."
        return "Agree, or say no.", text, answer.format(**words)
    instruction, answer = rng.choice(_RETELLINGS)
    return instruction, text, answer.format(**words)


def _dialogue(rng: random.Random) -> Draw:
    """A line of small talk that takes up what was said."""
    name, city, item = rng.choice(NAMES), rng.choice(CITIES), rng.choice(ITEMS)
    said, answer = rng.choice(
        (
            ("Hello, I am {name}.", "Nice to meet you, {name}."),
            ("I live in {city}.", "How is life in {city}?"),
            ("I like {item}.", "Why do you like {item}?"),
            ("Good night from {city}.", "Good night, {city}."),
        )
    )
    return "Reply.", said.format(name=name, city=city, item=item), answer.format(name=name, city=city, item=item)


def _spell(rng: random.Random) -> Draw:
    """Letters of a short word."""
    word = rng.choice([word for word in (*OBJECTS, *ITEMS, *NAMES) if len(word) <= 5])
    return "Spell it.", word, " ".join(word)


# Skills and their shares in percent: more of what is learnt late.
_SKILLS: tuple[tuple[Callable[[random.Random], Draw], int], ...] = (
    (_repeat, 10),
    (_quote, 9),
    (_lookup, 4),
    (_record, 9),
    (_read_record, 4),
    (_event, 8),
    (_feeling, 12),
    (_field, 8),
    (_numbers, 21),
    (_number_words, 3),
    (_deed, 10),
    (_dialogue, 1),
    (_spell, 1),
)


def generate_pretraining_text(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Rows of mixed skills, drawn independently: inputs may repeat.

    Args:
        count: How many rows.
        seed: Which rows.

    Yields:
        Rows with the keys ``instruction``, ``input`` and ``output``.
    """
    rng = python_generator(seed, "synthetic-pretraining")
    skills, weights = zip(*_SKILLS, strict=True)
    for _ in range(count):
        instruction, text, answer = rng.choices(skills, weights)[0](rng)
        yield {"instruction": instruction, "input": text, "output": answer}
