"""`evertune sweep`: ordinary run folders, one table, and what happens when one fails or all are there already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evertune.cli.app import main
from evertune.sweeping import campaign
from tests.e2e.conftest import Cli

ROWS = "".join(
    json.dumps({"text": f"row {number}", "label": ["neg", "pos"][number % 2]}) + "\n" for number in range(24)
)
CONFIG = """\
stream: [{name: mine, train: rows.jsonl}]
backbone: {path: builtin:tiny-llama}
train: {num_train_epochs: 2, max_source_length: 32}
evaluation: {zero_shot: false, during_training: epoch}
"""
SWEEP = ["sweep", "own.yaml", "--set", "adapter.r=2,4", "--output-dir", "out"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(CONFIG, encoding="utf-8")
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Runs are made in this process, which is quicker; what was started is noted."""
    words_of: list[Sequence[str]] = []

    def start(words: Sequence[str], *, stdout: int | None = None) -> int:
        words_of.append(words)
        return main([*words, "--json"]) if stdout is not None else main(list(words))

    monkeypatch.setattr(campaign, "start_process", start)
    return words_of


def test_runs_table_and_going_on(cli: Cli, here: Path, started: list[Sequence[str]]) -> None:
    said = cli(*SWEEP, "--seeds", "1,2")
    assert said.code == 0, said.err
    names = ["r-2_seed-1", "r-2_seed-2", "r-4_seed-1", "r-4_seed-2"]
    assert [Path(words[-1]).name for words in started] == names
    assert all((here / "out" / name / "adapter").exists() is False for name in names)
    assert all((here / "out" / name / "summary.json").exists() for name in names)
    content: dict[str, Any] = json.loads((here / "out" / "sweep.json").read_text())
    assert [row["rank"] for row in content["rows"]] == [2, 4]
    assert content["rows"][1]["trainable"] == 2 * content["rows"][0]["trainable"]
    for entry, name in zip(content["runs"], names, strict=True):
        # The run's own files say the same.
        summary = json.loads((here / "out" / name / "summary.json").read_text())
        assert entry["trainable"] == summary["parameters"]["trainable"]
        assert entry["scores"]["exact_match"] == summary["average_accuracy"]
        (weights,) = (here / "out" / name).glob("stages/01-mine/adapter/adapter_model.safetensors")
        assert entry["disk_bytes"] == weights.stat().st_size
        assert [(score["epoch"], set(score["metrics"])) for score in entry["epochs"]] == [
            (1.0, {"precision", "recall", "f1"}),
            (2.0, {"precision", "recall", "f1"}),
        ]
        assert sum(score["best"] for score in entry["epochs"]) == 1
    assert (here / "out" / "sweep.png").stat().st_size > 5000
    assert "## Dev scores while training" in (here / "out" / "sweep.md").read_text()
    before = (here / "out" / "sweep.json").read_bytes()
    again = cli(*SWEEP, "--seeds", "1,2", "--json")
    assert (again.code, len(started)) == (0, 4)
    assert again.json == json.loads(before)
    assert again.err.count("complete already") == 4


def test_one_that_fails_is_named_and_the_others_go_on(
    cli: Cli, here: Path, started: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    proper: Callable[..., int] = campaign.start_process

    def failing(words: Sequence[str], *, stdout: int | None = None) -> int:
        return 1 if "adapter.r=2" in words else proper(words, stdout=stdout)

    monkeypatch.setattr(campaign, "start_process", failing)
    said = cli(*SWEEP)
    assert said.code == 1
    assert said.err.splitlines()[-1] == (
        "out/r-2: This run failed. See why with `evertune run own.yaml --set adapter.r=2 --output-dir out/r-2`."
    )
    rows = json.loads((here / "out" / "sweep.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["failed", "done"]
    monkeypatch.setattr(campaign, "start_process", proper)
    assert cli(*SWEEP).code == 0
    assert [Path(words[-1]).name for words in started] == ["r-4", "r-2"]


def test_full_fine_tuning_is_the_first_row(cli: Cli, here: Path, started: list[Sequence[str]]) -> None:
    said = cli("sweep", "own.yaml", "--set", "adapter.r=2,4", "--set", "train.max_steps=2", "--with-base", "--dry-run")
    assert said.out.splitlines()[0].startswith(
        "evertune run own.yaml --set train.max_steps=2 --set 'adapter={kind: full}'"
    )
    words = ["--set", "train.max_steps=2", "--with-base", "--output-dir", "out"]
    assert cli("sweep", "own.yaml", *words).code == 0
    base, configured = json.loads((here / "out" / "sweep.json").read_text())["rows"]
    assert (base["version"], base["rank"], configured["version"], configured["rank"]) == ("base", None, "configured", 8)
    assert base["trainable"] == base["total"] > 20 * configured["trainable"]
    assert base["disk_bytes"] > 4 * base["total"]  # float32
    assert configured["disk_bytes"] > 4 * configured["trainable"]


def test_ctrl_c_ends_the_sweep(cli: Cli, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []

    def interrupted(words: Sequence[str], *, stdout: int | None = None) -> int:
        asked.append(words)
        return 130

    monkeypatch.setattr(campaign, "start_process", interrupted)
    said = cli(*SWEEP)
    assert (said.code, len(asked)) == (130, 1)
    assert "Run the same command again to continue." in said.err


def test_what_is_wrong_is_said_before_the_first_run(cli: Cli, here: Path, started: list[Sequence[str]]) -> None:
    said = cli("sweep", "own.yaml", "--set", "adapter.r=2,x", "--set", "train.epochs=1", "--output-dir", "out")
    assert said.code == 2
    assert said.err.splitlines() == [
        "--set train.epochs: is not an option of `train`. Did you mean `num_train_epochs`?",
        '--set adapter.r: must be a whole number, got the text "x".',
    ]
    assert started == []
    assert not (here / "out").exists()


def test_a_dry_run_prints_commands_alone(cli: Cli, here: Path, started: list[Sequence[str]]) -> None:
    said = cli(
        "sweep", "own.yaml", "--set", "adapter.target=[q_proj],[q_proj, v_proj]", "--methods", "ewc,replay", "--dry-run"
    )
    assert said.code == 0
    lines = said.out.splitlines()
    assert len(lines) == 4
    assert lines[1] == (
        "evertune run own.yaml --set method=ewc --set 'adapter.target=[q_proj, v_proj]'"
        " --output-dir runs/own-sweep/method-ewc_target-q_proj-v_proj"
    )
    assert started == []
    planned = cli("sweep", "own.yaml", "--seeds", "1,2", "--dry-run", "--json").json
    assert planned["folder"] == "runs/own-sweep"
    assert [run["name"] for run in planned["runs"]] == ["configured_seed-1", "configured_seed-2"]


def test_a_run_of_its_own_process(here: Path) -> None:
    assert campaign.start_process(["describe", "config"], stdout=2) == 0
    assert campaign.start_process(["describe", "nothing-of-this-name"], stdout=2) == 2
