"""Rows that are dropped, and how the others are split."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evertune.streams.prepare.cleaning import Cleaner, fault
from evertune.streams.prepare.rows import Dropped, PreparedRow
from evertune.streams.prepare.splitting import split_task


def row(instruction: str = "Do.", input: str = "", output: str = "Done.", **extras: object) -> PreparedRow:
    return PreparedRow(instruction, input, output, extras)


@pytest.mark.parametrize(
    ("dirty", "reason"),
    [
        (row(" \n"), "blank instruction"),
        (row(output="\t"), "blank output"),
        (PreparedRow("Always the same.", " ", "x", fixed_instruction=True), "blank question"),
        (row("a\x00b"), "control characters"),
        (row(output="a\x1bb"), "control characters"),
        (row(input="a\x85b"), "control characters"),
        (row(output="half \ud83d"), "control characters"),
        (row(rejected="\x07"), "control characters"),
        (row("lines\r\nand\ttabs\n"), ""),
    ],
)
def test_what_is_unfit(dirty: PreparedRow, reason: str) -> None:
    assert fault(dirty) == reason


@pytest.mark.parametrize("letter", ["a", "ü", "語"])
def test_the_limit_counts_bytes(letter: str) -> None:
    size = len(letter.encode())
    around = len("Do.\n\nDone.") - len("Done.")
    most = (4 * 1024 - around) // size
    assert fault(row(output=letter * most)) == ""
    assert fault(row(output=letter * (most + 1))) == "too long"
    assert fault(row(tools=[letter * most])) == "too long"


def test_rows_that_ask_the_same() -> None:
    cleaner, counts = Cleaner(), Counter[str]()
    assert cleaner.clean([row("In test.")], task="a", pool="test", dropped=counts) == [row("In test.")]
    rows = [row("in  TEST.\n"), row("New."), row("new.", output="Else."), Dropped("odd"), row("New.", "more")]
    kept = cleaner.clean(rows, task="a", pool="train", dropped=counts)
    assert kept == [rows[1], rows[4]]
    assert counts == {"duplicate of a test row": 1, "duplicate": 1, "odd": 1}
    fixed = PreparedRow("Solve.", "New.", "x", fixed_instruction=True)
    other = Counter[str]()
    assert cleaner.clean([fixed, row("NEW.")], task="b", pool="train", dropped=other) == []
    assert other == {"duplicate of a row of another task": 2}


def split(train: int, test: int | None, most: int, seed: int = 1) -> dict[str, list[list[str]]]:
    rows = [row(f"train {i}") for i in range(train)]
    scored = None if test is None else [row(f"test {i}") for i in range(test)]
    parts = split_task(rows, scored, task="a", seed=seed, max_rows=most)
    return {
        size: [[one.instruction for one in part.rows] for part in splits.values()] for size, splits in parts.items()
    }


@given(st.integers(1, 400), st.one_of(st.none(), st.integers(1, 60)), st.integers(10, 500))
def test_no_row_is_in_two_splits(train: int, test: int | None, most: int) -> None:
    parts = split(train, test, most)
    everything = [name for splits in parts.values() for part in splits for name in part]
    assert len(everything) == len(set(everything)) <= most
    learnt = {name for size, splits in parts.items() for part in splits[: 2 if size == "full" else 3] for name in part}
    assert not any(name.startswith("test") for name in learnt)
    if test is not None:
        assert all(name.startswith("test") for name in parts["full"][2])


def test_published_sizes() -> None:
    """7473 rows of GSM8K give 5978, 747 and 748; of its train rows a tenth becomes tiny."""
    parts = split(7473, None, 10_000)
    tiny = sum(map(len, parts["tiny"]))
    assert [len(part) for part in parts["full"]] == [5978 - tiny, 747, 748]
    assert tiny == 597
    assert [len(part) for part in parts["tiny"]] == [477, 59, 61]
    assert [len(part) for part in split(30_000, None, 10_000)["full"]] == [8000 - 800, 1000, 1000]
    assert [len(part) for part in split(30_000, 2000, 10_000)["full"]] == [8000 - 800, 1000, 1000]


def test_the_seed_decides() -> None:
    assert split(50, None, 40) == split(50, None, 40) != split(50, None, 40, seed=2)
