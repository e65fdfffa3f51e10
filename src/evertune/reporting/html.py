"""``report.html``: one file that explains a run, without network and without scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evertune import __version__
from evertune.files import write_text
from evertune.reporting import curves, views
from evertune.reporting.answers import task_answers
from evertune.reporting.explain import hints
from evertune.reporting.load import Run, load_run
from evertune.reporting.palette import LINES, LINES_DARK, heat
from evertune.reporting.protected import (
    PROTECTED_COLUMNS,
    protected_notes,
    protected_stages,
    protected_tables,
)
from evertune.reporting.safety import SAFETY_COLUMNS, changed_answers, safety_points, safety_table
from evertune.reporting.series import gradient_ratios, training_series

_TEMPLATE = "page.html"


def write_report(run_dir: Path) -> Path:
    """Writes the report of a run, finished or not. Its charts are part of the page; the PNG files are not used.

    Args:
        run_dir: The run folder.

    Returns:
        Path of ``report.html``.

    Raises:
        CheckpointError: If it is not a run folder, or a file in it is damaged.
    """
    run = load_run(run_dir)
    path = run.folder / "report.html"
    write_text(path, render(run))
    return path


def render(run: Run) -> str:
    """The page as text.

    Raises:
        CheckpointError: If a file of the run is damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # Every text that comes from data goes through this escaping; nothing in the template switches it off.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(_context(run))


def _context(run: Run) -> dict[str, Any]:
    parts, sizes = views.trained_parts(run)
    training, protected, safety = training_series(run), protected_stages(run), safety_points(run)
    return {
        "version": __version__,
        "name": run.name,
        "facts": views.facts(run),
        "stamps": views.stamps(run),
        "cards": views.cards(run),
        "hints": hints(run.matrix, run.summary, run.chance),
        "tasks": run.tasks,
        "counts": run.matrix.count,
        "rows": views.heat_rows(run),
        "legend": [(f"{percent}", heat(percent / 100)) for percent in range(0, 101, 20)],
        "score_charts": curves.score_charts(run),
        "training_charts": curves.training_charts(training),
        "has_dev": any(series.dev for series in training),
        "loss_chart": curves.evaluation_loss_chart(run),
        "ratio_charts": curves.ratio_charts(gradient_ratios(run)),
        "protected_chart": curves.protected_chart(run, protected),
        "protected_columns": PROTECTED_COLUMNS,
        "protected_tables": protected_tables(protected),
        "protected_notes": protected_notes(protected),
        "safety_columns": SAFETY_COLUMNS,
        "safety_table": safety_table(safety),
        "safety_charts": curves.safety_charts(run, safety),
        "safety_changes": changed_answers(safety),
        "safety_span": [point.when for point in (safety[0], safety[-1])] if safety else [],
        "numbered": len(run.tasks) > 8,
        "stage_columns": views.STAGE_COLUMNS,
        "stages": views.stage_rows(run),
        "parts": parts,
        "sizes": sizes,
        "samples": views.samples(run),
        "answers": task_answers(run),
        "data": views.data_rows(run),
        "warnings": run.warnings,
        "environment": json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else "",
        "config": run.config_text,
        "hues": list(enumerate(zip(LINES, LINES_DARK, strict=True))),
    }
