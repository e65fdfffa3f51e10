"""`list`, `describe`, `init`, `doctor`, `validate` and `inspect`: the verbs that train nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from evertune.cli import remedies
from evertune.cli.listing import KINDS
from evertune.config.load import load_config
from evertune.methods import METHODS
from evertune.streams.instructions import Instructions
from tests.e2e.conftest import Cli

TEXT = "stream: {name: synthetic, tasks: [topic], train_rows: 20, test_rows: 5}\nbackbone: {path: builtin:tiny-llama}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "targets"])
def test_lists(cli: Cli, kind: str) -> None:
    listed = cli("list", kind, "--json").json
    assert listed
    assert all(entry["summary"].endswith((".", ")")) for entry in listed)
    shown = cli("list", kind).out
    assert all(entry["name"] in shown for entry in listed)


def test_the_list_of_methods_is_the_registry(cli: Cli) -> None:
    assert [entry["name"] for entry in cli("list", "methods", "--json").json] == METHODS.names()


def test_describe_a_method(cli: Cli) -> None:
    found = cli("describe", "replay", "--json").json
    assert found["kind"] == "method"
    assert found["requires"] == ["old_data", "text_answers"]
    assert "arXiv:1902.10486" in found["source"]
    (ratio,) = [option for option in found["options"] if option["name"] == "ratio"]
    assert (ratio["type"], ratio["default"], ratio["required"]) == ("a number (> 0)", 0.2, False)
    shown = cli("describe", "replay").out
    assert "buffer_unit" in shown
    assert "default 0.2" in shown


@pytest.mark.parametrize("name", ["train", "instructions", "demo", "exact_match", "causal_lm", "lora", "config"])
def test_describe_anything(cli: Cli, name: str) -> None:
    said = cli("describe", name)
    assert said.code == 0
    assert said.out


def test_describe_names_no_option_in_part(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert "per_device_train_batch_size" in cli("describe", "train").out


def test_the_schema_for_editors(cli: Cli) -> None:
    schema = cli("describe", "config", "--json").json
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["properties"]["train"]["properties"]["learning_rate"]["description"] == "Peak learning rate."


def test_a_starter_file_is_valid_and_is_never_overwritten(cli: Cli, folder: Path) -> None:
    said = cli("init")
    assert said.code == 0
    assert "evertune run evertune.yaml" in said.out
    text = (folder / "evertune.yaml").read_text()
    assert text.count("#") > 10
    assert cli("validate", "evertune.yaml").code == 0
    again = cli("init")
    assert (again.code, "exists already" in again.err) == (2, True)
    assert (folder / "evertune.yaml").read_text() == text


def test_a_starter_file_for_ones_own_rows(cli: Cli, folder: Path) -> None:
    (folder / "data").mkdir()
    data = folder / "data" / 'my "odd" rows.jsonl'
    data.write_text("".join(json.dumps({"prompt": f"p {i}", "completion": f"c {i}"}) + "\n" for i in range(20)))
    assert cli("init", "configs/own.yaml", "--data", str(data)).code == 0
    stream = load_config("configs/own.yaml").stream
    assert isinstance(stream, Instructions)
    assert stream.tasks[0].train == data
    assert stream.tasks[0].name == "my--odd--rows"
    assert cli("validate", "configs/own.yaml").code == 0


def test_validate_prints_what_loads_again(cli: Cli, folder: Path) -> None:
    (folder / "c.yaml").write_text(TEXT)
    said = cli("validate", "c.yaml", "--set", "train.max_steps=3")
    assert said.code == 0
    assert "task topic: 18 train, 2 dev, 5 test rows, 4 labels, exact_match" in said.err
    (folder / "again.yaml").write_text(said.out)
    assert load_config("again.yaml").resolved == load_config("c.yaml", ["train.max_steps=3"]).resolved


def test_validate_as_json(cli: Cli, folder: Path) -> None:
    (folder / "c.yaml").write_text(TEXT)
    found = cli("validate", "c.yaml", "--json").json
    assert found["valid"] is True
    assert found["tasks"][0]["rows"] == {"train": 18, "dev": 2, "test": 5}
    (folder / "c.yaml").write_text(TEXT + "trian: 1\n")
    said = cli("validate", "c.yaml", "--json")
    assert said.code == 2
    assert said.json == {
        "valid": False,
        "problems": [
            {
                "where": "c.yaml:3:1: trian",
                "what": "is not a key of a configuration.",
                "instead": "Did you mean `train`?",
            }
        ],
    }


def test_validate_finds_what_is_wrong_in_every_part_at_once(cli: Cli, folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "stream: [{name: a, train: nothing.jsonl}]\nbackbone: {path: builtin:tiny-llama}\nadapter: {target: [q_prjo]}\n"
    )
    said = cli("validate", "c.yaml")
    assert said.code == 2
    assert "nothing.jsonl: There is no such file." in said.err
    assert "c.yaml:3:11: adapter.target: No linear module of this model is called `q_prjo`." in said.err


def test_inspect_shows_exactly_what_is_supervised(cli: Cli, folder: Path) -> None:
    (folder / "c.yaml").write_text(TEXT + "train: {max_source_length: 20}\n")
    (found,) = cli("inspect", "c.yaml", "--rows", "1", "--split", "test", "--json").json
    assert (found["task"], found["split"], found["rows"]) == ("topic", "test", 5)
    assert found["prompt_tokens"]["max"] == 20
    assert found["source_cut"] == 5
    (row,) = found["shown"]
    assert row["id"] == "topic/test/0"
    assert row["prompt"].endswith("Answer:")
    assert row["supervised"].endswith("<|end|>")
    assert len(row["prompt_ids"]) == 20
    shown = cli("inspect", "c.yaml", "--rows", "1", "--split", "test").out
    assert "[supervised]" in shown
    assert f"<|end|>({row['supervised_ids'][-1]})" in shown
    assert "5 inputs and 0 answers cut" in shown


def test_inspect_shows_the_modules_that_adapters_sit_on(cli: Cli, folder: Path) -> None:
    (folder / "c.yaml").write_text(TEXT + "adapter: {target: mlp, layers: [0, 1]}\n")
    modules = {module["name"]: module for module in cli("inspect", "c.yaml", "--model", "--json").json}
    assert modules["gate_proj"]["adapters"] == 2
    assert modules["q_proj"]["adapters"] == 0
    assert "<- adapter" in cli("inspect", "c.yaml", "--model").out


def test_doctor(cli: Cli) -> None:
    found = cli("doctor", "--json").json
    assert found["versions"]["torch"]
    assert found["threads"]["GOMP_SPINCOUNT"] == "0"
    assert found["offline switches"]["HF_HUB_OFFLINE"] == "1"
    assert "writable" in found["folders"]["current folder"]
    assert "conflicts" in found
    assert "versions:" in cli("doctor").out


def test_doctor_sees_settings_that_make_steps_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOMP_SPINCOUNT", "100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "4096")
    found = list(remedies.thread_settings())
    assert [conflict.command.split("=")[0] for conflict in found] == ["unset GOMP_SPINCOUNT", "export OMP_NUM_THREADS"]
    monkeypatch.setenv("GOMP_SPINCOUNT", "0")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert not list(remedies.thread_settings())


def test_doctor_sees_a_folder_that_cannot_be_written_to(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    (folder / "file").write_text("")
    monkeypatch.setenv("TMPDIR", str(folder / "file" / "tmp"))
    found = [conflict for conflict in remedies.space() if "TMPDIR" in conflict.what]
    assert [conflict.command for conflict in found] == ["export TMPDIR=/a/folder/with/space"]


def installed(folder: Path, name: str, version: str, *requires: str) -> None:
    """Makes a package of this name look installed, by its metadata."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")


def test_doctor_compares_versions(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    installed(folder, "whole-thing", "1.0", "peft<0.1", "not-there>=2", "rich", "bitsandbytes<0.1; extra == 'q'")
    installed(folder, "torchvision", "0.1.0", "torch==1.0.0")
    monkeypatch.syspath_prepend(str(folder))
    found = {conflict.command: conflict.what for conflict in remedies.requirements("whole-thing")}
    assert 'pip install "peft<0.1"' in found
    assert found['pip install "not-there>=2"'] == "not-there is not installed."
    assert not any("rich" in command for command in found)
    (vision,) = remedies.compiled_for_another_torch()
    assert vision.what.startswith("torchvision 0.1.0 was built for torch ==1.0.0, but torch ")


def test_nothing_is_left_behind(cli: Cli, folder: Path) -> None:
    before = sorted(os.listdir(folder))
    for words in (["list", "methods"], ["describe", "config"], ["doctor"], ["validate", "demo"]):
        assert cli(*words).code == 0
    assert sorted(os.listdir(folder)) == before
