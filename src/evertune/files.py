"""Files that are either whole or absent: write to a temporary name, then rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evertune.errors import CheckpointError, InputError, RunError

if TYPE_CHECKING:
    from torch import Tensor


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turns what the operating system says about a write into our own errors."""
    try:
        yield
    except PermissionError as error:
        raise InputError(
            f"Cannot write here: {error.strerror}.", where=str(path), instead="Choose another `output_dir`."
        ) from error
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            "A file stands where a folder is needed.", where=str(path), instead="Choose another `output_dir`."
        ) from error
    except OSError as error:
        raise RunError(
            f"Cannot write: {error.strerror or error}.",
            where=str(path),
            instead="Free some space and run the same command again: what is complete is kept.",
        ) from error


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file name beside `path` that becomes `path` when the block ends without an error.

    Raises:
        InputError: If the folder is not writable.
        RunError: If the disk is full or the write fails otherwise; nothing is left behind.
    """
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends without an error.

    A folder that already stands at `path` is replaced.

    Raises:
        InputError: If the parent is not writable.
        RunError: If the disk is full or the write fails otherwise; nothing is left behind.
    """
    with _translated(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        try:
            yield temporary
            for entry in temporary.rglob("*"):  # some writers make their files private
                entry.chmod(0o755 if entry.is_dir() else 0o644)
            temporary.chmod(0o755)
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically: UTF-8, numbers at full precision; NaN and infinity are refused with ValueError."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file of ours.

    Raises:
        CheckpointError: If it is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            "This file is missing.", where=str(path), instead="Restore it, or start again with `--fresh`."
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"This file is damaged: {error}.", where=str(path), instead="Restore it, or start again with `--fresh`."
        ) from error


def write_json_lines(path: Path, rows: Iterator[Mapping[str, Any]] | list[dict[str, Any]]) -> None:
    """Writes one JSON object per line, atomically."""
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically; they are made contiguous and moved to the CPU."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file onto the CPU.

    Raises:
        CheckpointError: If it is missing, truncated or not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (FileNotFoundError, SafetensorError) as error:
        raise CheckpointError(
            f"This file cannot be read: {error}.", where=str(path), instead="Restore it, or start again with `--fresh`."
        ) from error


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as source:
        for block in iter(lambda: source.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_folder(folder: Path) -> dict[str, str]:
    """The sha256 of every file below `folder`, by POSIX path relative to it, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in files}
