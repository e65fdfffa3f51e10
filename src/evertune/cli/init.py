"""``evertune init``: a configuration to start from."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, write_json
from evertune.errors import InputError
from evertune.files import write_text

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
    json_output: JsonOption = False,
) -> None:
    """Write a commented configuration to start from. Nothing is overwritten."""
    if path.exists():
        raise InputError("This exists already.", where=str(path), instead="Name another file, or remove it.")
    if data is not None and not data.exists():
        raise InputError("There is no such file.", where=str(data), instead="Name the file that holds your rows.")
    text = starter(path, data)
    write_text(path, text)
    name = "evertune.yaml" if path == Path("evertune.yaml") else str(path)
    if json_output:
        write_json({"path": str(path), "next": f"evertune run {name}"})
        return
    console = console_for(json_output=False)
    console.say(f"wrote {path}")
    console.say(f"\nNext:\n  evertune validate {name}\n  evertune run {name}")


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
