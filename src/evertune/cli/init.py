"""``evertune init``: a configuration to start from."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, write_json
from evertune.errors import InputError
from evertune.files import write_text

if TYPE_CHECKING:
    from evertune.config.imports.importing import ImportedFile
    from evertune.config.old_runs.importing import Imported

_TEMPLATE = """\
# An Evertune configuration. Check it with `evertune validate {name}`, run it with `evertune run {name}`.
# All keys and what they mean: `evertune describe config`. Paths are relative to this file.
seed: 42

# What is learnt, in which order. {stream_comment}
stream:
{stream}
# The model: a folder, a hub id (owner/name), or one that comes with the package (`evertune list models`).
# Every other model needs `task_type: causal_lm` or `task_type: seq2seq_lm` too.
backbone:
  path: builtin:tiny-llama
  dtype: float32 # or bfloat16, on a GPU that has it

# The adapters that are trained; the base model is left as it is.
adapter:
  r: 8
  lora_alpha: 16
  target: all-linear # or a role such as attention_query_value, or a list of module names

# How earlier tasks are kept: `evertune list methods`.
method:
  name: replay
  ratio: 0.2 # replayed rows for each row of the running task

train:
  num_train_epochs: 1
  learning_rate: 1e-3
  per_device_train_batch_size: 16
  max_source_length: 256 # tokens of a prompt; only its input text is cut
  max_target_length: 50 # tokens of an answer

evaluation:
  tasks: all # score tasks that are not learnt yet, too; `seen` is quicker
  zero_shot: true # score the untouched model first

# Keys of train, method and evaluation for all tasks but the first, or for one task by its name:
# after_first: {{train.learning_rate: 5e-4}}
# per_task: {{{task}: {{train.num_train_epochs: 2}}}}
"""

_SYNTHETIC = """\
  name: synthetic # five small tasks, made on the spot
"""

_OWN = """\
  - name: {task}
    train: {data} # test and dev rows are carved from it; add `test: FILE` if there is one
