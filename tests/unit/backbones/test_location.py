"""What a path means, and what is said when it leads nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from evertune.backbones import builtin
from evertune.backbones.location import resolve_path
from evertune.errors import BackboneError

COMMIT = "a" * 40


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def cached_model(cache: Path, *files: str) -> Path:
    repo = cache / "models--owner--name"
    snapshot = model_at(repo / "snapshots" / COMMIT)
    for file in files:
        (snapshot / file).write_text("")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_a_folder_beside_the_configuration(tmp_path: Path) -> None:
    folder = model_at(tmp_path / "base" / "initial_model" / "t5")
    found = resolve_path("initial_model/t5", tmp_path / "base")
    assert (found.kind, found.location, found.revision) == ("local folder", str(folder), None)
    assert found.note == f"`initial_model/t5` is the local folder {folder}."


def test_without_a_configuration_paths_start_here(elsewhere: Path) -> None:
    folder = model_at(elsewhere / "t5")
    assert resolve_path("./t5").location == str(folder)
    assert resolve_path(str(folder)).location == str(folder)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = model_at(tmp_path / "t5")
    assert resolve_path("~/t5").location == str(folder)


def test_a_missing_folder_lists_what_is_there(tmp_path: Path) -> None:
    model_at(tmp_path / "initial_model" / "t5-large")
    model_at(tmp_path / "initial_model" / "llama")
    with pytest.raises(BackboneError) as caught:
        resolve_path("initial_model/t5-larg", tmp_path)
    (problem,) = caught.value.problems
    assert problem.where == "initial_model/t5-larg"
    assert problem.what == f"There is no folder `t5-larg` in {tmp_path}/initial_model. It holds: llama/, t5-large/."
    assert problem.instead == "Did you mean `t5-large`?"


@pytest.mark.parametrize("path", ["./nowhere/at/all", "/nowhere/at/all", "~/nowhere-at-all", "a/b/c"])
def test_what_looks_like_a_path_is_never_a_hub_id(path: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"There is no folder `.*` in /"):
        resolve_path(path, tmp_path)


def test_a_folder_without_a_model_lists_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "notes.txt").write_text("")
    with pytest.raises(BackboneError, match=r"no model: there is no config\.json\. It holds: notes\.txt\."):
        resolve_path("t5", tmp_path)


def test_a_model_one_level_down_is_pointed_at(tmp_path: Path) -> None:
    model_at(tmp_path / "runs" / "checkpoint-500")
    with pytest.raises(BackboneError, match=r"one level down: checkpoint-500\. Write `runs/checkpoint-500`"):
        resolve_path("runs/", tmp_path)


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("")
    with pytest.raises(BackboneError, match="This is a file, not a folder of a model"):
        resolve_path("model.safetensors", tmp_path)


def test_an_adapter_is_not_a_base_model(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"holds an adapter .*not a model.*as `adapter\.start_from`"):
        resolve_path("adapter", tmp_path)


def test_a_model_in_the_working_directory_is_not_taken_silently(tmp_path: Path, elsewhere: Path) -> None:
    model_at(elsewhere / "t5")
    with pytest.raises(BackboneError, match=rf"the working directory has one\. Write `{elsewhere}/t5`"):
        resolve_path("t5", tmp_path)


def test_a_hub_id_in_the_cache(cache: Path) -> None:
    cached_model(cache, "model.safetensors")
    found = resolve_path("owner/name")
    assert (found.kind, found.location, found.revision) == ("hub", "owner/name", COMMIT)
    assert found.note == f"`owner/name` is a hub id, in the local cache (revision {COMMIT})."


def test_a_hub_id_of_which_the_weights_are_missing(cache: Path) -> None:
    cached_model(cache)
    assert "without weights, which will be downloaded" in resolve_path("owner/name").note


def test_a_hub_id_that_is_not_in_the_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    found = resolve_path("owner/name", revision="v2")
    assert found.note == "`owner/name` at revision v2 is a hub id, not in the cache, and will be downloaded."
    assert (found.kind, found.revision) == ("hub", "v2")
    assert resolve_path("gpt2").kind == "hub"


def test_a_hub_id_while_the_hub_is_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError) as caught:
        resolve_path("owner/name")
    assert "not in the local cache, and the hub is switched off (HF_HUB_OFFLINE)" in str(caught.value)
    assert "Unset HF_HUB_OFFLINE to download it, or write a local folder" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_owner_that_is_a_folder_here_is_a_path(tmp_path: Path, cache: Path) -> None:
    cached_model(cache, "model.safetensors")
    (tmp_path / "owner").mkdir()
    with pytest.raises(BackboneError, match=rf"There is no folder `name` in {tmp_path}/owner\. It is empty"):
        resolve_path("owner/name", tmp_path)


def test_a_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    model_at(tmp_path / "t5")
    with pytest.raises(BackboneError, match=r"`revision: main` belongs to a hub id.*Remove `revision`"):
        resolve_path("t5", tmp_path, revision="main")


def test_built_in_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_at(tmp_path / "package" / "tiny-x")
    (tmp_path / "package" / "no-model").mkdir()
    monkeypatch.setattr(builtin, "builtin_root", lambda: tmp_path / "package")
    found = resolve_path("builtin:tiny-x")
    assert (found.kind, found.location) == ("built in", str(folder))
    assert found.note == "`builtin:tiny-x` comes with Evertune."
    with pytest.raises(BackboneError, match=r"no built-in model `tiny-y`\. Did you mean `builtin:tiny-x`"):
        resolve_path("builtin:tiny-y")


def test_built_in_models_are_shipped() -> None:
    for name in builtin.builtin_names():
        assert json.loads((builtin.builtin_folder(name) / "config.json").read_text())["model_type"]
