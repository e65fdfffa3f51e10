"""The adapters of a run on one model: the only owner of peft."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from evertune.adapters.baking import Baked, FrozenSum, Stacked, can_bake, unwritable
from evertune.adapters.base_change import BaseChange
from evertune.adapters.folder import (
    WEIGHTS,
    AdapterFolder,
    BaseModel,
    check_config,
    check_tensors,
    find_adapter,
    read_adapter,
    write_adapter,
)
from evertune.adapters.kinds import build_config
from evertune.adapters.layers import (
    Factors,
    PastFactors,
    adapter_parameters,
    live_factors,
    peft_name,
    stacked_factors,
    tuner_layers,
)
from evertune.adapters.released import is_released, read_released
from evertune.adapters.spec import AdapterPlan, AdapterSpec, BaseWeights
from evertune.adapters.summary import ParameterSummary, summarise
from evertune.adapters.targets import Targets, linear_modules, resolve_paths, resolve_targets
from evertune.errors import ConfigError, RunError

BASE = "base weights"  # what learning weights of the base model are called among adapters: none can have this name

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from transformers import PreTrainedModel


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
        self._linear = linear_modules(model)
        self._change: BaseChange | None = None
        self._names: list[str] = []
        self._own_specs: dict[str, AdapterSpec] = {}  # of adapters of another size than `spec` has
        self._plan = AdapterPlan(())
        self._shown: tuple[str, ...] = ()  # the frozen adapters that are baked or stacked now
        self._stacked: tuple[str, ...] = ()  # what peft must have active for it
        # From the first adapter on:
        self._peft: PeftModel | None = None
        self._targets: Targets | None = None
        self._layers: Mapping[str, BaseTunerLayer] = {}
        self._frozen_sum: FrozenSum | None = None

    @property
    def model(self) -> nn.Module:
        """The module to call: with its adapters, or the base model as long as there are none."""
        return self.base_model if self._peft is None else self._peft

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
        self._require_new(name)
        config = self._config(name)
        # peft draws on the CPU, whatever the device of the model.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            if self._peft is None:
                self._wrap(name, config)
            else:
                self._peft.add_adapter(peft_name(name), config)
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
        self._fill(name, found, factor=1.0)

    def start_from(self, name: str, folder: Path) -> None:
        """Adds a new adapter that computes what an existing one does.

        Args:
            name: As for `add`.
            folder: A peft folder, or the stage of a run. Another ``lora_alpha`` than here is folded into B. One of the
                released codes (`evertune.adapters.released`) gives an adapter of the rank that it has, which must not
                learn.

        Raises:
            CheckpointError: As for `load`.
        """
        self._require_new(name)
        place = find_adapter(folder)
        if is_released(place):
            self._add_released(name, place)
            return
        found = read_adapter(place)
        config = self._config()
        check_config(found, config, self._base, exactly=False)
        ours = AdapterFolder(folder, config.to_dict(), {}, self._base)
        self._fill(name, found, factor=found.scaling / ours.scaling)

    def save(self, name: str, folder: Path) -> None:
        """Writes a standard peft folder: ``PeftModel.from_pretrained(base, folder)`` reads it.

        Args:
            name: The adapter.
            folder: Written into directly; making it atomic is left to the caller. Equal weights give equal bytes.
        """
        write_adapter(folder, self._config(name), self.adapter_tensors(name), self._base)

    def remove(self, name: str) -> None:
        """Removes an adapter; where it was active, the plan goes on without it."""
        self._require([name])
        rest = replace(self._plan, active=_without(self.active, name), trainable=_without(self.trainable, name))
        self._names.remove(name)
        self._own_specs.pop(name, None)
        if not self._names:
            self._unwrap()
        else:
            self.apply(rest)
            assert self._peft is not None
            self._peft.delete_adapter(peft_name(name))
            self._activate()  # peft unfreezes what is left

    def apply(self, plan: AdapterPlan) -> None:
        """Sets which adapters take part and what learns.

        Those that do not learn are baked into the base weights (or stacked into one, where these cannot be written), so
        that a step costs the same however many there are. If none learns, the last one is left as it was trained.

        Raises:
            RunError: If the bank does not hold an adapter of the plan.
            ConfigError: As `open_base`; or if base weights of a module with an adapter are to learn.
        """
        self._require(plan.active)
        self.open_base(plan.base)
        self._plan = plan
        self._show_frozen(again=False)
        self._activate()

    def open_base(self, base: BaseWeights | None) -> None:
        """Makes base weights ready to change; those of another plan are given back as they came.

        Raises:
            ConfigError: As `check_base`; or if a weight cannot be written.
        """
        paths = self.check_base(base)
        if self._change is not None and self._change.paths != paths:
            self._change.restore()
            self._change = None
        if base is not None and self._change is None:
            modules = {path: self._linear[path] for path in paths}
            if fixed := unwritable(self.base_model, modules):
                raise ConfigError(
                    f"The weight of `{fixed[0]}` is quantised, shared or transposed, and cannot learn.",
                    where=base.key,
                    instead="Choose others, or set `backbone.quantization` to null.",
                )
            self._change = BaseChange(modules)

    def check_base(self, base: BaseWeights | None) -> tuple[str, ...]:
        """Paths of the modules whose base weights change, without touching them.

        Raises:
            ConfigError: If the target matches nothing, or modules with an adapter are to learn: baked adapters and
                learning would overwrite each other.
        """
        if base is None:
            return ()
        adapted = self._resolved().paths
        if base.target is None:
            return adapted
        paths = resolve_paths(self.base_model, self._linear, base.target, key=base.key)
        both = [path for path in paths if path in adapted]
        if base.learn and both:
            raise ConfigError(
                f"{len(both)} modules have an adapter and a base weight that learns: {', '.join(both[:3])}.",
                where=base.key,
                instead="Choose others for one of the two: `adapter.target` says where adapters sit.",
            )
        return paths

    def base_weights(self) -> dict[str, nn.Parameter]:
        """Base weights that change, ``(d_out, d_in)`` and float32, by module path; empty if there are none."""
        return {} if self._change is None else self._change.weights()

    @property
    def change(self) -> BaseChange | None:
        """How far those weights are from where they came; None if there are none."""
        return self._change

    @torch.no_grad()
    def merge(self, name: str) -> None:
        """Adds the change of an adapter to the base weights below it, which must be open, and removes the adapter."""
        self._require([name])
        weights = self.base_weights()
        assert weights.keys() >= self._layers.keys(), "the base weights below the adapter must be open"
        for path, layer in self._layers.items():
            delta = layer.get_delta_weight(peft_name(name))  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            weights[path] += delta.float()
        self.remove(name)

    def check(self) -> None:
        """Checks that exactly the parameters of the adapters that learn require gradients.

        Raises:
            RunError: Naming the others.
        """
        if self._peft is None and self._change is None:
            return
        wanted = {id(parameter) for parameter in self._wanted()}
        stray = [name for name, p in self.model.named_parameters() if p.requires_grad and id(p) not in wanted]
        frozen = [name for name, p in self.model.named_parameters() if not p.requires_grad and id(p) in wanted]
        problems = [f"{len(stray)} parameters train that must not: {', '.join(stray[:3])}."] if stray else []
        problems += [f"{len(frozen)} parameters must train and do not: {', '.join(frozen[:3])}."] if frozen else []
        if problems:
            raise RunError(" ".join(problems))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by their names in `model`, in its order."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def learning_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies of all that learns on the CPU, by adapter name (and `BASE` for base weights): for exact resumes."""
        tensors = {name: self.adapter_tensors(name) for name in self.trainable}
        if self._change is not None and self._plan.base is not None and self._plan.base.learn:
            tensors[BASE] = self._change.weight_tensors()
        return tensors

    def load_learning_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sets what learns to what `learning_tensors` returned."""
        for name, held in tensors.items():
            if name == BASE:
                assert self._change is not None
                self._change.load_weight_tensors(held)
            else:
                self.load_adapter_tensors(name, held)

    def adapter_tensors(self, name: str) -> dict[str, Tensor]:
        """Copies of an adapter's weights on the CPU, by their keys in a peft file."""
        self._require([name])
        return {key: parameter.detach().to("cpu", copy=True) for key, parameter in self._parameters(name)}

    @torch.no_grad()
    def load_adapter_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets an adapter's weights to what `adapter_tensors` returned; also of one that is baked in.

        Raises:
            CheckpointError: If names or shapes differ.
        """
        self._require([name])
        parameters = dict(self._parameters(name))
        check_tensors(tensors, parameters, where=f"adapter `{name}`")
        for key, parameter in parameters.items():
            parameter.copy_(tensors[key])
        if name in self._shown:
            self._show_frozen(again=True)
            self._activate()

    def past_factors(self, names: Sequence[str] | None = None) -> dict[str, PastFactors]:
        """The stacked low-rank factors of past adapters, for penalties: copies without gradient.

        Args:
            names: Which, in this order; None for those that are active and do not learn.

        Returns:
            By module path in the base model; empty if there are none.
        """
        chosen = self._frozen() if names is None else tuple(names)
        self._require(chosen)
        return stacked_factors(self._layers, [peft_name(name) for name in chosen])

    def factors(self, name: str) -> dict[str, Factors]:
        """The low-rank factors of one adapter by module path in the base model: its parameters, with gradient."""
        self._require([name])
        return live_factors(self._layers, peft_name(name))

    @contextmanager
    def observed(self) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
        """What the modules with adapters read and gave in the latest forward pass of training or scoring.

        Yields:
            By module path: input ``(batch, time, d_in)`` and output ``(batch, time, d_out)``, without gradient. The
            caller empties it: it keeps activations alive.
        """
        seen: dict[str, tuple[Tensor, Tensor]] = {}

        def note(path: str, inputs: Any, output: Any) -> None:
            seen[path] = (inputs[0].detach(), output.detach())

        hooks = [
            layer.register_forward_hook(lambda _, inputs, output, path=path: note(path, inputs, output))
            for path, layer in cast("Mapping[str, nn.Module]", self._layers).items()
        ]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    def summary(self) -> ParameterSummary:
        """Counts and bytes of the model as it is now."""
        held: dict[str, int] = {}
        for holder in (self._frozen_sum, self._change):
            for part, size in holder.held_bytes().items() if holder else ():
                held[part] = held.get(part, 0) + size
        return summarise(self.model, self._layers, held)

    def _resolved(self) -> Targets:
        if self._targets is None:
            self._targets = resolve_targets(self.base_model, self._spec)
        return self._targets

    def _config(self, name: str = "") -> PeftConfig:
        return build_config(self._own_specs.get(name, self._spec), self._resolved(), self._task_type)

    def _wrap(self, name: str, config: PeftConfig) -> None:
        assert self._targets is not None
        with warnings.catch_warnings():
            # peft asks transformers for a name that it has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            peft_model = get_peft_model(self.base_model, config, adapter_name=peft_name(name))
        assert isinstance(peft_model, PeftModel)
        self._peft, self._layers = peft_model, tuner_layers(self.base_model)
        assert set(self._layers) == set(self._targets.paths), "peft reads the targets otherwise than we do"
        if can_bake(self.base_model, self._layers):
            self._frozen_sum = Baked(self._layers)
        else:
            self._frozen_sum = Stacked(peft_model, self._layers, self._spec, self._targets, self._task_type)

    def _unwrap(self) -> None:
        """Takes peft off the base model again; its weights keep the bits that they came with."""
        assert self._peft is not None
        self._plan = replace(self._plan, active=(), trainable=())
        self._show_frozen(again=False)
        self._peft.unload()
        self._peft, self._frozen_sum, self._layers = None, None, {}

    def _add_released(self, name: str, folder: Path) -> None:
        """Adds what a folder of the released codes holds, whatever its rank; it has scaling 1."""
        released = read_released(folder)
        config = self._config()
        alike = {**released.found.config, "r": config.to_dict().get("r")}  # ranks may differ
        check_config(replace(released.found, config=alike), config, self._base, exactly=False)
        rank = released.rank
        self._own_specs[name] = replace(self._spec, r=rank, lora_alpha=rank, use_rslora=False, lora_dropout=0.0)
        try:
            self._fill(name, released.found, factor=1.0)
        finally:
            if name not in self._names:
                self._own_specs.pop(name, None)

    def _fill(self, name: str, found: AdapterFolder, *, factor: float) -> None:
        """Puts the weights of a folder into the adapter `name`; a new one is taken back if they do not fit."""
        new = name not in self._names
        if new:
            self.add(name, seed=0)
        try:
            size = "" if name in self._own_specs else "`adapter.r`, "
            instead = f"Set {size}`adapter.target` and `adapter.layers` to what the folder has."
            check_tensors(found.tensors, dict(self._parameters(name)), str(found.path / WEIGHTS), instead)
        except Exception:
            if new:
                self.remove(name)
            raise
        scaled = {
            key: tensor.float() * factor if ".lora_B." in key else tensor for key, tensor in found.tensors.items()
        }
        self.load_adapter_tensors(name, scaled)

    def _parameters(self, name: str) -> Iterable[tuple[str, nn.Parameter]]:
        return adapter_parameters(self._layers, peft_name(name))

    def _require(self, names: Iterable[str]) -> None:
        if missing := [name for name in names if name not in self._names]:
            held = f"It holds: {', '.join(self._names)}." if self._names else "It holds none."
            raise RunError(f"The bank has no adapter `{'`, `'.join(missing)}`.", instead=held)

    def _require_new(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise RunError(f"`{name}` cannot name an adapter: letters, digits, `-` and `_` can.")
        if name in self._names:
            raise RunError(f"There is an adapter `{name}` already.")

    def _tuner(self) -> BaseTuner:
        assert self._peft is not None
        return cast("BaseTuner", self._peft.base_model)

    def _live(self) -> tuple[str, ...]:
        """The adapters that peft computes one by one: those that learn, or else the last one of the plan."""
        return self.trainable or self.active[-1:]

    def _frozen(self) -> tuple[str, ...]:
        return tuple(name for name in self.active if name not in self.trainable)

    def _show_frozen(self, *, again: bool) -> None:
        shown = tuple(name for name in self.active if name not in self._live())
        if self._frozen_sum is not None and (again or shown != self._shown):
            self._tuner().set_adapter([])  # so that peft need not choose another when one goes
            self._stacked = self._frozen_sum.show([peft_name(name) for name in shown])
            self._shown = shown

    def _activate(self) -> None:
        """Tells peft what is active, freezes all else, and checks it."""
        learns = self._plan.base is not None and self._plan.base.learn
        if self._peft is None:
            for weight in self.base_weights().values():
                weight.requires_grad_(learns)
            return
        live = [peft_name(name) for name in self.active if name in self._live()]
        # PeftModel keeps one name to find a configuration by, even if no adapter is active.
        self._peft.set_adapter(peft_name(self._names[0]), inference_mode=True)
        self._tuner().set_adapter([*self._stacked, *live], inference_mode=True)
        self._peft.set_requires_grad([peft_name(name) for name in self.trainable])
        wanted = {id(parameter) for parameter in self._wanted()}
        for name in self.trainable:
            for _, parameter in self._parameters(name):
                parameter.requires_grad_(id(parameter) in wanted)
        for weight in self.base_weights().values():
            weight.requires_grad_(learns)
        self.check()

    def _wanted(self) -> Iterator[nn.Parameter]:
        """What must learn."""
        fixed = tuple(f".{part}." for part in self._plan.fixed)
        for name in self.trainable:
            for key, parameter in self._parameters(name):
                if not any(part in key for part in fixed):
                    yield parameter
        if self._plan.base is not None and self._plan.base.learn:
            yield from self.base_weights().values()


def _without(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(other for other in names if other != name)