"""


def init(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The file to write; it must not exist.")] = Path(
        "evertune.yaml"
    ),
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="FILE", help="Rows of your own task (JSONL, JSON, CSV or Parquet)."),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="What you have: a training YAML or dataset_info.json of LLaMA-Factory, arguments of Hugging Face, TRL"
            " or peft's examples as JSON or YAML, an adapter_config.json, or a launch script of O-LoRA, N-LoRA or GORP"
            " (read, never executed) or their arguments as JSON.",
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", metavar="NAME", help="With --from: the method, where flags do not tell.")
    ] = None,
    script_args: Annotated[
        str | None, typer.Option("--script-args", metavar="TEXT", help="With a script: its own $1, $2, ...")
    ] = None,
    ignore_unknown: Annotated[
        bool, typer.Option("--ignore-unknown", help="With a script: pass over flags that are not known.")
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """Write a commented configuration to start from. Nothing is overwritten."""
    if path.exists():
        raise InputError("This exists already.", where=str(path), instead="Name another file, or remove it.")
    _check_options(data, source, {"--method": method, "--script-args": script_args, "--ignore-unknown": ignore_unknown})
    imported = None
    if source is not None:
        from evertune.config.imports.importing import import_file, is_old_run, write_imported
        from evertune.config.old_runs.importing import import_run

        if not is_old_run(source):
            _check_script_options(source, {"--script-args": script_args, "--ignore-unknown": ignore_unknown})
            found = import_file(source, path, method=method)
            write_imported(found, path)
            _say_imported(path, found, json_output=json_output)
            return
        words = _words(script_args or "")
        imported = import_run(source, path.parent, method=method, words=words, ignore_unknown=ignore_unknown)
    write_text(path, imported.text if imported else starter(path, data))
    _say_next(path, imported, json_output=json_output)


def _check_options(data: Path | None, source: Path | None, only_with_from: Mapping[str, object]) -> None:
    """Refuses files that are not there, and options that have no effect.

    Raises:
        InputError: Naming the option or the file.
    """
    for given, holds in ((data, "holds your rows"), (source, "launched the runs")):
        if given is not None and not given.exists():
            raise InputError("There is no such file.", where=str(given), instead=f"Name the file that {holds}.")
    if source is not None and data is not None:
        raise InputError(
            "`--data` and `--from` exclude each other.", where="evertune init", instead="Keep one of them."
        )
    for name, given in only_with_from.items():
        if given and source is None:
            raise InputError(f"`{name}` has no effect without `--from`.", where="evertune init")


def _check_script_options(source: Path, given: Mapping[str, object]) -> None:
    for name, value in given.items():
        if value:
            raise InputError(f"`{name}` has no effect on {source}: it is no launch script.", where="evertune init")


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise InputError(f"This cannot be taken apart: {error}.", where="--script-args") from error


def _say_next(path: Path, imported: Imported | None, *, json_output: bool) -> None:
    """Says what was written, what became of the old flags, and what comes next."""
    name = "evertune.yaml" if path == Path("evertune.yaml") else str(path)
    if json_output:
        facts = imported.facts() if imported else {}
        write_json({"path": str(path), "next": f"evertune run {name}", **facts})
        return
    console = console_for(json_output=False)
    if imported is not None:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False)
        table.add_column("old flag", no_wrap=True)
        table.add_column("line", no_wrap=True)
        table.add_column("here", overflow="fold")
        for row in imported.translation.rows:
            line = str(row.lines[0]) if row.lines else "-"
            # As text: a reason in square brackets would be read as markup.
            table.add_row(*map(Text, (row.flag, line, _became(row.key, row.effect))))
        console.show(table)
        for note in imported.translation.notes:
            console.say(note)
    console.say(f"wrote {path}")
    console.say(f"\nNext:\n  evertune validate {name}\n  evertune run {name}")


def _say_imported(path: Path, imported: ImportedFile, *, json_output: bool) -> None:
    """Says what became of another program's keys, and what comes next."""
    name = shlex.quote(str(path))
    if json_output:
        write_json({"path": str(path), "next": f"evertune run {name}", **imported.facts()})
        return
    console, draft = console_for(json_output=False), imported.draft
    console.say(f"{draft.origin}: {draft.kind}")
    for key, value in draft.values.items():
        said = draft.comments.get(key, "")
        console.say(f"  {key}: {json.dumps(value, ensure_ascii=False)}{f'  ({said})' * bool(said)}")
    for task in draft.tasks:
        console.say(f"  task {task['name']}: {json.dumps(task['train'], ensure_ascii=False)}")
    for note in draft.notes:
        console.say(note)
    if draft.left:
        console.say("not taken over:")
    for left in draft.left:
        console.say(f"  {left}")
    console.say(f"wrote {path}")
    console.say(f"\nNext:\n  evertune validate {name}\n  evertune run {name}")


def _became(key: str, effect: str) -> str:
    if key:
        return f"{key}{f' ({effect})' * bool(effect)}"
    return effect if "passed over" in effect else f"had no effect: {effect}"


def starter(path: Path, data: Path | None) -> str:
    """The text of a configuration with the synthetic stream, or with one task from `data`."""
    if data is None:
        stream, task, comment = _SYNTHETIC, "sentiment", "Your own rows: `evertune init --data FILE`."
    else:
        task = _task_name(data)
        # A path in double quotation marks reads back whatever is in it.
        shown = json.dumps(os.path.relpath(data.resolve(), path.resolve().parent), ensure_ascii=False)
        stream, comment = _OWN.format(task=task, data=shown), "Add a task by adding an item."
    return _TEMPLATE.format(name=path, stream=stream, stream_comment=comment, task=task)


def _task_name(data: Path) -> str:
    """A name for the task that can become a file name."""
    kept = "".join(character if character.isalnum() and character.isascii() else "-" for character in data.stem)
    return kept.strip("-") or "own"
