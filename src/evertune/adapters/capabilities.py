"""What every kind of adapter can do on every kind of task: measured, kept as a table in the package."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evertune.adapters.spec import AdapterSpec

FILE = "capabilities.json"
COLUMNS: Mapping[str, str] = {
    "trains": "the loss falls",
    "reloads": "saved and read by peft on the untouched model, outputs are equal to 1e-5",
    "several": "several take part together, and the sum is what each learnt",
    "merges": "written into the weights, outputs are equal to 1e-5",
}
"""What is measured, and what it means."""


@dataclass(frozen=True)
class Capability:
    """What a kind can do on a kind of task.

    Attributes:
        can: By the name of a column, whether it can.
        why: By the name of a column, why it cannot.
    """

    can: Mapping[str, bool]
    why: Mapping[str, str]

    @property
    def usable(self) -> bool:
        """Whether it learns and what it learnt can be read again."""
        return self.can["trains"] and self.can["reloads"]

    @property
    def reason(self) -> str:
        """Why it is not usable; empty if it is."""
        return "" if self.usable else self.why.get("trains") or self.why["reloads"]


@cache
def capability_table() -> dict[str, dict[str, Capability]]:
    """Kind or variant (``lora use_dora``) to task type to what it can do."""
    text = (resources.files("evertune.adapters") / FILE).read_text(encoding="utf-8")
    return {
        kind: {task: Capability(cell["can"], cell.get("why", {})) for task, cell in row.items()}
        for kind, row in json.loads(text)["table"].items()
    }


@cache
def quantised_table() -> dict[str, dict[str, str]]:
    """Kind or variant to the words of `backbone.quantization` to why it cannot be used there; empty where it can."""
    text = (resources.files("evertune.adapters") / FILE).read_text(encoding="utf-8")
    return json.loads(text).get("quantised", {})


def unusable(kind: str, task_type: str) -> str:
    """Why a kind, or a variant of one, cannot be used for a task type; empty if it can, or was not measured."""
    cell = capability_table().get(kind, {}).get(task_type)
    return "" if cell is None else cell.reason


def why_not(spec: AdapterSpec, task_type: str, quantization: str | None) -> str:
    """Why adapters cannot be used for a task type on such a model; empty if nothing is known against them."""
    for name in lines_of(spec):
        if why := unusable(name, task_type):
            return f"for {task_type}: {why}"
        if quantization and (why := quantised_table().get(name, {}).get(quantization, "")):
            return f"on a model of {quantization} weights: {why}"
    return ""


def lines_of(spec: AdapterSpec) -> list[str]:
    """The lines of the table that say something about an adapter: its kind's, and those of its options."""
    begin = re.sub(r"\d+$", "4", str(spec.options.get("init_lora_weights", "")))
    named = [f"{spec.kind} {option}" for option in spec.options]
    return [
        spec.kind,
        f"{spec.kind} init_lora_weights: {begin}",
        f"{spec.kind} bias: {spec.options.get('bias')}",
        *named,
    ]
