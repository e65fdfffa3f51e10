"""What a configuration file may hold: its sections, and how each is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Le, Len

from evertune.adapters.spec import AdapterSpec
from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.config.hints import fields_of
from evertune.config.marks import Node, invented, join
from evertune.config.messages import described, unknown_key
from evertune.config.models import builtin_models, identify
from evertune.config.typed import INVALID, Findings, build_section
from evertune.errors import ConfigError, did_you_mean
from evertune.evaluation.config import EvaluationConfig
from evertune.methods import METHODS
from evertune.methods.base import Method
from evertune.registry import Registry
from evertune.streams import STREAMS
from evertune.training.config import TrainConfig

if TYPE_CHECKING:
    from evertune.settings import StreamConfig


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What stands outside the sections.

    Attributes:
        seed: The one seed: of data order, initial weights, dropout and everything else.
        output_dir: The run folder; ``runs/<name of the file>`` by default.
        run_name: Name shown in reports; the name of the run folder by default.
    """

    seed: Annotated[int, Ge(0), Le(2**63 - 1)] = 42
    output_dir: Path | None = None
    run_name: Annotated[str, Len(1)] | None = None


SECTIONS: Mapping[str, type] = {
    "backbone": BackboneConfig,
    "adapter": AdapterSpec,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
"""Sections that are one dataclass each."""

REGISTERED: Mapping[str, Registry] = {"stream": STREAMS, "method": METHODS}
"""Sections whose options depend on the `name` in them."""

SECTION_DOCS: Mapping[str, str] = {
    "stream": "What is learnt, in which order: the name of a stream and its options, or a list of tasks written out.",
    "backbone": "Which model is fine-tuned.",
    "adapter": "The adapters: kind, size, and where they sit.",
    "method": "How the next task is learnt without losing the others: a name, a name with options, or a list of these.",
    "train": "How one task is learnt.",
    "evaluation": "How and when tasks are scored.",
    "after_first": "Keys of train, method and evaluation that hold for every task but the first.",
    "per_task": "Keys of train, method and evaluation that hold for one task, by its name; they beat `after_first`.",
}

OVERRIDABLE = ("train", "method", "evaluation")
"""Sections that `after_first` and `per_task` may change."""

DEFAULT_METHOD = "seq-lora"
# Task types of which a model is made for one; others put a head on any model.
_IN_TEXT = ("causal_lm", "seq2seq_lm")


def top_level_keys() -> list[str]:
    """All keys of a file, in the order in which they are written out."""
    return [*(field.name for field in fields_of(RunOptions)), *SECTION_DOCS]


def elsewhere(section: str) -> dict[str, str]:
    """Keys of all other sections to their dotted names: where a misplaced key belongs."""
    found = {field.name: f"{name}.{field.name}" for name, cls in SECTIONS.items() for field in fields_of(cls)}
    own = fields_of(SECTIONS[section]) if section in SECTIONS else ()
    return {key: dotted for key, dotted in found.items() if key not in {field.name for field in own}}


def check_top_level(root: Node, findings: Findings) -> dict[str, Node]:
    """The top-level nodes by key, unknown ones noted.

    Raises:
        ConfigError: If the file is empty or no mapping.
    """
    advice = "Write at least `stream:` and `backbone:`; `evertune init` writes a file to start from."
    if root.value is None or root.value == {}:
        raise ConfigError(root.problem("The file is empty.", advice))
    if not isinstance(root.value, dict):
        kind = "a list" if isinstance(root.value, list) else described(root.plain)
        raise ConfigError(root.problem(f"The file must hold keys and values, not {kind}.", advice))
    options = top_level_keys()
    for key, child in root.value.items():
        if key not in options:
            findings.at(child, "is not a key of a configuration.", _top_advice(child, key, options), at_key=True)
    return root.value


def _top_advice(node: Node, key: str, options: Sequence[str]) -> str:
    section, _, rest = key.partition(".")
    if rest and section in options:
        return f"Write `{section}:` and, indented below it, `{rest}: ...`."
    return unknown_key(node, key, options, elsewhere(""))


def build_options(root: Node, written: Mapping[str, Node], findings: Findings) -> Any:
    """The `RunOptions`."""
    names = {field.name for field in fields_of(RunOptions)}
    own = root.with_value({key: node for key, node in written.items() if key in names})
    return build_section(RunOptions, own, findings)


def named_entry(node: Node, kind: Registry) -> Node:
    """A registry section in its one form, ``{name: ..., options}``."""
    if isinstance(node.value, str):
        return node.with_value({"name": dataclasses.replace(node, key=join(node.key, "name"))})
    return node


def build_registered(node: Node, registry: Registry, findings: Findings) -> tuple[str, Any]:
    """One entry of a registry with its options: (name, object or `INVALID`)."""
    node = named_entry(node, registry)
    if not isinstance(node.value, dict):
        what = f"must be the name of a {registry.kind}, or a mapping with `name`, got {described(node.plain)}."
        return "", findings.at(node, what)
    name = node.value.get("name")
    if name is None:
        names = ", ".join(registry.names())
        return "", findings.at(
            node, f"needs `name`, the name of a {registry.kind}.", f"There are: {names}.", at_key=True
        )
    if not isinstance(name.value, str):
        return "", findings.at(name, f"must be the name of a {registry.kind}, got {described(name.plain)}.")
    try:
        cls = registry.get(name.value)
    except ConfigError as error:
        (problem,) = error.problems
        return "", findings.at(name, f"there is no {registry.kind} `{name.value}`.", problem.instead)
    value = build_section(cls, node, findings, name=f"{registry.kind} {name.value}", ignored=("name",))
    return name.value, value


def build_stream(node: Node, findings: Findings) -> tuple[str, StreamConfig]:
    """The stream; a list of tasks written out is the stream ``instructions``."""
    if isinstance(node.value, list):
        tasks = node.renamed("stream.tasks")
        node = node.with_value({"name": invented("instructions", node, "stream.name"), "tasks": tasks})
    return build_registered(node, STREAMS, findings)


def method_entries(node: Node | None, root: Node) -> list[Node]:
    """The methods in one form each: a list of mappings with `name`."""
    if node is None:
        node = invented(DEFAULT_METHOD, root, "method")
    items = node.value if isinstance(node.value, list) else [node]
    return [named_entry(item, METHODS) for item in items]


def build_methods(entries: Sequence[Node], node: Node, findings: Findings) -> tuple[tuple[str, Method], ...]:
    """The composed methods."""
    if not entries:
        return findings.at(
            node, "is an empty list.", f"Name at least one method, or leave the key out for {DEFAULT_METHOD}."
        )
    built = tuple(build_registered(entry, METHODS, findings) for entry in entries)
    return INVALID if any(method is INVALID for _, method in built) else built


def build_backbone(node: Node, findings: Findings) -> Any:
    """The backbone: the task type of a built-in model may be left out, local paths become absolute."""
    if isinstance(node.value, dict) and "path" in node.value and isinstance(node.value["path"].value, str):
        path = node.value["path"]
        model = identify(path, findings)
        values = {**node.value, "path": model.path}
        if "task_type" in values:
            _check_task_type(values["task_type"], path, model.task_type, findings)
        elif model.task_type is not None and model.built_in:
            values["task_type"] = invented(model.task_type, path, "backbone.task_type")
        elif model.built_in and path.value not in builtin_models():
            values["task_type"] = invented("", path, "backbone.task_type")  # an unknown model is noted already
        else:
            values["task_type"] = _missing_task_type(node, model.task_type, findings)
        node = node.with_value(values)
    return build_section(BackboneConfig, node, findings, elsewhere=elsewhere("backbone"))


def _missing_task_type(node: Node, guess: str | None, findings: Findings) -> Node:
    names = f"one of: {', '.join(BACKBONES.names())}"
    instead = f"Write `task_type: {guess}`, which fits this model." if guess else f"Write {names}."
    findings.at(node, "needs `task_type`: what the model is asked to do.", instead, at_key=True)
    return invented("", node, "backbone.task_type")


def _check_task_type(written: Node, path: Node, implied: str | None, findings: Findings) -> None:
    if not isinstance(written.value, str):
        return
    if written.value not in BACKBONES:
        instead = did_you_mean(written.value, BACKBONES.names())
        findings.at(written, f"there is no task type `{written.value}`.", instead)
    elif implied is not None and written.value in _IN_TEXT and written.value != implied:
        what = f"{written.value} does not fit the model {path.value}."
        findings.at(written, what, f"Write `task_type: {implied}`.")
