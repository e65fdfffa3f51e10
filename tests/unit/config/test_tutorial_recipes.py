"""The recipes of tutorials, one task each: their numbers, that each is valid, and that each runs on a small model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from transformers import BloomConfig, BloomForCausalLM, ViTConfig, ViTForImageClassification

from evertune.adapters.targets import resolve_targets
from evertune.cli.app import main
from evertune.config.load import load_config, recipes
from evertune.settings import RunSettings

Numbers = Mapping[str, Any]

PROMPTS: Numbers = {"learning_rate": 3e-2, "num_train_epochs": 50}
TWENTY: Numbers = {"num_train_epochs": 20}
TWITTER: Mapping[str, tuple[str, Numbers, Numbers]] = {
    "prompt-tuning-bloomz-560m": (
        "prompt_tuning",
        {
            "num_virtual_tokens": 8,
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": "Classify if the tweet is a complaint or not:",
        },
        PROMPTS,
    ),
    "p-tuning-mlp-bloomz-560m": (
        "p_tuning",
        {"num_virtual_tokens": 20, "encoder_hidden_size": 128, "encoder_reparameterization_type": "MLP"},
        PROMPTS,
    ),
    "p-tuning-lstm-bloomz-560m": (
        "p_tuning",
        {"num_virtual_tokens": 20, "encoder_hidden_size": 128, "encoder_reparameterization_type": "LSTM"},
        PROMPTS,
    ),
    "prefix-tuning-bloomz-560m": ("prefix_tuning", {"num_virtual_tokens": 30}, PROMPTS),
    "lora-bloomz-560m": ("lora", {"r": 8, "lora_alpha": 32, "lora_dropout": 0.1}, {**TWENTY, "learning_rate": 3e-3}),
    "qlora-bloomz-560m": ("lora", {"r": 8, "lora_alpha": 32}, {**TWENTY, "learning_rate": 2e-4}),
    "adalora-bloomz-560m": ("adalora", {"init_r": 12, "target_r": 8, "lora_alpha": 32}, TWENTY),
    "ia3-bloomz-560m": ("ia3", {}, {**TWENTY, "learning_rate": 8e-3}),
    "oft-bloomz-560m": ("oft", {"oft_block_size": 32}, TWENTY),
    "boft-bloomz-560m": ("boft", {"boft_block_size": 4, "boft_n_butterfly_factor": 2}, TWENTY),
}
EAE = {"eae-bert-casie-r4": 4, "eae-bert-casie-r8": 8, "eae-bert-casie-r16": 16}
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OTHERS = ["lora-r4-llama2-7b-alpaca", "chatglm2-adgen", "glm4-adgen", "eae-bert-casie-full", *EAE]


def resolved(name: str) -> tuple[RunSettings, Mapping[str, Any]]:
    settings = load_config(name)
    return settings, settings.resolved


@pytest.mark.parametrize("name", TWITTER)
def test_numbers_of_the_tweet_tutorials(name: str) -> None:
    kind, adapter, train = TWITTER[name]
    settings, whole = resolved(name)
    assert (settings.backbone.path, settings.backbone.task_type) == ("bigscience/bloomz-560m", "causal_lm")
    assert settings.adapter.kind == kind
    written = {**_defaults(kind), **whole["adapter"]}
    assert {key: written[key] for key in adapter} == adapter
    own = settings.first.train
    assert (own.per_device_train_batch_size, own.max_source_length, own.lr_scheduler_type) == (8, 64, "linear")
    assert {key: getattr(own, key) for key in train} == train
    assert settings.output_dir.name == name
    assert settings.backbone.quantization == ("nf4" if name.startswith("qlora") else None)


def _defaults(kind: str) -> dict[str, Any]:
    fields = dataclasses.fields(PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())])
    return {field.name: getattr(field.default, "value", field.default) for field in fields}


FUSED = {"query_key_value"}
PLACES = {
    "lora-bloomz-560m": FUSED,
    "adalora-bloomz-560m": FUSED,
    "oft-bloomz-560m": FUSED,
    "boft-bloomz-560m": FUSED,
    "ia3-bloomz-560m": FUSED | {"dense_4h_to_h"},
    "qlora-bloomz-560m": FUSED | {"dense", "dense_h_to_4h", "dense_4h_to_h"},
}


@pytest.mark.parametrize("name", PLACES)
def test_where_adapters_sit_on_bloom(name: str) -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=32, n_layer=2, n_head=4))
    paths = resolve_targets(model, load_config(name).adapter).paths
    assert {path.rpartition(".")[2] for path in paths} == PLACES[name]


def test_numbers_of_the_alpaca_recipe() -> None:
    settings, _ = resolved("lora-r4-llama2-7b-alpaca")
    adapter, train = settings.adapter, settings.first.train
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout, list(adapter.target)) == (4, 8, 0.1, SEVEN)
    assert (train.learning_rate, train.lr_scheduler_type, train.warmup_ratio) == (2e-4, "cosine", 0.03)
    assert (train.weight_decay, train.max_grad_norm, train.num_train_epochs) == (0.01, 1.0, 3)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (4, 4)
    assert train.max_source_length + train.max_target_length == 2048
    assert settings.backbone.dtype == "bfloat16"


@pytest.mark.parametrize(("name", "rank"), EAE.items())
def test_numbers_of_the_event_recipes(name: str, rank: int) -> None:
    settings, _ = resolved(name)
    assert (settings.adapter.r, settings.adapter.lora_alpha) == (rank, 2 * rank)
    assert settings.adapter.target == ("query", "value")
    assert settings.backbone.task_type == "argument_extraction"
    full = load_config("eae-bert-casie-full")
    assert full.adapter.kind == "full"
    assert full.stream == settings.stream


def test_numbers_of_the_advertisement_recipes() -> None:
    chatglm, _ = resolved("chatglm2-adgen")
    train = chatglm.first.train
    assert (train.max_steps, train.per_device_train_batch_size, train.gradient_accumulation_steps) == (3000, 1, 16)
    assert (train.max_source_length, train.max_target_length) == (64, 64)
    assert chatglm.backbone.trust_remote_code
    glm, _ = resolved("glm4-adgen")
    assert (glm.first.train.learning_rate, glm.first.train.max_steps) == (5e-4, 3000)
    assert not glm.backbone.trust_remote_code
    for settings in (chatglm, glm):
        assert (settings.adapter.r, settings.adapter.lora_alpha, settings.adapter.lora_dropout) == (8, 32, 0.1)
        assert settings.first.evaluation.zero_shot, "the answers of the untouched model are shown beside"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", encoding="utf-8")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with the data that the recipes need, a few rows each."""
    monkeypatch.chdir(tmp_path)
    labels = ["complaint", "no complaint"]
    tweets = [{"Tweet text": f"The {n}. train is late.", "Label": labels[n % 2], "ID": str(n)} for n in range(20)]
    write_lines(tmp_path / "twitter_complaints" / "train.jsonl", tweets)
    talk = [{"instruction": f"Say {n}.", "input": "", "output": f"{n}"} for n in range(20)]
    write_lines(tmp_path / "alpaca" / "train.jsonl", talk)
    for name, count in (("train", 4), ("dev", 3)):
        ads = [{"content": f"类型#裙*颜色#蓝 {n}", "summary": f"蓝色的裙子 {n}"} for n in range(count)]
        write_lines(tmp_path / "AdvertiseGen" / f"{name}.json", ads)
    for name, count in (("train", 6), ("test", 2)):
        write_lines(tmp_path / "casie" / f"{name}.jsonl", [event(n) for n in range(count)])
    return tmp_path


