"""``evertune prepare``: raw public files to the rows of a stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, result, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table


def prepare(
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="What to prepare: five-tasks.", show_default=False)],
    output_dir: Annotated[
        Path, typer.Option("--output-dir", metavar="DIR", help="Folder to write.", show_default=False)
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--source",
            metavar="DIR",
            help="Folder with the published files; without it they are downloaded from the Hugging Face hub.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Decides what is sampled, and the order.")
    ] = 42,
    max_rows: Annotated[int, typer.Option("--max-rows", metavar="N", min=10, help="Most rows of each task.")] = 10_000,
    json_output: JsonOption = False,
) -> None:
    """Turn raw public files into checked rows with a manifest: cleaned, without duplicates, split by seed."""
    from evertune.streams.prepare import PREPARATIONS

    preparation = PREPARATIONS.get(stream, where="evertune prepare")()
    console = console_for(json_output=json_output)
    with result(json_output=json_output):
        prepared = preparation.prepare(output_dir, source=source, seed=seed, max_rows=max_rows, console=console)
    if json_output:
        write_json({"path": str(output_dir), "written": prepared.written, "manifest": prepared.manifest})
        return
    console.show(_table(prepared.manifest))
    for task, facts in prepared.manifest["tasks"].items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in facts["dropped"].items())
        console.say(f"{task}: dropped {reasons or 'nothing'}")
        if facts["unused"]:
            console.say(f"{task}: not used, as another source has no test file: {', '.join(facts['unused'])}")
    console.say(f"wrote {output_dir}" if prepared.written else f"{output_dir} is up to date")


def _table(manifest: Mapping[str, Any]) -> Table:
    """Rows of every task and split, and what was dropped."""
    from rich.table import Table

    table = Table()
    for name in ("task", "sources", "train", "dev", "test", "tiny", "dropped"):
        table.add_column(name, justify="left" if name in ("task", "sources") else "right")
    for task, facts in manifest["tasks"].items():
        full = [str(facts["full"][split]["rows"]) for split in ("train", "dev", "test")]
        tiny = "/".join(str(record["rows"]) for record in facts["tiny"].values())
        table.add_row(task, ", ".join(facts["sources"]), *full, tiny, str(sum(facts["dropped"].values())))
    return table
