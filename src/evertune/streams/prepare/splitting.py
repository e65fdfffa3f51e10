"""Which rows become train, dev and test, and which the small version of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evertune.randomness import python_generator
from evertune.streams.prepare.rows import PreparedRow
from evertune.streams.task import SPLITS, Split

MOST_TINY = 1000
SIZES = ("full", "tiny")


@dataclass(frozen=True, slots=True)
class SplitPart:
    """The rows of one split of one size.

    Attributes:
        rows: The rows, in random order.
        rule: How they were chosen, as a phrase.
    """

    rows: Sequence[PreparedRow]
    rule: str


def split_task(
    train: Sequence[PreparedRow], test: Sequence[PreparedRow] | None, *, task: str, seed: int, max_rows: int
) -> Mapping[str, Mapping[Split, SplitPart]]:
    """Splits the clean rows of a task.

    Args:
        train: Rows to learn from.
        test: Rows of a published test file; None to cut test from `train`.
        task: Name of the task: tasks are sampled independently.
        seed: The seed.
        max_rows: Most rows of all splits together.

    Returns:
        Size (``full``, ``tiny``) to split to its rows; no row is in two of them.
    """
    parts: dict[Split, SplitPart]
    if test is None:
        whole = _sample(train, max_rows, seed, task, "train")
        parts = _eight_one_one(whole, f"sample of {len(whole)} of {len(train)} rows by seed")
    else:
        most_test = max(1, max_rows // 10)
        scored = _sample(test, most_test, seed, task, "test")
        whole = _sample(train, max_rows - most_test, seed, task, "train")
        end = len(whole) - len(whole) // 9
        said = f"sample of {len(whole)} of {len(train)} rows by seed"
        parts = {
            "train": SplitPart(whole[:end], f"8/9 of a {said}"),
            "dev": SplitPart(whole[end:], f"1/9 of a {said}"),
            "test": SplitPart(scored, f"sample of {len(scored)} of {len(test)} rows of the test file by seed"),
        }
    learnt = parts["train"]
    count = min(MOST_TINY, len(learnt.rows) // 10)
    tiny = _eight_one_one(learnt.rows[:count], f"part of {count} rows that were taken out of the full train rows")
    left = SplitPart(learnt.rows[count:], f"{learnt.rule}, without the {count} rows of tiny")
    return {"full": {**parts, "train": left}, "tiny": tiny}


def _sample(rows: Sequence[PreparedRow], most: int, seed: int, task: str, pool: str) -> list[PreparedRow]:
    """At most so many rows, in random order."""
    generator = python_generator(seed, "prepare", task, pool)
    return [rows[index] for index in generator.sample(range(len(rows)), min(most, len(rows)))]


def _eight_one_one(rows: Sequence[PreparedRow], said: str) -> dict[Split, SplitPart]:
    train, dev = len(rows) * 8 // 10, len(rows) // 10
    cut = (rows[:train], rows[train : train + dev], rows[train + dev :])
    shares = ("80 %", "10 %", "the rest")
    return {
        split: SplitPart(part, f"{share} of a {said}") for split, part, share in zip(SPLITS, cut, shares, strict=True)
    }
