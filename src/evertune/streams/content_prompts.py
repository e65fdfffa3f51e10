"""What a language model reads and writes of rows whose content is more than text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evertune.metrics.arguments import argument_answer
from evertune.metrics.entities import entities_of, entity_answer
from evertune.metrics.spans import NO_ANSWER
from evertune.streams.contents import Content, Event, Passage, TaggedTokens
from evertune.streams.places import passage_around
from evertune.streams.row_formats import CheckedRow

LONGEST_PASSAGE = 1600
"""Characters of a document that a language model reads around the trigger of an event; about 400 tokens of English."""


@dataclass(frozen=True)
class Inventory:
    """What the training rows of a task hold, which every row of it is asked for.

    Where test or dev are carved from the training file, it is taken from the whole file: the prompts decide what is
    carved, so they must be there before. It can then name types that only carved rows hold; a test file of its own
    adds none.

    Attributes:
        entity_types: Types of the entities, sorted.
        roles: By type of an event the roles that it can have, sorted.
        all_answered: Whether every passage holds an answer.
    """

    entity_types: tuple[str, ...] = ()
    roles: Mapping[str, tuple[str, ...]] | None = None
    all_answered: bool = True

    @property
    def every_role(self) -> tuple[str, ...]:
        """The roles of all types, sorted."""
        return tuple(sorted({role for roles in (self.roles or {}).values() for role in roles}))


@dataclass(frozen=True)
class Asked:
    """A row as a language model is asked it.

    Attributes:
        content: The content, with the roles that are asked for.
        instruction: What stands before the input.
        input: The text, which may be cut.
        closing: What stands behind it, which may not.
        output: The answer.
    """

    content: Content
    instruction: str
    input: str
    closing: str
    output: str


def inventory_of(contents: Sequence[Content | None]) -> Inventory:
    """What training rows hold."""
    tagged = {tag[2:] for each in contents if isinstance(each, TaggedTokens) for tag in each.tags if tag != "O"}
    roles: dict[str, set[str]] = {}
    for event in contents:
        if isinstance(event, Event):
            roles.setdefault(event.type, set()).update(event.roles, (argument.role for argument in event.arguments))
    return Inventory(
        tuple(sorted(tagged)),
        {name: tuple(sorted(known)) for name, known in sorted(roles.items())},
        all(each.answers for each in contents if isinstance(each, Passage)),
    )


def asked_rows(rows: Sequence[CheckedRow], inventory: Inventory, instruction: str) -> list[CheckedRow]:
    """The rows with the prompts and answers that follow from their content and from the training rows.

    Args:
        rows: Rows of any format; those of text alone and of images stay as they are.
        inventory: What the training rows hold.
        instruction: Stands in the place of the usual instruction; empty for that.
    """
    return [_asked_row(row, inventory, instruction) for row in rows]


def _asked_row(row: CheckedRow, inventory: Inventory, instruction: str) -> CheckedRow:
    found = asked(row.content, inventory, instruction)
    if found is None:
        return row
    return replace(
        row,
        content=found.content,
        instruction=found.instruction,
        input=found.input,
        closing=found.closing,
        output=found.output,
    )


def asked(content: Content | None, inventory: Inventory, instruction: str) -> Asked | None:
    """A row as a language model is asked it; None for an image, which it cannot read, and for text alone.

    Args:
        content: What the row holds.
        inventory: What the training rows hold.
        instruction: Stands in the place of the usual instruction; empty for that.
    """
    if isinstance(content, TaggedTokens):
        return _asked_entities(content, inventory, instruction)
    if isinstance(content, Passage):
        return _asked_question(content, inventory, instruction)
    return _asked_arguments(content, inventory, instruction) if isinstance(content, Event) else None


def _asked_entities(content: TaggedTokens, inventory: Inventory, instruction: str) -> Asked:
    usual = (
        f"Name the entities of these types in the text: {', '.join(inventory.entity_types)}. "
        'Answer with a JSON list of objects with "type" and "text".'
    )
    answer = entity_answer(content.tokens, entities_of(content.tags), places=False)
    return Asked(content, instruction or usual, " ".join(content.tokens), "Entities:", answer)


def _asked_question(content: Passage, inventory: Inventory, instruction: str) -> Asked:
    usual = "Answer the question with words of the text."
    if not inventory.all_answered:
        usual += f' Write "{NO_ANSWER}" if the text does not answer it.'
    answer = content.answers[0] if content.answers else NO_ANSWER
    closing = f"Question: {content.question.strip()}\nAnswer:"
    return Asked(content, instruction or usual, content.context, closing, answer)


def _asked_arguments(content: Event, inventory: Inventory, instruction: str) -> Asked:
    """Long documents are cut to a passage around the trigger, and the answer to what stands in it."""
    usual = (
        "Which words of the text play the roles of the event that is marked by **? "
        "Answer in JSON with a list of words for every role."
    )
    event = replace(content, roles=_roles(content, inventory))
    first, end = passage_around(event.text, event.trigger, LONGEST_PASSAGE)
    start, stop = event.trigger
    words = event.text[start:stop]
    passage = f"{event.text[first:start]}** {words} **{event.text[stop:end]}"
    spans = [(each.role, each.start, each.end) for each in event.arguments if first <= each.start and each.end <= end]
    closing = f"Event: {event.type}, {words}\nRoles: {', '.join(event.roles)}\nArguments:"
    answer = argument_answer(event.text, dict.fromkeys(spans), event.roles, places=False)
    return Asked(event, instruction or usual, passage, closing, answer)


def _roles(event: Event, inventory: Inventory) -> tuple[str, ...]:
    """The roles of its type in training and those that the row itself names; every role for a type that is new."""
    known = (inventory.roles or {}).get(event.type)
    return tuple(sorted({*(inventory.every_role if known is None and not event.roles else known or ()), *event.roles}))