def event(number: int) -> dict[str, Any]:
    text = f"On day {number} the group stole 5 files from Anna."
    place = text.index("stole")
    return {
        "text": text,
        "type": "Databreach",
        "trigger": {"text": "stole", "start": place, "end": place + 5},
        "arguments": [{"role": "Attacker", "text": "the group", "start": text.index("the group"),
                       "end": text.index("the group") + 9}],
    }  # fmt: skip


def small(name: str) -> list[str]:
    """Changes that put a built-in model into a recipe and end it soon."""
    model = "tiny-bert" if name.startswith("eae") else "tiny-llama"
    changes = [f"backbone.path=builtin:{model}", "train.max_steps=2", "train.gradient_accumulation_steps=1"]
    changes += ["train.max_source_length=256", "backbone.gradient_checkpointing=false"]
    if not name.startswith("eae"):
        changes += ["train.max_target_length=8", "evaluation.per_device_eval_batch_size=4"]
    if name == "adalora-bloomz-560m":
        changes += ["train.max_steps=5", "adapter.tinit=1", "adapter.tfinal=2", "adapter.deltaT=1"]
    return [f"--set={change}" for change in changes]


@pytest.mark.parametrize("name", [*TWITTER, *OTHERS])
def test_a_recipe_is_valid_and_runs_on_a_built_in_model(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("qlora"):
        pytest.importorskip("bitsandbytes")
    assert main(["validate", name, *small(name)]) == 0, capsys.readouterr().err
    assert main(["run", name, *small(name), "--output-dir", str(here / "run")]) == 0, capsys.readouterr().err
    manifest = json.loads((here / "run" / "manifest.json").read_text())
    assert [stage["status"] for stage in manifest["stages"]] == ["complete"]
    if name.endswith("adgen"):
        said = capsys.readouterr().out
        assert "before" in said
        assert "类型#裙*颜色#蓝 0" in said
        assert "adapter stages/01-adgen/adapter: " in said


def test_the_image_recipe_runs_on_a_small_vit(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings, _ = resolved("vit-lora-food101")
    adapter, train = settings.adapter, settings.first.train
    assert (adapter.r, adapter.lora_alpha, adapter.lora_dropout) == (16, 16, 0.1)
    assert (train.learning_rate, train.num_train_epochs) == (5e-3, 5)
    assert (train.per_device_train_batch_size, train.gradient_accumulation_steps) == (128, 4)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_channels=1)).save_pretrained("vit")
    for name, count in (("train", 12), ("test", 4)):
        dots = [{"pixels": [16 * (place == n % 4) for place in range(64)], "label": n % 4} for n in range(count)]
        write_lines(here / "food101" / f"{name}.jsonl", dots)
    changes = ["backbone.path=vit", "train.per_device_train_batch_size=4", "train.gradient_accumulation_steps=1"]
    words = [f"--set={change}" for change in changes]
    assert main(["validate", "vit-lora-food101", *words]) == 0, capsys.readouterr().err
    assert main(["run", "vit-lora-food101", *words, "--output-dir", "run"]) == 0, capsys.readouterr().err
    matrix = json.loads((here / "run" / "matrix.json").read_text())
    assert matrix["count"] == [4]


