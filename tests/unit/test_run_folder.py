"""Whose folder it is, how far its run has come, and that nothing in it is lost or mistaken."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evertune.errors import CheckpointError, ConfigError, InputError
from evertune.files import sha256
from evertune.run_folder import RunFolder, differences, flattened
from evertune.settings import RunSettings
from evertune.streams.task import Stage

RESOLVED = {"seed": 42, "output_dir": "/runs/a", "run_name": "a", "train": {"learning_rate": 1e-5, "optim": "sgd"}}
STAGES = [Stage(0, "one", (0,), 0), Stage(1, "two", (1,), 1)]


def run_settings(**changes: Any) -> RunSettings:
    """Settings of which only the resolved values matter here."""
    nothing: Any = None
    return RunSettings(
        seed=42,
        output_dir=Path("/runs/a"),
        run_name="a",
        stream=nothing,
        backbone=nothing,
        adapter=nothing,
        first=nothing,
        later=nothing,
        resolved={**RESOLVED, **changes},
    )


def manifest(**changes: Any) -> dict[str, Any]:
    tasks = [
        {"name": name, "splits": {split: {"sha256": f"{name}-{split}"} for split in ("train", "test")}}
        for name in ("one", "two")
    ]
    stages = [
        {"index": s.index, "folder": f"stages/{s.folder}", "status": "pending", "adapters": {}, "files": {}}
        for s in STAGES
    ]
    return {"stream": {"tasks": tasks}, "backbone": {"path": "/m", "fingerprint": "f"}, "stages": stages, **changes}


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, for which every folder is open."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


# Differences


def test_nested_options_become_dotted_keys() -> None:
    nested = {"a": {"b": {"c": 1}, "d": [{"e": 2}]}, "f": {}, "g": None}
    assert flattened(nested) == {"a.b.c": 1, "a.d.0.e": 2, "f": {}, "g": None}


def test_what_changes_no_result_is_no_difference() -> None:
    train = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "save_steps": 100, "logging_steps": 10}
    old = {
        "train": train,
        "evaluation": {"per_device_eval_batch_size": 32},
        "backbone": {"gradient_checkpointing": False},
    }
    new = {
        "train": {**train, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "save_steps": 5},
        "evaluation": {"per_device_eval_batch_size": 1},
        "backbone": {"gradient_checkpointing": True},
    }
    assert differences(old, new) == []
    larger = {**new, "train": {**train, "per_device_train_batch_size": 16}}
    assert differences(old, larger) == ["train rows per step and process: 8 -> 16"]


def test_differences_name_key_and_both_values() -> None:
    old = {"seed": 1, "train": {"lr": 0.1, "gone": None}, "output_dir": "x", "run_name": "x"}
    new = {"seed": 1, "train": {"lr": 0.2, "new": [1]}, "output_dir": "y", "run_name": "y"}
    assert differences(old, new) == [
        "train.lr: 0.1 -> 0.2",
        "train.new: (absent) -> [1]",
        "train.gone: None -> (absent)",
    ]
    assert differences(old, old) == []


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=80)
@given(st.dictionaries(_TEXT, _JSON, max_size=4))
def test_any_configuration_is_recognised_as_its_own(resolved: dict[str, Any]) -> None:
    """What is written as YAML reads back equal: 1e-5, "on", "1e-3", dates, odd characters."""
    with tempfile.TemporaryDirectory() as name:
        folder = RunFolder(Path(name))
        chosen = run_settings(**resolved)
        folder.create(chosen)
        assert folder.check(chosen, "auto") is True


# Opening


@pytest.mark.parametrize("mode", ["auto", "fresh"])
def test_nothing_there_is_a_new_run(tmp_path: Path, mode: Any) -> None:
    assert RunFolder(tmp_path / "absent").check(run_settings(), mode) is False
    assert not (tmp_path / "absent").exists()
    killed_early = tmp_path / "run"
    killed_early.mkdir()
    (killed_early / ".lock").touch()
    (killed_early / ".config.yaml.x1.tmp").touch()
    assert RunFolder(killed_early).check(run_settings(), mode) is False


def test_resume_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path).check(run_settings(), "resume")
    assert str(caught.value) == f"{tmp_path}: There is no run to resume. Leave out `--resume` to start one."


@pytest.mark.parametrize("mode", ["auto", "resume"])
def test_the_same_configuration_elsewhere_and_renamed_is_continued(tmp_path: Path, mode: Any) -> None:
    folder = RunFolder(tmp_path)
    folder.create(run_settings())
    assert folder.check(run_settings(output_dir="/elsewhere", run_name="b"), mode) is True
    assert folder.check(run_settings(), "fresh") is False


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(run_settings())
    before = (tmp_path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError) as caught:
        folder.check(run_settings(seed=43, train={"learning_rate": 2e-5, "optim": "sgd"}), "auto")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}: This folder holds a run of another configuration (there -> asked for):\n")
    assert "\n  seed: 42 -> 43\n  train.learning_rate: 1e-05 -> 2e-05\n" in text
    assert text.endswith("Give another `--output-dir`, or `--fresh` to move the old run aside.")
    assert "optim" not in text
    assert (tmp_path / "config.yaml").read_bytes() == before


def test_many_differences_are_shortened(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.create(run_settings(**{f"k{n:02d}": 0 for n in range(15)}))
    with pytest.raises(ConfigError) as caught:
        folder.check(run_settings(**{f"k{n:02d}": 1 for n in range(15)}), "auto")
    assert "k11: 0 -> 1\n  and 3 more\n" in str(caught.value)
    assert "k12" not in str(caught.value)


@pytest.mark.parametrize("mode", ["auto", "resume", "fresh"])
def test_a_folder_with_other_files_is_never_touched(tmp_path: Path, mode: Any) -> None:
    """Not even moved aside: it may be somebody's home."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path).check(run_settings(), mode)
    wanted = "This folder holds files that do not belong to a run. Choose another `output_dir`."
    assert str(caught.value) == f"{tmp_path}: {wanted}"


