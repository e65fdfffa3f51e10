"""Names of tasks become names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evertune.errors import ConfigError, Problem

# Room for the number and the suffix beside it: most file systems take 255 bytes.
_LONGEST = 100
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_task_names(names: Sequence[str], *, where: str) -> None:
    """Checks that every name can be a file name, and that no two are one file name on any system.

    Args:
        names: The names in the order of the stream.
        where: Key of the configuration that holds them.

    Raises:
        ConfigError: With all wrong names.
    """
    problems = [
        Problem(where, f"The task name {name!r} cannot be a file name.", "Use letters, digits, `-`, `_` and `.`.")
        for name in names
        if not _NAME.fullmatch(name)
    ]
    problems += [
        Problem(where, f"The task name {name[:20]!r}... has {len(name)} characters.", f"Use at most {_LONGEST}.")
        for name in names
        if len(name) > _LONGEST
    ]
    twice = sorted({name for name in names if list(names).count(name) > 1})
    problems += [Problem(where, f"Two tasks are named `{name}`.", "Give each its own name.") for name in twice]
    problems += _alike(list(dict.fromkeys(names)), where)
    if problems:
        raise ConfigError(problems)


def _alike(names: Sequence[str], where: str) -> list[Problem]:
    """Names that are one file on a system that does not tell capital letters from small ones."""
    first: dict[str, str] = {}
    return [
        Problem(
            where, f"The task names `{before}` and `{name}` differ in capital letters alone.", "Rename one of them."
        )
        for name in names
        if (before := first.setdefault(name.lower(), name)) != name
    ]