def test_the_recipe_of_drawn_images_runs_on_a_small_pipeline(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("diffusers")
    from PIL import Image

    from tests.unit.backbones.tiny_pipeline import write_pipeline

    settings, _ = resolved("stable-diffusion-lora")
    assert settings.adapter.target == ("to_q", "to_k", "to_v", "to_out.0")
    assert (settings.adapter.r, settings.first.train.learning_rate) == (4, 1e-4)
    write_pipeline(here / "pipeline")
    (here / "captions").mkdir()
    for number in range(10):
        Image.new("RGB", (8, 8), (25 * number, 0, 0)).save(here / "captions" / f"{number}.png")
    rows = [{"image": f"{number}.png", "text": f"the fox {number}"} for number in range(10)]
    write_lines(here / "captions" / "train.jsonl", rows)
    changes = ["backbone.path=pipeline", "train.max_steps=2", "train.gradient_accumulation_steps=1"]
    words = [f"--set={change}" for change in [*changes, "train.max_source_length=12"]]
    assert main(["validate", "stable-diffusion-lora", *words]) == 0, capsys.readouterr().err
    assert main(["run", "stable-diffusion-lora", *words, "--output-dir", "run"]) == 0, capsys.readouterr().err
    assert list((here / "run" / "stages" / "01-captions").rglob("*.png")), "a grid of samples"


def test_every_recipe_of_a_tutorial_is_here() -> None:
    ours = {name for name in recipes() if name.endswith(("-bloomz-560m", "-adgen", "-alpaca")) or "eae" in name}
    assert ours == {*TWITTER, *OTHERS}
