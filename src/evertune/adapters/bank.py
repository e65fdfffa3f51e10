"""The adapters of a run on one model, and what of them takes part and learns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from evertune.adapters.base_change import BaseChange
from evertune.adapters.folder import (
    WEIGHTS,
    AdapterFolder,
    BaseModel,
    check_config,
    check_tensors,
    read_adapter,
    write_adapter,
)
from evertune.adapters.kinds import build_config, check_sizes
from evertune.adapters.layers import (
    Factors,
    Layers,
    PastFactors,
    adapter_parameters,
    live_factors,
    observed,
    peft_name,
    stacked_factors,
    summed_tensors,
)
from evertune.adapters.learning import check_learning, held_constant
from evertune.adapters.names import require, require_new
from evertune.adapters.open_weights import OpenWeights
from evertune.adapters.spec import AdapterPlan, AdapterSpec, BaseWeights
from evertune.adapters.starting import read_start
from evertune.adapters.summary import ParameterSummary, summarise
from evertune.adapters.targets import Targets, resolve_targets
from evertune.adapters.wrapped import WrappedModel

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

BASE = "base weights"  # what learning weights of the base model are called among adapters: none can have this name


class AdapterBank:
    """Adds, freezes, activates, saves and loads adapters of one kind and shape on one base model.

    After every change exactly the adapters that the plan trains require gradients, and nothing else does.

    Attributes:
        base_model: The model below; frozen when the first adapter is added.
    """

    def __init__(
        self, model: PreTrainedModel, spec: AdapterSpec, *, task_type: str, base_path: str, fingerprint: str = ""
    ) -> None:
        """Stores; the model is not touched yet.

        Args:
            model: The base model.
            spec: Kind, size and place of all adapters.
            task_type: Name in `evertune.backbones.BACKBONES`.
            base_path: What saved adapters name as their base model.
            fingerprint: Of the base model; adapters of another one are refused.
        """
        self.base_model = model
        self._spec, self._task_type = spec, task_type
        self._base = BaseModel(base_path, fingerprint)
        self._open = OpenWeights(model)
        self._names: list[str] = []
        self._own_specs: dict[str, AdapterSpec] = {}  # of adapters of another size than `spec` has
        self._plan = AdapterPlan(())
        self._wrapped: WrappedModel | None = None  # from the first adapter on

    @property
    def model(self) -> nn.Module:
        """The module to call: with its adapters, or the base model as long as there are none."""
        return self.base_model if self._wrapped is None else self._wrapped.model

    @property
    def names(self) -> tuple[str, ...]:
        """All adapters, in the order in which they came."""
        return tuple(self._names)

    @property
    def active(self) -> tuple[str, ...]:
        """The adapters that take part in the forward pass."""
        return self._plan.active

    @property
    def trainable(self) -> tuple[str, ...]:
        """The adapters that learn."""
        return self._plan.trainable

    def add(self, name: str, *, seed: int) -> None:
        """Adds a new adapter, inactive until a plan names it; its weights are float32.

        Args:
            name: Letters, digits, ``-`` and ``_``.
            seed: Its weights depend on nothing else; the global generators are left as they are.

        Raises:
            ConfigError: If the targets match nothing (first adapter only).
            RunError: If the name is taken or not allowed.
        """
        require_new(name, self._names)
        config = self._config(name)
        # peft draws on the CPU, whatever the device of the model.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self._wrapped is None:
                check_sizes(self._spec, self.base_model, self._targets)
                place = (self._spec, self._targets, self._task_type)
                self._wrapped = WrappedModel(self.base_model, name, config, *place)
            else:
                self._wrapped.add(name, config)
        self._names.append(name)
        self.model.train(self.base_model.training)  # new dropout layers are born training
        self._activate()

    def load(self, name: str, folder: Path) -> None:
        """Loads a standard peft folder as the adapter `name`; one of that name gets its weights.

        Args:
            name: As for `add`.
            folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            CheckpointError: If a file is missing or damaged, or the adapter is of another base model, kind, rank or
                scaling, or sits on other modules; with all that differs.
        """
        found = read_adapter(folder)
        check_config(found, self._config(), self._base, exactly=True)
        self._fill(name, found)

    def start_from(self, name: str, folder: Path) -> None:
        """Adds a new adapter that computes what an existing one does.

        Args:
            name: As for `add`.
            folder: As for `evertune.adapters.starting.read_start`; one of the released codes must not learn.

        Raises:
            CheckpointError: As for `load`, or if it means nothing alone.
        """
        require_new(name, self._names)
        start = read_start(folder, self._spec, self._config(), self._base)
        self._fill(name, start.found, start.spec)

    def save(self, name: str, folder: Path) -> None:
        """Writes a standard peft folder: ``PeftModel.from_pretrained(base, folder)`` reads it.

        Args:
            name: The adapter.
            folder: Written into directly; making it atomic is left to the caller. Equal weights give equal bytes.
        """
        below = self.active[: self.active.index(name)] if name in self.trainable else ()
        write_adapter(folder, self._config(name), self.adapter_tensors(name), self._base, below=below)

    def save_sum(self, folder: Path) -> None:
        """As `save`, all active adapters as one: their factors side by side, with scaling 1."""
        if len(self.active) == 1:
            self.save(self.active[0], folder)
            return
        tensors, rank = summed_tensors(self._layers, [peft_name(name) for name in self.active])
        config = build_config(self._spec.exact(rank), self._targets, self._task_type)
        write_adapter(folder, config, tensors, self._base)

    def merge_active(self) -> PreTrainedModel:
        """Writes all that is active into the base weights and returns the plain model; the bank is spent."""
        if self._wrapped is not None:
            self._wrapped.merge(self._live())
        if self.change is not None:
            self.change.settle()
        return self.base_model

    def remove(self, name: str) -> None:
        """Removes an adapter; where it was active, the plan goes on without it."""
        require([name], self._names)
        active, trainable = (tuple(n for n in names if n != name) for names in (self.active, self.trainable))
        rest = replace(self._plan, active=active, trainable=trainable)
        self._names.remove(name)
        self._own_specs.pop(name, None)
        assert self._wrapped is not None
        if not self._names:
            self._plan = rest
            self._wrapped.unload()
            self._wrapped = None
        else:
            self.apply(rest)
            self._wrapped.delete(name)
            self._activate()  # peft unfreezes what is left

    def apply(self, plan: AdapterPlan) -> None:
        """Sets which adapters take part and what learns.

        Those that do not learn are baked into the base weights (or stacked into one, where these cannot be written), so
        that a step costs the same however many there are. If none learns, the last one is left as it was trained.

        Raises:
            RunError: If the bank does not hold an adapter of the plan.
            ConfigError: As `open_base`; or if base weights of a module with an adapter are to learn.
        """
        require(plan.active, self._names)
        self.open_base(plan.base)
        self._plan = plan
        if self._wrapped is not None:
            self._wrapped.show([name for name in self.active if name not in self._live()])
        self._activate()

    def open_base(self, base: BaseWeights | None) -> None:
        """Makes base weights ready to change; those of another plan are given back as they came.

        Raises:
            ConfigError: As `check_base`.
        """
        self._open.open(base, () if base is None else self._targets.paths)

    def check_base(self, base: BaseWeights | None) -> None:
        """Checks that base weights can be made ready to change, without touching them: see `OpenWeights.paths`."""
        if base is not None:
            self._open.paths(base, self._targets.paths)

    def base_weights(self) -> dict[str, nn.Parameter]:
        """Base weights that change, ``(d_out, d_in)`` and float32, by module path; empty if there are none."""
        return self._open.weights()

    @property
    def change(self) -> BaseChange | None:
        """How far those weights are from where they came; None if there are none."""
        return self._open.change

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Adds the change of an adapter to the base weights below it, which must be open, and removes the adapter."""
        require([name], self._names)
        self._open.add(self._layers, peft_name(name))
        self.remove(name)

    def learning_only(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Held open around a forward pass: of what learns, all but these adapters are constants of it."""
        require(names, self._names)
        wanted = {id(parameter) for name in names for _, parameter in self._parameters(name)}
        return held_constant([p for p in self.trainable_parameters().values() if id(p) not in wanted])

    @contextmanager
    def without(self, names: Sequence[str]) -> Iterator[None]:
        """Held open around a forward pass: these of the learning adapters take no part in it."""
        assert self._wrapped is not None
        rest = [name for name in self._live() if name not in names]
        self._wrapped.compute(rest, known=self._names[0], learn=rest)
        try:
            yield
        finally:
            self._activate()

    def check(self) -> None:
        """Checks that exactly the parameters of the adapters that learn require gradients.

        Raises:
            RunError: Naming the others.
        """
        if self._wrapped is not None or self.change is not None:
            check_learning(self.model, self._wanted())

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by their names in `model`, in its order."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def learning_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies of all that learns on the CPU, by adapter name (and `BASE` for base weights): for exact resumes."""
        tensors = {name: self.adapter_tensors(name) for name in self.trainable}
        if self.change is not None and self._base_learns():
            tensors[BASE] = self.change.weight_tensors()
        return tensors

    def load_learning_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sets what learns to what `learning_tensors` returned."""
        for name, held in tensors.items():
            if name == BASE:
                assert self.change is not None
                self.change.load_weight_tensors(held)
            else:
                self.load_adapter_tensors(name, held)

    def adapter_tensors(self, name: str) -> dict[str, Tensor]:
        """Copies of an adapter's weights on the CPU, by their keys in a peft file."""
        require([name], self._names)
        return {key: parameter.detach().to("cpu", copy=True) for key, parameter in self._parameters(name)}

    @torch.no_grad()
    def load_adapter_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets an adapter's weights to what `adapter_tensors` returned; also of one that is baked in.

        Raises:
            CheckpointError: If names or shapes differ.
        """
        require([name], self._names)
        parameters = dict(self._parameters(name))
        check_tensors(tensors, parameters, where=f"adapter `{name}`")
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])
        if self._wrapped is not None and name in self._wrapped.shown:
            self._wrapped.refresh()
            self._activate()

    def past_factors(self, names: Sequence[str] | None = None) -> dict[str, PastFactors]:
        """The stacked low-rank factors of past adapters by module path, for penalties: copies without gradient.

        Args:
            names: Which, in this order; None for those that are active and do not learn.
        """
        chosen = [name for name in self.active if name not in self.trainable] if names is None else names
        require(chosen, self._names)
        return stacked_factors(self._layers, [peft_name(name) for name in chosen])

    def factors(self, name: str) -> dict[str, Factors]:
        """The low-rank factors of one adapter by module path in the base model: its parameters, with gradient."""
        require([name], self._names)
        return live_factors(self._layers, peft_name(name))

    def observed(self) -> AbstractContextManager[dict[str, tuple[Tensor, Tensor]]]:
        """What modules with adapters or open base weights read and gave: see `layers.observed`."""
        paths = [*self._layers, *(path for path in self.base_weights() if path not in self._layers)]
        return observed({path: self.base_model.get_submodule(path) for path in paths})

    def summary(self) -> ParameterSummary:
        """Counts and bytes of the model as it is now."""
        held = [holder.held_bytes() for holder in (self._wrapped, self.change) if holder is not None]
        return summarise(self.model, self._layers, held)

    @property
    def _layers(self) -> Layers:
        return {} if self._wrapped is None else self._wrapped.layers

    @cached_property
    def _targets(self) -> Targets:
        return resolve_targets(self.base_model, self._spec)

    def _config(self, name: str = "") -> PeftConfig:
        return build_config(self._own_specs.get(name, self._spec), self._targets, self._task_type)

    def _fill(self, name: str, found: AdapterFolder, spec: AdapterSpec | None = None) -> None:
        """Puts the weights of a folder into the adapter `name`; a new one is taken back if they do not fit."""
        new = name not in self._names
        if new:
            if spec is not None and spec != self._spec:
                self._own_specs[name] = spec
            self.add(name, seed=0)
        try:
            size = "" if name in self._own_specs else "`adapter.r`, "
            instead = f"Set {size}`adapter.target` and `adapter.layers` to what the folder has."
            check_tensors(found.tensors, dict(self._parameters(name)), str(found.path / WEIGHTS), instead)
        except Exception:
            if new:
                self.remove(name)
            raise
        self.load_adapter_tensors(name, found.tensors)

    def _parameters(self, name: str) -> Iterable[tuple[str, nn.Parameter]]:
        return adapter_parameters(self._layers, peft_name(name))

    def _live(self) -> tuple[str, ...]:
        """The adapters that are computed one by one: those that learn, or else the last one of the plan."""
        return tuple(name for name in self.active if name in self.trainable) or self.active[-1:]

    def _base_learns(self) -> bool:
        return self._plan.base is not None and self._plan.base.learn

    def _activate(self) -> None:
        """Says what is computed, freezes all that does not learn, and checks it."""
        if self._wrapped is not None:
            self._wrapped.compute(self._live(), known=self._names[0], learn=self.trainable)
            wanted = {id(parameter) for parameter in self._wanted()}
            for name in self.trainable:
                for _, parameter in self._parameters(name):
                    parameter.requires_grad_(id(parameter) in wanted)
        for weight in self.base_weights().values():
            weight.requires_grad_(self._base_learns())
        if self._wrapped is not None:
            self.check()

    def _wanted(self) -> Iterator[nn.Parameter]:
        """What must learn."""
        fixed = tuple(f".{part}." for part in self._plan.fixed)
        for name in self.trainable:
            for key, parameter in self._parameters(name):
                if not any(part in key for part in fixed):
                    yield parameter
        if self._base_learns():
            yield from self.base_weights().values()
