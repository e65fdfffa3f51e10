"""``evertune run``: walks the stream."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune import distributed
from evertune.cli.options import ConfigArgument, JsonOption, SetOption
from evertune.cli.output import console_for, located, result, write_json

if TYPE_CHECKING:
    from evertune.settings import RunSettings


def run(
    config: ConfigArgument,
    overrides: SetOption = None,
    output_dir: Annotated[
        Path | None,
        typer.Option("--output-dir", metavar="DIR", help="The run folder, in place of the configured one."),
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume/--fresh",
            help="Only continue the run that is there, or move it aside and start anew. By default a run of the same"
            " configuration is continued, and one of another is refused.",
            show_default=False,
        ),
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Learn the tasks of a stream one after the other, and score all of them after each."""
    from evertune.config.load import load_config

    settings = load_config(config, overrides or (), output_dir)
    console = console_for(json_output=json_output)
    with result(json_output=json_output), located(settings):
        from evertune.runner import run as walk

        done = walk(settings, console=console, mode="auto" if resume is None else "resume" if resume else "fresh")
        distributed.leave()
    if json_output:
        write_json(_as_json(done))
        return
    console.say("\nNext:")
    for command in next_commands(settings, config, done.run_dir):
        console.say(f"  {command}")


def _as_json(done: Any) -> dict[str, Any]:
    return {
        "run_dir": str(done.run_dir),
        "report": str(done.report),
        "matrix": done.matrix.to_json(),
        "summary": dict(done.summary),
    }


def next_commands(settings: RunSettings, config: str, run_dir: Path) -> list[str]:
    """What one may want to type after a run."""
    folder = shlex.quote(_short(run_dir))
    commands = [f"evertune generate {folder}"]
    methods = [name for name, _ in settings.first.methods]
    other = "seq-lora" if methods != ["seq-lora"] else "replay"
    target = shlex.quote(f"{_short(run_dir)}-{other}")
    commands.append(f"evertune run {shlex.quote(config)} --set method={other} --output-dir {target}")
    return commands


def _short(path: Path) -> str:
    """A path as one would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
