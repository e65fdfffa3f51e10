"""Methods on one stream, with the same rows, budget and seeds: one table.

    python benchmarks/campaign.py benchmarks/cl_topics.yaml --seeds 1,2,3
    python benchmarks/campaign.py benchmarks/cl_order1.yaml --seeds 1 --set stream.order=2 --name order2
    python benchmarks/campaign.py benchmarks/cl_topics.yaml --table

Runs go to ``runs/campaign/NAME/METHOD-SEED``; finished ones are not repeated, interrupted ones go on. `--workers` of
them run side by side with one thread each. The table is Markdown: means over seeds with 95 % intervals of Student's t,
and the exact McNemar test of the last row of every method against `o-lora` on the same test rows (pooled over seeds).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev

from scipy import stats

_RATES = "slow_learning_rate: 4e-4, fast_learning_rate: 2e-3"
_PROBES = "probes: 100, earlier_probes: 50"

# Method: what is set for it beside the configuration. The ablation of GORP: B is inc-lora, then with full weights (L),
# with the shared space (S), with both.
METHODS: dict[str, list[str]] = {
    "seq-lora": ["method=seq-lora"],
    "inc-lora": ["method=inc-lora"],
    "replay": ["method={name: replay, buffer: balanced, buffer_size: 20, ratio: 0.1}"],
    "o-lora": ["method={name: o-lora, variant: released}"],
    "n-lora": ["method={name: n-lora, lambda_1: 0.001}"],
    "gorp": ["method={name: gorp, full_rank_learning_rate: 1e-3, energy_threshold: 0.999}"],
    "gorp B+L": ["method={name: gorp, full_rank_learning_rate: 1e-3, shared_space: false}"],
    "gorp B+S": ["method={name: gorp, full_rank: null, energy_threshold: 0.999}"],
    "gorp inputs": [
        "method={name: gorp, full_rank_learning_rate: 1e-3, space: inputs, energy_threshold: 0.99,"
        " max_protected_share: 0.9}"
    ],
    "gorp B+S inputs": [
        "method={name: gorp, full_rank: null, space: inputs, energy_threshold: 0.99, max_protected_share: 0.9}"
    ],
    "multi-task": ["method=multi-task"],
    "slao": ["method=slao"],
    "inf-lora": ["method=inf-lora"],
    "migu": ["method=migu"],
    "osf": ["method=osf", "adapter={kind: osf, target: attention}"],
    "per-task-lora": ["method=per-task-lora"],
    # The slow adapter at a fifth of the fast one's rate, as published; replay with the bytes that slsd keeps of rows.
    "ds-lora": [f"method={{name: ds-lora, {_RATES}}}"],
    "ds-lora slow": [f"method={{name: ds-lora, {_RATES}, at_test: slow}}"],
    "ds-lora fast": [f"method={{name: ds-lora, {_RATES}, at_test: fast}}"],
    "ds-lora last": [f"method={{name: ds-lora, {_RATES}, at_test: last}}"],
    "ds-lora merged": [f"method={{name: ds-lora, {_RATES}, fast: merged}}"],
    "slsd": [f"method=[{{name: ds-lora, {_RATES}}}, {{name: slsd, {_PROBES}}}]"],
    "slsd whole": [f"method=[{{name: ds-lora, {_RATES}}}, {{name: slsd, {_PROBES}, student: all}}]"],
    "slsd slow": [f"method=[{{name: ds-lora, {_RATES}, at_test: slow}}, {{name: slsd, {_PROBES}}}]"],
    "slsd fast": [f"method=[{{name: ds-lora, {_RATES}, at_test: fast}}, {{name: slsd, {_PROBES}}}]"],
    "slsd last": [f"method=[{{name: ds-lora, {_RATES}, at_test: last}}, {{name: slsd, {_PROBES}}}]"],
    "slsd random": [f"method=[{{name: ds-lora, {_RATES}}}, {{name: slsd, {_PROBES}, selection: random}}]"],
    "slsd alone": [f"method=[seq-lora, {{name: slsd, {_PROBES}, reach: all}}]"],
    "replay bytes": ["method={name: replay, buffer_unit: bytes, buffer_size: 80000, ratio: 0.1}"],
    "replay low entropy": ["method={name: replay, buffer_size: 20, ratio: 0.1, selection: low_entropy}"],
    "replay surprise": ["method={name: replay, buffer_size: 20, ratio: 0.1, selection: surprise}"],
    "ewc": ["method=ewc"],
    "lwf": ["method=lwf"],
    "a-gem": ["method={name: a-gem, buffer_size: 20, batch_size: 8}"],
    "lora-ema": ["method={name: lora-ema, decay: 0.99}"],
    "frozen layers": ["method=seq-lora", "adapter.num_frozen_layers=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    parser.add_argument("--name")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table of what is finished")
    parser.add_argument("--losses", action="store_true", help="a table of losses in place of scores")
    options = parser.parse_args()
    folder = Path("runs/campaign") / (options.name or options.config.stem)
    chosen = [name.strip() for name in options.methods.split(",")]
    seeds = [int(seed) for seed in options.seeds.split(",")]
    if not options.table:
        jobs = [(method, seed) for seed in seeds for method in chosen]
        with ThreadPoolExecutor(options.workers) as pool:
            list(pool.map(lambda job: run(options.config, folder, *job, options.changes), jobs))
    print(loss_table(folder, chosen) if options.losses else table(folder, chosen))


def place(folder: Path, method: str, seed: int) -> Path:
    return folder / f"{method.replace(' ', '-').replace('+', '')}-{seed}"


def run(config: Path, folder: Path, method: str, seed: int, changes: list[str]) -> None:
    output = place(folder, method, seed)
    if (output / "summary.json").exists():
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "evertune", "run", str(config), "--output-dir", str(output)]
    for change in [*changes, *METHODS[method], f"seed={seed}"]:
        command += ["--set", change]
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with output.with_suffix(".log").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode
    print(f"{output.name}: exit {code}, {time.monotonic() - start:.0f} s", flush=True)


def runs_of(folder: Path, method: str) -> list[Path]:
    """The finished runs of a method."""
    name = place(folder, method, 0).name[:-2]
    found = [path.parent for path in sorted(folder.glob(f"{name}-*/summary.json"))]
    return [path for path in found if path.name.rpartition("-")[0] == name]


def table(folder: Path, methods: Iterable[str]) -> str:
    lines = [
        "| method | seeds | average accuracy | learning | backward transfer | forgetting | worst task "
        "| against o-lora | seconds | MB kept |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method in methods:
        runs = runs_of(folder, method)
        if not runs:
            continue
        summaries = [json.loads((path / "summary.json").read_text()) for path in runs]
        cells = [
            interval([summary[key] for summary in summaries if summary[key] is not None])
            for key in ("average_accuracy", "learning_accuracy", "backward_transfer", "forgetting", "worst_task")
        ]
        seconds = mean(summary["seconds"] for summary in summaries)
        size = mean(kept_bytes(path) for path in runs) / 1e6
        against = against_o_lora(folder, runs)
        lines.append(f"| `{method}` | {len(runs)} | {' | '.join(cells)} | {against} | {seconds:.0f} | {size:.2f} |")
    return "\n".join(lines)


def loss_table(folder: Path, methods: Iterable[str]) -> str:
    """Losses on test rows, in nats per answer token: where no answer is ever met, what was learnt still shows."""
    lines = ["| method | seeds | loss at the end | when learnt | growth | worst growth |", "|---|---|---|---|---|---|"]
    for method in methods:
        runs = runs_of(folder, method)
        if not runs:
            continue
        columns: dict[str, list[float]] = {"end": [], "learnt": [], "growth": [], "worst": []}
        for run in runs:
            losses = json.loads((run / "matrix.json").read_text())["loss"]
            columns["end"].append(mean(losses[-1]))
            learnt = [row[place] for place, row in enumerate(losses)]
            if None not in learnt:
                growth = [last - first for last, first in zip(losses[-1], learnt, strict=True)][:-1]
                columns["learnt"].append(mean(learnt))
                columns["growth"].append(mean(growth))
                columns["worst"].append(max(growth))
        cells = [interval(values, scale=1, digits=2) for values in columns.values()]
        lines.append(f"| `{method}` | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def interval(values: list[float], *, scale: float = 100, digits: int = 1) -> str:
    if not values:
        return ""
    text = f"{scale * mean(values):.{digits}f}"
    if len(values) > 1:
        half = stats.t.ppf(0.975, len(values) - 1) * stdev(values) / len(values) ** 0.5
        text += f" ± {scale * half:.{digits}f}"
    return text


def kept_bytes(run: Path) -> int:
    """What the last stage keeps of all tasks: adapters of every stage that still count, and the change of weights."""
    adapters = sum(file.stat().st_size for file in run.glob("stages/*/adapter*/**/adapter_model.safetensors"))
    changes = sorted(run.glob("stages/*/delta.safetensors"))
    return adapters + (changes[-1].stat().st_size if changes else 0)


def against_o_lora(folder: Path, runs: list[Path]) -> str:
    """Rows that only this method, or only o-lora, answers right at the end; and the p-value."""
    ours = theirs = 0
    for run in runs:
        other = place(folder, "o-lora", int(run.name.rpartition("-")[2]))
        if run == other or not (other / "summary.json").exists():
            continue
        mine, its = last_row(run), last_row(other)
        ours += sum(mine[row] and not its[row] for row in mine.keys() & its.keys())
        theirs += sum(its[row] and not mine[row] for row in mine.keys() & its.keys())
    if not ours + theirs:
        return ""
    return f"+{ours} -{theirs}, p = {stats.binomtest(ours, ours + theirs).pvalue:.2g}"


def last_row(run: Path) -> dict[tuple[str, str], bool]:
    last = sorted((run / "stages").iterdir())[-1]
    return {
        (file.stem, row["id"]): bool(row["correct"])
        for file in (last / "predictions").glob("*.jsonl")
        for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())
    }


if __name__ == "__main__":
    main()
