"""Options of peft that another part of a run decides on: left out where a file of peft has them, else refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evertune.adapters.kinds import KINDS
from evertune.adapters.peft_config import task_of
from evertune.backbones.builtin import PREFIX, builtin_folder
from evertune.config.marks import Node
from evertune.config.typed import resolve_path
from evertune.errors import BackboneError

OF_THE_MODEL = ("token_dim", "num_layers", "num_attention_heads", "num_transformer_submodules")
"""Sizes of virtual tokens that peft takes from the model; in a file they are those of the model it was made for."""


def without_decided(
    kind: str, held: Mapping[str, Node], path: Path, task_type: str
) -> tuple[dict[str, Node], list[str]]:
    """The fields of a file of peft without those that the run decides on, and what to say of them.

    Args:
        kind: Name in `KINDS`.
        held: The fields as they are in the file.
        path: The file, for the sentences.
        task_type: `backbone.task_type`, empty if unknown.
    """
    kept, said = dict(held), list[str]()
    sizes = [name for name in OF_THE_MODEL if KINDS[kind].prompts and name in kept]
    if written := [name for name in sizes if kept[name].value is not None]:
        said.append(f"{path}: {', '.join(written)} left out, which follow from the model")
    for name in sizes:
        del kept[name]
    node = kept.get("modules_to_save")
    if node is not None and (heads := _heads(node, task_type)):
        said.append(f"{path}: `modules_to_save` without {', '.join(heads)}: heads are trained anyway")
        others = [one for one in _entries(node) if one.value not in heads]
        kept["modules_to_save"] = node.with_value([*others] or None)
    return kept, said


def why_decided(kind: str, name: str, node: Node, task_type: str) -> str:
    """Why an option that was written is decided elsewhere; empty if it is not."""
    if name in OF_THE_MODEL and KINDS[kind].prompts and node.value is not None:
        return "follows from the model."
    if name == "modules_to_save" and (heads := _heads(node, task_type)):
        return f"names {', '.join(heads)}, and heads are trained anyway."
    return ""


def tokenizer_place(node: Node, model: str) -> tuple[str | None, str]:
    """Where the tokenizer of a text that virtual tokens begin as is, and what is wrong with it.

    Args:
        node: ``builtin:NAME``, a folder (relative ones start at the file that names them), or a hub id.
        model: `backbone.path`, whose tokenizer needs no name.

    Returns:
        The absolute folder or the hub id, None for that of the model; and a sentence, empty if nothing is wrong.
    """
    text = node.value
    assert isinstance(text, str)
    folder = resolve_path(text, node)
    if text == model or (folder.is_dir() and str(folder) == model):
        return None, ""
    if text.startswith(PREFIX):
        try:
            return str(builtin_folder(text.removeprefix(PREFIX))), ""
        except BackboneError as error:
            return None, error.problems[0].what
    if folder.is_dir():
        return str(folder), ""
    is_path = text.startswith((".", "/", "~")) or text.count("/") > 1
    return text, f"there is no folder {folder}." if is_path else ""


def _heads(node: Node, task_type: str) -> list[str]:
    """What is a head among the modules named, of a model that does not answer in text."""
    if not task_type or task_of(task_type) is not None:
        return []
    from evertune.adapters.roles import HEAD, role_of

    names = [one.value for one in _entries(node) if isinstance(one.value, str)]
    return [name for name in names if role_of(name) == HEAD or "pooler" in name.split(".")]


def _entries(node: Node) -> list[Node]:
    return node.value if isinstance(node.value, list) else []
