"""Collects what is wrong with data, so that all of it is said at once."""

from __future__ import annotations

from evertune.errors import DataError, Problem

MOST_SHOWN = 20


class BadRows:
    """Problems of files and rows, gathered over a whole stream: the first 20 are kept, all are counted."""

    def __init__(self) -> None:
        self._shown: list[Problem] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, where: str, what: str, instead: str = "") -> None:
        """Adds a problem.

        Args:
            where: ``file:row``, or the file alone.
            what: What is wrong, as a sentence.
            instead: What to write instead, as a sentence.
        """
        self._count += 1
        if self._count <= MOST_SHOWN:
            self._shown.append(Problem(where, what, instead))

    def raise_if_any(self) -> None:
        """Raises what was gathered.

        Raises:
            DataError: With the first 20 problems and the number of the others.
        """
        if not self._count:
            return
        more = self._count - len(self._shown)
        raise DataError([*self._shown, *([Problem("", f"... and {more} more.")] if more else [])])
