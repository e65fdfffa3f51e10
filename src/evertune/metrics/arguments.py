"""Arguments of events: the JSON answer that names them, and precision, recall and F1 of spans and their roles."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evertune.metrics.base import Metric, Row
from evertune.metrics.counts import Counts
from evertune.metrics.json_answers import members_in

Span = tuple[str, int, int]
"""Role, first character, and the character behind the last one."""

FACT = "event"
"""Name in `Row.facts` of ``{"text", "type", "trigger", "roles", "arguments"}``."""

NOWHERE = (-1, -1)
"""Place of a predicted argument whose words do not stand in the text: it counts as found, and is wrong."""

_WORD = re.compile(r"\w+(?:['’.&@/-]\w+)*")
# What an English noun phrase goes on with behind its head.
_AFTER_THE_HEAD = re.compile(
    r"[,;:(]|\s[-–—]\s|\b(?:of|in|on|at|by|for|from|with|to|into|about|against|between|over|under|after|before|during|"
    r"through|within|without|via|near|as|who|whom|whose|which|that|where|when)\b",
    re.IGNORECASE,
)


def argument_answer(text: str, spans: Iterable[Span], roles: Sequence[str], *, places: bool) -> str:
    """Arguments as a JSON object with a list for every role, empty where nothing plays it.

    Args:
        text: The text.
        spans: The arguments.
        roles: The roles that are asked for, in order; those of further spans follow.
        places: Whether to write ``{"text", "start", "end"}``, in characters of the text, in place of the words alone.
    """
    answer: dict[str, list[Any]] = {role: [] for role in roles}
    for role, start, end in sorted(spans, key=lambda each: (each[1], each[2])):
        words = text[start:end]
        answer.setdefault(role, []).append({"text": words, "start": start, "end": end} if places else words)
    return json.dumps(answer, ensure_ascii=False)


def arguments_of(answer: str, text: str, trigger: tuple[int, int], roles: Sequence[str]) -> list[Span]:
    """The arguments that an answer names.

    Words without places are the occurrence nearest to the trigger that the same role does not have yet, on word
    boundaries where there is one. Words that do not occur have the place `NOWHERE`. Of an answer that is cut off, the
    complete arguments count.

    Args:
        answer: A JSON object in the form of `argument_answer`, with or without places, and with text around it.
        text: The text.
        trigger: Place of the words that name the event, in characters.
        roles: The roles that were asked for; case plays no part. Another role stays as it is written.

    Returns:
        Distinct (role, start, end) in the order of the answer; only what stands nowhere may repeat.
    """
    asked = {role.casefold(): role for role in roles}
    found: list[Span] = []
    taken: dict[str, set[tuple[int, int]]] = {}
    occurrences = _Occurrences(text, trigger)
    for key, value in members_in(answer):
        role = asked.get(key.strip().casefold(), key)
        own = taken.setdefault(role, set())
        for item in value if isinstance(value, list) else [value]:  # pyright: ignore[reportUnknownVariableType]
            place = _place(item, occurrences, own)
            if place is not None and (place == NOWHERE or place not in own):
                found.append((role, *place))
                own.add(place)
    return found


def _place(item: Any, occurrences: _Occurrences, taken: set[tuple[int, int]]) -> tuple[int, int] | None:
    """Where an argument stands; None if it is none."""
    match item:
        case {"start": int(start), "end": int(end)}:
            return (start, end) if 0 <= start < end <= len(occurrences.text) else NOWHERE
        case {"text": str(words)} | str(words):
            free = (place for place in occurrences.of(words) if place not in taken)
            return next(free, NOWHERE) if words.strip() else None
        case _:
            return None


class _Occurrences:
    """Where words stand in a text, the best place first; each is looked for once, however often it is named."""

    def __init__(self, text: str, trigger: tuple[int, int]) -> None:
        self.text, self._trigger = text, trigger
        self._known: dict[tuple[str, ...], list[tuple[int, int]]] = {}

    def of(self, words: str) -> list[tuple[int, int]]:
        """The places on word boundaries, then the others; of each the nearest to the trigger first."""
        parts = tuple(words.split())
        if parts not in self._known:
            # A model that cannot write line breaks writes spaces.
            pattern = r"\s+".join(map(re.escape, parts))
            places = [each.span(1) for each in re.finditer(f"(?=({pattern}))", self.text)] if parts else []
            self._known[parts] = sorted(places, key=self._rank)
        return self._known[parts]

    def _rank(self, place: tuple[int, int]) -> tuple[bool, int, tuple[int, int]]:
        cut = any(_cuts_word(self.text, edge) for edge in place)
        return cut, _distance(place, self._trigger), place


def _cuts_word(text: str, place: int) -> bool:
    return 0 < place < len(text) and text[place - 1].isalnum() and text[place].isalnum()


def _distance(place: tuple[int, int], trigger: tuple[int, int]) -> int:
    return max(place[0] - trigger[1], trigger[0] - place[1], 0)


def head_of(text: str, start: int, end: int) -> tuple[int, int]:
    """Place of the head word of a span by a rule for English noun phrases.

    It is the last word before the first comma, bracket, preposition or relative pronoun that has a word before it; a
    span without spaces between words, as in Chinese, is its own head.
    """
    words = [(each.start(), each.end()) for each in _WORD.finditer(text, start, end)]
    if not words:
        return start, end
    for after in _AFTER_THE_HEAD.finditer(text, start, end):
        before = [word for word in words if word[1] <= after.start()]
        if before:
            return before[-1]
    return words[-1]


def _predicted(prediction: str, event: Mapping[str, Any]) -> list[Span]:
    start, end = event["trigger"]
    return arguments_of(prediction, event["text"], (int(start), int(end)), event["roles"])


def _gold(event: Mapping[str, Any]) -> list[Span]:
    spans = [(str(each["role"]), int(each["start"]), int(each["end"])) for each in event["arguments"]]
    return list(dict.fromkeys(spans))


def _compare(found: Sequence[object], present: Sequence[object]) -> Counts:
    common = Counter(found) & Counter(present)
    return Counts(sum(common.values()), len(found), len(present))


def classification_counts(prediction: str, reference: str, row: Row) -> Counts:
    """Arguments, right where role and place are the same: precision, recall or F1 over all rows.

    Words that do not stand in the text count as found, and are wrong.

    Source: argument classification after Ji and Grishman (2008), with spans in place of heads.
    """
    event = row.facts[FACT]
    return _compare(_predicted(prediction, event), _gold(event))


def identification_counts(prediction: str, reference: str, row: Row) -> Counts:
    """Places of arguments whatever their role, each counted once: F1 over all rows.

    Source: argument identification after Ji and Grishman (2008), with spans in place of heads.
    """
    event = row.facts[FACT]
    return _compare(_places(_predicted(prediction, event)), _places(_gold(event)))


def _places(spans: Sequence[Span]) -> list[tuple[int, int]]:
    places = [(start, end) for _, start, end in spans]
    somewhere = dict.fromkeys(place for place in places if place != NOWHERE)
    return [*somewhere, *(place for place in places if place == NOWHERE)]


def head_counts(prediction: str, reference: str, row: Row) -> Counts:
    """Arguments, right where role and head word are the same: F1 over all rows.

    The head is that of the data where they name one, and for the very same span; else that of `head_of`.

    Source: head match as in Li, Ji and Han (2021), arXiv:2104.05919, who find heads with a parser.
    """
    event = row.facts[FACT]
    text = str(event["text"])
    gold, heads = _gold(event), _named_heads(event)
    present = [(role, heads.get((start, end)) or head_of(text, start, end)) for role, start, end in gold]
    found = [
        (role, NOWHERE if (start, end) == NOWHERE else heads.get((start, end)) or head_of(text, start, end))
        for role, start, end in _predicted(prediction, event)
    ]
    return _compare(found, present)


def _named_heads(event: Mapping[str, Any]) -> dict[tuple[int, int], tuple[int, int]]:
    named = [each for each in event["arguments"] if each.get("head")]
    return {(int(each["start"]), int(each["end"])): (int(each["head"][0]), int(each["head"][1])) for each in named}


ARGUMENT_F1 = Metric(
    name="argument_f1",
    counts=classification_counts,
    content=FACT,
    binary=False,
    beside=("argument_precision", "argument_recall", "argument_identification_f1", "argument_head_f1"),
)
ARGUMENT_PRECISION = Metric(
    name="argument_precision", counts=classification_counts, quantity="precision", content=FACT, binary=False
)
ARGUMENT_RECALL = Metric(
    name="argument_recall", counts=classification_counts, quantity="recall", content=FACT, binary=False
)
ARGUMENT_IDENTIFICATION_F1 = Metric(
    name="argument_identification_f1", counts=identification_counts, content=FACT, binary=False
)
ARGUMENT_HEAD_F1 = Metric(name="argument_head_f1", counts=head_counts, content=FACT, binary=False)
