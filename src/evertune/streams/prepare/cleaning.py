"""Which rows are fit to learn from: nothing blank, nothing too long, no stray characters, nothing twice."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable

from evertune.streams.prepare.rows import Dropped, PreparedRow

MOST_TOKENS = 1024
BYTES_PER_TOKEN = 4
RULES = {
    "length": f"dropped if the UTF-8 bytes of all texts of a row (instruction, input, output, tools, rejected) "
    f"/ {BYTES_PER_TOKEN} exceed {MOST_TOKENS}: no tokenizer is asked",
    "characters": "dropped if a text holds a control character other than tab, line feed and carriage return, or half "
    "a character",
    "duplicates": "dropped if an earlier row asks the same, up to case and white space (neither an instruction that "
    "all rows of a source share nor tools count); test files come first, then the tasks in their order; so no two "
    "rows that are kept, of whatever split and task, ask the same",
}


def fault(row: PreparedRow) -> str:
    """Why a row is dropped, looking at it alone; empty if it is fit."""
    if not (row.input if row.fixed_instruction else row.instruction).strip():
        return "blank question" if row.fixed_instruction else "blank instruction"
    if not row.output.strip():
        return "blank output"
    text = row.all_text
    if any(_is_stray(character) for character in set(text)):
        return "control characters"
    if len(text.encode()) > BYTES_PER_TOKEN * MOST_TOKENS:
        return "too long"
    return ""


def _is_stray(character: str) -> bool:
    return character not in "\t\n\r" and unicodedata.category(character) in ("Cc", "Cs")


def prompt_digest(row: PreparedRow) -> bytes:
    """Equal for rows that ask the same, up to case and white space."""
    asked = " ".join(row.asked.split()).casefold()
    return hashlib.blake2b(asked.encode(), digest_size=16).digest()


class Cleaner:
    """Keeps the rows that are fit and new, and counts the others by reason; one for all tasks of a stream."""

    def __init__(self) -> None:
        self._seen: dict[bytes, tuple[str, str]] = {}

    def clean(
        self, rows: Iterable[PreparedRow | Dropped], *, task: str, pool: str, dropped: Counter[str]
    ) -> list[PreparedRow]:
        """The rows that are kept, in order.

        Args:
            rows: The rows.
            task: Whose rows they are.
            pool: ``test`` for the rows of a test file, else ``train``.
            dropped: Counts what is left out.
        """
        kept: list[PreparedRow] = []
        for row in rows:
            reason = row.reason if isinstance(row, Dropped) else fault(row) or self._repeated(row, task, pool)
            if reason:
                dropped[reason] += 1
            elif isinstance(row, PreparedRow):
                kept.append(row)
        return kept

    def _repeated(self, row: PreparedRow, task: str, pool: str) -> str:
        place = (task, pool)
        first = self._seen.setdefault(prompt_digest(row), place)
        if first is place:
            return ""
        if first[0] != task:
            return "duplicate of a row of another task"
        return "duplicate" if first[1] == pool else "duplicate of a test row"
