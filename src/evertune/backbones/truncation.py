"""Shortening a prompt that is too long: only the input text, only from its end, and whole characters.

The prompt is shortened as text and tokenised again, so a shortened prompt is exactly the prompt of a shorter input.
When several pieces may be cut, the longest is cut first, down to a common length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from evertune.backbones.text_ids import Offsets
from evertune.streams.examples import Segment

EncodeWithOffsets = Callable[[Sequence[str]], list[tuple[list[int], Offsets]]]


def joined(segments: Sequence[Segment]) -> str:
    """The text of all segments."""
    return "".join(segment.text for segment in segments)


def levelled(lengths: Sequence[int], total: int) -> list[int]:
    """Shortens the longest of `lengths` to a common level, so that they sum to at most `total`."""
    kept = list(lengths)
    left = max(total, 0)
    for done, index in enumerate(sorted(range(len(lengths)), key=lengths.__getitem__)):
        kept[index] = min(lengths[index], left // (len(lengths) - done))
        left -= kept[index]
    return kept


def shorten_by_offsets(
    prompts: Sequence[Sequence[Segment]], rooms: Sequence[int], encode: EncodeWithOffsets
) -> list[list[int] | None]:
    """Ids of each prompt, cut at token boundaries until it fits.

    Args:
        prompts: The prompts in segments.
        rooms: Tokens that each may have.
        encode: Tokenises a batch, with offsets.

    Returns:
        The ids of each prompt; None where even without any input text it is too long.
    """
    results: list[list[int] | None] = [None] * len(prompts)
    pending = {index: tuple(segments) for index, segments in enumerate(prompts)}
    while pending:
        encoded = encode([joined(segments) for segments in pending.values()])
        remaining: dict[int, tuple[Segment, ...]] = {}
        for (index, segments), (ids, offsets) in zip(pending.items(), encoded, strict=True):
            if len(ids) <= rooms[index]:
                results[index] = ids
            elif any(segment.cut and segment.text for segment in segments):
                remaining[index] = _drop_tokens(segments, offsets, len(ids) - rooms[index])
        pending = remaining
    return results


def _drop_tokens(segments: Sequence[Segment], offsets: Offsets, excess: int) -> tuple[Segment, ...]:
    """The segments without their last tokens, `excess` in all; at least one character is dropped."""
    starts: list[list[int]] = []
    begin = 0
    for segment in segments:
        end = begin + len(segment.text)
        inside = [start - begin for start, stop in offsets if begin <= start < stop <= end] if segment.cut else []
        starts.append(inside)
        begin = end
    lengths = [len(inside) for inside in starts]
    if not sum(lengths):
        return tuple(Segment("", cut=True) if segment.cut else segment for segment in segments)
    kept = levelled(lengths, sum(lengths) - excess)
    return tuple(
        segment if keep == len(inside) else Segment(segment.text[: inside[keep]].rstrip() if keep else "", cut=True)
        for segment, inside, keep in zip(segments, starts, kept, strict=True)
    )


def shorten_by_bisection(
    segments: Sequence[Segment], room: int, encode: Callable[[str], list[int]]
) -> list[int] | None:
    """Ids of one prompt, cut to the greatest number of characters with which it fits; for tokenizers without offsets.

    Args:
        segments: The prompt.
        room: Tokens that it may have.
        encode: Tokenises one text.

    Returns:
        The ids; None where even without any input text the prompt is too long.
    """
    lengths = [len(segment.text) if segment.cut else 0 for segment in segments]

    def attempt(characters: int) -> list[int]:
        kept = levelled(lengths, characters)
        shortened = [
            Segment(segment.text[:keep], cut=True) if segment.cut else segment
            for segment, keep in zip(segments, kept, strict=True)
        ]
        return encode(joined(shortened))

    best = attempt(0)
    if len(best) > room:
        return None
    low, high = 0, sum(lengths)
    while high - low > 1:
        middle = (low + high) // 2
        ids = attempt(middle)
        low, high, best = (middle, high, ids) if len(ids) <= room else (low, middle, best)
    return best
