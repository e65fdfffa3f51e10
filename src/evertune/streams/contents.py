"""What a row holds beside its prompt and its answer, for models that do not answer in text.

A language model reads the prompt and writes the answer; an encoder reads the content, and what it finds is written in
the form of the answer, so that one scorer reads both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

TaskType: TypeAlias = Literal[
    "sequence_classification",
    "token_classification",
    "question_answering",
    "argument_extraction",
    "image_classification",
    "text_to_image",
]


@dataclass(frozen=True, slots=True)
class TaggedTokens:
    """A sentence whose tokens carry tags: ``{tokens, tags}``.

    Attributes:
        tokens: The words.
        tags: One a word, in the IOB2 scheme: ``O``, ``B-person``, ``I-person``.
    """

    tokens: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """A text that is asked a question, after SQuAD.

    Attributes:
        question: The question.
        context: The text that holds the answer.
        answers: The accepted answers; empty where the text holds none (SQuAD 2).
        starts: Where each begins in the context, in characters.
    """

    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Argument:
    """A text span that plays a role in an event.

    Attributes:
        role: The role: ``attacker``.
        start: First character of the span in the text.
        end: Behind its last character.
        head: ``(start, end)`` of its head word, where the data name one.
    """

    role: str
    start: int
    end: int
    head: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """An event mention in a text, and who plays which role in it.

    Attributes:
        text: The document, or the passage around the event.
        type: Type of the event: ``Attack.Ransom``.
        trigger: ``(start, end)`` of the words that name the event, in characters.
        roles: The roles that events of this type can have: each is asked for.
        arguments: What fills them; several of one role are several arguments, a role without any has none.
    """

    text: str
    type: str
    trigger: tuple[int, int]
    roles: tuple[str, ...]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """An image with a label or a caption, which is the row's answer.

    Attributes:
        path: The file; empty where `pixels` or `data` holds the image.
        sha256: Of the file or of the pixels: what makes the row this row.
        pixels: Grey values from 0 to 255 row by row, for images that are numbers in their data set (MNIST, digits).
        width: Width of `pixels`.
        caption: Whether the answer is a caption to draw, not a label to find.
        data: Bytes of the image file, where the data set itself holds them (Parquet, saved folders, the hub).
    """

    path: str
    sha256: str
    pixels: bytes = b""
    width: int = 0
    caption: bool = False
    data: bytes = b""


Content: TypeAlias = TaggedTokens | Passage | Event | Picture


def task_type_of(content: Content | None) -> TaskType:
    """What a model that does not answer in text does with rows of this content."""
    if isinstance(content, TaggedTokens):
        return "token_classification"
    if isinstance(content, Passage):
        return "question_answering"
    if isinstance(content, Event):
        return "argument_extraction"
    if isinstance(content, Picture):
        return "text_to_image" if content.caption else "image_classification"
    return "sequence_classification"


METRIC_OF: Mapping[TaskType, str] = {
    "sequence_classification": "exact_match",
    "token_classification": "entity_f1",
    "question_answering": "squad_f1",
    "argument_extraction": "argument_f1",
    "image_classification": "accuracy",
    "text_to_image": "noise_explained",
}
"""The usual metric of rows, by what a model that does not answer in text does with them."""


def content_facts(content: Content | None) -> dict[str, Any]:
    """What scorers read of the content, by the name that they ask for."""
    if isinstance(content, TaggedTokens):
        return {"entities": asdict(content)}
    if isinstance(content, Passage):
        return {"passage": {"answers": content.answers}}
    return {"event": asdict(content)} if isinstance(content, Event) else {}


def group_of(content: Content | None) -> str:
    """What rows share that must not be split over train and test: the passage or the document; empty for none."""
    if isinstance(content, Passage):
        return content.context
    return content.text if isinstance(content, Event) else ""
