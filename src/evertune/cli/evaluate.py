"""``evertune evaluate``: scores saved stages again, or on other data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import JsonOption, RunArgument, StageOption
from evertune.cli.output import console_for, located, result, write_json
from evertune.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evertune.cli.scoring import Item
    from evertune.console import Console
    from evertune.evaluation.cell import Cell
    from evertune.restore import RestoredStage

FORMATS = ("table", "json", "predict_results")
DECODINGS = ("generate", "label_likelihood")


def evaluate(
    run_dir: RunArgument,
    stage: StageOption = None,
    tasks: Annotated[
        str | None, typer.Option("--tasks", metavar="A,B", help="Only these tasks.", show_default=False)
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="FILE|CONFIG",
            help="Score other rows: a file of rows, or the test rows of the stream of another configuration.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="table, json, or predict_results (the published keys).")
    ] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="PATH",
            help="A file for the result (.json), or a folder for it and the predictions.",
            show_default=False,
        ),
    ] = None,
    decoding: Annotated[
        str | None, typer.Option("--decoding", metavar="HOW", help="generate or label_likelihood.", show_default=False)
    ] = None,
    json_output: JsonOption = False,
) -> None:
    """Score a stage of a run again: all tasks learnt by then, some tasks, or other data."""
    from evertune.cli.stored import load_settings

    form = "json" if json_output and form == "table" else form
    _check(form, FORMATS, "--format")
    _check(decoding, DECODINGS, "--decoding")
    settings = load_settings(run_dir)
    _check_output(output, run_dir)
    console = console_for(json_output=form != "table")
    with result(json_output=form != "table"), located(settings):
        from evertune.cli.scoring import items, score
        from evertune.restore import restore_stage

        restored = restore_stage(settings, run_dir, stage, console)
        chosen = items(restored, tasks.split(",") if tasks else None, data, console)
        cells = [score(restored, item, decoding, console) for item in chosen]
    found = _result(restored, run_dir, chosen, cells, form)
    if output is not None:
        _keep(output, found, chosen, cells, form, console)
    elif form == "table":
        _show(console, found)
    else:
        write_json(found)


def _check(word: str | None, options: Sequence[str], where: str) -> None:
    if word is not None and word not in options:
        raise InputError(
            f"`{word}` is not one of: {', '.join(options)}.", where=where, instead=did_you_mean(word, options)
        )


def _check_output(output: Path | None, run_dir: Path) -> None:
    """Refuses to write over what the run keeps.

    Raises:
        InputError: If the result would stand among the run's own files.
    """
    if output is not None and run_dir.resolve() in (output.resolve(), *output.resolve().parents):
        what = "This is inside the run, whose files are never rewritten."
        raise InputError(what, where="--output", instead="Name a place outside of it.")


def _result(
    restored: RestoredStage, run_dir: Path, chosen: Sequence[Item], cells: Sequence[Cell], form: str
) -> dict[str, Any]:
    from evertune.evaluation.cell import row_summary
    from evertune.reporting.predict_results import predict_results

    scored = [item.task for item in chosen]
    if form == "predict_results":
        return predict_results({cell.task: cell for cell in cells}, scored)
    summary = row_summary({cell.task: cell for cell in cells}, scored)
    return {"run": str(run_dir), "stage": restored.stage.index + 1, "name": restored.stage.name, **summary}


def _show(console: Console, found: dict[str, Any]) -> None:
    from evertune.reporting.formats import percent
    from evertune.reporting.table import row_table

    console.say(f"after stage {found['stage']}, {found['name']}")
    console.show(row_table(found["scores"]))
    console.say(f"mean of tasks {percent(found['task_mean'])}, mean of rows {percent(found['row_weighted_mean'])}")


def _keep(
    output: Path, found: dict[str, Any], chosen: Sequence[Item], cells: Sequence[Cell], form: str, console: Console
) -> None:
    """Writes the result to a file, or to a folder together with the predictions."""
    from evertune import files
    from evertune.evaluation.cell import write_predictions
    from evertune.reporting.predict_results import write_predict_results

    if output.suffix == ".json":
        files.write_json(output, found)
        console.say(f"wrote {output}")
        return
    if form == "predict_results":
        written = write_predict_results(output, {cell.task: cell for cell in cells}, [item.task for item in chosen])
        console.say(f"wrote {written[0]} and {written[1]}")
        return
    for cell in cells:
        write_predictions(output / "predictions" / f"{cell.task}.jsonl", cell)
    files.write_json(output / "metrics.json", found)
    console.say(f"wrote {output / 'metrics.json'} and {output / 'predictions'}")
    if form == "table":
        _show(console, found)
