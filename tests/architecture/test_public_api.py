"""What the package promises to its users in Python."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import evertune

PUBLIC = {
    "AdapterBank",
    "AdapterPlan",
    "AdapterSpec",
    "Backbone",
    "BackboneConfig",
    "Context",
    "EvalMatrix",
    "EvaluationConfig",
    "EvertuneError",
    "Method",
    "MethodState",
    "PromptTarget",
    "Stage",
    "Stream",
    "Task",
    "TrainConfig",
    "__version__",
    "load_config",
    "load_run",
    "report",
    "run",
}
REGISTRIES = {
    "evertune.methods": "METHODS",
    "evertune.streams": "STREAMS",
    "evertune.backbones": "BACKBONES",
    "evertune.metrics": "METRICS",
}


def test_public_names_are_these() -> None:
    assert set(evertune.__all__) == PUBLIC


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_public_name_resolves(name: str) -> None:
    assert getattr(evertune, name) is not None


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        evertune.trainer  # noqa: B018


@pytest.mark.parametrize("module", REGISTRIES)
def test_every_registry_entry_resolves(module: str) -> None:
    registry = getattr(importlib.import_module(module), REGISTRIES[module])
    assert registry.names()
    for name in registry.names():
        assert registry.get(name) is not None


def test_importing_the_package_imports_no_torch() -> None:
    code = "import sys, evertune; print(sorted({'torch', 'transformers', 'peft', 'accelerate'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
