"""``evertune report``: draws the report of a run again."""

from __future__ import annotations

from evertune.cli.options import JsonOption, RunArgument
from evertune.cli.output import console_for, result, write_json


def report(run_dir: RunArgument, json_output: JsonOption = False) -> None:
    """Write `report.html` and the plots of a run again, and print its table."""
    console = console_for(json_output=json_output)
    with result(json_output=json_output):
        from evertune.reporting.html import write_report
        from evertune.reporting.load import load_run
        from evertune.reporting.plots import write_plots
        from evertune.reporting.table import run_result

        run = load_run(run_dir)
        write_plots(run_dir)
        page = write_report(run_dir)
    if json_output:
        write_json({"report": str(page), "matrix": run.matrix.to_json(), "summary": dict(run.summary)})
        return
    console.show(run_result(run))
    console.say(f"report {page}")
