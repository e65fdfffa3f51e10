"""Named entities: the JSON answer that names them, and precision, recall and F1 of whole entities."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

from evertune.metrics.base import Metric, Row
from evertune.metrics.counts import Counts
from evertune.metrics.json_answers import objects_in

Entity = tuple[str, int, int]
"""Type, first token, and the token behind the last one."""

FACT = "entities"
"""Name in `Row.facts` of ``{"tokens": [...], "tags": [...]}``."""


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags mark, in order.

    Args:
        tags: One a token, strictly in the IOB2 scheme: an ``I-`` that continues nothing marks nothing.

    Source: seqeval (Nakayama, 2018) in its strict mode.
    """
    from seqeval.scheme import IOB2, Entities  # pyright: ignore[reportMissingTypeStubs]

    if not tags:
        return []
    found = cast("Any", Entities)([list(tags)], scheme=IOB2).entities[0]
    return [(str(each.tag), int(each.start), int(each.end)) for each in found]


def entity_answer(tokens: Sequence[str], entities: Iterable[Entity], *, places: bool) -> str:
    """Entities as a JSON list of ``{"type", "text"}``, in the order of the text.

    Args:
        tokens: The words of the sentence.
        entities: What they hold.
        places: Whether to write ``start`` and ``end`` too: the first token and the one behind the last.
    """
    found: list[dict[str, Any]] = []
    for name, start, end in sorted(entities, key=lambda each: (each[1], each[2], each[0])):
        found.append({"type": name, "text": " ".join(tokens[start:end])})
        if places:
            found[-1] |= {"start": start, "end": end}
    return json.dumps(found, ensure_ascii=False)


def tags_of(answer: str, tokens: Sequence[str]) -> list[str]:
    """The IOB2 tags that an answer gives to tokens; all ``O`` for an answer that cannot be read.

    A mention without places is the first free occurrence of its text behind the mention before it, or else the first
    free one in the sentence; white space in it plays no part. Where mentions overlap, the earlier one of the answer
    counts. Of an answer that is cut off, the complete mentions count.

    Args:
        answer: A JSON list in the form of `entity_answer`, with or without places, and with text around it.
        tokens: The words of the sentence.
    """
    return _read(answer, tokens)[0]


def _read(answer: str, tokens: Sequence[str]) -> tuple[list[str], int]:
    """The tags, and the number of mentions that stand nowhere in the sentence or on the words of another."""
    tags, words = ["O"] * len(tokens), ["".join(token.split()) for token in tokens]
    lost, place = 0, 0
    gone: set[str] = set()  # words are taken, and never free again
    for item in objects_in(answer):
        name, text = item.get("type"), item.get("text")
        if not isinstance(name, str) or not name.strip() or not isinstance(text, str):
            continue
        span = _given(item, tags) if "start" in item else _occurrence(text, words, tags, place, gone)
        if span is None:
            lost += 1
            continue
        start, place = span
        tags[start:place] = [f"B-{name.strip()}", *[f"I-{name.strip()}"] * (place - start - 1)]
    return tags, lost


def _given(item: dict[str, Any], tags: Sequence[str]) -> tuple[int, int] | None:
    start, end = item["start"], item.get("end")
    if not isinstance(start, int) or not isinstance(end, int) or not 0 <= start < end <= len(tags):
        return None
    return (start, end) if _free(tags, start, end) else None


def _free(tags: Sequence[str], start: int, end: int) -> bool:
    return all(tag == "O" for tag in tags[start:end])


def _occurrence(
    text: str, words: Sequence[str], tags: Sequence[str], place: int, gone: set[str]
) -> tuple[int, int] | None:
    wanted = "".join(text.split())
    if not wanted or wanted in gone:
        return None
    for start in (*range(place, len(words)), *range(place)):
        if not wanted.startswith(words[start]):
            continue
        end, joined = start, ""
        while end < len(words) and len(joined) < len(wanted):
            joined += words[end]
            end += 1
        if joined == wanted and _free(tags, start, end):
            return start, end
    gone.add(wanted)
    return None


def entity_counts(prediction: str, reference: str, row: Row) -> Counts:
    """Whole entities, right where type and words are the same: precision, recall or F1 over all rows.

    A mention that does not stand in the sentence counts as found, and is wrong.

    Source: the exact match of CoNLL-2003 (Tjong Kim Sang and De Meulder, 2003), by seqeval in its strict mode.
    """
    gold = row.facts[FACT]
    tags, lost = _read(prediction, gold["tokens"])
    found, present = set(entities_of(tags)), set(entities_of(gold["tags"]))
    return Counts(len(found & present), len(found) + lost, len(present))


ENTITY_F1 = Metric(
    name="entity_f1", counts=entity_counts, content=FACT, beside=("entity_precision", "entity_recall"), binary=False
)
ENTITY_PRECISION = Metric(
    name="entity_precision", counts=entity_counts, quantity="precision", content=FACT, binary=False
)
ENTITY_RECALL = Metric(name="entity_recall", counts=entity_counts, quantity="recall", content=FACT, binary=False)
