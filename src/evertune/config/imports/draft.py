"""A configuration that is being made of somebody else's: values, where they are from, and what is left over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evertune.config.marks import Plain
from evertune.config.models import task_type_of
from evertune.config.single_task import PEFT_TASK_TYPES
from evertune.config.spellings import Spelling, Unfit, by_name
from evertune.errors import InputError

UNKNOWN = "nothing here is known by this name"


@dataclass(frozen=True, slots=True)
class Left:
    """A key that was not taken over.

    Attributes:
        key: As it is called there.
        value: As it stands there.
        why: Why.
    """

    key: str
    value: Plain
    why: str

    def __str__(self) -> str:
        text = json.dumps(self.value, ensure_ascii=False)
        return f"{self.key}: {text if len(text) <= 60 else f'{text[:57]}...'}: {self.why}"


@dataclass
class Draft:
    """A configuration under way.

    Attributes:
        origin: The file, as the user named it.
        kind: What was found in it, in words.
        values: Dotted keys to values.
        comments: Dotted keys to where their values are from.
        tasks: The tasks.
        left: What was not taken over.
        notes: What was assumed.
    """

    origin: str
    kind: str
    values: dict[str, Plain] = field(default_factory=dict[str, Plain])
    comments: dict[str, str] = field(default_factory=dict[str, str])
    tasks: list[dict[str, Plain]] = field(default_factory=list[dict[str, Plain]])
    left: list[Left] = field(default_factory=list[Left])
    notes: list[str] = field(default_factory=list[str])

    def put(self, key: str, value: Plain, comment: str = "") -> None:
        """Gives a key its value."""
        self.values[key] = value
        self.comments[key] = comment

    def leave(self, key: str, value: Plain, why: str) -> None:
        """Notes a key that is not taken over."""
        self.left.append(Left(key, value, why))

    def take(self, arguments: Mapping[str, Plain]) -> None:
        """Takes over every argument that the table of spellings knows; notes the others, and why."""
        known = by_name()
        for name, value in arguments.items():
            spelling = known.get(name)
            if spelling is None:
                self.leave(name, value, UNKNOWN)
            elif not spelling.key:
                self.leave(name, value, spelling.why)
            else:
                self._take(name, value, spelling)

    def _take(self, name: str, value: Plain, spelling: Spelling) -> None:
        key, why = spelling.key, spelling.why
        try:
            found = None if value is None else spelling.read(value)
        except Unfit as error:
            self.leave(name, value, str(error))
            return
        if found is None or found is False:
            self.leave(name, value, f"`{key}` is not set by it")
        elif key in self.values and self.values[key] != found:
            self.leave(name, value, f"`{key}` is {json.dumps(self.values[key])} already")
        else:
            self.put(key, found, f"{name}{f', {why}' * bool(why)}" if why or name != key.rpartition(".")[2] else "")


def add_model(draft: Draft, folder: Path, told: Plain = None) -> None:
    """Completes the section `backbone`: a local path starts at the configuration, and the task type is named.

    Args:
        draft: The configuration under way; `backbone.path` is as it was written there.
        folder: Folder of the configuration.
        told: peft's name of the task type, if the file holds one.

    Raises:
        InputError: If the model is no text.
    """
    text = draft.values.get("backbone.path")
    if text is not None and not isinstance(text, str):
        name = draft.comments["backbone.path"].partition(",")[0] or "backbone.path"
        what = f"`{name}` is {json.dumps(text)[:40]}, which names no model."
        raise InputError(what, where=draft.origin, instead="Write a folder or a hub id.")
    if not text:
        draft.put("backbone.path", "builtin:tiny-llama", "no model is named: write yours")
        return
    path = Path(text).expanduser()
    kind, why = PEFT_TASK_TYPES.get(str(told)), "task_type"
    if kind is None:
        kind, why = task_type_of(path), "as the model's configuration says"
    if kind is None:
        kind = "seq2seq_lm" if "t5" in path.name.lower() else "causal_lm"
        why = "assumed: check it"
    draft.put("backbone.task_type", kind, why)
    if path.exists():
        draft.values["backbone.path"] = relative(path, folder)


def relative(path: Path, folder: Path) -> str:
    """A path as a configuration in `folder` must have it."""
    return Path(os.path.relpath(path.expanduser().resolve(), folder.resolve())).as_posix()
