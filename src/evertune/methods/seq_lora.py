"""Sequential LoRA: one adapter, trained on from task to task. The baseline that forgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from evertune.methods.base import Method


@dataclass(frozen=True, kw_only=True)
class SeqLoRA(Method):
    """One adapter, trained on from task to task; nothing protects the earlier ones."""

    owns: ClassVar[frozenset[str]] = frozenset({"adapters"})
