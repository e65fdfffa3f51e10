"""Adapters on disk: standard peft folders, written with the same bytes for the same weights, read with suspicion."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from peft import PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save
from torch import Tensor

from evertune.adapters.peft_options import OURS as NOT_WRITTEN
from evertune.adapters.spec import BASE_CHANGE
from evertune.errors import CheckpointError, Problem
from evertune.files import read_json, read_tensors

CONFIG, WEIGHTS, OURS = "adapter_config.json", "adapter_model.safetensors", "evertune.json"
# What an adapter needs to learn on, where the file that others read holds only what came of it.
TRAINING = "training.safetensors"
_TASKS_WITH_HEADS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")

# Options that do not change what an adapter computes, or that are compared apart from the rest.
_FREE = frozenset(
    {"task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"}
    | {"r", "lora_alpha", "use_rslora", "lora_dropout", "init_lora_weights", "eva_config", "runtime_config"}
    | {"corda_config", "lora_ga_config", "loftq_config", "feedforward_modules"}
    | {"target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out"}
    | {"prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
)
# Of AdaLoRA: what came of the ranks, and over how many steps.
_LEARNT = frozenset({"rank_pattern", "total_step"})
# Other ways to initialise change the base weights too: such an adapter means something else on the base as it is.
_PLAIN_INITIALISATIONS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True)
class BaseModel:
    """The model that adapters belong to.

    Attributes:
        path: Hub id or local folder.
        fingerprint: Of its configuration and shapes; empty if unknown.
    """

    path: str
    fingerprint: str = ""

    def mismatch(self, other: BaseModel, *, exactly: bool) -> str:
        """What is wrong if an adapter of `other` is put on this model; empty if nothing is.

        Args:
            other: As an adapter folder names it.
            exactly: Whether fingerprints must agree if both are known. Otherwise the same last part of the name is
                enough: precision and place of a model may differ between runs.
        """
        known = bool(self.fingerprint and other.fingerprint)
        if known and self.fingerprint == other.fingerprint:
            return ""
        if other.path and _last_part(self.path) != _last_part(other.path):
            return f"This adapter belongs to the base model `{other.path}`, but the model here is `{self.path}`."
        if known and exactly:
            return (
                f"This adapter belongs to another version of `{other.path}` (fingerprint {other.fingerprint[:12]}) "
                f"than the model here, `{self.path}` ({self.fingerprint[:12]})."
            )
        return ""


@dataclass(frozen=True)
class AdapterFolder:
    """What was read from a folder.

    Attributes:
        path: The folder.
        config: The content of ``adapter_config.json``.
        tensors: The content of ``adapter_model.safetensors``, on the CPU.
        base: The model that it says it belongs to.
        below: The adapters that it was learnt on top of, and without which it means something else.
        training: The content of ``training.safetensors``; None if there is none.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    base: BaseModel
    below: tuple[str, ...] = ()
    training: Mapping[str, Tensor] | None = None

    @property
    def scaling(self) -> float:
        """What a low-rank change is multiplied with where no pattern says otherwise."""
        return self.scaling_of("")

    def scaling_of(self, path: str) -> float:
        """What the low-rank change of a module is multiplied with; `path` is its own in the base model."""
        rank = self._patterned("rank_pattern", path, self.config["r"])
        # peft's default, which old folders leave out
        alpha = self._patterned("alpha_pattern", path, self.config.get("lora_alpha", 8))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def _patterned(self, option: str, path: str, usual: float) -> float:
        pattern: Mapping[str, float] = self.config.get(option) or {}
        return pattern.get(get_pattern_key(list(pattern), path), usual)


