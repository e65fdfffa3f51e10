"""``evertune sweep``: runs of one configuration over the values of some keys, and one table of them."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evertune.cli.options import ConfigArgument, JsonOption
from evertune.cli.output import console_for, write_json

if TYPE_CHECKING:
    from evertune.sweeping.campaign import Campaign


def sweep(
    config: ConfigArgument,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=V,V",
            help="Values of a key, as YAML, with commas between them: `adapter.r=4,8,16`. A list is one value:"
            ' `adapter.target=[q_proj],[q_proj,v_proj]`; so is text in quotation marks: `stream.name="a,b"`. A single'
            " value holds for all runs. Several keys give every combination.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="S,S", help="Seeds: each version is run with every one of them.")
    ] = None,
    methods: Annotated[str | None, typer.Option("--methods", metavar="M,M", help="Names of methods.")] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", metavar="DIR", help="Where the run folders are; by default that of CONFIG and `-sweep`."
        ),
    ] = None,
    with_base: Annotated[
        bool, typer.Option("--with-base", help="Begin with full fine-tuning, as the row `base`.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check all runs, and only print their commands.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Make one run for each combination of values, one after the other, and a table of them.

    Every run is an ordinary run folder below DIR. Runs that are complete are passed over, so the same command goes on
    where it was stopped; a run that fails is named, and the others go on. The table is kept in DIR as sweep.md,
    sweep.json and sweep.png.
    """
    from evertune.sweeping.campaign import Campaign, start_process
    from evertune.sweeping.grid import make_grid

    grid = make_grid(overrides or (), methods=methods, seeds=seeds, with_base=with_base)
    # Standard output belongs to the JSON.
    start = functools.partial(start_process, stdout=sys.__stderr__.fileno() if json_output and sys.__stderr__ else None)
    folder = output_dir if output_dir is not None else _default_folder(config, grid.points[0].overrides)
    campaign = Campaign(config, grid, folder, console_for(json_output=json_output), start)
    if dry_run:
        _show_plan(campaign, json_output=json_output)
        return
    outcome = campaign.walk()
    campaign.show(outcome)
    if json_output:
        from evertune.files import read_json

        write_json(read_json(folder / "sweep.json"))
    failure = campaign.failure(outcome)
    if failure is not None:
        raise failure


def _default_folder(config: str, overrides: tuple[str, ...]) -> Path:
    from evertune.config.load import load_config

    folder = load_config(config, overrides).output_dir
    beside = folder.with_name(f"{folder.name}-sweep")
    return beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside


def _show_plan(campaign: Campaign, *, json_output: bool) -> None:
    done = campaign.check()
    points = campaign.grid.points
    if json_output:
        runs = [
            {"name": point.name, "complete": point.name in done, "command": campaign.command(point)} for point in points
        ]
        write_json({"folder": str(campaign.folder), "runs": runs})
        return
    for point in points:
        campaign.console.say(f"{campaign.command(point)}{'  # complete already' if point.name in done else ''}")
