"""LLaMA-Factory's ``dataset_info.json``: one task for each entry.

Source: data/README.md of LLaMA-Factory (Zheng et al., 2024), arXiv:2403.13372.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from evertune.config.imports.draft import Draft, relative
from evertune.config.marks import Plain
from evertune.config.single_task import task_name
from evertune.errors import InputError, did_you_mean

FILE = "dataset_info.json"
_PLACES = ("file_name", "hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
_READ = ("file_name", "hf_hub_url", "formatting", "columns", "tags", "split", "num_samples", "subset", "ranking")
# Their column to our key, by format.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
_DIALOGUE = {"messages": "conversations", "system": "system", "tools": "tools"}
# What marks the turns where nothing is said; rows of messages in OpenAI's style have their own names.
_TAGS = {
    "role_tag": "from",
    "content_tag": "value",
    "user_tag": "human",
    "assistant_tag": "gpt",
    "observation_tag": "observation",
    "function_tag": "function_call",
    "system_tag": "system",
}
_OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
_COLUMNS_LEFT = {
    "history": "earlier turns in pairs are not read: write rows of messages",
    "system": "a column of system prompts is not read: write `system:`, or rows of messages",
}


def is_dataset_info(content: Any) -> bool:
    """Whether a JSON value is a ``dataset_info.json``."""
    if not isinstance(content, dict) or not content:
        return False
    entries = cast("dict[str, Any]", content).values()
    return all(isinstance(entry, dict) and any(place in entry for place in _PLACES) for entry in entries)


def read_dataset_info(file: Path) -> dict[str, dict[str, Any]]:
    """The entries of a ``dataset_info.json``, by name.

    Raises:
        InputError: If it is none.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"This file cannot be read: {error.strerror}.", where=str(file)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"This file is not JSON: {error}.", where=str(file)) from error
    if not is_dataset_info(content):
        raise InputError(
            "This is no list of data sets.",
            where=str(file),
            instead=f"Every entry needs one of: {', '.join(_PLACES)}.",
        )
    return content


def add_data_sets(
    draft: Draft, info: Path, folder: Path, names: Sequence[str] | None = None, template: str = "alpaca"
) -> None:
    """One task for each entry.

    Args:
        draft: Gets the tasks, and what of the entries is left over.
        info: The ``dataset_info.json``.
        folder: Folder of the configuration.
        names: The entries that are meant, in order; all by default.
        template: Template of tasks that are not dialogues.

    Raises:
        InputError: If an entry that is named does not exist, or none can be read.
    """
    entries = read_dataset_info(info)
    for name in names if names is not None else list(entries):
        if name not in entries:
            raise InputError(
                f"There is no data set `{name}` here.", where=str(info), instead=did_you_mean(name, list(entries))
            )
        _add(draft, name, entries[name], info.parent, folder, template)
    if not draft.tasks:
        reasons = " ".join(f"{left.key}: {left.why}." for left in draft.left if left.key in entries)
        raise InputError(f"No data set of this file can be read. {reasons}", where=str(info))


def _add(draft: Draft, name: str, entry: Mapping[str, Any], data: Path, folder: Path, template: str) -> None:
    reason = _unreadable(entry)
    if reason:
        draft.leave(name, dict(entry), reason)
        return
    task: dict[str, Plain] = {"name": _free_name(draft, name), "train": _source(entry, data, folder)}
    dialogue = (entry.get("formatting") or "alpaca") in ("sharegpt", "openai")
    task["template"] = "chat" if dialogue else template
    columns = _columns(draft, name, entry, dialogue=dialogue)
    if columns:
        task["columns"] = columns
    if "num_samples" in entry:
        task["max_train_samples"] = entry["num_samples"]
    if dialogue:
        _note_tags(draft, name, entry.get("tags") or {})
    for key, value in entry.items():
        if key not in _READ:
            draft.leave(f"{name}.{key}", value, "no such option here")
    draft.tasks.append(task)


