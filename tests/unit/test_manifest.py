"""What is written down about a run and its stages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evertune.adapters.spec import AdapterSpec
from evertune.adapters.summary import ParameterSummary
from evertune.assembly import Parts
from evertune.backbones.base import BackboneConfig, Identity
from evertune.evaluation.config import EvaluationConfig, EverySteps
from evertune.manifest import adapter_folders, new_manifest, stamps, training_record
from evertune.methods.base import Method
from evertune.methods.multi_task import MultiTask
from evertune.methods.per_task_lora import PerTaskLoRA
from evertune.methods.replay import Replay
from evertune.methods.seq_lora import SeqLoRA
from evertune.methods.stack import MethodStack
from evertune.settings import RunSettings, StageSettings
from evertune.streams.task import SplitRecord, Stage, Stream
from evertune.training.config import TrainConfig
from evertune.training.job import Counters, FitResult
from evertune.training.preflight import Preflight
from tests.unit.builders import task

RECORD = SplitRecord(("TC/dbpedia/train.json",), "ab" * 32, 3, 9, "first 3")
STREAM = Stream(
    "cl-benchmark",
    (
        task(
            "dbpedia", 3, labels=("yes", "no"), group="TC", splits={"train": RECORD}, audit={"duplicates": {"train": 0}}
        ),
        task("summaries", 2, metric="rougeL"),
    ),
)


def parts(
    *methods: tuple[str, Method],
    later: TrainConfig | None = None,
    per_task: dict[str, tuple[StageSettings, StageSettings]] | None = None,
    stream: Stream = STREAM,
    evaluation: EvaluationConfig | None = None,
) -> Parts:
    nothing: Any = None
    first = StageSettings(TrainConfig(), methods or (("seq-lora", SeqLoRA()),), evaluation or EvaluationConfig())
    settings = RunSettings(
        seed=1,
        output_dir=Path("/runs/a"),
        run_name="a",
        stream=nothing,
        backbone=BackboneConfig(path="/models/m", task_type="causal_lm"),
        adapter=AdapterSpec(),
        first=first,
        later=dataclasses.replace(first, train=later or first.train),
        per_task=per_task or {},
    )
    backbone: Any = SimpleNamespace(identity=Identity("/models/m", "local folder", None, "cd" * 32))
    stages = MethodStack(first.methods).stages(stream)
    return Parts(settings, stream, backbone, nothing, nothing, [], stages)


def test_the_manifest_of_a_new_run() -> None:
    found = new_manifest(parts())
    assert json.loads(json.dumps(found)) == found
    assert found == {
        "format": 1,
        "run_name": "a",
        "stream": {
            "name": "cl-benchmark",
            "task_identity_in_prompt": False,
            "order": ["dbpedia", "summaries"],
            "tasks": [
                {
                    "name": "dbpedia",
                    "group": "TC",
                    "metric": "exact_match",
                    "labels": ["yes", "no"],
                    "chance": 0.5,
                    "splits": {
                        "train": {
                            "sources": ["TC/dbpedia/train.json"],
                            "sha256": "ab" * 32,
                            "count": 3,
                            "available": 9,
                            "rule": "first 3",
                        }
                    },
                    "audit": {"duplicates": {"train": 0}},
                },
                {
                    "name": "summaries",
                    "group": "",
                    "metric": "rougeL",
                    "labels": None,
                    "chance": None,
                    "splits": {},
                    "audit": {},
                },
            ],
        },
        "backbone": {"path": "/models/m", "source": "local folder", "revision": None, "fingerprint": "cd" * 32},
        "start_from": None,
        "method": ["seq-lora"],
        "tuned_per_task": False,
        "stamps": [],
        "zero_shot": "pending",
        "stages": [
            {
                "index": index,
                "name": name,
                "folder": f"stages/{index + 1:02d}-{name}",
                "tasks": [name],
                "row": index,
                "status": "pending",
                "adapters": {},
                "files": {},
            }
            for index, name in enumerate(("dbpedia", "summaries"))
        ],
    }


def test_joint_training_is_one_stage_that_fills_the_last_row() -> None:
    found = new_manifest(parts(("multi-task", MultiTask()), evaluation=EvaluationConfig(zero_shot=False)))
    (stage,) = found["stages"]
    assert (stage["name"], stage["tasks"], stage["row"]) == ("multi-task", ["dbpedia", "summaries"], 1)
    assert found["zero_shot"] == "off"


def test_readers_are_told_what_helped() -> None:
    tuned = "Options were tuned per task."
    assert stamps(parts(later=TrainConfig(learning_rate=1e-4))) == [tuned]
    own = StageSettings(TrainConfig(max_steps=3), (), EvaluationConfig())
    assert stamps(parts(per_task={"dbpedia": (own, own)})) == [tuned]
    assert new_manifest(parts(per_task={"dbpedia": (own, own)}))["tuned_per_task"] is True

    named = dataclasses.replace(STREAM, task_identity_in_prompt=True)
    assert stamps(parts(stream=named)) == ["Prompts name the task, so the model is told at test which task it is."]

    per_task = (("per-task-lora", PerTaskLoRA()), ("replay", Replay()))
    told = "Method per-task-lora is told at test which task a row belongs to."
    assert stamps(parts(*per_task)) == [told]

    twice = Stream("s", tuple(task(name, 1, audit={"stamps": ["Dev is test."]}) for name in "ab"))
    assert stamps(parts(stream=twice)) == ["Dev is test."]


@pytest.mark.parametrize(
    ("trainable", "folders"),
    [
        ((), {}),
        (("task-02",), {"task-02": "stages/02-b/adapter"}),
        (("slow", "fast"), {"slow": "stages/02-b/adapters/slow", "fast": "stages/02-b/adapters/fast"}),
    ],
)
def test_where_adapters_are_kept(trainable: tuple[str, ...], folders: dict[str, str]) -> None:
    assert adapter_folders(Stage(1, "b", (1,), 1), trainable) == folders


def test_the_record_of_a_stage() -> None:
    during = EvaluationConfig(during_training=EverySteps(steps=5))
    own = parts(("replay", Replay(ratio=0.5)), later=TrainConfig(learning_rate=1e-4), evaluation=during)
    counters = Counters(
        seconds=2.0,
        samples=12,
        tokens=100,
        target_tokens=30,
        peak_memory_bytes=7,
        loss=0.5,
        best_step=5,
        best_score=0.75,
    )
    cut = {"rows": 2, "source_cut": 1, "target_cut": 0}
    result = FitResult(steps=6, epochs=1.5, counters=counters, truncation=cut, foreign_ids=[])
    summary = ParameterSummary(10, 1000, {"base float32": 4000}, {"attention query": 10})
    preflight = Preflight(torch.device("cpu"), [], None, summary, [(2, 5)], TrainConfig())
    record = training_record(own, own.stages[1], result, preflight, {})
    resolved = json.loads(json.dumps(record)).pop("resolved")
    assert {key: value for key, value in record.items() if key != "resolved"} == {
        "seconds": 2.0,
        "steps": 6,
        "epochs": 1.5,
        "samples": 12,
        "tokens": 100,
        "target_tokens": 30,
        "tokens_per_second": 50.0,
        "peak_memory_bytes": 7,
        "final_loss": 0.5,
        "truncation": cut,
        "parameters": {"trainable": 10, "total": 1000},
        "bytes": {"base float32": 4000, "optimiser float32": 80},
        "trains": {"attention query": 10},
        "best": {"step": 5, "score": 0.75},
        "facts": {},
    }
    assert resolved["train"]["learning_rate"] == 1e-4  # that of the second task
    assert resolved["method"][0]["name"] == "replay"
    assert resolved["method"][0]["ratio"] == 0.5
    assert resolved["evaluation"]["during_training"] == {"steps": 5}


def test_a_stage_without_evaluation_has_no_best() -> None:
    own = parts()
    result = FitResult(1, 1.0, Counters(), {}, [])
    summary = ParameterSummary(1, 2, {}, {})
    record = training_record(
        own, own.stages[0], result, Preflight(torch.device("cpu"), [], None, summary, [], TrainConfig()), {}
    )
    assert record["best"] is None
    assert record["tokens_per_second"] == 0
