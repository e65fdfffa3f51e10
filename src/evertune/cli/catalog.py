"""What exists, by kind, with one sentence about each."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from evertune.adapters.kinds import KINDS
from evertune.backbones import BACKBONES
from evertune.backbones.builtin import PREFIX, builtin_folder, builtin_names
from evertune.config.describe import plain_text
from evertune.config.load import recipes
from evertune.methods import METHODS
from evertune.metrics import METRICS
from evertune.metrics.base import Metric
from evertune.registry import Registry
from evertune.streams import STREAMS


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that exists.

    Attributes:
        name: As it is written in a configuration.
        summary: One sentence.
    """

    name: str
    summary: str


REGISTRIES: dict[str, Registry] = {
    "methods": METHODS,
    "streams": STREAMS,
    "task-types": BACKBONES,
    "metrics": METRICS,
}


def entries(kind: str) -> list[Entry]:
    """Everything of a kind, in order."""
    if kind in REGISTRIES:
        registry = REGISTRIES[kind]
        return [Entry(name, first_sentence(registry.get(name))) for name in registry.names()]
    other: dict[str, Callable[[], list[Entry]]] = {
        "recipes": _recipes,
        "templates": _templates,
        "models": _models,
        "adapters": _adapters,
    }
    return other[kind]()


def first_sentence(thing: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    own = thing if inspect.isclass(thing) or inspect.isfunction(thing) else type(thing)
    if isinstance(thing, Metric):
        own = thing.function
    return plain_text(" ".join((inspect.getdoc(own) or "").split("\n\n")[0].split()))


def _recipes() -> list[Entry]:
    return [Entry(name, recipe_summary(path)) for name, path in recipes().items()]


def recipe_summary(path: Path) -> str:
    """The comment that a recipe begins with."""
    lines: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _templates() -> list[Entry]:
    """The ``adapter_config.json`` files of peft that lie beside the recipes, to be copied and changed."""
    found: list[Entry] = []
    for file in sorted((Path(str(files("evertune"))) / "recipes" / "peft").glob("*.json")):
        kind = json.loads(file.read_text(encoding="utf-8"))["peft_type"].lower()
        found.append(Entry(file.stem, f"{KINDS[kind].summary.rstrip('.')} ({file})"))
    return found


def _adapters() -> list[Entry]:
    return [Entry(name, kind.summary) for name, kind in KINDS.items()]


def _models() -> list[Entry]:
    found: list[Entry] = []
    for name in builtin_names():
        config = json.loads((builtin_folder(name) / "config.json").read_text(encoding="utf-8"))
        size = sum(file.stat().st_size for file in builtin_folder(name).glob("*.safetensors"))
        kind = ", ".join(config.get("architectures") or [])
        found.append(Entry(f"{PREFIX}{name}", f"{kind}, {size / 1e6:.1f} MB of weights, comes with the package."))
    return found