def write_adapter(
    folder: Path,
    config: PeftConfig,
    tensors: Mapping[str, Tensor],
    base: BaseModel,
    *,
    below: Sequence[str] = (),
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Writes a standard peft folder, and in a file of ours what peft has no place for.

    Args:
        folder: Written into directly: atomicity is the caller's.
        config: The adapter's.
        tensors: By their keys in a peft file.
        base: Goes into the configuration.
        below: As `AdapterFolder.below`.
        changes: Fields of the configuration that have other values in the file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Through memory, so that a full disk is an OSError, as everywhere.
    (folder / WEIGHTS).write_bytes(save(dict(tensors), metadata={"format": "pt"}))
    values = {**config.to_dict(), "base_model_name_or_path": base.path, "inference_mode": True, **(changes or {})}
    # peft's sets have another order in every process.
    values = {key: sorted(value) if isinstance(value, set) else value for key, value in values.items()}
    (folder / CONFIG).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    write_ours(folder, base, {"below": list(below)} if below else {})


def write_ours(folder: Path, base: BaseModel, more: Mapping[str, Any]) -> None:
    """Writes what peft has no place for, if there is anything."""
    ours: dict[str, Any] = {"base_model": dataclasses.asdict(base)} if base.fingerprint else {}
    ours |= more
    if ours:
        (folder / OURS).write_text(json.dumps(ours, indent=2) + "\n", encoding="utf-8")


def read_ours(folder: Path) -> tuple[dict[str, Any], BaseModel]:
    """What `write_ours` wrote, and the model that it names; both empty if there is none."""
    held = read_json(folder / OURS) if (folder / OURS).exists() else {}
    held = held if isinstance(held, dict) else {}
    named = held.get("base_model")
    named = named if isinstance(named, dict) else {}
    return held, BaseModel(str(named.get("path") or ""), str(named.get("fingerprint") or ""))


def head_tensors(heads: Mapping[str, Tensor], *, prompts: bool, encoder: str) -> tuple[dict[str, Tensor], list[str]]:
    """Heads as peft keeps them in the file of an adapter, and the modules that it must be told of.

    Args:
        heads: By their names in the model: ``classifier.weight``.
        prompts: Whether the adapter is one of virtual tokens, whose wrapper holds the model one level higher.
        encoder: What the model calls its encoder: of that, modules that learn with the heads (a pooler) are named.
    """
    prefix = "base_model." if prompts else "base_model.model."
    inside = f"{encoder}."
    modules = sorted({name.rpartition(".")[0] if name.startswith(inside) else name.partition(".")[0] for name in heads})
    return {f"{prefix}{name}": head.detach().cpu().contiguous() for name, head in heads.items()}, modules


def read_adapter(folder: Path) -> AdapterFolder:
    """Reads a peft folder.

    Raises:
        CheckpointError: If a file is missing, truncated or not what it should be.
    """
    config, base = read_adapter_config(folder)
    if not (folder / WEIGHTS).exists() and (pickled := sorted(folder.glob("adapter_model.*"))):
        raise CheckpointError(
            f"The weights are in `{pickled[0].name}`; only safetensors are read, because such a file can run code.",
            where=str(folder),
            instead=f"Load it with peft where you trust it and save it again: that writes `{WEIGHTS}`.",
        )
    ours, _ = read_ours(folder)
    below = ours.get("below")
    names = tuple(map(str, below)) if isinstance(below, list) else ()
    training = read_tensors(folder / TRAINING) if (folder / TRAINING).exists() else None
    config, tensors = _without_heads(config, read_tensors(folder / WEIGHTS), ours)
    return AdapterFolder(folder, config, tensors, base, names, training)


def _without_heads(
    config: dict[str, Any], tensors: dict[str, Tensor], ours: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """An adapter without the heads of its task, which belong to none here."""
    modules = ours.get("heads") or (
        config.get("modules_to_save") if config.get("task_type") in _TASKS_WITH_HEADS else None
    )
    if not modules:
        return config, tensors
    heads = tuple(f"{prefix}{name}." for prefix in ("base_model.", "base_model.model.") for name in modules)
    rest = [name for name in config.get("modules_to_save") or () if name not in modules]
    return {**config, "modules_to_save": rest or None}, {k: t for k, t in tensors.items() if not k.startswith(heads)}


def read_adapter_config(folder: Path) -> tuple[dict[str, Any], BaseModel]:
    """Reads what a peft folder says of its adapter, and the model that it belongs to.

    Raises:
        CheckpointError: If there is no such folder, or it has no such file, or a damaged one.
    """
    if not folder.is_dir():
        raise CheckpointError("There is no such folder.", where=str(folder))
    if not (folder / CONFIG).is_file():
        instead = "Name the folder of a peft adapter, for example `stages/01-NAME/adapter` of a run."
        raise CheckpointError("This file is missing.", where=str(folder / CONFIG), instead=instead)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise CheckpointError(
            "This is no adapter configuration: `peft_type` is missing.",
            where=str(folder / CONFIG),
            instead="Choose a folder that peft or Evertune saved.",
        )
    _, named = read_ours(folder)
    return config, BaseModel(str(config.get("base_model_name_or_path") or ""), named.fingerprint)


def check_config(found: AdapterFolder, expected: PeftConfig, base: BaseModel, *, exactly: bool) -> None:
    """Compares what a folder says of an adapter with what is expected here.

    Args:
        found: The folder.
        expected: The configuration of adapters here.
        base: The model here.
        exactly: Whether the scaling must agree too, and the base model's fingerprint.

    Raises:
        CheckpointError: With every difference.
    """
    problems = list(_base_problems(found, base, exactly=exactly))
    where = str(found.path / CONFIG)
    ours = expected.to_dict()
    kind = str(getattr(expected.peft_type, "value", expected.peft_type))
    if found.config["peft_type"] != kind:
        what = f"This adapter is of the kind `{found.config['peft_type'].lower()}`; here it is `{kind.lower()}`."
        raise CheckpointError([*problems, Problem(where, what, "Set `adapter.kind` to the same.")])
    problems.extend(_option_problems(found.config, ours, where, exactly=exactly))
    if problems:
        raise CheckpointError(problems)


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], where: str, instead: str = "") -> None:
    """Compares names and shapes of an adapter's tensors.

    Raises:
        CheckpointError: Naming modules that are missing or too many, and shapes that differ.
    """
    problems = [
        Problem(where, f"{what} {_shown(keys)}.", instead)
        for what, keys in (
            ("These tensors are missing:", sorted(expected.keys() - tensors.keys())),
            ("These tensors belong to modules without an adapter here:", sorted(tensors.keys() - expected.keys())),
            (
                "The shapes differ (there, here):",
                [
                    f"{key} {tuple(tensors[key].shape)}, {tuple(tensor.shape)}"
                    for key, tensor in expected.items()
                    if key in tensors and tensors[key].shape != tensor.shape
                ],
            ),
        )
        if keys
    ]
    if problems:
        raise CheckpointError(problems)