@pytest.mark.parametrize("damage", [b"", b"- a\n- b\n", b"a: [1", b"\xff\xfe\xff", b"just text"])
def test_a_damaged_configuration(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "config.yaml").write_bytes(damage)
    with pytest.raises(CheckpointError) as caught:
        RunFolder(tmp_path).check(run_settings(), "auto")
    assert str(caught.value) == f"{tmp_path / 'config.yaml'}: This file is damaged. Use `--fresh`."
    assert RunFolder(tmp_path).check(run_settings(), "fresh") is False


def test_a_folder_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o000)
    run = RunFolder(closed / "run")
    with unprivileged(), pytest.raises(InputError, match=r"Cannot read here: Permission denied\. Choose another"):
        run.check(run_settings(), "auto")
    with unprivileged(), pytest.raises(InputError, match=r"Cannot write here: Permission denied\."), run.locked():
        pass


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    run = RunFolder(tmp_path / "run")
    with pytest.raises(InputError, match=r"Cannot write here: Not a directory\. Choose another"):
        run.check(run_settings(), "auto")
    with pytest.raises(InputError, match=r"Cannot write here: File exists\. Choose another"), run.locked():
        pass
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_without_its_configuration_can_only_be_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    run = RunFolder(tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.yaml: This file of the run is missing\."):
        run.check(run_settings(), "auto")
    assert run.check(run_settings(), "fresh") is False


def test_old_runs_are_moved_aside_and_numbered(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.move_aside() is None
    for number in (1, 2):
        run.create(run_settings(seed=number))
        assert run.move_aside() == tmp_path / f"run.old-{number}"
        assert not run.path.exists()
    assert "seed: 1" in (tmp_path / "run.old-1" / "config.yaml").read_text()
    assert "seed: 2" in (tmp_path / "run.old-2" / "config.yaml").read_text()
    run.path.mkdir()
    assert run.move_aside() is None  # an empty folder can be used as it is


_HOLD = """
import sys
from pathlib import Path
from evertune.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.create(run_settings())
    command = [sys.executable, "-c", _HOLD, str(run.path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        wanted = f"{run.path}: Another process is running in this folder. Wait for it, or stop it."
        with pytest.raises(InputError) as caught, run.locked():
            pass
        assert str(caught.value) == wanted
        with pytest.raises(InputError, match="Another process is running"):
            run.move_aside()
        assert run.path.is_dir()
        assert not (tmp_path / "run.old-1").exists()
    finally:
        holder.kill()
        holder.communicate()
    with run.locked():  # a killed process holds nothing
        pass
    with run.locked():  # and leaving the block lets go
        pass


def test_sweeping_removes_only_what_is_half_written(tmp_path: Path) -> None:
    keep = [tmp_path / "config.yaml", tmp_path / "stages" / "01-one" / "a.tmp", tmp_path / ".lock"]
    gone = [
        tmp_path / ".config.yaml.abc.tmp",
        tmp_path / "stages" / ".01-one.abc.tmp" / "file",
        tmp_path / "stages" / "01-one" / ".adapter.abc.tmp" / ".inner.def.tmp",
    ]
    for path in keep + gone:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    RunFolder(tmp_path).sweep()
    assert all(path.exists() for path in keep)
    assert [path.name for path in tmp_path.rglob(".*.tmp")] == []


# Manifest


def test_the_manifest_is_written_once_and_taken_up_again(tmp_path: Path) -> None:
    first = RunFolder(tmp_path)
    first.start(manifest())
    first.set_status(STAGES[0], "trained", {"shared": "stages/01-one/adapter"})
    again = RunFolder(tmp_path)
    again.start(manifest())
    assert again.status(STAGES[0]) == "trained"
    assert again.status(STAGES[1]) == "pending"
    other = RunFolder(tmp_path)
    other.load()
    assert other.manifest == again.manifest


def test_changed_rows_and_another_model_are_named_all_at_once(tmp_path: Path) -> None:
    RunFolder(tmp_path).start(manifest())
    changed = manifest(backbone={"path": "/new", "fingerprint": "g"})
    changed["stream"]["tasks"][0]["splits"]["test"] = {"sha256": "other"}
    del changed["stream"]["tasks"][1]["splits"]["train"]
    with pytest.raises(ConfigError) as caught:
        RunFolder(tmp_path).start(changed)
    assert [problem.what for problem in caught.value.problems] == [
        "The test rows of task one are not those that this run began with.",
        "The train rows of task two are not those that this run began with.",
        "The base model at /new is not the one that this run began with.",
    ]
    assert all(problem.where == str(tmp_path) for problem in caught.value.problems)


def test_a_folder_without_manifest_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        RunFolder(tmp_path).load()
    wanted = "This is not the folder of a run: it has no manifest.json. Name the `output_dir` of a run."
    assert str(caught.value) == f"{tmp_path}: {wanted}"
    (tmp_path / "manifest.json").write_text('{"stages": [')
    for use in (RunFolder(tmp_path).load, lambda: RunFolder(tmp_path).start(manifest())):
        with pytest.raises(CheckpointError, match=r"manifest\.json: This file is damaged"):
            use()


# Stages


@pytest.fixture
def trained(tmp_path: Path) -> RunFolder:
    """A run whose two stages saved the adapter ``shared``, and the second also ``fast``."""
    run = RunFolder(tmp_path)
    run.start(manifest())
    for stage, names in zip(STAGES, (["shared"], ["shared", "fast"]), strict=True):
        folders = {name: f"stages/{stage.folder}/adapters/{name}" for name in names}
        for name, folder in folders.items():
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "weights").write_text(f"{name} of {stage.name}")
        (run.stage_folder(stage) / "metrics.json").write_text("{}")
        run.set_status(stage, "trained", folders)
    return run


def test_files_of_a_finished_stage_are_hashed(trained: RunFolder) -> None:
    files = trained.manifest["stages"][0]["files"]
    assert set(files) == {"adapters/shared/weights", "metrics.json"}
    assert files["metrics.json"] == sha256(trained.path / "stages" / "01-one" / "metrics.json")
    (trained.path / "stages" / "01-one" / "metrics.json").write_text('{"row": 0}')
    trained.set_status(STAGES[0], "complete")
    assert trained.manifest["stages"][0]["adapters"] == {"shared": "stages/01-one/adapters/shared"}
    assert trained.manifest["stages"][0]["files"]["metrics.json"] != files["metrics.json"]


def test_what_a_stage_learnt_is_verified_and_what_is_scored_again_is_not(trained: RunFolder) -> None:
    (trained.path / "stages" / "01-one" / "metrics.json").write_text("{}")
    trained.verify()
    weights = trained.path / "stages" / "01-one" / "adapters" / "shared" / "weights"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="weights: This file is missing or is not the one that the run wrote"):
        trained.verify()


def test_the_newest_adapter_before_a_stage_is_found(trained: RunFolder) -> None:
    stages = trained.path / "stages"
    assert trained.adapter_folder("shared", 0) is None
    assert trained.adapter_folder("shared", 1) == stages / "01-one" / "adapters" / "shared"
    assert trained.adapter_folder("shared", 2) == stages / "02-two" / "adapters" / "shared"
    assert trained.adapter_folder("fast", 1) is None
    assert trained.adapter_folder("fast", 2) == stages / "02-two" / "adapters" / "fast"
    assert trained.adapter_folder("slow", 2) is None


@pytest.mark.parametrize("damage", ["altered", "missing"])
def test_a_damaged_adapter_is_refused_and_only_that_one(trained: RunFolder, damage: str) -> None:
    weights = trained.path / "stages" / "02-two" / "adapters" / "fast" / "weights"
    if damage == "altered":
        weights.write_text("fast of twO")
    else:
        weights.unlink()
    with pytest.raises(CheckpointError) as caught:
        trained.verify_files(weights.parent)
    what = "This file is missing or is not the one that the run wrote."
    assert str(caught.value) == f"{weights}: {what} Restore it, or start again with `--fresh`."
    trained.verify_files(weights.parent.with_name("shared"))
