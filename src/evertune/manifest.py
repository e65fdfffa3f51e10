"""What is written down about a run: its manifest, and the record of every stage."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from evertune.adapters.released import released_record
from evertune.assembly import Parts
from evertune.streams.task import Stage, Stream
from evertune.training.job import FitResult
from evertune.training.preflight import Preflight


def new_manifest(parts: Parts) -> dict[str, Any]:
    """The manifest of a run that has not begun."""
    identity, settings = parts.backbone.identity, parts.settings
    return {
        "format": 1,
        "run_name": settings.run_name,
        "stream": stream_manifest(parts.stream),
        "backbone": {
            "path": identity.path,
            "source": identity.source,
            "revision": identity.revision,
            "fingerprint": identity.fingerprint,
        },
        "start_from": released_record(settings.adapter.start_from),
        "method": [name for name, _ in settings.first.methods],
        "tuned_per_task": bool(settings.per_task) or settings.first != settings.later,
        "stamps": stamps(parts),
        "zero_shot": "pending" if settings.first.evaluation.zero_shot else "off",
        "stages": [
            {
                "index": stage.index,
                "name": stage.name,
                "folder": f"stages/{stage.folder}",
                "tasks": [parts.stream.names[task] for task in stage.tasks],
                "row": stage.row,
                "status": "pending",
                "adapters": {},
                "files": {},
            }
            for stage in parts.stages
        ],
    }


def stamps(parts: Parts) -> list[str]:
    """Sentences that every reader of the results must know: they are printed on the report."""
    found: list[str] = []
    if parts.settings.per_task or parts.settings.first != parts.settings.later:
        found.append("Options were tuned per task.")
    if parts.stream.task_identity_in_prompt:
        found.append("Prompts name the task, so the model is told at test which task it is.")
    for name, method in parts.settings.first.methods:
        if "task_id_at_test" in method.required():
            found.append(f"Method {name} is told at test which task a row belongs to.")
    if released_record(parts.settings.adapter.start_from) is not None:
        found.append(
            f"A frozen adapter from {parts.settings.adapter.start_from} takes part in every stage; zero-shot is the "
            "model without it."
        )
    found += [stamp for task in parts.stream.tasks for stamp in task.audit.get("stamps", ())]
    return list(dict.fromkeys(found))


def stream_manifest(stream: Stream) -> dict[str, Any]:
    """The stream's section of the manifest."""
    return {
        "name": stream.name,
        "task_identity_in_prompt": stream.task_identity_in_prompt,
        "order": stream.names,
        "tasks": [
            {
                "name": task.name,
                "group": task.group,
                "metric": task.metric,
                "labels": list(task.labels) if task.labels else None,
                "chance": task.chance,
                "splits": {
                    split: {
                        "sources": list(record.sources),
                        "sha256": record.sha256,
                        "count": record.count,
                        "available": record.available,
                        "rule": record.rule,
                    }
                    for split, record in task.splits.items()
                },
                "audit": dict(task.audit),
            }
            for task in stream.tasks
        ],
    }


def training_record(
    parts: Parts, stage: Stage, result: FitResult, preflight: Preflight, facts: dict[str, Any]
) -> dict[str, Any]:
    """The ``training`` section of a stage's ``metrics.json``; `facts` are what the methods tell."""
    counters, settings = result.counters, parts.stage_settings(stage)
    best = None
    if counters.best_step is not None:
        best = {"step": counters.best_step, "score": counters.best_score}
    return {
        "seconds": counters.seconds,
        "steps": result.steps,
        "epochs": result.epochs,
        "samples": counters.samples,
        "tokens": counters.tokens,
        "target_tokens": counters.target_tokens,
        "tokens_per_second": counters.tokens / max(counters.seconds, 1e-9),
        "peak_memory_bytes": counters.peak_memory_bytes,
        "final_loss": counters.loss,
        "truncation": result.truncation,
        "parameters": {"trainable": preflight.summary.trainable, "total": preflight.summary.total},
        "bytes": preflight.bytes(),
        "trains": dict(preflight.summary.trains),
        "best": best,
        "facts": facts,
        "resolved": {
            "train": _options(settings.train),
            "method": [{"name": name, **_options(method)} for name, method in settings.methods],
            "evaluation": _options(settings.evaluation),
        },
    }


def _options(options: Any) -> dict[str, Any]:
    """Options as JSON values: paths, however deep, as text."""
    return json.loads(json.dumps(dataclasses.asdict(options), default=str))


def adapter_folders(stage: Stage, names: Sequence[str]) -> dict[str, str]:
    """Where the adapters that are kept of a stage lie, relative to the run."""
    base = f"stages/{stage.folder}"
    if len(names) == 1:
        return {names[0]: f"{base}/adapter"}
    return {name: f"{base}/adapters/{name}" for name in names}
