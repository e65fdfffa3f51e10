"""Numbers as people read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evertune.console import duration

NOTHING = "–"


def percent(value: float | None, *, digits: int = 1, signed: bool = False) -> str:
    """A score in [0, 1] in percent, ``97.7``; a dash for None."""
    if value is None:
        return NOTHING
    text = f"{100 * value:{'+' if signed else ''}.{digits}f}"
    # A rounded -0.0 would look like a loss.
    return text.replace("-", "−") if float(text) else text.lstrip("+-")


def number(value: float | None, *, digits: int = 2) -> str:
    """A real number with fixed digits; a dash for None."""
    return NOTHING if value is None else f"{value:.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    """A count with separators, ``1,520,000``; a dash for None."""
    return NOTHING if value is None else f"{round(value):,}"


def size(value: float | None) -> str:
    """Bytes in the largest sensible unit, ``1.2 GB``; a dash for None."""
    if value is None:
        return NOTHING
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def time(value: float | None) -> str:
    """Seconds, ``7 s`` or ``2:05``; a dash for None."""
    return NOTHING if value is None else duration(value)


def plain(value: Any) -> str:
    """Any JSON value as short text: ``train: 3, test: 1``, ``a, b``."""
    if value is None:
        return NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
