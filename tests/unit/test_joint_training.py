"""What may differ between tasks that are learnt all at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from evertune.adapters.spec import AdapterSpec
from evertune.assembly import check_tasks
from evertune.backbones.base import BackboneConfig
from evertune.errors import ConfigError
from evertune.evaluation.config import EvaluationConfig
from evertune.methods.multi_task import MultiTask
from evertune.methods.replay import Replay
from evertune.settings import RunSettings, StageSettings
from evertune.training.config import TrainConfig
from tests.unit.builders import stream

FIRST = StageSettings(TrainConfig(), (("multi-task", MultiTask()),), EvaluationConfig())
STREAM = stream(3, 2)


def settings(**own: Any) -> RunSettings:
    """A run in which task b has options of its own."""
    nothing: Any = None
    changed = dataclasses.replace(FIRST, **own)
    return RunSettings(
        seed=1,
        output_dir=Path("/runs/a"),
        run_name="a",
        stream=nothing,
        backbone=BackboneConfig(path="/models/m", task_type="causal_lm"),
        adapter=AdapterSpec(),
        first=FIRST,
        later=FIRST,
        per_task={"b": (changed, changed)},
    )


@pytest.mark.parametrize(
    "own",
    [
        {},
        {"train": TrainConfig(num_train_epochs=3)},
        {"evaluation": EvaluationConfig(num_beams=4, decoding="label_likelihood", per_device_eval_batch_size=2)},
    ],
)
def test_epochs_and_how_a_task_is_scored_may_differ(own: dict[str, Any]) -> None:
    check_tasks(settings(**own), STREAM)


@pytest.mark.parametrize(
    "own",
    [
        {"train": TrainConfig(learning_rate=0.5)},
        {"evaluation": EvaluationConfig(tasks="all")},
        {"methods": (("multi-task", MultiTask()), ("replay", Replay(ratio=0.9)))},
    ],
)
def test_what_only_a_stage_of_its_own_could_follow_is_refused(own: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_tasks(settings(**own), STREAM)
    assert str(caught.value) == (
        "per_task.b: Multi-task training learns all tasks at once and cannot train `b` with options of its own. "
        "Only `train.num_train_epochs` and how answers are scored may differ between tasks."
    )
