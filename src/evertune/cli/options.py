"""Arguments and options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a recipe (`demo`).", show_default=False)
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder of a run (its `output_dir`).", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY.PATH=VALUE",
        help="Change one key; the value is YAML. Can be given several times.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
StageOption = Annotated[
    int | None,
    typer.Option("--stage", metavar="K", min=1, help="Number of the stage, 1 for the first; the last by default."),
]
