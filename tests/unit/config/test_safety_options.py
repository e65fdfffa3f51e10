from __future__ import annotations

from pathlib import Path

import pytest

from evertune.config.json_schema import config_schema
from evertune.config.load import dump_config, load_config
from evertune.errors import ConfigError
from evertune.evaluation.config import SafetyConfig

BASE = "stream: {name: synthetic}\nbackbone: {path: builtin:tiny-llama}\n"
SAFETY = "evaluation:\n  safety: {harmful: bad.jsonl, harmless: sub/good.jsonl, max_rows: 7}\n"


def load(folder: Path, text: str, *overrides: str):
    path = folder / "run.yaml"
    path.write_text(BASE + text, encoding="utf-8")
    return load_config(path, overrides)


def complaint(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(folder, text, *overrides)
    return str(caught.value)


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    expected = SafetyConfig(harmful=tmp_path / "bad.jsonl", harmless=tmp_path / "sub/good.jsonl", max_rows=7)
    settings = load(tmp_path, SAFETY)
    assert settings.first.evaluation.safety == settings.later.evaluation.safety == expected
    assert (expected.template, expected.max_new_tokens) == ("llama-inst", 64)


def test_what_is_written_down_builds_again(tmp_path: Path) -> None:
    settings = load(tmp_path, SAFETY)
    other = tmp_path / "elsewhere" / "config.yaml"
    other.parent.mkdir()
    other.write_text(dump_config(settings), encoding="utf-8")
    again = load_config(other)
    assert again.first == settings.first
    assert again.resolved == settings.resolved
    assert settings.resolved["evaluation"]["safety"]["harmful"] == str(tmp_path / "bad.jsonl")


def test_nothing_is_measured_by_default(tmp_path: Path) -> None:
    assert load(tmp_path, "").first.evaluation.safety is None
    assert load(tmp_path, SAFETY, "evaluation.safety=null").first.evaluation.safety is None


def test_one_option_from_the_command_line(tmp_path: Path) -> None:
    changed = load(tmp_path, SAFETY, "evaluation.safety.template=none").first.evaluation.safety
    assert changed is not None
    assert (changed.template, changed.max_rows) == ("none", 7)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("evaluation: {safety: {harmful: bad.jsonl}}", "needs `harmless`"),
        ("evaluation: {safety: bad.jsonl}", "must be a mapping with `harmful` and `harmless`"),
        (SAFETY.replace("7", "0"), "evaluation.safety.max_rows"),
        (SAFETY.replace("max_rows: 7", "template: lama-inst"), "Did you mean `llama-inst`?"),
        (SAFETY.replace("max_rows", "max_row"), "Did you mean `max_rows`?"),
        (f"{SAFETY}per_task: {{topic: {{evaluation.safety: null}}}}", "all answer the same prompts"),
        (f"{SAFETY}after_first: {{evaluation.safety.max_rows: 3}}", "all answer the same prompts"),
    ],
)
def test_mistakes_are_answered_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    message = complaint(tmp_path, text)
    assert said in message
    assert "run.yaml:" in message


def test_the_schema_knows_the_options() -> None:
    options = config_schema()["properties"]["evaluation"]["properties"]["safety"]["anyOf"]
    (section,) = (option for option in options if option.get("type") == "object")
    assert section["required"] == ["harmful", "harmless"]
    assert section["properties"]["max_new_tokens"]["default"] == 64
