"""The adapters of a bank, drawn, read and written; which of them take part and which learn is the bank's to say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evertune.adapters.beginning import Loss, begins_from_data, check_beginning
from evertune.adapters.filing import MODEL, Filing, needs_state
from evertune.adapters.folder import WEIGHTS, AdapterFolder, BaseModel, check_tensors, head_tensors, write_adapter
from evertune.adapters.holder import Holder, hook_of
from evertune.adapters.holders import new_holder, rehearse
from evertune.adapters.kinds import FULL, no_factors
from evertune.adapters.layers import Layers, peft_name, summed_tensors
from evertune.adapters.names import require, require_new
from evertune.adapters.peft_config import build_config, check_sizes, task_of
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.starting import read_start
from evertune.adapters.targets import Targets, resolve_targets
from evertune.errors import CapabilityError, CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Shelf:
    """Holds adapters of one kind and shape for one base model.

    Args:
        model: The base model.
        spec: Kind, size and place of all adapters.
        task_type: Name in `evertune.backbones.BACKBONES`.
        base: What saved adapters name as their base model.
        changed: Called when adapters came or went: peft has then changed what is computed and what requires gradients.

    Attributes:
        names: All adapters, in the order in which they came.
        holder: What carries them; None as long as there are none.
    """

    def __init__(
        self, model: PreTrainedModel, spec: AdapterSpec, task_type: str, base: BaseModel, changed: Callable[[], None]
    ) -> None:
        self.base_model, self.spec = model, spec
        self.names: list[str] = []
        self.holder: Holder | None = None
        self._task_type, self._base, self._changed = task_type, base, changed
        self._filing = Filing(model, base, task_type)
        self._own_specs: dict[str, AdapterSpec] = {}  # of adapters of another size than `spec` has
        self._new: set[str] = set()  # what was drawn and never set to anything

    @property
    def model(self) -> nn.Module:
        """The module to call: with its adapters, or the base model as long as there are none."""
        return self.base_model if self.holder is None else self.holder.model

    @property
    def layers(self) -> Layers:
        """The modules with adapters, by path in the base model."""
        return {} if self.holder is None else self.holder.layers

    @cached_property
    def targets(self) -> Targets:
        """Where adapters sit."""
        return resolve_targets(self.base_model, self.spec)

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """What learns of an adapter, by the names in `model`."""
        return {} if self.holder is None else self.holder.parameters(name)

    def add(self, name: str, seed: int) -> None:
        """See `AdapterBank.add`."""
        require_new(name, self.names)
        check_beginning(self.spec)
        if self._without_weights and no_factors(self.spec):
            rehearse(self.base_model, self.spec, self.targets, self._task_type)
            return
        # peft draws on the CPU, whatever the device of the model.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            own = self._own_specs.get(name)
            if self.holder is None:
                check_sizes(self.spec, self.base_model, self.targets)
                place = (self.spec, self.targets, self._task_type)
                self.holder = new_holder(self.base_model, name, *place, own=own)
            else:
                self.holder.add(name, own)
        self.names.append(name)
        self._new.add(name)
        self.model.train(self.base_model.training)  # new dropout layers are born training
        self._changed()

    def load(self, name: str, folder: Path) -> None:
        """See `AdapterBank.load`."""
        self._fill(name, self._filing.read(folder, self.spec, self.targets))

    def start_from(self, name: str, folder: Path) -> None:
        """See `AdapterBank.start_from`."""
        require_new(name, self.names)
        start = read_start(folder, self.spec, self._filing, self.targets)
        if self._without_weights and no_factors(self.spec):
            self.add(name, seed=0)
        else:
            self._fill(name, start.found, start.spec)

    def save(self, name: str, folder: Path, *, below: Sequence[str], heads: Mapping[str, Tensor]) -> None:
        """Writes an adapter: see `Filing.write`."""
        require([name], self.names)
        assert self.holder is not None
        spec = self._own_specs.get(name, self.spec)
        self._filing.write(folder, self.holder, name, spec, self.targets, below=below, heads=heads)
        self._changed()

    def save_sum(self, names: Sequence[str], folder: Path, heads: Mapping[str, Tensor]) -> None:
        """Writes several adapters as one, their factors side by side, with the heads of a task.

        Raises:
            CapabilityError: If they are no plain low-rank changes.
        """
        if why := no_factors(self.spec):
            raise CapabilityError(
                f"{len(names)} adapters cannot be written as one: {why}.",
                where="--as adapter",
                instead="Write `--as merged`: it is kept if it computes the same, which not all kinds do when merged.",
            )
        tensors, rank = summed_tensors(self.layers, [peft_name(name) for name in names])
        config = build_config(self.spec.exact(rank), self.targets, self._task_type)
        encoder = getattr(self.base_model, "base_model_prefix", "")
        of_heads, modules = head_tensors(heads, prompts=False, encoder=encoder)
        changes = {"modules_to_save": modules, "task_type": task_of(self._task_type, heads=True)} if modules else {}
        write_adapter(folder, config, {**tensors, **of_heads}, self._base, changes=changes)

    def drop(self, name: str) -> None:
        """Removes an adapter that is not shown."""
        assert self.holder is not None
        self.names.remove(name)
        self._own_specs.pop(name, None)
        self._new.discard(name)
        if self.names:
            self.holder.delete(name)
        else:
            self.holder.unload()
            self.holder = None
        self._changed()  # peft unfreezes what is left

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `AdapterBank.adapter_tensors`."""
        require([name], self.names)
        assert self.holder is not None
        return self.holder.state(name)

    def set_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `AdapterBank.load_adapter_tensors`."""
        require([name], self.names)
        assert self.holder is not None
        if self.spec.kind != "adalora":  # which gathers some of its state only while it learns
            check_tensors(tensors, self.holder.state(name), where=f"adapter `{name}`")
        self.holder.load_state(name, tensors)
        self._taken_up(name)

    def begin_from(self, names: Sequence[str], batches: Callable[[], Iterable[Any]], loss: Loss) -> None:
        """Lets those of these adapters that are new begin from data, where their kind does."""
        new = [name for name in names if name in self._new] if begins_from_data(self.spec) else []
        for name in new:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                self.holder.begin_from(name, batches(), loss)  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
            self.model.train(self.base_model.training)
        # What an earlier stage left beside the weights is over.
        if names and (hook := hook_of(self.holder, "begin_stage")):
            hook()
        if new:
            self._changed()

    @property
    def _without_weights(self) -> bool:
        """Whether this is only to see that all fits: kinds that look at the weights are then not put on the model."""
        return next(self.base_model.parameters()).is_meta

    def _fill(self, name: str, found: AdapterFolder, spec: AdapterSpec | None = None) -> None:
        """Puts the weights of a folder into the adapter `name`; a new one is taken back if they do not fit."""
        new = name not in self.names
        if new:
            if spec is not None and spec != self.spec:
                self._own_specs[name] = spec
            self.add(name, seed=0)
        assert self.holder is not None
        try:
            self._take(name, found, self.holder)
        except Exception:
            if new:
                self.drop(name)
            raise
        self._taken_up(name)

    def _take(self, name: str, found: AdapterFolder, holder: Holder) -> None:
        if found.training is not None:
            holder.load_state(name, found.training)
            return
        held = holder.tensors(name)
        size = "" if name in self._own_specs else "`adapter.r`, "
        instead = f"Set {size}`adapter.target` and `adapter.layers` to what the folder has."
        check_tensors(found.tensors, held, str(found.path / (MODEL if self.spec.kind == FULL else WEIGHTS)), instead)
        if needs_state(holder, name, held):
            raise CheckpointError(
                "This folder holds what came of learning, but not all that is needed to learn on.",
                where=str(found.path),
                instead="Choose one that a run of Evertune saved, or other options: virtual tokens without a network.",
            )
        holder.load(name, found.tensors)

    def _taken_up(self, name: str) -> None:
        """Lets new weights of an adapter count that is baked in."""
        self._new.discard(name)
        if self.holder is not None and name in self.holder.shown:
            self.holder.refresh()
        self._changed()
