"""The recipes of published settings: their numbers, that each is valid, and that they run on a built-in model."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, LlamaConfig, PreTrainedModel, T5Config

from evertune.adapters.targets import linear_modules, resolve_paths, resolve_targets
from evertune.cli.app import main
from evertune.cli.catalog import recipe_summary
from evertune.config.load import load_config, recipes
from evertune.console import Console
from evertune.settings import RunSettings, StageSettings

CLASSIC = {1: "dbpedia amazon yahoo agnews", 2: "dbpedia amazon agnews yahoo", 3: "yahoo amazon agnews dbpedia"}
LONG = {
    4: "MNLI CB WiC COPA QQP BoolQA RTE IMDB yelp amazon SST-2 dbpedia agnews MultiRC yahoo",
    5: "MultiRC BoolQA WiC MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yelp amazon yahoo",
    6: "yelp amazon MNLI CB COPA QQP RTE IMDB SST-2 dbpedia agnews yahoo MultiRC BoolQA WiC",
}
ORDERS = {number: names.split() for number, names in (CLASSIC | LONG).items()}
GROUPS = {
    "TC": {"dbpedia": ["Company", "Artist"], "yahoo": ["Health", "Sports"], "agnews": ["World", "Business"]},
    "SC": {
        **{name: ["negative", "positive"] for name in ("amazon", "yelp")},
        **{name: ["Good", "Bad"] for name in ("SST-2", "IMDB")},
    },
    "NLI": {name: ["neutral", "entailment", "contradiction"] for name in ("MNLI", "CB", "RTE")},
    **{name: {name: ["False", "True"]} for name in ("QQP", "BoolQA", "MultiRC", "WiC")},
    "COPA": {"COPA": ["A", "B"]},
}


@dataclass(frozen=True)
class Published:
    """A line of a published table: numbers for all tasks, and those of single tasks where they differ."""

    batch: int
    rate: float
    options: Mapping[str, Any]
    later_rate: float | None = None
    epochs: float = 1
    own_epochs: Mapping[str, float] = field(default_factory=dict)
    own_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def gorp(full: float, rank: int, gap: int, scale: float, role: str) -> Mapping[str, Any]:
    return {
        "full_rank": role,
        "full_rank_learning_rate": full,
        "projection_rank": rank,
        "refresh_gap": gap,
        "projection_scale": scale,
    }


def table() -> dict[str, Published]:
    found: dict[str, Published] = {}
    cross = "cross_attention_query_value"
    for order in (1, 2, 3):
        found[f"gorp-t5-large-order{order}"] = Published(64, 1e-3, gorp(1e-5, 8, 10, 1.0, cross))
        found[f"gorp-llama2-7b-order{order}"] = Published(64, 2e-4, gorp(1e-6, 2, 20, 0.25, "mlp_gate"))
        options = {"variant": "released", "lambda_1": 0.5, "lambda_2": 0.0}
        found[f"o-lora-t5-large-order{order}"] = Published(64, 1e-3, options)
        found[f"o-lora-llama2-7b-order{order}"] = Published(64, 1e-3, options, later_rate=1e-4)
    for order in (4, 5, 6):
        twice = {} if order == 4 else {"MNLI": 2}
        options = gorp(1e-5, 32, 20, 0.25, cross)
        found[f"gorp-t5-large-order{order}"] = Published(64, 1e-3, options, own_epochs=twice)
    lambda_1 = [0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 5, 5, 5, 5, 5, 5]
    lambda_2 = [0, 0, 0, 0, 0.1, 0.1, 0.3, 0, 0.1, 0, 0, 0.1, 0, 0.1, 0.3]
    own = {
        task: {"lambda_1": first, "lambda_2": second}
        for task, first, second in zip(ORDERS[6], lambda_1, lambda_2, strict=True)
    }
    found["o-lora-t5-large-order6"] = Published(
        64, 1e-3, {"variant": "released"}, own_epochs={"MNLI": 2}, own_options=own
    )
    t5 = {1: (48, 1e-3, 0.4), 2: (32, 1e-3, 0.4), 3: (32, 1e-3, 0.4), 4: (32, 5e-4, 0.4), 5: (32, 8e-4, 0.55)}
    for order, (batch, rate, weight) in (t5 | {6: (32, 1e-3, 1.8)}).items():
        heavy = ["WiC", "RTE", "IMDB", "yelp", "SST-2", "dbpedia", "yahoo"] if order == 4 else []
        own = {task: {"lambda_1": 1.2} for task in heavy}
        options = {"variant": "released", "lambda_1": weight}
        found[f"n-lora-t5-large-order{order}"] = Published(batch, rate, options, epochs=10, own_options=own)
    llama: list[tuple[int, float, float | None, float, dict[str, float]]] = [
        (48, 1e-3, 1e-4, 0.46, {"amazon": 10}),
        (32, 1e-4, 5e-5, 0.38, {"amazon": 5}),
        (32, 1e-4, None, 0.4, {"yahoo": 5, "amazon": 10}),
    ]
    for order, (batch, rate, later, weight, epochs) in enumerate(llama, start=1):
        options = {"variant": "released", "lambda_1": weight}
        found[f"n-lora-llama2-7b-order{order}"] = Published(batch, rate, options, later, own_epochs=epochs)
    return found


TABLE = table()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small folder in the layout of the CL benchmark, with all its data sets."""
    root = tmp_path_factory.mktemp("data") / "CL_Benchmark"
    for group, datasets in GROUPS.items():
        for name, labels in datasets.items():
            folder = root / group / name
            folder.mkdir(parents=True)
            for split, count in (("train", 6), ("test", 2)):
                rows = [
                    {"sentence": f"{split} text {i} of {name}", "label": labels[i % len(labels)]} for i in range(count)
                ]
                (folder / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
            (folder / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return root


def swapped(name: str, root: Path) -> list[str]:
    """Changes that put a built-in model of the same family and a small folder of data into a recipe."""
    model = "tiny-t5" if "t5" in name else "tiny-llama"
    return [f"stream.root={root}", f"backbone.path=builtin:{model}", "train.max_source_length=200"]


def stages(settings: RunSettings, order: Sequence[str]) -> list[tuple[str, StageSettings]]:
    return [(task, settings.for_task(task, index)) for index, task in enumerate(order)]


def test_every_published_setting_has_a_recipe() -> None:
    assert TABLE.keys() == {name for name in recipes() if name.startswith(("gorp-", "o-lora-", "n-lora-"))}


@pytest.mark.parametrize("name", TABLE)
def test_the_published_numbers(name: str) -> None:
    published, settings = TABLE[name], load_config(name)
    order = int(name[-1])
    resolved = settings.resolved
    assert resolved["stream"] == resolved["stream"] | {"order": order, "root": str(Path.cwd() / "CL_Benchmark")}
    assert settings.output_dir.name == name
    adapter = settings.adapter
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (8, 32, 0.1)
    on_self_attention = name.startswith("gorp-t5")
    assert adapter.target == ("self_attention_query_value" if on_self_attention else "attention_query_value")
    for index, (task, stage) in enumerate(stages(settings, ORDERS[order])):
        train = stage.train
        ((method, options),) = stage.methods
        assert name.startswith(f"{method}-")
        assert train.per_device_train_batch_size * train.gradient_accumulation_steps == published.batch
        assert train.learning_rate == (published.later_rate if index and published.later_rate else published.rate)
        assert train.num_train_epochs == published.own_epochs.get(task, published.epochs)
        assert (train.lr_scheduler_type, train.max_source_length, train.max_target_length) == ("constant", 512, 50)
        for option, value in {**published.options, **published.own_options.get(task, {})}.items():
            assert getattr(options, option) == value, (task, option)


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_is_valid_with_a_built_in_model(name: str, root: Path) -> None:
    from evertune.checking import check_parts

    settings = load_config(name, swapped(name, root))
    checked = check_parts(settings, Console(io.StringIO(), speaks=False))
    assert list(checked.stream.names) == ORDERS[int(name[-1])]
    assert all(not task.dev for task in checked.stream.tasks)


@pytest.mark.parametrize("name", TABLE)
def test_a_title_is_one_short_line(name: str) -> None:
    title = recipe_summary(recipes()[name])
    assert title.endswith(f"CL benchmark, order {name[-1]}.")
    assert len(title) < 60


@pytest.fixture(scope="module")
def published_models() -> dict[str, PreTrainedModel]:
    """Both models in their real sizes, without weights."""
    t5 = T5Config(d_model=1024, d_kv=64, d_ff=4096, num_layers=24, num_decoder_layers=24, num_heads=16)
    with torch.device("meta"):
        return {
            "t5-large": AutoModelForSeq2SeqLM.from_config(t5),
            "llama2-7b": AutoModelForCausalLM.from_config(LlamaConfig()),
        }


@pytest.mark.parametrize(
    ("name", "modules", "size", "full_rank", "full_rank_size"),
    [
        ("gorp-t5-large-order1", 96, 1_572_864, 48, 50_331_648),
        ("gorp-llama2-7b-order1", 64, 4_194_304, 32, 1_442_840_576),
        ("o-lora-t5-large-order6", 144, 2_359_296, 0, 0),
        ("o-lora-llama2-7b-order1", 64, 4_194_304, 0, 0),
        ("n-lora-t5-large-order1", 144, 2_359_296, 0, 0),
        ("n-lora-llama2-7b-order1", 64, 4_194_304, 0, 0),
    ],
)
def test_what_learns_on_a_model_of_the_real_size(
    published_models: dict[str, PreTrainedModel],
    name: str,
    modules: int,
    size: int,
    full_rank: int,
    full_rank_size: int,
) -> None:
    settings = load_config(name)
    model = published_models["t5-large" if "t5" in name else "llama2-7b"]
    linear = linear_modules(model)
    weights = {path: model.get_parameter(f"{path}.weight") for path in linear}
    adapted = resolve_targets(model, settings.adapter).paths
    assert len(adapted) == modules
    assert sum(settings.adapter.r * sum(weights[path].shape) for path in adapted) == size
    target = getattr(settings.first.methods[0][1], "full_rank", None)
    learning = resolve_paths(model, linear, target, key="method.full_rank") if target else ()
    assert not set(learning) & set(adapted)
    assert (len(learning), sum(weights[path].numel() for path in learning)) == (full_rank, full_rank_size)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("gorp-t5-large-order5", ["MNLI", "yelp"]),
        ("gorp-llama2-7b-order3", ["yahoo", "amazon"]),
        ("o-lora-t5-large-order2", ["dbpedia", "amazon"]),
        ("o-lora-llama2-7b-order1", ["dbpedia", "amazon"]),
        ("n-lora-t5-large-order6", ["yelp", "amazon"]),
        ("n-lora-llama2-7b-order2", ["dbpedia", "amazon"]),
    ],
)
def test_a_recipe_runs_on_a_built_in_model(name: str, order: list[str], root: Path, tmp_path: Path) -> None:
    small = ["train.max_steps=2", "train.max_target_length=2", "train.gradient_accumulation_steps=1"]
    small += ["stream.max_train_samples=2", "stream.max_test_samples=1", f"stream.order={json.dumps(order)}"]
    words = [f"--set={change}" for change in [*swapped(name, root), "backbone.dtype=float32", *small]]
    assert main(["run", name, *words, "--output-dir", str(tmp_path / "run")]) == 0
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert [(stage["name"], stage["status"]) for stage in manifest["stages"]] == [(task, "complete") for task in order]
