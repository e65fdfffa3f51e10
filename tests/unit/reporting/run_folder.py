"""A run folder as a run leaves it, made up: realistic numbers and all the formats, at any number of tasks."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

from evertune.metrics.matrix import EvalMatrix, summary_metrics

FOUR = ("dbpedia", "amazon", "yahoo", "agnews")
FIFTEEN = (
    *("yelp", "amazon", "MNLI", "CB", "COPA", "QQP", "RTE", "IMDB", "SST-2", "dbpedia", "agnews", "yahoo"),
    *("MultiRC", "BoolQA", "WiC"),
)
LABELS = {"dbpedia": 14, "amazon": 5, "yelp": 5, "yahoo": 10, "agnews": 4, "MNLI": 3, "CB": 3}
GROUPS = {"dbpedia": "TC", "agnews": "TC", "yahoo": "TC", "amazon": "SC", "yelp": "SC"}
HOSTILE = "<script>alert('x')</script> & \"quoted\" </td>"
ROWS = 40


def write_run(
    folder: Path,
    tasks: tuple[str, ...] = FOUR,
    *,
    finished: int | None = None,
    multi_task: bool = False,
    zero_shot: bool = True,
    upper_triangle: bool = False,
    dev: bool = True,
) -> Path:
    """Writes a run.

    Args:
        folder: Where to.
        tasks: Names of the tasks.
        finished: How many stages are complete; the next one is training. None for all.
        multi_task: One stage with all tasks.
        zero_shot: Whether zero-shot scores were measured.
        upper_triangle: Whether tasks to come are scored too.
        dev: Whether dev rows were scored while training.
    """
    rng = random.Random(7)
    stages = _stages(tasks, multi_task, len(tasks) if finished is None else finished)
    _write_events(folder, rng, stages, dev=dev)
    matrix, cells = _scores(rng, tasks, stages, zero_shot, upper_triangle)
    for stage in stages:
        if stage["status"] == "complete":
            _write_stage(folder, rng, stage, cells[stage["index"]])
    if zero_shot:
        _write_zero_shot(folder, rng, cells[None])
    chance = [1 / _labels(task) for task in tasks]
    write_json(folder / "matrix.json", matrix.to_json())
    write_json(
        folder / "summary.json",
        {
            **summary_metrics(matrix, chance),
            "seconds": 372.4,
            "peak_memory_bytes": 1_234_567_890,
            "parameters": {"trainable": 294_912, "total": 60_801_024},
            "tokens": 1_520_000,
        },
    )
    write_json(folder / "manifest.json", _manifest(tasks, stages, zero_shot))
    write_json(folder / "environment.json", _environment())
    (folder / "config.yaml").write_text(
        "seed: 42\nstream:\n  name: cl-benchmark\n  order: 1\nmethod:\n- name: replay\n", encoding="utf-8"
    )
    return folder


def write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _labels(task: str) -> int:
    return LABELS.get(task, 2)


def _stages(tasks: tuple[str, ...], multi_task: bool, finished: int) -> list[dict[str, Any]]:
    if multi_task:
        plan = [("multi-task", list(tasks), len(tasks) - 1)]
    else:
        plan = [(task, [task], index) for index, task in enumerate(tasks)]
    stages = []
    for index, (name, learnt, row) in enumerate(plan):
        status = "complete" if index < finished else "training" if index == finished else "pending"
        stages.append(
            {
                "index": index,
                "name": name,
                "folder": f"stages/{index + 1:02d}-{name}",
                "tasks": learnt,
                "row": row,
                "status": status,
                "adapters": {"shared": f"stages/{index + 1:02d}-{name}/adapter"} if status == "complete" else {},
                "files": {"adapter/adapter_model.safetensors": "0" * 64} if status == "complete" else {},
            }
        )
    return stages


def _write_events(folder: Path, rng: random.Random, stages: list[dict[str, Any]], *, dev: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    time = "2025-11-24T10:00:00+00:00"
    lines: list[dict[str, Any]] = []
    for stage in stages:
        if stage["status"] == "pending":
            continue
        lines.append(
            {"event": "stage", "time": time, "stage": stage["index"], "name": stage["name"], "status": "training"}
        )
        for step in range(10, 510, 10):
            loss = 2.2 * math.exp(-step / 120) + 0.35 + rng.gauss(0, 0.08)
            lines.append(
                {
                    "event": "step",
                    "time": time,
                    "stage": stage["index"],
                    "task": stage["name"],
                    "step": step,
                    "total_steps": 500,
                    "epoch": step / 250,
                    "loss": loss,
                    "terms": {},
                    "learning_rate": 1e-3,
                    "gradient_norm": 0.8,
                    "tokens_per_second": 900.0,
                    "memory_bytes": 1_000_000_000,
                }
            )
            if dev and step % 100 == 0:
                score = 0.9 - math.exp(-step / 200) / 2
                lines.append(
                    {
                        "event": "evaluation",
                        "time": time,
                        "stage": stage["index"],
                        "task": stage["name"],
                        "step": step,
                        "split": "dev",
                        "score": score,
                        "loss": loss + 0.1,
                        "best": step == 500,
                    }
                )
    lines.append({"event": "warning", "time": time, "text": f"a warning with {HOSTILE}"})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    # What a kill leaves: half a line.
    (folder / "events.jsonl").write_text(text + '{"event": "step", "ti', encoding="utf-8")


def _scores(
    rng: random.Random, tasks: tuple[str, ...], stages: list[dict[str, Any]], zero_shot: bool, upper: bool
) -> tuple[EvalMatrix, dict[int | None, dict[str, Any]]]:
    matrix = EvalMatrix.empty(tasks, dict.fromkeys(tasks, "exact_match"))
    learnt = {task: rng.uniform(0.6, 0.98) for task in tasks}
    cells: dict[int | None, dict[str, Any]] = {None: {}}
    if zero_shot:
        for task in tasks:
            cells[None][task] = _cell(rng, task, rng.uniform(0, 0.3))
        matrix = matrix.with_zero_shot({task: _Scored(cell) for task, cell in cells[None].items()})
    for stage in stages:
        if stage["status"] != "complete":
            continue
        row = {}
        for place, task in enumerate(tasks):
            learnt_at = 0 if stage["name"] == "multi-task" else place
            age = stage["index"] - learnt_at
            if age < 0 and not upper:
                continue
            level = learnt[task] * 0.87**age + rng.uniform(-0.05, 0.05) if age >= 0 else rng.uniform(0.1, 0.4)
            row[task] = _cell(rng, task, level)
        cells[stage["index"]] = row
        matrix = matrix.with_row(stage["row"], {task: _Scored(cell) for task, cell in row.items()})
    return matrix, cells


class _Scored:
    def __init__(self, cell: dict[str, Any]) -> None:
        entry = cell["entry"]
        self.score, self.count = entry["score"], entry["count"]
        self.standard_error, self.loss = entry["standard_error"], entry["loss"]


def _cell(rng: random.Random, task: str, level: float) -> dict[str, Any]:
    right = min(ROWS, max(0, round(level * ROWS)))
    score = right / ROWS
    rows = []
    for index in range(ROWS):
        correct = index < right
        wrong = HOSTILE if index == ROWS - 1 else f"wrong {rng.randrange(9)}"
        reference = f"label {index % _labels(task)}"
        rows.append(
            {
                "id": f"{task}/test/{index}",
                "prediction": reference if correct else wrong,
                "reference": reference,
                "correct": correct,
            }
        )
    entry = {
        "metric": "exact_match",
        "score": score,
        "count": ROWS,
        "standard_error": math.sqrt(score * (1 - score) / ROWS),
        "loss": 0.2 + 2.5 * (1 - level),
        "generated_tokens": 1.2,
        "metrics": {"exact_match": score, "rouge1": min(1.0, score + 0.02), "rougeL": min(1.0, score + 0.01)},
    }
    return {"entry": entry, "rows": rows}


def _write_cells(folder: Path, cells: dict[str, Any]) -> dict[str, Any]:
    for task, cell in cells.items():
        path = folder / "predictions" / f"{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in cell["rows"]), encoding="utf-8")
    scores = {task: cell["entry"] for task, cell in cells.items()}
    mean = sum(entry["score"] for entry in scores.values()) / len(scores)
    groups = {
        GROUPS[task]: {"score": mean, "row_weighted_mean": mean, "count": ROWS} for task in cells if task in GROUPS
    }
    return {
        "scores": scores,
        "task_mean": mean,
        "row_weighted_mean": mean,
        "groups": groups,
        "evaluation_seconds": 3.5 * len(cells),
    }


def _write_zero_shot(folder: Path, rng: random.Random, cells: dict[str, Any]) -> None:
    write_json(folder / "zero_shot" / "metrics.json", _write_cells(folder / "zero_shot", cells))


def _write_stage(folder: Path, rng: random.Random, stage: dict[str, Any], cells: dict[str, Any]) -> None:
    training = {
        "seconds": rng.uniform(60, 120),
        "steps": 500,
        "epochs": 2.0,
        "samples": 4000,
        "tokens": 380_000,
        "target_tokens": 9_000,
        "tokens_per_second": rng.uniform(3000, 5000),
        "peak_memory_bytes": 1_100_000_000 + 10_000_000 * stage["index"],
        "final_loss": 0.36,
        "truncation": {"rows": 4000, "source_cut": 31 if stage["index"] == 1 else 0, "target_cut": 0},
        "parameters": {"trainable": 294_912, "total": 60_801_024},
        "bytes": {"base float32": 242_024_448, "adapters float32": 1_179_648, "optimiser float32": 2_359_296},
        "trains": {"attention query": 147_456, "attention value": 147_456},
        "best": {"step": 500, "score": 0.87} if stage["index"] == 0 else None,
        "resolved": {"train": {"learning_rate": 1e-3, "num_train_epochs": 2.0}, "method": ["replay"], "evaluation": {}},
    }
    write_json(
        folder / stage["folder"] / "metrics.json",
        {
            "stage": stage["index"],
            "name": stage["name"],
            "tasks": stage["tasks"],
            "row": stage["row"],
            **_write_cells(folder / stage["folder"], cells),
            "training": training,
        },
    )


def _split(task: str, split: str, count: int, rule: str) -> dict[str, Any]:
    return {
        "sources": [f"{task}/{split}.json"],
        "sha256": f"{len(task):02d}ab" * 16,
        "count": count,
        "available": 7600,
        "rule": rule,
    }


def _manifest(tasks: tuple[str, ...], stages: list[dict[str, Any]], zero_shot: bool) -> dict[str, Any]:
    return {
        "format": 1,
        "run_name": "order 1, sequential",
        "stream": {
            "name": "cl-benchmark",
            "task_identity_in_prompt": True,
            "order": list(tasks),
            "tasks": [
                {
                    "name": task,
                    "group": GROUPS.get(task, "NLI"),
                    "metric": "exact_match",
                    "labels": [f"label {index}" for index in range(_labels(task))],
                    "chance": 1 / _labels(task),
                    "splits": {
                        "train": _split(task, "train", 4000, "file"),
                        "dev": _split(task, "train", 400, "carved from train: 10 % by sha256(seed, row)"),
                        "test": _split(task, "test", ROWS, f"first {ROWS}"),
                    },
                    "audit": {
                        "duplicates": {"train": 3, "dev": 0, "test in train": 1},
                        "invalid_labels": [f"{task}/test/{index}" for index in range(2)] if task == "amazon" else [],
                        "notes": [f"dev.json equals test.json and is not read {HOSTILE}"] if task == "amazon" else [],
                    },
                }
                for task in tasks
            ],
        },
        "backbone": {
            "path": "t5-small",
            "source": "hub",
            "revision": "df1b051c49625cf57a3d0d8d3863ed4d13564fe4",
            "fingerprint": "c0ffee" * 10 + "c0ff",
        },
        "method": ["replay"],
        "tuned_per_task": True,
        "stamps": ["Tuned per task: amazon has its own `train.num_train_epochs`.", "Prompts name the task."],
        "zero_shot": "complete" if zero_shot else "off",
        "stages": stages,
    }


def _environment() -> dict[str, Any]:
    return {
        "evertune": "0.1.0",
        "python": "3.11.2",
        "platform": "Linux-6.1-x86_64",
        "packages": {"torch": "2.13.0", "transformers": "5.24.0", "peft": "0.21.2"},
        "device": "cpu",
        "threads": 2,
        "processes": 1,
        "git": {"commit": None, "dirty": None},
        "command": ["evertune", "run", "cl_order1.yaml"],
        "started": "2025-11-24T10:00:00+00:00",
    }
