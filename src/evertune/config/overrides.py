"""``--set key.path=value``: changes to a configuration as it was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evertune.config.marks import Node, Place, invented, join, parse
from evertune.config.schema import OVERRIDABLE, REGISTERED, named_entry
from evertune.config.typed import Findings
from evertune.errors import ConfigError, Problem

_FORM = "Write `--set key.path=value`, for example `--set train.learning_rate=1e-4`."


def apply_overrides(root: Node, overrides: Sequence[str], findings: Findings, folder: Path) -> Node:
    """The configuration with every ``key.path=value`` applied, in the order given.

    A value is read as YAML. What stood under the key is replaced; paths are relative to `folder`.

    Args:
        root: The file as written.
        overrides: What followed each ``--set``.
        findings: Where problems go.
        folder: Folder that relative paths in the values start from.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key or not all(key.split(".")):
            findings.add(Problem(f"--set {override}", "This is not of the form key.path=value.", _FORM))
            continue
        source = f"--set {key}"
        try:
            value = parse(text, source=source, folder=folder, key=key, line=False)
        except ConfigError as error:
            for problem in error.problems:
                findings.add(problem)
            continue
        root = _set(root, _parts(key, value), replace(value, key_place=Place(source, 0, 0, folder)), findings)
    return root


def _parts(key: str, value: Node) -> list[str]:
    """The steps of a key; the name of a task below `per_task` may hold dots itself.

    Where no section is found in it, a single value must belong to an option of a misspelt one.
    """
    parts = key.split(".")
    if parts[0] != "per_task" or len(parts) == 1:
        return parts
    sections = [index for index, part in enumerate(parts[:-1]) if part in OVERRIDABLE and index >= 2]
    if not sections and len(parts) > 3 and not isinstance(value.value, dict):
        sections = [len(parts) - 2]
    end = sections[-1] if sections else len(parts)
    return ["per_task", ".".join(parts[1:end]), *parts[end:]]


def _set(node: Node, parts: Sequence[str], value: Node, findings: Findings) -> Node:
    """The node with the value below it at `parts`."""
    if not parts:
        return value.renamed(node.key)
    if isinstance(node.value, list):
        return _set_in_list(node, parts, value, findings)
    if isinstance(node.value, str) and node.key in REGISTERED:
        node = named_entry(node, REGISTERED[node.key])
    below = dict(node.value) if isinstance(node.value, dict) else {}
    if isinstance(node.value, dict) or node.value is None:
        _drop_dotted(below, parts)
        child = below.get(parts[0]) or invented(None, replace(value, key=node.key), join(node.key, parts[0]))
        below[parts[0]] = _set(child, parts[1:], value, findings)
        return node.with_value(below)
    findings.add(value.problem(f"`{node.key}` is a single value here and has no `{parts[0]}`."))
    return node


def _drop_dotted(below: dict[str, Node], parts: Sequence[str]) -> None:
    """What the file wrote as ``train.max_steps: 5`` is the same option as ``train: {max_steps: 5}``."""
    for count in range(2, len(parts) + 1):
        below.pop(".".join(parts[:count]), None)


def _set_in_list(node: Node, parts: Sequence[str], value: Node, findings: Findings) -> Node:
    """Items of a list are named by their number, or by the `name` in them."""
    assert isinstance(node.value, list)
    names = [str(_name_of(item)) for item in node.value]
    numbers = [str(index) for index in range(len(names))]
    if parts[0] in names or parts[0] in numbers:
        index = names.index(parts[0]) if parts[0] in names else int(parts[0])
        items = list(node.value)
        item = items[index]
        if len(parts) > 1 and isinstance(item.value, str):
            item = named_entry(item, REGISTERED["method"])
        items[index] = _set(item, parts[1:], value, findings)
        return node.with_value(items)
    there = ", ".join(names) or "nothing"
    findings.add(value.problem(f"the list `{node.key}` has no `{parts[0]}`.", f"It has: {there}."))
    return node


def _name_of(item: Node) -> object:
    if isinstance(item.value, dict):
        name = item.value.get("name")
        return name.plain if name else None
    return item.value
