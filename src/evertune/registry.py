"""Names to classes, looked up late: a registry line costs no import until the name is used."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any

from evertune.errors import ConfigError, did_you_mean


class Registry:
    """Maps the names users write to ``"module:attribute"``.

    Packages outside add to it through the entry-point group ``evertune.<kind>s``; a name of our own cannot be
    replaced that way.

    Attributes:
        kind: What it holds, singular, as said in errors: ``method``, ``stream``.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        self.kind = kind
        self._own = dict(entries)

    def _entries(self) -> dict[str, str]:
        foreign = {point.name: point.value for point in entry_points(group=f"evertune.{self.kind}s")}
        return {**foreign, **self._own}

    def names(self) -> list[str]:
        """All names, in the order in which they were registered."""
        entries = self._entries()
        return [*self._own, *sorted(set(entries) - set(self._own))]

    def __contains__(self, name: str) -> bool:
        return name in self._entries()

    def get(self, name: str, *, where: str = "") -> Any:
        """Imports and returns what is registered under `name`.

        Raises:
            ConfigError: If there is no such name; the message suggests the nearest.
        """
        entries = self._entries()
        if name not in entries:
            raise ConfigError(
                f"There is no {self.kind} `{name}`.", where=where, instead=did_you_mean(name, self.names())
            )
        module, _, attribute = entries[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
