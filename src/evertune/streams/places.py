"""Places of words in a text, and their repair where the data are off by a few characters."""

from __future__ import annotations

from collections.abc import Sequence

FEW_CHARACTERS = 10
"""How far the words may lie from the place that published annotations give for them."""


def nearest_place(text: str, words: str, start: int, *, most: int | None = None) -> int | None:
    """Start of the occurrence of words that is nearest to a place; the earlier of two.

    Args:
        text: The text.
        words: What is looked for.
        start: Where it should begin, in characters.
        most: How far from there it may begin; None for anywhere.

    Returns:
        The place, or None if there is none.
    """
    before = text.rfind(words, 0, max(start, 0) + len(words))
    after = text.find(words, max(start, 0))
    places = [place for place in (before, after) if place >= 0 and (most is None or abs(place - start) <= most)]
    return min(places, key=lambda place: (abs(place - start), place), default=None)


def joined(tokens: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Tokens joined by spaces, and the place of each in the text, in characters."""
    places: list[tuple[int, int]] = []
    start = 0
    for token in tokens:
        places.append((start, start + len(token)))
        start += len(token) + 1
    return " ".join(tokens), places


def passage_around(text: str, place: tuple[int, int], most: int) -> tuple[int, int]:
    """A stretch of a text with as much on both sides of a place, cut between words where there are spaces.

    Args:
        text: The text.
        place: What must lie within, in characters.
        most: Longest stretch, in characters.

    Returns:
        First character, and the one behind the last; the whole text if it is short enough.
    """
    if len(text) <= most:
        return 0, len(text)
    room = max(most - (place[1] - place[0]), 0)
    start = min(max(place[0] - room // 2, 0), len(text) - most) if place[1] - place[0] <= most else place[0]
    end = max(min(start + most, len(text)), place[1])
    return _after_space(text, start, place[0]), _before_space(text, end, place[1])


def _after_space(text: str, start: int, most: int) -> int:
    space = text.find(" ", start, most) if start else -1
    return space + 1 if space >= 0 else start


def _before_space(text: str, end: int, least: int) -> int:
    space = text.rfind(" ", least, end) if end < len(text) else -1
    return space if space >= 0 else end
