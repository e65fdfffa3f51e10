"""Precision, recall and F1 over all rows, from what is found in each."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evertune.metrics.statistics import jackknife_error

Quantity: TypeAlias = Literal["precision", "recall", "f1"]


@dataclass(frozen=True, slots=True)
class Counts:
    """What was found in one row or in all of them.

    Attributes:
        correct: Things that were found and are there.
        found: Things that were found.
        present: Things that are there.
    """

    correct: int
    found: int
    present: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.correct + other.correct, self.found + other.found, self.present + other.present)

    def __sub__(self, other: Counts) -> Counts:
        return Counts(self.correct - other.correct, self.found - other.found, self.present - other.present)

    def value(self, quantity: Quantity) -> float:
        """Precision, recall or their harmonic mean in [0, 1].

        1 where nothing is there and nothing was found, 0 where else it would be divided by zero.
        """
        if not self.found and not self.present:
            return 1.0
        whole = {"precision": self.found, "recall": self.present, "f1": (self.found + self.present) / 2}[quantity]
        return self.correct / whole if whole else 0.0


def total(rows: Sequence[Counts]) -> Counts:
    """The sum over rows, of which `Counts.value` is the micro average."""
    return functools.reduce(Counts.__add__, rows, Counts(0, 0, 0))


def counts_error(rows: Sequence[Counts], quantity: Quantity) -> float | None:
    """Jackknife standard error of the micro average; None for fewer than two rows."""
    everything = total(rows)
    # Rows with the same counts change the score alike.
    return jackknife_error([((everything - row).value(quantity), times) for row, times in Counter(rows).items()])
