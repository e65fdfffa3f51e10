"""Adapters of every kind to folders and back: peft's where there is one, whole weights where all of them learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import save
from torch import Tensor

from evertune.adapters.folder import (
    OURS,
    TRAINING,
    AdapterFolder,
    BaseModel,
    check_config,
    head_tensors,
    read_adapter,
    read_ours,
    write_adapter,
    write_ours,
)
from evertune.adapters.holder import hook_of
from evertune.adapters.kinds import FULL, NONE, kind_of, mutates_base
from evertune.adapters.mutating import as_plain
from evertune.adapters.peft_config import build_config, task_of
from evertune.adapters.peft_options import kind_options
from evertune.errors import CheckpointError
from evertune.files import read_tensors

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from evertune.adapters.holder import Holder
    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets

MODEL = "model.safetensors"
# peft's classes for tasks with heads ask an encoder for an argument that it does not need to name.
_KEYS_AND_VALUES = ("prefix_tuning", "cartridge")


@dataclasses.dataclass(frozen=True)
class Filing:
    """How the adapters of a bank are written and read.

    Attributes:
        model: The base model.
        base: What saved adapters name as their base model.
        task_type: Name in `evertune.backbones.BACKBONES`.
    """

    model: PreTrainedModel
    base: BaseModel
    task_type: str

    def config(self, spec: AdapterSpec, targets: Targets) -> PeftConfig:
        """The configuration of adapters as it is written."""
        return build_config(as_plain(spec) if mutates_base(spec) else spec, targets, self.task_type)

    def write(
        self,
        folder: Path,
        holder: Holder,
        name: str,
        spec: AdapterSpec,
        targets: Targets,
        *,
        below: Sequence[str],
        heads: Mapping[str, Tensor],
    ) -> None:
        """Writes an adapter.

        Args:
            folder: Written into directly.
            holder: Carries the adapter.
            name: The adapter.
            spec: What it is.
            targets: Where it sits.
            below: As `AdapterFolder.below`.
            heads: Heads of its task, by their names in the model; others find them in the file.
        """
        tensors = holder.tensors(name)
        if spec.kind in (FULL, NONE):
            self._write_weights(folder, spec.kind, tensors, heads)
            return
        saved_changes = hook_of(holder, "saved_changes")
        changes: dict[str, Any] = saved_changes(name) if saved_changes else {}
        if heads and "modules_to_save" in kind_options(spec.kind):
            encoder = getattr(self.model, "base_model_prefix", "")
            of_heads, modules = head_tensors(heads, prompts=kind_of(spec).prompts, encoder=encoder)
            chosen = spec.options.get("modules_to_save") or ()
            modules = [module for module in modules if module not in chosen]
            changes["modules_to_save"] = [*chosen, *modules]
            if spec.kind not in _KEYS_AND_VALUES:
                changes["task_type"] = task_of(self.task_type, heads=True)
            state = {**of_heads, **tensors}
        else:
            state, modules = tensors, []
        if Path(str(spec.options.get("tokenizer_name_or_path") or "")).is_absolute():
            # Over once they have learnt; peft asks for a name, and a folder of this machine means nothing elsewhere.
            changes["tokenizer_name_or_path"] = self.base.path
        config = self.config(spec, targets)
        write_adapter(folder, config, state, self.base, below=below, changes=changes)
        if modules:
            write_ours(folder, self.base, {"below": list(below), "heads": modules} if below else {"heads": modules})
        training = holder.state(name)
        if not _same(training, tensors):
            (folder / TRAINING).write_bytes(save(training))

    def _write_weights(
        self, folder: Path, kind: str, tensors: Mapping[str, Tensor], heads: Mapping[str, Tensor]
    ) -> None:
        """A model that transformers loads, if all of it learnt."""
        folder.mkdir(parents=True, exist_ok=True)
        if kind == FULL:
            whole = {**tensors, **{name: head.detach().cpu().contiguous() for name, head in heads.items()}}
            (folder / MODEL).write_bytes(save(whole, metadata={"format": "pt"}))
            if hasattr(self.model.config, "save_pretrained"):
                self.model.config.save_pretrained(folder)
        write_ours(folder, self.base, {"kind": kind, "heads": sorted(heads)})

    def read(self, folder: Path, spec: AdapterSpec, targets: Targets) -> AdapterFolder:
        """Reads an adapter that fits.

        Raises:
            CheckpointError: If a file is missing or damaged, or the adapter is another one; with all that differs.
        """
        if spec.kind not in (FULL, NONE):
            found = read_adapter(folder)
            check_config(found, self.config(spec, targets), self.base, exactly=True)
            return found
        ours, base = read_ours(folder)
        if ours.get("kind") != spec.kind:
            raise CheckpointError(
                f"This is no folder of the kind `{spec.kind}`.",
                where=str(folder / OURS),
                instead="Name one that a run with this kind saved.",
            )
        if what := self.base.mismatch(base, exactly=True):
            raise CheckpointError(what, where=str(folder / OURS), instead="Use it with its own base model.")
        heads = ours.get("heads") or []
        tensors = read_tensors(folder / MODEL) if spec.kind == FULL else {}
        return AdapterFolder(folder, {}, {key: t for key, t in tensors.items() if key not in heads}, base)


def needs_state(holder: Holder, name: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether more than the tensors of a file is needed to learn on."""
    return not _same(holder.state(name), tensors)


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether a file says all that is needed to learn on."""
    return one.keys() == other.keys() or [*map(_bytes, one.values())] == [*map(_bytes, other.values())]


def _bytes(tensor: Tensor) -> tuple[object, ...]:
    return tuple(tensor.shape), tensor.numpy().tobytes()
