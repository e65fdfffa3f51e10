"""Runs every task type on real rows and small models, and sets the scores beside those of answers that need no model.

    python benchmarks/small_models.py ../shared/data runs/models
    python benchmarks/tasks.py [--table] [NAME ...]

The names are those of benchmarks/tasks/*.yaml; by default those of one task each, with the models that the task type is
made for. `--table` only prints. What is finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("GOMP_SPINCOUNT", "0")

from evertune import load_config
from evertune.console import Console
from evertune.evaluation.baselines import constant_baselines
from evertune.settings import RunSettings

FOLDER = Path(__file__).parent / "tasks"
NAMES = (
    "agnews", "twitter_complaints", "wnut17", "xquad_en", "xquad_zh", "rams", "casie", "digits", "mnist",
    "digits_captions",
)  # fmt: skip
COLUMNS = (
    "task", "task type", "model", "adapter", "rows train/test", "metric", "score", "constant answers",
    "majority, words of training", "above all?", "seconds",
)  # fmt: skip
# Baselines that look at the answers of training; the others answer every row alike, or by its text alone.
LEARNT = ("majority label", "most frequent answer", "words seen in training")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--table", action="store_true", help="only print")
    options = parser.parse_args()
    for name in () if options.table else options.names:
        run(name)
    rows = [row(name) for name in options.names if finished(name)]
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    print(*rows, sep="\n")


def settings_of(name: str) -> RunSettings:
    return load_config(FOLDER / f"{name}.yaml")


def finished(name: str) -> bool:
    return (settings_of(name).output_dir / "summary.json").exists()


def run(name: str) -> None:
    """One run in a process of its own, with one thread; its lines go beside the run folder."""
    if finished(name):
        return
    output = settings_of(name).output_dir
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "evertune", "run", str(FOLDER / f"{name}.yaml")]
    with output.with_suffix(".log").open("w") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    print(f"{name}: exit {code}", file=sys.stderr, flush=True)


def row(name: str) -> str:
    """The line of a task."""
    settings = settings_of(name)
    (task,) = settings.stream.load(seed=settings.seed, console=Console()).tasks
    (stage,) = (settings.output_dir / "stages").iterdir()
    found = json.loads((stage / "metrics.json").read_text(encoding="utf-8"))["scores"][task.name]
    summary = json.loads((settings.output_dir / "summary.json").read_text(encoding="utf-8"))
    baselines = constant_baselines(task)
    learnt = {key: value for key, value in baselines.items() if key in LEARNT}
    constant = {key: value for key, value in baselines.items() if key not in LEARNT}
    adapter, model = settings.adapter, settings.backbone.path
    cells = (
        name,
        settings.backbone.task_type,
        model if ":" in model else Path(model).name,
        f"lora, r = {adapter.r}" if adapter.kind == "lora" else adapter.kind,
        f"{len(task.train)}/{len(task.test)}",
        task.metric,
        score_of(found),
        listed(constant),
        listed(learnt),
        "yes" if found["score"] > max(baselines.values()) else "no",
        f"{summary['seconds']:.0f}",
    )
    return f"| {' | '.join(cells)} |"


def score_of(found: dict[str, Any]) -> str:
    """The score, with precision and recall where there are any."""
    beside = {
        key.rpartition("_")[2][0].upper(): value
        for key, value in found["metrics"].items()
        if key.endswith(("_precision", "_recall"))
    }
    return f"{shown(found['score'])}{f' ({listed(beside)})' if beside else ''}"


def shown(value: float) -> str:
    return f"{100 * value:.1f}"


def listed(scores: dict[str, float]) -> str:
    return ", ".join(f"{name} {shown(value)}" for name, value in scores.items()) or "-"


if __name__ == "__main__":
    main()
