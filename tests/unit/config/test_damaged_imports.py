"""`evertune init --from` and `evertune train` of files and names that are none: an error that says so, at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evertune.backbones import BACKBONES
from evertune.config.imports.importing import import_file
from evertune.config.single_task import SingleTask, configuration_file, configuration_text
from evertune.errors import InputError

TINY = "builtin:tiny-llama"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def imported(text: str) -> str:
    Path("theirs.yaml").write_text(text, encoding="utf-8")
    return import_file(Path("theirs.yaml"), Path("ours.yaml")).text


def test_dates_are_kept_as_they_are_written() -> None:
    text = imported("lora_r: 8\nreleased: 2024-05-01\nbf16: on\nsave_strategy: no\n")
    assert '#   released: "2024-05-01": nothing here is known by this name' in text
    assert "dtype: bfloat16" in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("seen: !!set {a, b}", "has the tag `!!set`, which is not allowed here."),
        ("seen: !!binary aGk=", "has the tag `!!binary`"),
        ("seen: &own [*own]", "is an alias of what it is part of."),
        ("model_name_or_path: [a]", '`model_name_or_path` is ["a"], which names no model.'),
    ],
)
def test_values_that_are_none(line: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        imported(f"lora_r: 8\n{line}\n")
    assert said in str(caught.value)
    assert "theirs.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["theirs.json", "theirs.yaml"])
def test_half_a_character(name: str) -> None:
    Path(name).write_text('{"lora_r": 8, "note": "\\ud800"}')
    with pytest.raises(InputError, match=rf"{name}: This file holds half a character \(U\+D800\)"):
        import_file(Path(name), Path("ours.yaml"))


def test_aliases_that_blow_a_file_up() -> None:
    for above in ("[{0}, {0}, {0}, {0}]", "{{<<: [{0}, {0}, {0}, {0}], lora_r: 8}}"):
        lines = ["a0: &a0 {x: 1}", *(f"a{n}: &a{n} {above.format(f'*a{n - 1}')}" for n in range(1, 20))]
        with pytest.raises(InputError, match="Aliases blow this file up beyond reason"):
            imported("\n".join(lines))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"file_name": None}, "it names no file"),
        ({"file_name": 5}, "`file_name` is 5, not text"),
        ({"hf_hub_url": ["a"]}, '`hf_hub_url` is ["a"], not text'),
        ({"file_name": "a.json", "tags": ["x"]}, '`tags` is ["x"], not an object'),
        ({"file_name": "a.json", "columns": "text"}, '`columns` is "text", not an object'),
        ({"file_name": "a.json", "columns": {"response": 3}}, "the columns response have no names"),
    ],
)
def test_damaged_entries_of_data_sets(entry: dict[str, Any], said: str) -> None:
    content = {"good": {"file_name": "good.json", "formatting": None, "columns": {"response": "r", "query": None}}}
    Path("dataset_info.json").write_text(json.dumps({**content, "bad": entry}))
    found = import_file(Path("dataset_info.json"), Path("ours.yaml"))
    assert [task["name"] for task in found.draft.tasks] == ["good"]
    assert found.draft.tasks[0]["columns"] == {"output": "r"}
    assert {left.key: left.why for left in found.draft.left}["bad"] == said


def test_folders_that_have_no_name_of_their_own(here: Path) -> None:
    (here / "inner").mkdir()
    for given in (".", "inner/.."):
        task = SingleTask(model=TINY, dataset="rows.jsonl", output_dir=Path(given))
        assert configuration_file(task) == here.with_name(f"{here.name}.yaml")
    with pytest.raises(InputError, match="--output-dir: / has no folder around it"):
        configuration_file(SingleTask(model=TINY, dataset="rows.jsonl", output_dir=Path("/")))


@pytest.mark.parametrize("content", ["{", "[1]", '{"splits": "train"}', '{"splits": null}'])
def test_damaged_lists_of_splits(here: Path, content: str) -> None:
    (here / "saved").mkdir()
    (here / "saved" / "dataset_dict.json").write_text(content)
    with pytest.raises(InputError, match=r"saved/dataset_dict.json: This file lists no splits. Save the data again"):
        configuration_text(SingleTask(model=TINY, dataset="saved"), Path("own.yaml"))


def test_the_advice_lists_every_task_type(here: Path) -> None:
    (here / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n')
    with pytest.raises(InputError) as caught:
        configuration_text(SingleTask(model="nowhere/model", dataset="rows.jsonl"), Path("own.yaml"))
    assert f"Write one of: {', '.join(BACKBONES.names())}." in str(caught.value)
    assert len(BACKBONES.names()) >= 8
