"""Events as CASIE, RAMS and WikiEvents publish them, as rows of ``{text, type, trigger, arguments}``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evertune.streams.content_formats import Notes
from evertune.streams.places import FEW_CHARACTERS, joined, nearest_place

_ROLE_OF_RAMS = re.compile(r"evt\d+arg\d+(.+)")
_MOVED = "Spans of CASIE that are off by a few characters and were moved to their words: {count}."
_NO_PLACE = "Arguments that were left out, as their words do not stand where the data say, nor near it: {count}."
_NO_TRIGGER = "Events that were left out, as their trigger does not stand where the data say, nor near it: {count}."


def casie_events(values: Mapping[str, Any], notes: Notes) -> Iterator[Mapping[str, Any]]:
    """The event mentions of an annotated article: ``{content, cyberevent: {hopper: [{events: [...]}]}}``.

    Source: Satyapanich, Ferraro and Finin (2020), "CASIE: Extracting Cybersecurity Event Information from Text".
    """
    text = values["content"]
    for hopper in values["cyberevent"]["hopper"]:
        for mention in hopper["events"]:
            trigger = _casie_place(mention["nugget"], text, notes)
            if trigger is None:
                notes[_NO_TRIGGER] += 1
                continue
            kinds = [mention["type"], mention.get("subtype")]
            yield {
                "text": text,
                "type": ".".join(kind for kind in kinds if kind),
                "trigger": trigger,
                "arguments": list(_casie_arguments(mention, text, notes)),
            }


def _casie_arguments(mention: Mapping[str, Any], text: str, notes: Notes) -> Iterator[Mapping[str, Any]]:
    for argument in mention.get("argument") or ():
        place = _casie_place(argument, text, notes)
        if place is None:
            notes[_NO_PLACE] += 1
        else:
            yield {"role": argument["role"]["type"], **place}


def _casie_place(span: Mapping[str, Any], text: str, notes: Notes) -> dict[str, int] | None:
    start, end, words = span["startOffset"], span["endOffset"], span["text"]
    if text[start:end] == words and words:
        return {"start": start, "end": end}
    place = nearest_place(text, words, start, most=FEW_CHARACTERS) if words else None
    if place is None:
        return None
    notes[_MOVED] += 1
    return {"start": place, "end": place + len(words)}


def rams_event(values: Mapping[str, Any], notes: Notes) -> Iterator[Mapping[str, Any]]:
    """The event of a passage: ``{sentences, evt_triggers, gold_evt_links}``, ends inclusive, counted in tokens.

    Source: Ebner et al. (2020), "Multi-Sentence Argument Linking".
    """
    text, places = joined([token for sentence in values["sentences"] for token in sentence])
    for first, last, kinds in values["evt_triggers"]:
        yield {
            "text": text,
            "type": kinds[0][0],
            "trigger": _tokens(places, first, last + 1),
            "arguments": [
                {"role": _rams_role(role), **_tokens(places, span[0], span[1] + 1)}
                for trigger, span, role in values["gold_evt_links"]
                if list(trigger) == [first, last]
            ],
        }


def _rams_role(name: str) -> str:
    found = _ROLE_OF_RAMS.fullmatch(name)
    return found[1] if found else name


def wiki_events(values: Mapping[str, Any], notes: Notes) -> Iterator[Mapping[str, Any]]:
    """The event mentions of a document: ``{sentences, entity_mentions, event_mentions}``, in tokens of the document.

    Source: Li, Ji and Han (2021), "Document-Level Event Argument Extraction by Conditional Generation".
    """
    text, places = _wiki_text(values)
    entities = {each["id"]: each for each in values["entity_mentions"]}
    for mention in values["event_mentions"]:
        trigger, arguments = mention["trigger"], list[Mapping[str, Any]]()
        for argument in mention["arguments"]:
            entity = entities.get(argument["entity_id"])
            if entity is None:
                notes[_NO_PLACE] += 1
            else:
                arguments.append({"role": argument["role"], **_tokens(places, entity["start"], entity["end"])})
        yield {
            "text": text,
            "type": mention["event_type"],
            "trigger": _tokens(places, trigger["start"], trigger["end"]),
            "arguments": arguments,
        }


def _wiki_text(values: Mapping[str, Any]) -> tuple[str, list[tuple[int, int]]]:
    """The document with the place of every token; the tokens joined, where they do not stand as the data say."""
    tokens = [token for sentence, _ in values["sentences"] for token in sentence]
    text = values.get("text") or ""
    if text and all(text[start:end] == word for word, start, end in tokens):
        return text, [(start, end) for _, start, end in tokens]
    return joined([word for word, _, _ in tokens])


def _tokens(places: Sequence[tuple[int, int]], first: int, end: int) -> dict[str, int]:
    """The characters of tokens."""
    if not 0 <= first < end <= len(places):
        raise ValueError(f"there are no tokens {first} to {end}")
    return {"start": places[first][0], "end": places[end - 1][1]}


def event_of_tokens(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row of ``{tokens, type, trigger, arguments}`` with places in tokens, ends exclusive, as one of text."""
    text, places = joined(values["tokens"])
    rest = {key: value for key, value in values.items() if key != "tokens"}
    arguments = [{**each, **_own_place(each, places)} for each in values.get("arguments") or ()]
    return {**rest, "text": text, "trigger": _own_place(values["trigger"], places), "arguments": arguments}


def _own_place(value: Any, places: Sequence[tuple[int, int]]) -> dict[str, Any]:
    first, end = (value["start"], value["end"]) if isinstance(value, Mapping) else value
    place: dict[str, Any] = _tokens(places, first, end)
    if isinstance(value, Mapping) and value.get("head"):
        place["head"] = _own_place(value["head"], places)
    return place
