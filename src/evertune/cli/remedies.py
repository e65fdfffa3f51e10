"""Known conflicts of an environment, each with the command that mends it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from evertune.cli.facts import free_bytes, gigabytes, is_writable, usable_cores, watched_folders

_LEAST_SPACE = 1_000_000_000
# They name the torch that they were compiled against; with another one their import fails, and that of transformers.
_BOUND_TO_TORCH = ("torchvision", "torchaudio")


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something that will go wrong, or already does.

    Attributes:
        what: What is wrong.
        command: What to type.
    """

    what: str
    command: str


def conflicts() -> list[Conflict]:
    """All known conflicts of this environment."""
    return [*requirements(), *compiled_for_another_torch(), *graphics_card(), *thread_settings(), *space()]


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def requirements(package: str = "evertune") -> Iterator[Conflict]:
    """Packages that are missing, or whose version is out of the range that is supported.

    Args:
        package: Whose requirements are meant; those of its extras count only where the extra's package is installed.
    """
    from packaging.requirements import Requirement

    if _installed(package) is None:  # run from its sources: nothing says what it needs
        return
    for line in requires(package) or ():
        needed = Requirement(line)
        extra = "extra ==" in line
        found = _installed(needed.name)
        if needed.marker is not None and not extra and not needed.marker.evaluate():
            continue
        command = f'pip install "{needed.name}{needed.specifier}"'
        if found is None and not extra:
            yield Conflict(f"{needed.name} is not installed.", command)
        elif found is not None and not needed.specifier.contains(found, prereleases=True):
            yield Conflict(f"{needed.name} {found} is not supported; {needed.specifier} is.", command)


def compiled_for_another_torch() -> Iterator[Conflict]:
    """Packages that were compiled against another torch than the one that is installed."""
    from packaging.requirements import Requirement

    torch = _installed("torch")
    for package in _BOUND_TO_TORCH:
        found = _installed(package)
        if found is None or torch is None:
            continue
        for line in requires(package) or ():
            needed = Requirement(line)
            if needed.name == "torch" and not needed.specifier.contains(torch, prereleases=True):
                what = f"{package} {found} was built for torch {needed.specifier}, but torch {torch} is installed."
                yield Conflict(what, f"pip uninstall --yes {package}")


def graphics_card() -> Iterator[Conflict]:
    """A card that torch cannot use."""
    import torch

    if shutil.which("nvidia-smi") is None or torch.cuda.is_available():
        return
    if torch.version.cuda is None:
        what = "This machine has an NVIDIA driver, but torch is the build for CPUs."
        release = torch.__version__.partition("+")[0]
        yield Conflict(
            what, f"pip install --force-reinstall torch=={release} --index-url https://download.pytorch.org/whl/cu128"
        )
    elif os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        yield Conflict("CUDA_VISIBLE_DEVICES hides every card.", "unset CUDA_VISIBLE_DEVICES")
    else:
        yield Conflict(f"torch is built for CUDA {torch.version.cuda} but finds no usable card.", "nvidia-smi")


def thread_settings() -> Iterator[Conflict]:
    """Settings that make steps slow."""
    spin = os.environ.get("GOMP_SPINCOUNT", "0")
    if spin != "0":
        what = f"GOMP_SPINCOUNT={spin}: waiting threads spin, which makes steps many times slower on a busy machine."
        yield Conflict(what, "unset GOMP_SPINCOUNT")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > usable_cores():
        what = f"OMP_NUM_THREADS={wanted}, but only {usable_cores()} cores are usable."
        yield Conflict(what, f"export OMP_NUM_THREADS={usable_cores()}")


def space() -> Iterator[Conflict]:
    """Folders without space, or that cannot be written to."""
    mend = {
        "model cache (HF_HOME)": "export HF_HOME=/a/folder/with/space",
        "temporary files (TMPDIR)": "export TMPDIR=/a/folder/with/space",
        "current folder": "cd /a/folder/with/space",
    }
    for name, path in watched_folders().items():
        free = free_bytes(path)
        if not is_writable(path):
            yield Conflict(f"The folder of {name}, {path}, cannot be written to.", mend[name])
        elif free is not None and free < _LEAST_SPACE:
            yield Conflict(f"Only {gigabytes(free)} are free at {path} ({name}).", mend[name])