def find_adapter(folder: Path) -> Path:
    """The peft folder that is meant: `folder` itself, or the only adapter of a stage of a run.

    Raises:
        CheckpointError: If a stage has several adapters, or has changed weights of the base model beside.
    """
    _refuse_changed_base(folder)
    for place in (folder, folder / "adapter"):
        if (place / CONFIG).exists() or (place / OURS).exists():
            return place
    several = sorted({path.parent for name in (CONFIG, OURS) for path in folder.glob(f"adapters/*/{name}")})
    if len(several) > 1:
        names = ", ".join(f"`{path.relative_to(folder)}`" for path in several)
        raise CheckpointError(
            f"This stage has several adapters: {names}.", where=str(folder), instead="Name one of them."
        )
    return several[0] if several else folder


def _refuse_changed_base(folder: Path) -> None:
    """An adapter that learnt beside weights of the base model means nothing on the base model as it came."""
    place = folder.absolute()
    stage = place.parent.parent if place.parent.name == "adapters" else place.parent
    for holder in (place, stage):
        if (holder / BASE_CHANGE).exists():
            raise CheckpointError(
                f"This stage also changed weights of the base model (`{BASE_CHANGE}`), on which its adapter builds: "
                "the adapter alone would compute something else.",
                where=str(holder),
                instead="Choose a stage of a run whose method leaves the base model as it is, or leave out "
                "`adapter.start_from`.",
            )


def _base_problems(found: AdapterFolder, base: BaseModel, *, exactly: bool) -> Iterator[Problem]:
    if what := base.mismatch(found.base, exactly=exactly):
        instead = (
            "Use the adapter with its own base model. If both are the same weights under two names, write the name of "
            "the model here as `base_model_name_or_path`."
        )
        yield Problem(str(found.path / CONFIG), what, instead)


def _option_problems(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], where: str, *, exactly: bool
) -> Iterator[Problem]:
    # Of plain low-rank changes, another scaling can be taken into B.
    compared = ["r", "lora_alpha", "use_rslora"] if exactly or theirs["peft_type"] != "LORA" else ["r"]
    for option in compared:
        if option in ours and (theirs.get(option) or None) != (ours[option] or None):
            what = f"`{option}` is {theirs.get(option)} there and {ours[option]} here."
            yield Problem(where, what, _as_there(theirs, option))
    if theirs["peft_type"] == "LORA" and not isinstance(theirs.get("lora_alpha", 0), int | float):
        yield Problem(where, f"`lora_alpha` is {theirs['lora_alpha']!r}, which is not a number.")
    if theirs.get("init_lora_weights", True) not in _PLAIN_INITIALISATIONS:
        what = f"`init_lora_weights: {theirs['init_lora_weights']}` also changed the base model's weights."
        yield Problem(where, what, "Convert it to a plain adapter with peft first.")
    free = _FREE | (_LEARNT if theirs["peft_type"] == "ADALORA" else set())
    for option in sorted(theirs.keys() - free):
        # An option that peft does not know here is taken as off when its value says so.
        if _alike(theirs[option]) != _alike(ours.get(option)):
            what = f"`{option}` is {theirs[option]} there and {ours.get(option)} here."
            can_be_written = option in ours and option not in NOT_WRITTEN
            yield Problem(where, what, _as_there(theirs, option) if can_be_written else "")


def _as_there(theirs: Mapping[str, Any], option: str) -> str:
    """What to write here so that an option is what it is in a folder."""
    written = f"Write `adapter.{option}: {json.dumps(theirs.get(option))}`"
    if theirs["peft_type"] != "LORA" or option != "r":
        return f"{written}."
    alpha = json.dumps(theirs.get("lora_alpha", 8))
    return (
        f"{written} and `adapter.lora_alpha: {alpha}`. An adapter that began as PiSSA, OLoRA, CorDA or LoRA-GA is "
        "saved with twice its rank."
    )


def _alike(value: Any) -> Any:
    """A value such that those that mean the same are equal: what is empty is off, and sets have no order."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return list(value) if isinstance(value, tuple) else value or None


def _last_part(path: str) -> str:
    return PurePosixPath(path.replace("\\", "/")).name


def _shown(keys: list[str]) -> str:
    return ", ".join(keys[:6]) + (f" and {len(keys) - 6} more" if len(keys) > 6 else "")
