"""``evertune list``: what exists."""

from __future__ import annotations

from typing import Annotated

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, result, write_json
from evertune.errors import InputError, did_you_mean

KINDS = ("methods", "streams", "task-types", "recipes", "metrics", "models", "adapters")


def list_kind(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.", show_default=False)
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """List what exists of a kind: methods, streams, task-types, recipes, metrics, models or adapters."""
    if kind is None:
        raise InputError(
            "`list` needs to know what.", where="evertune list", instead=f"Write one of: {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise InputError(f"There is no kind `{kind}`.", where="evertune list", instead=did_you_mean(kind, KINDS))
    with result(json_output=json_output):
        from evertune.cli.catalog import entries

        found = entries(kind)
    if json_output:
        write_json([{"name": entry.name, "summary": entry.summary} for entry in found])
        return
    from rich.table import Table

    table = Table(kind, "what it is", box=None, pad_edge=False)
    for entry in found:
        table.add_row(entry.name, entry.summary)
    console_for(json_output=False).show(table)
