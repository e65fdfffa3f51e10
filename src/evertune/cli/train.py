"""``evertune train``: one task from flags, by way of the configuration that says the same."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import JsonOption, SetOption
from evertune.cli.output import console_for, write_json
from evertune.cli.run import run

if TYPE_CHECKING:
    from evertune.config.marks import Plain


def train(
    model: Annotated[
        str,
        typer.Option("--model", metavar="PATH", help="A folder, a hub id, or a built-in model.", show_default=False),
    ],
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="D",
            help="Rows: a file, a folder, `hub:owner/name`, or `owner/name` where there is no such folder.",
            show_default=False,
        ),
    ],
    adapter: Annotated[
        Path | None,
        typer.Option("--adapter", metavar="FILE", help="An adapter_config.json of peft; without it LoRA with r = 8."),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir",
            metavar="DIR",
            help="The run folder; the configuration is written beside it as DIR.yaml. By default runs/NAME, and"
            " NAME.yaml in the current folder.",
        ),
    ] = None,
    task_type: Annotated[
        str | None,
        typer.Option("--task-type", metavar="T", help="By default told by the adapter's file or the model's own."),
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", metavar="N", help="Passes over the rows.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", metavar="R", help="Peak learning rate.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="B", help="Rows per device and micro-batch.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length", metavar="L", help="Most tokens of prompt and answer together; a quarter is the answer's."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="S", help="The seed, 42 by default.")] = None,
    quantization: Annotated[
        str | None, typer.Option("--quantization", metavar="Q", help="nf4 or int8 base weights.")
    ] = None,
    overrides: SetOption = None,
    execute: Annotated[bool, typer.Option("--execute", help="Run it, as `evertune run` does.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Fine-tune on one task: writes the configuration, prints the command that runs it, and runs it with --execute."""
    from evertune.config.single_task import SingleTask, write_configuration

    options = {
        "num_train_epochs": epochs,
        "learning_rate": learning_rate,
        "per_device_train_batch_size": batch_size,
    }
    given: dict[str, Plain] = {key: value for key, value in options.items() if value is not None}
    task = SingleTask(
        model=model,
        dataset=dataset,
        adapter=adapter,
        output_dir=output_dir,
        task_type=task_type,
        quantization=quantization,
        max_length=max_length,
        seed=seed,
        train=given,
        overrides=overrides or (),
    )
    file = write_configuration(task)
    command = f"evertune run {shlex.quote(str(file))}"
    _say(file, command, execute=execute, json_output=json_output)
    if execute:
        run(str(file), json_output=json_output)


def _say(file: Path, command: str, *, execute: bool, json_output: bool) -> None:
    text = file.read_text(encoding="utf-8")
    if json_output and not execute:
        write_json({"path": str(file), "command": command, "configuration": text})
        return
    console = console_for(json_output=json_output)
    console.say(text)
    console.say(f"wrote {file}")
    console.say(f"$ {command}" if execute else f"\nNext, or the same again with --execute:\n  {command}")
