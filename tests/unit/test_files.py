"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from evertune.errors import CheckpointError, InputError, RunError
from evertune.files import (
    atomic_folder,
    atomic_path,
    read_json,
    read_tensors,
    sha256,
    sha256_of_folder,
    write_json,
    write_json_lines,
    write_tensors,
    write_text,
)


@contextlib.contextmanager
def full_disk(limit: int = 2000) -> Iterator[None]:
    """No file may grow beyond `limit` bytes; writes fail as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Without the rights of root, for which no folder is read-only."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Whole or absent


def test_atomic_path_appears_only_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "er" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert target.read_text() == "new"
    assert names(target.parent) == ["file.txt"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


@pytest.mark.parametrize("failure", [ValueError("mine"), KeyboardInterrupt()])
def test_atomic_path_leaves_the_old_file_and_nothing_else_on_an_error(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "file.txt"
    target.write_text("old")

    def fail() -> None:
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        fail()
    assert names(tmp_path) == ["file.txt"]
    assert target.read_text() == "old"


def test_atomic_folder_replaces_the_old_one_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()
    with atomic_folder(target) as temporary:
        (temporary / "new").touch()
        assert names(target) == ["old"]
    assert names(target) == ["new"]
    assert names(tmp_path) == ["folder"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o755


def test_atomic_folder_leaves_the_old_one_and_nothing_else_on_an_error(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()

    def fail() -> None:
        with atomic_folder(target) as temporary:
            (temporary / "half").touch()
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["old"]


# What the operating system refuses


WRITERS: dict[str, Callable[[Path], None]] = {
    "text": lambda path: write_text(path, "x" * 100_000),
    "json": lambda path: write_json(path, list(range(10_000))),
    "json lines": lambda path: write_json_lines(path, [{"number": number} for number in range(10_000)]),
    "tensors": lambda path: write_tensors(path, {"a": torch.zeros(10_000)}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with full_disk(), pytest.raises(RunError) as caught:
        WRITERS[kind](target)
    problem = caught.value.problems[0]
    assert problem.where == str(target)
    assert problem.what.startswith("Cannot write: ")
    assert "File too large" in problem.what
    assert problem.instead == "Free some space and run the same command again: what is complete is kept."
    assert names(tmp_path) == ["file"]
    assert target.read_text() == "old"


def test_a_full_disk_inside_a_folder_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").touch()

    def fill() -> None:
        with atomic_folder(target) as temporary:
            write_text(temporary / "small", "fits")
            write_tensors(temporary / "large", {"a": torch.zeros(10_000)})

    with full_disk(), pytest.raises(RunError, match="File too large"):
        fill()
    assert names(tmp_path) == ["folder"]
    assert names(target) == ["old"]


def test_a_folder_that_is_not_writable(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    with unprivileged(), pytest.raises(InputError) as caught:
        write_text(locked / "file", "x")
    assert str(caught.value) == f"{locked / 'file'}: Cannot write here: Permission denied. Choose another `output_dir`."
    assert names(locked) == []


@pytest.mark.parametrize("below", ["file/x", "file/x/y"])
def test_a_file_where_a_folder_is_needed(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"A file stands where a folder is needed\. Choose another `output_dir`\."):
        write_text(tmp_path / below, "x")
    with pytest.raises(InputError, match="A file stands where a folder is needed"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"
    assert names(tmp_path) == ["file"]


# Contents


def test_json_keeps_text_and_digits(tmp_path: Path) -> None:
    value = {"text": "Zürich 東京", "third": 1 / 3, "none": None, "list": [True, 2]}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Zürich 東京" in (tmp_path / "a.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_number(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"score": value})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json_lines(tmp_path / "a.jsonl", [{"score": value}])
    assert names(tmp_path) == []


def test_json_lines_are_one_object_a_line(tmp_path: Path) -> None:
    rows = [{"text": "a\nb"}, {"text": "é"}]
    write_json_lines(tmp_path / "a.jsonl", iter(rows))
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == rows


def test_missing_and_damaged_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(CheckpointError) as caught:
        read_json(path)
    assert str(caught.value) == f"{path}: This file is missing. Restore it, or start again with `--fresh`."
    for damage in (b'{"a": 1', b"\xff\xfe", b""):
        path.write_bytes(damage)
        with pytest.raises(CheckpointError, match=r"This file is damaged: .* start again with `--fresh`"):
            read_json(path)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).T,
        "half": torch.arange(5, dtype=torch.bfloat16),
        "scalar": torch.tensor(7),
        "learning": torch.nn.Parameter(torch.ones(2)),
    }
    write_tensors(tmp_path / "a.safetensors", tensors)
    back = read_tensors(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert torch.equal(back[name], tensor.detach())
    write_tensors(tmp_path / "none.safetensors", {})
    assert read_tensors(tmp_path / "none.safetensors") == {}


def test_missing_and_truncated_tensors(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=r"a\.safetensors: This file cannot be read: .*Restore it"):
        read_tensors(path)
    write_tensors(path, {"a": torch.zeros(100)})
    whole = path.read_bytes()
    for length in (0, 4, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="This file cannot be read"):
            read_tensors(path)


def test_hashes_are_those_of_hashlib(tmp_path: Path) -> None:
    big = os.urandom((1 << 20) + 17)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "big").write_bytes(big)
    (tmp_path / "empty").touch()
    wanted = {"empty": hashlib.sha256(b"").hexdigest(), "sub/big": hashlib.sha256(big).hexdigest()}
    assert sha256(tmp_path / "sub" / "big") == wanted["sub/big"]
    assert sha256_of_folder(tmp_path) == wanted
    assert list(sha256_of_folder(tmp_path)) == ["empty", "sub/big"]
    assert sha256_of_folder(tmp_path / "absent") == {}
