"""Names of adapters in a bank."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from evertune.errors import RunError


def require(names: Iterable[str], held: Sequence[str]) -> None:
    """Checks that a bank holds these adapters.

    Raises:
        RunError: Naming the others, and what it holds.
    """
    if missing := [name for name in names if name not in held]:
        there = f"It holds: {', '.join(held)}." if held else "It holds none."
        raise RunError(f"The bank has no adapter `{'`, `'.join(missing)}`.", instead=there)


def require_new(name: str, held: Sequence[str]) -> None:
    """Checks that a new adapter can have this name.

    Raises:
        RunError: If it is taken or not allowed.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise RunError(f"`{name}` cannot name an adapter: letters, digits, `-` and `_` can.")
    if name in held:
        raise RunError(f"There is an adapter `{name}` already.")
