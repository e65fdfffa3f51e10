"""``evertune init --from``: which kind of file it is, and the configuration that says the same."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from evertune import dialect
from evertune.config.imports.arguments import from_hugging_face, from_llama_factory, is_llama_factory
from evertune.config.imports.data_sets import add_data_sets, is_dataset_info
from evertune.config.imports.draft import UNKNOWN, Draft, Left, add_model, relative
from evertune.config.load import load_config
from evertune.config.marks import Plain, parse
from evertune.config.old_runs.render import entry, one_line
from evertune.config.spellings import by_name
from evertune.errors import ConfigError, InputError, Problem
from evertune.files import write_text

# Arguments that only the scripts of O-LoRA, N-LoRA and GORP have.
_OF_OLD_RUNS = frozenset(
    ("task_config_dir", "instruction_file", "lamda_1", "lamda_2", "galore_rank", "add_task_name", "add_dataset_name")
)
_SECTIONS = ("stream", "backbone", "adapter", "method", "train", "evaluation")
_FIRST = ("name", "path", "task_type", "kind", "config")
_DATA_ENDINGS = (".json", ".yaml", ".yml")


@dataclass(frozen=True)
class ImportedFile:
    """A configuration made of another program's file.

    Attributes:
        text: The YAML.
        draft: What became of what.
    """

    text: str
    draft: Draft

    def facts(self) -> dict[str, Any]:
        """Everything but the text, as plain JSON values."""
        draft = self.draft
        return {
            "kind": draft.kind,
            "tasks": [task["name"] for task in draft.tasks],
            "keys": [
                {"key": key, "value": value, "from": draft.comments.get(key, "")} for key, value in draft.values.items()
            ],
            "left": [{"key": left.key, "value": left.value, "why": left.why} for left in draft.left],
            "notes": list(draft.notes),
        }


def is_old_run(file: Path) -> bool:
    """Whether a file belongs to the launch scripts of O-LoRA, N-LoRA and GORP: a script, or their arguments as JSON."""
    if file.suffix.lower() not in _DATA_ENDINGS:
        return True
    try:
        content = _read(file)
    except InputError:
        return file.suffix.lower() == ".json"  # which says by line and column what is wrong
    if file.suffix.lower() != ".json":
        return False
    known = by_name()
    if not isinstance(content, dict):
        return True
    content = cast("dict[str, Any]", content)
    read_here = (
        "peft_type" in content or is_dataset_info(content) or any(name in known and known[name].key for name in content)
    )
    return not read_here or bool(_OF_OLD_RUNS & set(content))


def import_file(file: Path, target: Path, *, method: str | None = None) -> ImportedFile:
    """Reads a configuration of LLaMA-Factory, arguments of Hugging Face, or an ``adapter_config.json`` of peft.

    Args:
        file: The file.
        target: Where the configuration will stand.
        method: The method; plain training of one task after the other by default.

    Raises:
        InputError: If it is none of these, or holds what cannot be done here.
    """
    content = _read(file)
    if not isinstance(content, dict) or not content:
        raise InputError("This file holds no keys and values.", where=str(file), instead=_KINDS)
    folder = target.resolve().parent
    draft = _draft(cast("dict[str, Any]", content), file, folder)
    draft.put("method.name", method or "seq-lora", "--method" if method else "one task after the other")
    if isinstance(output := draft.values.get("output_dir"), str):
        draft.values["output_dir"] = relative(Path(output), folder)
    return ImportedFile(render(draft), draft)


_KINDS = (
    "Name a training YAML or dataset_info.json of LLaMA-Factory, arguments of Hugging Face as JSON or YAML, an"
    " adapter_config.json of peft, or a launch script."
)


def _read(file: Path) -> Any:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("This is not UTF-8 text.", where=str(file), instead="Save the file as UTF-8.") from error
    except OSError as error:
        raise InputError(f"Cannot read this: {error.strerror}.", where=str(file)) from error
    try:
        if file.suffix.lower() == ".json":
            content = json.loads(text)
        else:
            # As our own files are read: without objects, loops, or aliases that blow it up.
            content = parse(text, source=str(file), folder=file.parent).plain
        json.dumps(content, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise InputError(
            f"This file is not JSON: {error.msg}.", where=f"{file}:{error.lineno}:{error.colno}"
        ) from error
    except RecursionError as error:
        raise InputError("This file is nested too deeply.", where=str(file)) from error
    except UnicodeEncodeError as error:
        what = f"This file holds half a character (U+{ord(error.object[error.start]):04X})."
        raise InputError(what, where=str(file), instead="Remove it.") from error
    return content


def _draft(content: Mapping[str, Any], file: Path, folder: Path) -> Draft:
    if "peft_type" in content:
        draft = Draft(str(file), "adapter configuration of peft")
        draft.put("adapter.config", relative(file, folder), "read as it is")
        if content.get("base_model_name_or_path"):
            draft.put("backbone.path", content["base_model_name_or_path"], "base_model_name_or_path")
        add_model(draft, folder, content.get("task_type"))
    elif is_dataset_info(content):
        draft = Draft(str(file), "data sets of LLaMA-Factory")
        add_data_sets(draft, file, folder)
        add_model(draft, folder)
    elif is_llama_factory(content):
        draft = Draft(str(file), "training configuration of LLaMA-Factory")
        from_llama_factory(draft, content, file, folder)
    else:
        draft = Draft(str(file), "arguments of Hugging Face")
        from_hugging_face(draft, content, folder)
        if {left.key for left in draft.left if left.why == UNKNOWN} >= set(content):
            raise InputError("No key of this file is known.", where=str(file), instead=_KINDS)
    return draft


def render(draft: Draft) -> str:
    """The text of the configuration; what was not taken over stands at its end, with the reason."""
    lines = [f"# Made of {one_line(draft.origin)} ({draft.kind}) by `evertune init --from`."]
    lines += [f"# {one_line(note)}" for note in draft.notes]
    for key in ("seed", "output_dir", "run_name"):
        if key in draft.values:
            lines += entry(key, draft.values[key], draft.comments.get(key, ""))
    for section in _SECTIONS:
        options = {
            key.partition(".")[2]: (value, draft.comments.get(key, ""))
            for key, value in draft.values.items()
            if key.partition(".")[0] == section and "." in key
        }
        lines += [""] if section == "stream" else []
        if section == "stream":
            lines += _stream(draft, options)
        elif options:
            names = [*(name for name in _FIRST if name in options), *(name for name in options if name not in _FIRST)]
            lines += [f"{section}:", *(f"  {line}" for name in names for line in entry(name, *options[name]))]
    return "\n".join([*lines, *_left(draft.left), ""])


def _stream(draft: Draft, options: Mapping[str, tuple[Plain, str]]) -> list[str]:
    if not draft.tasks:
        for name, (value, _) in options.items():
            draft.leave(f"stream.{name}", value, "there are no rows to take them from")
        said = ["# No data are named: write your tasks here, as `- {name: mine, train: rows.jsonl}`."]
        return [*said, "stream: synthetic"]
    written = [f"  {line}" for name, (value, comment) in options.items() for line in entry(name, value, comment)]
    tasks = dialect.dump({"tasks": draft.tasks}).rstrip("\n").split("\n")
    return ["stream:", "  name: instructions", *written, *(f"  {line}" for line in tasks)]


def _left(left: list[Left]) -> list[str]:
    return ["", "# Not taken over:", *(f"#   {one_line(str(each))}" for each in left)] if left else []


def write_imported(imported: ImportedFile, target: Path) -> None:
    """Writes the configuration and loads it once.

    Raises:
        InputError: If a value is out of bounds here, by the key that it is from; nothing is left behind.
    """
    write_text(target, imported.text)
    try:
        load_config(target)
    except ConfigError as error:
        target.unlink()
        problems = dict.fromkeys(_at_origin(problem, imported.draft) for problem in error.problems)
        raise InputError(problems) from error


def _at_origin(problem: Problem, draft: Draft) -> Problem:
    key = re.sub(r"^.*:\d+:\d+:? ?", "", problem.where)
    theirs = draft.comments.get(key, "").partition(",")[0] or key.rpartition(".")[2]
    return Problem(f"{draft.origin}: {theirs or 'this file'}", problem.what, problem.instead)