def _free_name(draft: Draft, name: str) -> str:
    """A name for the task that no other has: there, `a_b` and `a-b` are two."""
    taken, wanted, number = [task["name"] for task in draft.tasks], task_name(name.replace("/", "-")), 2
    free = wanted
    while free in taken:
        free, number = f"{wanted}-{number}", number + 1
    return free


_KINDS: Mapping[str, tuple[type, str]] = {
    "file_name": (str, "text"),
    "hf_hub_url": (str, "text"),
    "formatting": (str, "text"),
    "columns": (dict, "an object"),
    "tags": (dict, "an object"),
}


def _malformed(entry: Mapping[str, Any]) -> str:
    for key, (kind, name) in _KINDS.items():
        value = entry.get(key)
        if value is not None and not isinstance(value, kind):
            return f"`{key}` is {json.dumps(value)[:40]}, not {name}"
    columns: dict[str, Any] = entry.get("columns") or {}
    wrong = [key for key, column in columns.items() if column is not None and not isinstance(column, str)]
    return f"the columns {', '.join(wrong)} have no names" if wrong else ""


def _unreadable(entry: Mapping[str, Any]) -> str:
    malformed = _malformed(entry)
    if malformed:
        return malformed
    if entry.get("ranking"):
        return "pairs of a better and a worse answer are not learnt here"
    if not entry.get("file_name") and not entry.get("hf_hub_url"):
        others = ", ".join(key for key in _PLACES if entry.get(key))
        return f"it is had through {others} alone, which is not read" if others else "it names no file"
    if (entry.get("formatting") or "alpaca") not in ("alpaca", "sharegpt", "openai"):
        return f"no such format here: {entry['formatting']}"
    columns: dict[str, Any] = entry.get("columns") or {}
    if "kto_tag" in columns:
        return "marks of good and bad answers are not learnt here"
    if columns and not {"response", "messages"} & set(columns):
        return "its rows have no answers"
    pictures = [key for key in ("images", "videos", "audios") if key in columns]
    return f"rows with {', '.join(pictures)} are not read as dialogues here" if pictures else ""


def _source(entry: Mapping[str, Any], data: Path, folder: Path) -> Plain:
    """As there, the hub comes before a file."""
    if not entry.get("hf_hub_url"):
        return relative(data / entry["file_name"], folder)
    further = {key: entry[key] for key in ("subset", "split") if entry.get(key)}
    path = f"hub:{entry['hf_hub_url']}"
    return {"path": path, **further} if further else path


def _columns(draft: Draft, name: str, entry: Mapping[str, Any], *, dialogue: bool) -> dict[str, Plain]:
    """Our keys to their columns, where they differ."""
    ours: dict[str, str] = _DIALOGUE if dialogue else _ALPACA
    tags: dict[str, Plain] = entry.get("tags") or {}
    written: dict[str, str | None] = entry.get("columns") or {}
    columns = {key: name for key, name in written.items() if name is not None}
    if dialogue and tags.get("role_tag") == "role":
        ours = {**ours, "messages": "messages"}
    found: dict[str, Plain] = {}
    if not dialogue and "query" not in columns and columns.get("prompt") != "instruction":
        # Templates put it where the instruction stands, and as an input it may be cut to fit.
        ours = {**ours, "prompt": "input"}
    for theirs, column in columns.items():
        if theirs in ours:
            found |= {ours[theirs]: column} if column != ours[theirs] else {}
        else:
            draft.leave(f"{name}.columns.{theirs}", column, _COLUMNS_LEFT.get(theirs, "no such column here"))
    return found


def _note_tags(draft: Draft, name: str, tags: Mapping[str, Plain]) -> None:
    """Tags of the two styles that are read go without saying; others would be read wrongly."""
    usual = _OPENAI if tags.get("role_tag") == "role" else _TAGS
    for tag, value in tags.items():
        if value != usual.get(tag, _TAGS.get(tag)):
            draft.leave(f"{name}.tags.{tag}", value, "only the usual tags are read: rewrite the file")
