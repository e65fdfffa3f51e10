"""What `backbone.path` names, as far as the name and the folder itself tell."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from evertune.backbones.builtin import PREFIX, builtin_names, builtin_root
from evertune.config.marks import Node
from evertune.config.typed import Findings, resolve_path
from evertune.errors import did_you_mean

# Not a hub id: those are at most `owner/name`.
_LOCAL = re.compile(r"[.~/\\]|[A-Za-z]:[/\\]|[^/]*/[^/]*/")


def builtin_models() -> list[str]:
    """Names of the models that come with the package, with their prefix."""
    return [f"{PREFIX}{name}" for name in builtin_names()]


@dataclass(frozen=True, slots=True)
class NamedModel:
    """What `backbone.path` names.

    Attributes:
        path: The path: absolute for a local folder, as written for a hub id or a built-in name.
        built_in: Whether it is a built-in name.
        task_type: The language-model task type that the model is made for, None if nothing local tells.
    """

    path: Node
    built_in: bool
    task_type: str | None


def identify(node: Node, findings: Findings) -> NamedModel:
    """Tells built-in models, local folders and hub ids apart; unknown built-in names are noted."""
    text = str(node.value)
    if not text.startswith(PREFIX):
        path = _local_or_hub(node, findings)
        return NamedModel(path, False, task_type_of(Path(str(path.value))))
    if text not in builtin_models():
        name = text.removeprefix(PREFIX)
        findings.at(node, f"there is no built-in model `{name}`.", did_you_mean(text, builtin_models()))
        return NamedModel(node, True, None)
    return NamedModel(node, True, task_type_of(builtin_root() / text.removeprefix(PREFIX)))


def task_type_of(folder: Path) -> str | None:
    """The language-model task type of a model folder by its own configuration; None if it does not tell."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    names = " ".join(config.get("architectures") or ())
    if "ForConditionalGeneration" in names and "AutoModelForCausalLM" in (config.get("auto_map") or ()):
        return "causal_lm"  # classes of a model's own code may be called anything
    if "ForConditionalGeneration" in names or config.get("is_encoder_decoder"):
        return "seq2seq_lm"
    return "causal_lm" if "CausalLM" in names or "LMHead" in names else None


def _local_or_hub(node: Node, findings: Findings) -> Node:
    """A local folder as an absolute path; a hub id as it is."""
    text = str(node.value)
    if not text:
        return node
    local = resolve_path(text, node)
    begins_with_a_folder = "/" in text and (node.place.folder / text.partition("/")[0]).is_dir()
    if local.exists() or begins_with_a_folder or _LOCAL.match(text):
        return replace(node, value=str(local))
    if Path(text).exists():
        findings.at(
            node,
            f"there is no {text} in {node.place.folder}, where this file is; only in the current folder.",
            f"Paths are relative to the file that they stand in: write {Path(text).resolve()}.",
        )
    return node
