"""Small real runs on the built-in models, and what must be equal between two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

BASE: dict[str, Any] = {
    "seed": 3,
    "stream": {
        "name": "synthetic",
        "tasks": ["sentiment", "topic"],
        "train_rows": 64,
        "test_rows": 12,
        "dev_fraction": 0.1,
    },
    "backbone": {"path": "builtin:tiny-llama", "task_type": "causal_lm"},
    "adapter": {"r": 4, "lora_alpha": 8, "target": "attention_query_value"},
    "method": "seq-lora",
    "train": {
        "max_steps": 6,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "max_source_length": 96,
        "max_target_length": 24,
        "logging_steps": 1,
        "save_steps": 2,
    },
    "evaluation": {"per_device_eval_batch_size": 6},
}


LEFT_OUT = "left out"


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the nested keys of `change` in their place; ``LEFT_OUT`` takes a key away."""
    result = dict(base)
    for key, value in change.items():
        inner = result.get(key)
        if value == LEFT_OUT:
            result.pop(key, None)
        else:
            result[key] = merged(inner, value) if isinstance(value, Mapping) and isinstance(inner, Mapping) else value
    return result


# What a method cannot do without, or can only be compared with; the others run with their defaults.
NEEDS: dict[str, dict[str, Any]] = {
    # The sign of a number near zero is not the same in two sums of one thing: a strong penalty would multiply that.
    "n-lora": {"method": {"name": "n-lora", "lambda_1": 1e-3}},
    # Differences of large products: their rounding would decide the sign of the smallest gradients, and Adam's step.
    "osf": {
        "method": "osf",
        "adapter": {"kind": "osf", "r": LEFT_OUT, "lora_alpha": LEFT_OUT},
        "train": {"adam_epsilon": 1e-4},
    },
    "ds-lora": {"method": {"name": "ds-lora", "slow_learning_rate": 1e-4}},
    "slsd": {
        "method": [
            {"name": "ds-lora", "slow_learning_rate": 1e-4},
            {"name": "slsd", "probes": 12, "earlier_probes": 4, "cadence": 2},
        ]
    },
    "gorp": {"method": {"name": "gorp", "full_rank_learning_rate": 3e-4, "refresh_gap": 4}},
}


def needs(method: str) -> dict[str, Any]:
    """The part of a configuration that runs a method."""
    return NEEDS.get(method, {"method": method})


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a configuration to a file of its own; its run goes to ``runs/<name>`` beside it."""

    def write(name: str, **change: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(merged(BASE, change)), encoding="utf-8")
        return path

    return write


def results(run: Path) -> dict[str, bytes]:
    """The files of a run that must not depend on how it was interrupted."""
    patterns = (
        "stages/*/adapter/*",
        "stages/*/adapters/*/*",
        "stages/*/delta.safetensors",
        "stages/*/heads.safetensors",
        "stages/*/samples.png",
        "**/predictions/*.jsonl",
        "matrix.json",
        "stages/*/method.*",
    )
    files = sorted({path for pattern in patterns for path in run.glob(pattern) if path.is_file()})
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in files}
