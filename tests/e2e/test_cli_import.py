"""`evertune init --from`: what it prints, what it writes, and that it writes nothing when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from evertune.config.load import load_config
from tests.e2e.conftest import Cli

SCRIPT = """\
port=$(touch proof)
CUDA_VISIBLE_DEVICES=0,1 deepspeed --master_port $port src/run_uie_lora.py --do_train --data_dir CL \\
    --model_name_or_path models/t5 --task_config_dir lists/yelp --output_dir out/1-yelp \\
    --learning_rate 1e-3 --num_train_epochs 1 --lr_scheduler_type constant --lamda_1 0.25 --lamda_2 0 --save_steps 9
sleep 5
CUDA_VISIBLE_DEVICES=0,1 deepspeed --master_port $port src/run_uie_lora.py --do_train --data_dir CL \\
    --model_name_or_path out/1-yelp/adapter --task_config_dir lists/COPA --output_dir out/2-COPA \\
    --learning_rate 1e-4 --num_train_epochs 1 --lr_scheduler_type constant --lamda_1 0.25 --lamda_2 0 --save_steps 9
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "launch.sh").write_text(SCRIPT, encoding="utf-8")
    return tmp_path


def test_a_script_becomes_a_file_and_a_table(cli: Cli, here: Path) -> None:
    said = cli("init", "--from", "launch.sh", "own.yaml")
    assert said.code == 0
    lines = [" ".join(line.split()) for line in said.out.splitlines()]
    assert any(line.startswith("--lamda_1 4 ") and line.endswith("method.lambda_1") for line in lines)
    assert any(line.startswith("--save_steps 4 ") and "had no effect" in line for line in lines)
    assert "--method n-lora" in said.out
    assert "evertune validate own.yaml" in said.out
    settings = load_config(here / "own.yaml")
    assert (settings.first.train.learning_rate, settings.later.train.learning_rate) == (1e-3, 1e-4)
    assert sorted(path.name for path in here.iterdir()) == ["launch.sh", "own.yaml"]


def test_the_same_as_json(cli: Cli, here: Path) -> None:
    said = cli("init", "--from", "launch.sh", "--json")
    assert said.json["path"] == "evertune.yaml"
    assert said.json["tasks"] == ["yelp", "COPA"]
    assert said.json["batch"]["devices"] == 2
    flags = {flag["flag"]: flag for flag in said.json["flags"]}
    assert flags["--learning_rate"] == {
        "flag": "--learning_rate",
        "lines": [4, 8],
        "values": ["1e-3", "1e-4"],
        "key": "train.learning_rate",
        "effect": "",
    }


def test_what_is_wrong_is_said_by_line_and_nothing_is_written(cli: Cli, here: Path) -> None:
    (here / "launch.sh").write_text(SCRIPT.replace("--save_steps 9", "--unheard 9 --learning_rate $(rm -rf /)"))
    said = cli("init", "--from", "launch.sh", "own.yaml")
    assert said.code == 2
    assert "launch.sh:4: --unheard" in said.err
    assert "launch.sh:4: --learning_rate" in said.err
    assert [path.name for path in here.iterdir()] == ["launch.sh"]


def test_nothing_is_overwritten(cli: Cli, here: Path) -> None:
    (here / "own.yaml").write_text("mine")
    said = cli("init", "--from", "launch.sh", "own.yaml")
    assert said.code == 2
    assert (here / "own.yaml").read_text() == "mine"


def test_validate_names_the_data_and_the_model_that_are_not_there(cli: Cli, here: Path) -> None:
    assert cli("init", "--from", "launch.sh", "own.yaml").code == 0
    said = cli("validate", "own.yaml")
    assert said.code == 2
    assert "stream.root: There is no folder" in said.err
    assert "models/t5" in said.err
