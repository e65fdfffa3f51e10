"""What holds while which task is learnt: the base, ``after_first`` over it, ``per_task`` over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evertune.config.marks import Node, Plain
from evertune.config.messages import described
from evertune.config.schema import OVERRIDABLE, build_methods, elsewhere
from evertune.config.typed import INVALID, Findings, build_section, plain_value
from evertune.errors import did_you_mean
from evertune.evaluation.config import EvaluationConfig
from evertune.settings import StageSettings
from evertune.training.config import TrainConfig

Changes = dict[str, dict[str, Node]]
"""Section (``train``, ``evaluation``, ``method.replay``) to the options written for it."""


@dataclass(frozen=True)
class Base:
    """The sections that can change from task to task, as written.

    Attributes:
        root: The whole file.
        train: The section `train`.
        evaluation: The section `evaluation`.
        method: The section `method`.
        methods: Its entries, each a mapping with `name`.
    """

    root: Node
    train: Node
    evaluation: Node
    method: Node
    methods: Sequence[Node]

    @property
    def method_names(self) -> list[str]:
        """Names of the composed methods, in order."""
        found = [item.value.get("name") if isinstance(item.value, dict) else None for item in self.methods]
        return [str(name.value) if name else "" for name in found]


def read_changes(node: Node | None, base: Base, findings: Findings) -> Changes:
    """The options written in one block of ``per_task`` or in ``after_first``, with dotted keys taken apart."""
    changes: Changes = {}
    if node is None or node.value is None:
        return changes
    if not isinstance(node.value, dict):
        findings.at(node, f"must be a mapping of options, got {described(node.plain)}.", _EXAMPLE)
        return changes
    for key, child in node.value.items():
        section, *rest = key.split(".")
        if section not in OVERRIDABLE:
            findings.at(child, "is not a key of train, method or evaluation.", _section_advice(key), at_key=True)
        elif not all(rest):
            findings.at(child, "has an empty part in its dotted key.", _EXAMPLE, at_key=True)
        else:
            _read_section(section, rest, child, base, changes, findings)
    return changes


_EXAMPLE = "Write for example `{train.num_train_epochs: 2}`."


def _section_advice(key: str) -> str:
    where = elsewhere("")
    if key in where and where[key].split(".")[0] in OVERRIDABLE:
        return f"Did you mean `{where[key]}`?"
    section, _, rest = key.partition(".")
    near = did_you_mean(section, OVERRIDABLE)
    return f"Did you mean `{near.split('`')[1]}{'.' if rest else ''}{rest}`?" if near.startswith("Did") else _EXAMPLE


def _read_section(section: str, rest: list[str], node: Node, base: Base, changes: Changes, findings: Findings) -> None:
    """Notes the options below ``train``, ``method`` or ``evaluation``, whatever way they are nested."""
    if not rest:
        if not isinstance(node.value, dict):
            what = f"must be a mapping of options here, got {described(node.plain)}."
            findings.at(node, what, "The method itself is the same for all tasks." if section == "method" else "")
            return
        for key, child in node.value.items():
            _read_section(section, key.split("."), child, base, changes, findings)
        return
    if section == "method" and rest[0] in base.method_names:
        _read_section(f"method.{rest[0]}", rest[1:], node, base, changes, findings)
        return
    if section == "method":
        names = base.method_names
        if len(names) > 1:
            findings.at(node, "does not say which method it belongs to.", _which_method(names, rest), at_key=True)
            return
        section = f"method.{names[0]}"
    if section.startswith("method.") and rest[0] == "name":
        findings.at(node, "cannot change from task to task; only the method's options can.", at_key=True)
        return
    own = changes.setdefault(section, {})
    if rest[0] in own:
        findings.at(node, "is written twice, in two ways.", "Keep one of the two.", at_key=True)
    own[rest[0]] = _nest(rest[1:], node)


def _which_method(names: Sequence[str], rest: Sequence[str]) -> str:
    return "Write " + " or ".join(f"`method.{name}.{'.'.join(rest)}`" for name in names if name) + "."


def _nest(rest: Sequence[str], node: Node) -> Node:
    """``during_training.steps: 5`` as ``{steps: 5}``."""
    for part in reversed(rest):
        node = node.with_value({part: node})
    return node


def _changed(node: Node, changes: Mapping[str, Node]) -> Node:
    own = node.value if isinstance(node.value, dict) else {}
    return node.with_value({**own, **changes}) if changes else node


def build_stage(base: Base, layers: Sequence[Changes], findings: Findings) -> StageSettings:
    """The settings of a stage: the base with each layer of changes over it; `INVALID` if anything is wrong."""

    def over(section: str, node: Node) -> Node:
        for layer in layers:
            node = _changed(node, layer.get(section, {}))
        return node

    train = build_section(
        TrainConfig, over("train", base.train), findings, name="`train`", elsewhere=elsewhere("train")
    )
    evaluation = build_section(
        EvaluationConfig,
        over("evaluation", base.evaluation),
        findings,
        name="`evaluation`",
        elsewhere=elsewhere("evaluation"),
    )
    entries = [over(f"method.{name}", item) for name, item in zip(base.method_names, base.methods, strict=True)]
    methods = build_methods(entries, base.method, findings)
    if any(part is INVALID for part in (train, evaluation, methods)):
        return INVALID
    return StageSettings(train, methods, evaluation)


def check_changes(changes: Changes, findings: Findings) -> None:
    """Notes options that cannot differ from task to task."""
    for key, why in _FOR_ALL.items():
        written = changes.get("evaluation", {}).get(key)
        if written is not None:
            findings.at(written, f"has no meaning here: {why}.", "Write it under `evaluation`.", at_key=True)


_FOR_ALL = {
    "zero_shot": "the untouched model is scored once, before the first task",
    "safety": "refusals are compared over the stages, so all answer the same prompts",
}


def resolved_changes(changes: Changes, stage: StageSettings) -> dict[str, Plain]:
    """The changes as plain values, nested, as they were checked in `stage`."""
    objects: dict[str, object] = {"train": stage.train, "evaluation": stage.evaluation}
    objects |= {f"method.{name}": method for name, method in stage.methods}
    plain: dict[str, Plain] = {}
    for section in sorted(changes):
        written = {key: plain_value(getattr(objects[section], key)) for key in changes[section]}
        if section.startswith("method."):
            methods = plain.setdefault("method", {})
            assert isinstance(methods, dict)
            methods[section.removeprefix("method.")] = written
        else:
            plain[section] = written
    return plain
