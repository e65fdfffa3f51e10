"""Names of tasks become names of files and folders."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evertune.errors import ConfigError, Problem

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_task_names(names: Sequence[str], *, where: str) -> None:
    """Checks that every name can be a file name, and that no two are equal.

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
    twice = sorted({name for name in names if list(names).count(name) > 1})
    problems += [Problem(where, f"Two tasks are named `{name}`.", "Give each its own name.") for name in twice]
    if problems:
        raise ConfigError(problems)
