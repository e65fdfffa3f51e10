"""``evertune validate``: reads and checks everything that can be checked without weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import ConfigArgument, JsonOption, SetOption
from evertune.cli.output import located, notes_console, result, write, write_json
from evertune.errors import EvertuneError, Problem
from evertune.streams.task import SPLITS

if TYPE_CHECKING:
    from evertune.checking import Checked
    from evertune.settings import RunSettings
    from evertune.streams.task import Task


def validate(
    config: ConfigArgument,
    overrides: SetOption = None,
    output_dir: Annotated[
        Path | None, typer.Option("--output-dir", metavar="DIR", help="The run folder that is meant.")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Check configuration, rows and model folder without loading weights, and print the resolved configuration."""
    from evertune.config.load import dump_config, load_config

    console = notes_console()
    try:
        with result(json_output=json_output):
            settings = load_config(config, overrides or (), output_dir)
            with located(settings):
                from evertune.checking import check_parts

                checked = check_parts(settings, console)
    except EvertuneError as error:
        if json_output:
            write_json({"valid": False, "problems": [_problem_json(problem) for problem in error.problems]})
        raise
    if json_output:
        write_json(_summary(settings, checked))
        return
    write(dump_config(settings))
    said = (*checked.notes, *settings.adapter.notes)
    for line in [*said, *(_task_line(task, checked.cut[task.name]) for task in checked.stream.tasks)]:
        console.say(line)
    console.say(f"valid: {len(checked.stream.tasks)} tasks, run folder {settings.output_dir}")


def _task_line(task: Task, cut: tuple[int, int]) -> str:
    counts = ", ".join(f"{len(task.rows(split))} {split}" for split in SPLITS)
    labels = f", {len(task.labels)} labels" if task.labels else ""
    said = f", {cut[0]} inputs and {cut[1]} answers cut" if any(cut) else ""
    return f"task {task.name}: {counts} rows{labels}, {task.metric}{said}"


def _problem_json(problem: Problem) -> dict[str, str]:
    return {"where": problem.where, "what": problem.what, "instead": problem.instead}


def _summary(settings: RunSettings, checked: Checked) -> dict[str, Any]:
    return {
        "valid": True,
        "config": dict(settings.resolved),
        "output_dir": str(settings.output_dir),
        "run_name": settings.run_name,
        "notes": [*checked.notes, *settings.adapter.notes],
        "tasks": [
            {
                "name": task.name,
                "metric": task.metric,
                "labels": list(task.labels) if task.labels else None,
                "rows": {split: len(task.rows(split)) for split in SPLITS},
                "source_cut": checked.cut[task.name][0],
                "target_cut": checked.cut[task.name][1],
            }
            for task in checked.stream.tasks
        ],
    }
