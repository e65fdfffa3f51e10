from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from evertune.backbones import BACKBONES
from evertune.config import describe
from evertune.config.hints import fields_of
from evertune.config.json_schema import config_schema
from evertune.config.load import recipes
from evertune.config.schema import REGISTERED, SECTIONS, RunOptions
from evertune.settings import RunSettings


@dataclass(frozen=True)
class Base:
    """A base.

    Attributes:
        first: Comes from
            the base.
    """

    first: int = 1


@dataclass(frozen=True)
class Example(Base):
    """An example of ``things``.

    More about it, in
    two lines.

    Attributes:
        second: With ``code``: and a colon.

    Source: Someone (2020).
    """

    second: str = "x"


def test_the_docstring_is_the_source() -> None:
    assert describe.attribute_docs(Example) == {
        "first": "Comes from the base.",
        "second": "With `code`: and a colon.",
    }
    assert describe.summary(Example) == "An example of `things`."
    assert describe.prose(Example) == "An example of `things`.\n\nMore about it, in two lines."
    assert describe.source(Example) == "Someone (2020)."
    assert [(option.name, option.type, option.default) for option in describe.options(Example)] == [
        ("first", "a whole number", 1),
        ("second", "text", "x"),
    ]


def all_classes() -> dict[str, type]:
    found: dict[str, type] = {"top level": RunOptions, **SECTIONS}
    for registry in REGISTERED.values():
        found |= {name: registry.get(name) for name in registry.names()}
    return found


@pytest.mark.parametrize("cls", all_classes().values(), ids=all_classes())
def test_every_option_is_explained_and_nothing_else_is(cls: type) -> None:
    documented = set(describe.attribute_docs(cls))
    assert documented == {field.name for field in fields_of(cls)}
    assert describe.summary(cls)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return config_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_schema_knows_descriptions_defaults_and_choices(schema: dict[str, Any]) -> None:
    train = schema["properties"]["train"]["properties"]
    assert train["learning_rate"] == {
        "type": "number",
        "exclusiveMinimum": 0,
        "default": 1e-3,
        "description": "Peak learning rate.",
    }
    assert train["optim"]["enum"] == ["adamw_torch", "sgd", "adafactor"]
    assert schema["properties"]["backbone"]["properties"]["task_type"]["enum"] == BACKBONES.names()
    one = schema["properties"]["method"]["anyOf"][0]["oneOf"]
    assert one[0] == {"enum": REGISTERED["method"].names()}
    assert [entry["title"] for entry in one[1:]] == REGISTERED["method"].names()


@pytest.mark.parametrize("path", recipes().values(), ids=recipes())
def test_recipes_are_valid_under_the_schema(validator: jsonschema.Draft202012Validator, path: Path) -> None:
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "method: [replay, {name: seq-lora}]\n",
        "stream: [{name: a, train: x.jsonl}]\n",
        "per_task: {A: {train.max_steps: 5, evaluation: {during_training: {steps: 5}}}}\n",
    ],
)
def test_resolved_configurations_are_valid_under_the_schema(
    validator: jsonschema.Draft202012Validator, load: Callable[..., RunSettings], text: str
) -> None:
    stream = "" if text.startswith("stream") else "stream: synthetic\n"
    validator.validate(dict(load(f"{stream}backbone: {{path: builtin:tiny-llama}}\n{text}", whole=True).resolved))


@pytest.mark.parametrize(
    "change",
    [
        {"trian": {}},
        {"train": {"lr": 1}},
        {"train": {"learning_rate": 0}},
        {"train": {"learning_rate": "1"}},
        {"stream": "nothing"},
        {"stream": {"name": "cl-benchmark"}},
        {"method": {"name": "replay", "buffer": "big"}},
        {"method": []},
        {"per_task": {"A": {"adapter.r": 1}}},
        {"backbone": {"task_type": "causal_lm"}},
    ],
)
def test_the_schema_refuses_what_the_program_refuses(
    validator: jsonschema.Draft202012Validator, change: dict[str, Any]
) -> None:
    good = {"stream": "synthetic", "backbone": {"path": "builtin:tiny-llama"}}
    validator.validate(good)
    assert not validator.is_valid({**good, **change})
