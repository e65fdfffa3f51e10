"""``evertune export``: a stage of a run as a standard adapter or a whole model."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from evertune.cli.options import JsonOption, RunArgument, StageOption
from evertune.cli.output import console_for, located, result, write_json


class _Form(str, Enum):
    adapter = "adapter"
    merged = "merged"


def export(
    run_dir: RunArgument,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; it must not exist.", show_default=False)],
    stage: StageOption = None,
    form: Annotated[
        _Form, typer.Option("--as", help="A peft adapter for the same base model, or a whole model.")
    ] = _Form.adapter,
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="T", help="Whose adapters, where every task has its own.", show_default=False),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Write what a stage learnt as a standard adapter or a merged model, and check its logits."""
    from evertune.cli.stored import load_settings, task_index

    settings = load_settings(run_dir)
    with result(json_output=json_output), located(settings):
        from evertune.export import export as write_export
        from evertune.restore import restore_stage

        console = console_for(json_output=json_output)
        restored = restore_stage(settings, run_dir, stage, console)
        index = None if task is None else task_index(restored.stream, task, where="--task")
        exported = write_export(restored, folder, form.value, task=index)
    if json_output:
        write_json({"path": str(folder), "form": form.value, "difference": exported.difference})
    else:
        console.say(f"wrote {folder} ({form.value}); logits differ by {exported.difference:.1e} of the largest")
