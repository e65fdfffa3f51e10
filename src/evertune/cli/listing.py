"""``evertune list``: what exists."""

from __future__ import annotations

from typing import Annotated

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, result, write_json
from evertune.errors import InputError, did_you_mean

KINDS = ("methods", "streams", "task-types", "recipes", "templates", "metrics", "models", "adapters", "targets")


def list_kind(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help=f"One of: {', '.join(KINDS)}.", show_default=False)
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="PATH", help="Of `targets`: a folder, a hub id, or a built-in model."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Of `targets`: let Python code that comes with the model run."),
    ] = False,
    json_output: JsonOption = False,
) -> None:
    """List methods, streams, task-types, recipes, templates, metrics, models, adapters, or targets in a model."""
    if kind is None:
        raise InputError(
            "`list` needs to know what.", where="evertune list", instead=f"Write one of: {', '.join(KINDS)}."
        )
    if kind not in KINDS:
        raise InputError(f"There is no kind `{kind}`.", where="evertune list", instead=did_you_mean(kind, KINDS))
    if kind == "targets":
        _targets(model, json_output, trust_remote_code)
        return
    if kind == "adapters":
        _adapters(json_output)
        return
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


def _adapters(json_output: bool) -> None:
    with result(json_output=json_output):
        from evertune.cli.kinds import LEGEND, adapter_entries, adapter_tables

        found = adapter_entries()
    if json_output:
        write_json(found)
        return
    console = console_for(json_output=False)
    for table in adapter_tables(found):
        console.show(table)
    console.say(LEGEND)


def _targets(model: str | None, json_output: bool, trust_remote_code: bool) -> None:
    if model is None:
        raise InputError(
            "`list targets` needs to know of which model.",
            where="evertune list targets",
            instead="Write `--model PATH`.",
        )
    with result(json_output=json_output):
        from evertune.cli.targets import target_entries, target_table

        found = target_entries(model, trust_remote_code=trust_remote_code)
    if json_output:
        write_json(found)
        return
    console = console_for(json_output=False)
    console.show(target_table(found))
    console.say("names in brackets are no linear modules; `adapter.target` takes a role, names, or an expression")
