"""Evertune: continual, parameter-efficient fine-tuning of Hugging Face models over a stream of tasks."""

from __future__ import annotations

import importlib
import os
from typing import Any

# Without it OpenMP threads spin while they wait: steps are 20 to 80 times slower on a busy machine. It must be set
# before torch is imported, and a user's own value wins.
os.environ.setdefault("GOMP_SPINCOUNT", "0")

__version__ = "0.1.0"

_PUBLIC = {
    "run": "evertune.runner:run",
    "load_config": "evertune.config.load:load_config",
    "load_run": "evertune.reporting.load:load_run",
    "report": "evertune.reporting.html:write_report",
    "Stream": "evertune.streams.task:Stream",
    "Task": "evertune.streams.task:Task",
    "Stage": "evertune.streams.task:Stage",
    "PromptTarget": "evertune.streams.examples:PromptTarget",
    "Backbone": "evertune.backbones.base:Backbone",
    "BackboneConfig": "evertune.backbones.base:BackboneConfig",
    "AdapterSpec": "evertune.adapters.spec:AdapterSpec",
    "AdapterPlan": "evertune.adapters.spec:AdapterPlan",
    "AdapterBank": "evertune.adapters.bank:AdapterBank",
    "Method": "evertune.methods.base:Method",
    "MethodState": "evertune.methods.base:MethodState",
    "Context": "evertune.methods.base:Context",
    "TrainConfig": "evertune.training.config:TrainConfig",
    "EvaluationConfig": "evertune.evaluation.config:EvaluationConfig",
    "EvalMatrix": "evertune.metrics.matrix:EvalMatrix",
    "EvertuneError": "evertune.errors:EvertuneError",
}

__all__ = ["__version__", *_PUBLIC]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used (PEP 562), so that the command line starts without torch."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'evertune' has no attribute {name!r}")
    module, _, attribute = _PUBLIC[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
