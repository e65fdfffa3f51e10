from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from run_folder import FOUR, write_json, write_run

from evertune.errors import CheckpointError
from evertune.metrics.matrix import EvalMatrix
from evertune.reporting.load import load_run


@pytest.fixture
def copy(four: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(four, tmp_path / "copy"))


def test_everything_of_a_finished_run(four: Path) -> None:
    run = load_run(four)
    assert run.tasks == FOUR
    assert run.complete
    assert [stage.name for stage in run.finished_stages] == list(FOUR)
    assert run.matrix == EvalMatrix.from_json(json.loads((four / "matrix.json").read_text()))
    assert run.summary["average_accuracy"] == pytest.approx(sum(filter(None, run.matrix.values[-1])) / 4)
    assert run.chance == [1 / 14, 1 / 5, 1 / 10, 1 / 4]
    assert run.stages[1].training["steps"] == 500
    assert run.environment["device"] == "cpu"
    assert run.config_text.startswith("seed: 42")
    assert set(run.zero_shot["scores"]) == set(FOUR)
    answers = run.answers(run.stages[0].path, "dbpedia")
    assert len(answers) == 40
    assert sum(answer.value for answer in answers) / 40 == run.matrix.values[0][0]


def test_files_are_read_only_when_needed(copy: Path) -> None:
    (copy / "matrix.json").write_text("{")
    (copy / "environment.json").write_text("{")
    (copy / "stages" / "01-dbpedia" / "metrics.json").write_text("{")
    run = load_run(str(copy))
    assert run.summary["seconds"] == 372.4
    with pytest.raises(CheckpointError, match=r"matrix\.json: This file is damaged"):
        _ = run.matrix
    with pytest.raises(CheckpointError, match=r"metrics\.json: This file is damaged"):
        _ = run.stages[0].training


def test_torn_lines_of_events_are_passed_over(copy: Path) -> None:
    events = copy / "events.jsonl"
    assert not events.read_text().endswith("\n"), "the fixture ends in half a line"
    before = list(load_run(copy).events())
    with events.open("a") as out:
        out.write('\n{"event": "warning", "text": "resumed"}\n')
    after = list(load_run(copy).events())
    assert after[:-1] == before
    assert after[-1]["text"] == "resumed"


def test_a_run_that_has_hardly_begun(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", finished=0, zero_shot=False)
    for name in ("matrix.json", "summary.json", "environment.json", "config.yaml", "events.jsonl"):
        (folder / name).unlink()
    run = load_run(folder)
    assert run.matrix == EvalMatrix.empty(FOUR, dict.fromkeys(FOUR, "exact_match"))
    assert set(run.summary.values()) == {None}
    assert (run.environment, run.config_text, run.zero_shot, list(run.events())) == ({}, "", {}, [])
    assert not run.complete
    assert run.stages[0].metrics == {}
    assert run.answers(run.stages[0].path, "dbpedia") == []


def test_what_is_no_run_is_said_with_the_runs_nearby(tmp_path: Path) -> None:
    write_run(tmp_path / "mine", ("dbpedia",))
    with pytest.raises(
        CheckpointError, match=r"There is no run here: no manifest.json.*Runs there: .*mine\."
    ) as caught:
        load_run(tmp_path)
    assert caught.value.exit_code == 2
    with pytest.raises(CheckpointError, match=r"There is no such folder.*Runs there: .*mine"):
        load_run(tmp_path / "other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("stages"), "it lacks stages"),
        (lambda manifest: manifest["stages"][0].pop("row"), "KeyError 'row'"),
        (lambda manifest: manifest.update(stream=[]), "TypeError"),
    ],
)
def test_a_damaged_manifest_is_named(copy: Path, change, message: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    write_json(copy / "manifest.json", manifest)
    with pytest.raises(CheckpointError, match=rf"manifest\.json: This manifest is damaged: {message}"):
        load_run(copy)


def test_a_matrix_of_other_tasks_is_refused(copy: Path) -> None:
    write_json(copy / "matrix.json", EvalMatrix.empty(["a"], {"a": "f1"}).to_json())
    with pytest.raises(CheckpointError, match="This matrix is of the tasks a, the run of dbpedia, amazon"):
        _ = load_run(copy).matrix


def test_damaged_predictions_are_named(copy: Path) -> None:
    path = copy / "stages" / "01-dbpedia" / "predictions" / "dbpedia.jsonl"
    path.write_text('{"id": "x"}\n')
    run = load_run(copy)
    with pytest.raises(CheckpointError, match=r"dbpedia\.jsonl: This file is damaged"):
        run.answers(run.stages[0].path, "dbpedia")
