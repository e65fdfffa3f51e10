"""What can go wrong, in the words of the person who must mend it.

::

    EvertuneError
    ├── InputError            exit 2: something the user wrote or pointed at is wrong
    │   ├── ConfigError           a key or a value of the configuration
    │   ├── DataError             a data file or a row of it
    │   ├── BackboneError         a model folder, a hub id or its tokenizer
    │   ├── CapabilityError       parts that do not work together
    │   └── CheckpointError       a run folder or an adapter that cannot be used
    ├── RunError              exit 1: the run itself failed
    │   ├── NonFiniteError        a loss or a gradient norm is NaN or infinite
    │   └── MemoryExhaustedError  the device ran out of memory
    └── Interrupted           exit 130: stopped by the user, state saved

Every error is a list of `Problem`: where, what is wrong, what to write instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        where: File, line and key, ``stream.yaml:4:3`` or ``data/train.jsonl:118``; empty if there is no place.
        what: What is wrong, as a sentence with its full stop.
        instead: What to write or do instead, as a sentence; empty if nothing can be advised.
    """

    where: str
    what: str
    instead: str = ""

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.what}{' ' if self.instead else ''}{self.instead}"


class EvertuneError(Exception):
    """Base of all errors that are shown without a traceback."""

    exit_code: ClassVar[int] = 1

    def __init__(self, problems: str | Problem | Iterable[Problem], *, where: str = "", instead: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem(where, problems, instead)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class InputError(EvertuneError):
    """Something the user wrote or pointed at is wrong."""

    exit_code = 2


class ConfigError(InputError):
    """A key or a value of the configuration is wrong."""


class DataError(InputError):
    """A data file or a row of it is wrong."""


class BackboneError(InputError):
    """A model folder, a hub id or its tokenizer cannot be used."""


class CapabilityError(InputError):
    """Two parts of the configuration do not work together."""


class CheckpointError(InputError):
    """A run folder or an adapter cannot be used: truncated, foreign or of another base model."""


class RunError(EvertuneError):
    """The run itself failed."""


class NonFiniteError(RunError):
    """A loss or a gradient norm is NaN or infinite."""


class MemoryExhaustedError(RunError):
    """The device ran out of memory."""


class Interrupted(EvertuneError):
    """Stopped by the user; the state is saved."""

    exit_code = 130


def did_you_mean(word: str, options: Sequence[str]) -> str:
    """``Did you mean `x`?`` for the nearest option, else the options themselves (at most twelve).

    Args:
        word: What was written.
        options: What exists.

    Returns:
        A sentence, empty if there are no options.
    """
    folded = {option.lower(): option for option in options}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    if near:
        return f"Did you mean `{folded[near[0]]}`?"
    if not options:
        return ""
    shown = ", ".join(options[:12])
    return f"Write one of: {shown}{', ...' if len(options) > 12 else ''}."
