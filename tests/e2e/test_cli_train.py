"""`evertune train`: the configuration that the options stand for, and the same run that it gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from evertune.config.load import load_config
from evertune.config.single_task import PEFT_TASK_TYPES, SingleTask, configuration_text
from evertune.errors import InputError
from tests.e2e.conftest import Cli

TINY = "builtin:tiny-llama"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"text": f"row {number}", "label": ["neg", "pos"][number % 2]} for number in range(24)]
    (tmp_path / "My Rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


def test_every_option_stands_in_the_file(cli: Cli, here: Path) -> None:
    words = ["--epochs", "2", "--learning-rate", "3e-4", "--batch-size", "4", "--max-length", "64", "--seed", "7"]
    more = ["--set", "adapter.r=4", "--set", "evaluation.during_training=epoch", "--quantization", "nf4"]
    said = cli("train", "--model", TINY, "--dataset", "My Rows.jsonl", *words, *more)
    assert said.code == 0
    assert "wrote my-rows.yaml" in said.out
    assert "  evertune run my-rows.yaml" in said.out
    settings = load_config("my-rows.yaml")
    train = settings.first.train
    assert (train.num_train_epochs, train.learning_rate) == (2, 3e-4)
    assert (train.max_source_length, train.max_target_length) == (48, 16)  # 64 together
    assert (train.per_device_train_batch_size, settings.seed, settings.adapter.r) == (4, 7, 4)
    assert (settings.backbone.quantization, settings.backbone.task_type) == ("nf4", "causal_lm")
    assert settings.first.evaluation.during_training == "epoch"
    assert settings.output_dir == here / "runs" / "my-rows"
    assert settings.stream.tasks[0].train == here / "My Rows.jsonl"  # type: ignore[attr-defined]


def test_the_same_words_again_are_no_error_and_others_are(cli: Cli, here: Path) -> None:
    words = ["train", "--model", TINY, "--dataset", "My Rows.jsonl", "--output-dir", "out/one"]
    assert cli(*words).code == 0
    assert cli(*words).code == 0
    before = Path("out/one.yaml").read_bytes()
    said = cli(*words, "--seed", "1")
    assert (said.code, Path("out/one.yaml").read_bytes()) == (2, before)
    assert said.err == (
        "out/one.yaml: This file exists and says something else. Name another `--output-dir`, or remove the file.\n"
    )


def test_what_is_wrong_is_said_by_option_and_nothing_is_left(cli: Cli, here: Path) -> None:
    said = cli("train", "--model", TINY, "--dataset", "My Rows.jsonl", "--epochs", "0", "--set", "train.x=1")
    assert said.code == 2
    assert said.err.splitlines()[0] == "--epochs: must be greater than 0, got 0.0."
    assert said.err.splitlines()[1].startswith("--set train.x: is not an option of `train`.")
    assert [path.name for path in here.iterdir()] == ["My Rows.jsonl"]
    said = cli("train", "--model", TINY, "--dataset", "gone.jsonl")
    assert (said.code, said.err.split(".")[0]) == (2, "--dataset: There is no such file: gone")
    said = cli("train", "--model", "nobody/nothing-here", "--dataset", "My Rows.jsonl")
    assert (said.code, said.err.split(":")[0]) == (2, "--task-type")


def test_what_is_wrong_in_an_adapter_file_is_said_there(cli: Cli, here: Path) -> None:
    (here / "peft.json").write_text('{"peft_type": "LORA", "lora_alhpa": 8, "target_modules": ["q_proj"]}')
    words = ("--dataset", "My Rows.jsonl", "--adapter", "peft.json", "--task-type", "causal_lm")
    said = cli("train", "--model", TINY, *words)
    assert said.code == 2
    assert "peft.json:1:23: adapter.lora_alhpa: peft here has no such field" in said.err
    assert not list(here.glob("*.yaml"))


def test_execute_is_evertune_run(cli: Cli, here: Path) -> None:
    words = ["--epochs", "1", "--batch-size", "8", "--set", "evaluation.zero_shot=false"]
    done = cli("train", "--model", TINY, "--dataset", "My Rows.jsonl", "--output-dir", "one", *words, "--execute")
    assert done.code == 0
    assert "$ evertune run one.yaml" in done.out
    again = cli("run", "one.yaml", "--output-dir", "two", "--json")
    assert again.code == 0
    one, two = (next(Path(run).glob("stages/*/adapter/adapter_model.safetensors")) for run in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    assert Path("one/matrix.json").read_bytes() == Path("two/matrix.json").read_bytes()
    # The memory of each phase is kept, and shown.
    (metrics,) = Path("one").glob("stages/*/metrics.json")
    memory = json.loads(metrics.read_text())["memory"]
    assert list(memory) == ["load", "train", "eval"]
    assert all(memory[phase]["cpu"]["peak"] > 10**8 for phase in memory)
    assert "memory in MB" in done.out


def text(dataset: str, **options: object) -> str:
    task = SingleTask(**{"model": TINY, "dataset": dataset, **options})  # type: ignore[arg-type]
    return configuration_text(task, Path("conf/x.yaml"))


def test_where_rows_come_from(here: Path) -> None:
    assert "train: ../My Rows.jsonl" in text("My Rows.jsonl")
    assert "train: hub:tatsu-lab/alpaca" in text("tatsu-lab/alpaca")
    assert "train: hub:tatsu-lab/alpaca" in text("hub:tatsu-lab/alpaca")
    local = here / "tatsu-lab" / "alpaca"
    local.mkdir(parents=True)
    for name in ("train.json", "validation.json", "test.csv", "notes.txt"):
        (local / name).touch()
    found = text("tatsu-lab/alpaca")  # what is here wins
    assert "train: ../tatsu-lab/alpaca/train.json" in found
    assert "dev: ../tatsu-lab/alpaca/validation.json" in found
    assert "test: ../tatsu-lab/alpaca/test.csv" in found
    (local / "train.json").unlink()
    with pytest.raises(InputError, match=r"has no file of training rows; in it: notes.txt, test.csv, validation.json"):
        text("tatsu-lab/alpaca")
    with pytest.raises(InputError, match="There is no such file: imdb"):
        text("imdb")


def test_a_folder_that_datasets_saved(here: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"text": "a", "label": "x"}])
    DatasetDict({"train": rows, "validation": rows}).save_to_disk("saved")
    found = text("saved")
    assert "train: ../saved" in found
    assert "dev: ../saved" in found
    assert "test:" not in found
    rows.save_to_disk("single")
    assert text("single").count("../single") == 1


@pytest.mark.parametrize(("theirs", "ours"), PEFT_TASK_TYPES.items())
def test_the_adapter_file_tells_the_task_type(here: Path, theirs: str, ours: str) -> None:
    file = here / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "task_type": theirs, "r": 4}))
    found = text("My Rows.jsonl", adapter=file, model="owner/any-model")
    assert f"task_type: {ours}" in found
    assert "adapter:\n  config: ../adapter_config.json" in found
    assert "path: owner/any-model" in found
    assert "task_type: causal_lm" in text("My Rows.jsonl", adapter=file, task_type="causal_lm")


def test_an_adapter_file_that_is_none(here: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file or directory"):
        text("My Rows.jsonl", adapter=Path("gone.json"))
    Path("list.json").write_text("[1]")
    with pytest.raises(InputError, match="holds no JSON object"):
        text("My Rows.jsonl", adapter=Path("list.json"))


def test_paths_that_are_set_are_moved_with_the_file(here: Path) -> None:
    (here / "start").mkdir()
    (here / "start" / "x").mkdir()
    assert "start_from: ../start/x" in text("My Rows.jsonl", overrides=("adapter.start_from=start/x",))
