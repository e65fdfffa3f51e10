"""Where a model is: built in, a local folder, or on the hub. Nothing is loaded here, and nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evertune.backbones.builtin import PREFIX, builtin_folder
from evertune.errors import BackboneError, did_you_mean

Kind = Literal["built in", "local folder", "hub"]

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names under which weights are looked for, in this order."""

_LISTED = 12
_CONFIGURATIONS = ("config.json", "model_index.json")  # of a model, and of a pipeline of several


@dataclass(frozen=True)
class Resolved:
    """What a configured path means.

    Attributes:
        kind: ``built in``, ``local folder`` or ``hub``.
        location: The absolute folder, or the hub id.
        note: A sentence that says aloud which it is, with the cache state of a hub id.
        revision: Of a hub id: the commit in the cache, else what was asked for.
    """

    kind: Kind
    location: str
    note: str
    revision: str | None = None


def resolve_path(path: str, base_dir: Path | None = None, *, revision: str | None = None) -> Resolved:
    """Decides what a model path means, from the file system and the local cache alone.

    ``builtin:NAME`` comes first, then a folder that exists, then whatever looks like a path (it is then a missing
    folder), and only then a hub id.

    Args:
        path: As written in the configuration.
        base_dir: Folder that relative paths start from; the working directory if None.
        revision: Branch, tag or commit; for hub ids only.

    Raises:
        BackboneError: If the folder is missing (the message lists what is there), holds no model, or if it is a hub id
            that is not in the cache while the hub is switched off.
    """
    resolved = _resolve(path, base_dir or Path.cwd(), revision)
    if revision is not None and resolved.kind != "hub":
        raise BackboneError(
            f"`revision: {revision}` belongs to a hub id, but this is a {resolved.kind} model.",
            where=path,
            instead="Remove `revision`.",
        )
    return resolved


def _resolve(path: str, base_dir: Path, revision: str | None) -> Resolved:
    if path.startswith(PREFIX):
        folder = builtin_folder(path.removeprefix(PREFIX))
        return Resolved("built in", str(folder), f"`{path}` comes with Evertune.")
    local = (base_dir / Path(path).expanduser()).absolute()
    if local.exists():
        _check_model_folder(path, local)
        return Resolved("local folder", str(local.resolve()), f"`{path}` is the local folder {local.resolve()}.")
    _check_other_base(path, base_dir)
    if not _is_hub_id(path) or _begins_with_a_folder(path, base_dir):
        raise _missing_folder(path, local)
    return _resolve_hub(path, revision)


def _listing(folder: Path) -> str:
    names = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in folder.iterdir())
    if not names:
        return "It is empty."
    shown = ", ".join(names[:_LISTED])
    return f"It holds: {shown}{f', and {len(names) - _LISTED} more' if len(names) > _LISTED else ''}."


def _check_model_folder(path: str, folder: Path) -> None:
    if not folder.is_dir():
        raise BackboneError(
            "This is a file, not a folder of a model.",
            where=str(folder),
            instead="Write the folder that holds config.json, the weights and the tokenizer.",
        )
    has_config = any((folder / name).is_file() for name in _CONFIGURATIONS)
    if (folder / "adapter_config.json").is_file():
        raise BackboneError(
            "This folder holds an adapter (adapter_config.json)"
            + (" beside a model." if has_config else ", not a model."),
            where=str(folder),
            instead="Write the base model as `backbone.path` and the adapter's folder as `adapter.start_from`.",
        )
    if not has_config:
        nested = sorted(entry.parent.name for entry in folder.glob("*/config.json"))
        inside = f" Models are one level down: {', '.join(nested[:_LISTED])}." if nested else ""
        raise BackboneError(
            f"This folder holds no model: there is no config.json. {_listing(folder)}{inside}",
            where=str(folder),
            instead=f"Write `{path.rstrip('/')}/{nested[0]}`."
            if nested
            else "Write the folder that holds config.json.",
        )


def _check_other_base(path: str, base_dir: Path) -> None:
    """A path that exists from the working directory, but not from the configuration's folder, is a likely slip."""
    here = Path(path)
    if base_dir.absolute() == Path.cwd() or here.is_absolute() or not (here / "config.json").is_file():
        return
    raise BackboneError(
        f"There is no such folder in {base_dir.absolute()}, from which paths of the configuration start; "
        "the working directory has one.",
        where=path,
        instead=f"Write `{here.absolute()}`, or the path relative to the configuration file.",
    )


def _is_hub_id(path: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if path.startswith((".", "/", "~")):
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _begins_with_a_folder(path: str, base_dir: Path) -> bool:
    parts = Path(path).parts
    return len(parts) > 1 and ((base_dir / parts[0]).is_dir() or Path(parts[0]).is_dir())


def _missing_folder(path: str, folder: Path) -> BackboneError:
    parent = folder.parent
    while not parent.is_dir():
        parent = parent.parent
    missing = folder.relative_to(parent).parts[0]
    beside = sorted(entry.name for entry in parent.iterdir() if entry.is_dir())
    hint = did_you_mean(missing, beside)
    return BackboneError(
        f"There is no folder `{missing}` in {parent}. {_listing(parent)}",
        where=path,
        instead=hint if hint.startswith("Did you mean") else "Write a local folder, or a hub id such as `owner/name`.",
    )


def _resolve_hub(path: str, revision: str | None) -> Resolved:
    from huggingface_hub import is_offline_mode

    snapshots = (cached_snapshot(path, revision, name) for name in _CONFIGURATIONS)
    folder = next((found for found in snapshots if found is not None), None)
    asked = f" at revision {revision}" if revision else ""
    if folder is not None:
        complete = any((folder / name).is_file() for name in WEIGHT_FILES)
        state = f"in the local cache (revision {folder.name})"
        state += "" if complete else " without weights, which will be downloaded"
        return Resolved("hub", path, f"`{path}` is a hub id, {state}.", folder.name)
    if is_offline_mode():
        raise BackboneError(
            f"`{path}`{asked} is a hub id, not in the local cache, and the hub is switched off (HF_HUB_OFFLINE).",
            where=path,
            instead="Unset HF_HUB_OFFLINE to download it, or write a local folder that holds the model.",
        )
    return Resolved("hub", path, f"`{path}`{asked} is a hub id, not in the cache, and will be downloaded.", revision)


def cached_snapshot(repo: str, revision: str | None, file: str = "config.json") -> Path | None:
    """The folder of a hub model that holds `file` in the local cache, named after its commit; None without one."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo, file, revision=revision)
    return Path(found).parent if isinstance(found, str) else None
