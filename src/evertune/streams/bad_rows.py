"""Collects what is wrong with data, so that all of it is said at once."""

from __future__ import annotations

from evertune.errors import DataError, Problem

MOST_SHOWN = 20


class BadRows:
    """Problems of files and rows, gathered over a whole stream: the first 20 are kept, all are counted."""

    def __init__(self) -> None:
        self._shown: list[Problem] = []
        self._known: set[Problem] = set()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, where: str, what: str, instead: str = "") -> None:
        """Adds a problem, unless it is known: one file may be read for two splits.

        Args:
            where: ``file:row``, or the file alone.
            what: What is wrong, as a sentence.
            instead: What to write instead, as a sentence.
        """
        problem = Problem(where, what, instead)
        if problem in self._known:
            return
        self._known.add(problem)
        self._count += 1
        if self._count <= MOST_SHOWN:
            self._shown.append(problem)

    def raise_if_any(self) -> None:
        """Raises what was gathered.

        Raises:
            DataError: With the first 20 problems and the number of the others.
        """
        if not self._count:
            return
        more = self._count - len(self._shown)
        raise DataError([*self._shown, *([Problem("", f"... and {more} more.")] if more else [])])
