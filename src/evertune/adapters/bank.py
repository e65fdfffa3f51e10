"""The adapters of a run on one model, and what of them takes part and learns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evertune.adapters.base_change import BaseChange
from evertune.adapters.beginning import Loss
from evertune.adapters.folder import BaseModel
from evertune.adapters.holder import hook_of
from evertune.adapters.kinds import not_several
from evertune.adapters.layers import Factors, PastFactors, live_factors, observed, peft_name, stacked_factors
from evertune.adapters.learning import check_learning, grouped, held_constant
from evertune.adapters.names import require
from evertune.adapters.open_weights import OpenWeights
from evertune.adapters.shelf import Shelf
from evertune.adapters.spec import AdapterPlan, AdapterSpec, BaseWeights
from evertune.adapters.summary import ParameterSummary, summarise
from evertune.errors import CapabilityError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# What else learns is called among adapters, none of which can have these names.
BASE, HEADS = "base weights", "heads+"


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
        self._spec = spec = spec.with_tokenizer(base_path)
        base = BaseModel(base_path, fingerprint)
        self._shelf = Shelf(model, spec, task_type, base, self._activate)
        self._open = OpenWeights(model)
        self._plan = AdapterPlan(())
        self._heads: Mapping[str, nn.Parameter] = {}

    @property
    def model(self) -> nn.Module:
        """The module to call: with its adapters, or the base model as long as there are none."""
        return self._shelf.model

    @property
    def names(self) -> tuple[str, ...]:
        """All adapters, in the order in which they came."""
        return tuple(self._shelf.names)

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
            ConfigError: If the targets match nothing, or peft cannot put such an adapter there (first adapter only).
            RunError: If the name is taken or not allowed.
        """
        self._shelf.add(name, seed)

    def load(self, name: str, folder: Path) -> None:
        """Loads what `save` wrote, or a standard peft folder, as the adapter `name`; one of that name gets its weights.

        Args:
            name: As for `add`.
            folder: With ``adapter_config.json`` and ``adapter_model.safetensors``.

        Raises:
            CheckpointError: If a file is missing or damaged, or the adapter is of another base model, kind, rank or
                scaling, or sits on other modules; with all that differs.
        """
        self._shelf.load(name, folder)

    def start_from(self, name: str, folder: Path) -> None:
        """Adds a new adapter that computes what an existing one does.

        Args:
            name: As for `add`.
            folder: As for `evertune.adapters.starting.read_start`; one of the released codes must not learn.

        Raises:
            CheckpointError: As for `load`, or if it means nothing alone.
        """
        self._shelf.start_from(name, folder)

    def save(self, name: str, folder: Path, *, heads: Mapping[str, Tensor] | None = None) -> None:
        """Writes a standard peft folder: ``PeftModel.from_pretrained(base, folder)`` reads it.

        Where every weight learns, it is a folder that transformers reads as a model.

        Args:
            name: The adapter.
            folder: Written into directly; making it atomic is left to the caller. Equal weights give equal bytes.
            heads: Heads of its task by their names in the model of the architecture (``classifier.weight``): written
                where peft looks for them, so that others get the whole of it. `load` leaves them out.
        """
        below = self.active[: self.active.index(name)] if name in self.trainable else ()
        self._shelf.save(name, folder, below=below, heads=heads or {})

    def save_sum(self, folder: Path, *, heads: Mapping[str, Tensor] | None = None) -> None:
        """As `save`, all active adapters as one: their factors side by side, with scaling 1.

        Raises:
            CapabilityError: If there are several, and they are no plain low-rank changes.
        """
        if len(self.active) == 1:
            self.save(self.active[0], folder, heads=heads)
        else:
            self._shelf.save_sum(self.active, folder, heads or {})

    def merge_active(self) -> PreTrainedModel:
        """Writes all that is active into the base weights and returns the plain model; the bank is spent.

        Raises:
            CapabilityError: If it is no change of weights.
        """
        if self._shelf.holder is not None:
            self._shelf.holder.merge(self._live())
        if self.change is not None:
            self.change.settle()
        return self.base_model

    def remove(self, name: str) -> None:
        """Removes an adapter; where it was active, the plan goes on without it."""
        require([name], self.names)
        active, trainable = (tuple(n for n in names if n != name) for names in (self.active, self.trainable))
        rest = replace(self._plan, active=active, trainable=trainable)
        if len(self.names) == 1:
            self._plan = rest
        else:
            self.apply(rest)
        self._shelf.drop(name)

    def apply(self, plan: AdapterPlan) -> None:
        """Sets which adapters take part and what learns.

        Those that do not learn are baked into the base weights (or stacked into one, where these cannot be written), so
        that a step costs the same however many there are; kinds whose change is no sum are computed one by one. If none
        learns, the last one is left as it was trained.

        Raises:
            RunError: If the bank does not hold an adapter of the plan.
            ConfigError: As `open_base`; or if base weights of a module with an adapter are to learn.
            CapabilityError: If adapters of this kind cannot take part together, and the plan has several.
        """
        require(plan.active, self.names)
        if len(plan.active) > 1 and (why := not_several(self._spec)):
            raise CapabilityError(
                f"{len(plan.active)} adapters of the kind `{self._spec.kind}` cannot take part together: {why}.",
                where="adapter.kind",
                instead="Write a method with one adapter, or `kind: lora`.",
            )
        self.open_base(plan.base)
        self._plan = plan
        if self._shelf.holder is not None:
            self._shelf.holder.show([name for name in self.active if name not in self._live()])
        self._activate()

    def open_base(self, base: BaseWeights | None) -> None:
        """Makes base weights ready to change; those of another plan are given back as they came.

        Raises:
            ConfigError: As `check_base`.
        """
        self._open.open(base, () if base is None else self._shelf.targets.paths)

    def check_base(self, base: BaseWeights | None) -> None:
        """Checks that base weights can be made ready to change, without touching them: see `OpenWeights.paths`."""
        if base is not None:
            self._open.paths(base, self._shelf.targets.paths)

    @property
    def heads(self) -> Mapping[str, nn.Parameter]:
        """The heads that learn, by their names."""
        return self._heads

    def learn_heads(self, heads: Mapping[str, nn.Parameter]) -> None:
        """Lets heads of the model learn beside the adapters; those that learnt until now no longer do."""
        for parameter in self._heads.values():
            parameter.requires_grad_(False)
        self._heads = dict(heads)
        self._activate()

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
        require([name], self.names)
        self._open.add(self._shelf.layers, peft_name(name))
        self.remove(name)

    def learning_only(self, names: Sequence[str]) -> AbstractContextManager[None]:
        """Held open around a forward pass: of what learns, all but these adapters are constants of it."""
        require(names, self.names)
        wanted = {id(parameter) for name in names for parameter in self._shelf.parameters(name).values()}
        return held_constant([p for p in self.trainable_parameters().values() if id(p) not in wanted])

    @contextmanager
    def without(self, names: Sequence[str]) -> Iterator[None]:
        """Held open around a forward pass: these of the learning adapters take no part in it."""
        assert self._shelf.holder is not None
        rest = [name for name in self._live() if name not in names]
        self._shelf.holder.compute(rest, known=self.names[0])
        self._set_gradients(rest)
        try:
            yield
        finally:
            self._activate()

    def begin_from(self, batches: Callable[[], Iterable[Any]], loss: Loss) -> None:
        """Where a stage begins (not where it goes on): new adapters begin from data, if they do; others keep weights.

        Args:
            batches: The rows of the stage.
            loss: Summed loss of a module on a batch.
        """
        self._shelf.begin_from(self.trainable, batches, loss)

    def begin(self, total_steps: int) -> None:
        """Tells adapters that change their shape while they learn how many steps they have.

        Raises:
            ConfigError: If their own schedule does not fit.
        """
        if hook := self._hook("begin"):
            hook(total_steps)

    def step_loss(self) -> dict[str, Tensor]:
        """Named scalars that belong to the learning adapters themselves, once per optimiser step."""
        hook = self._hook("step_loss")
        return hook() if hook else {}

    def after_step(self, step: int) -> None:
        """After each optimiser step, before gradients are dropped; `step` counts from 1."""
        if hook := self._hook("after_step"):
            hook(step)

    def check(self) -> None:
        """Checks that exactly the parameters of the adapters that learn require gradients.

        Raises:
            RunError: Naming the others.
        """
        if self._shelf.holder is not None or self.change is not None or self._heads:
            check_learning(self.model, self._wanted(self.trainable))

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by their names in `model`, in its order."""
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}

    def param_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """What learns as groups for an optimiser: one, or with LoRA+ two of which B's is the faster."""
        return grouped(self.trainable_parameters(), learning_rate, self._spec.loraplus_lr_ratio)

    def learning_tensors(self) -> dict[str, dict[str, Tensor]]:
        """Copies of all that learns on the CPU, by adapter name (and `BASE` for base weights): for exact resumes."""
        tensors = {name: self.adapter_tensors(name) for name in self.trainable}
        if self.change is not None and self._base_learns():
            tensors[BASE] = self.change.weight_tensors()
        if self._heads:
            tensors[HEADS] = {name: head.detach().to("cpu", copy=True) for name, head in self._heads.items()}
        return tensors

    @torch.no_grad()
    def load_learning_tensors(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Sets what learns to what `learning_tensors` returned."""
        for name, held in tensors.items():
            if name == BASE:
                assert self.change is not None
                self.change.load_weight_tensors(held)
            elif name == HEADS:
                for key, tensor in held.items():
                    self._heads[key].copy_(tensor)
            else:
                self.load_adapter_tensors(name, held)

    def adapter_tensors(self, name: str) -> dict[str, Tensor]:
        """Copies on the CPU of all that an adapter needs to learn on; of most kinds by their keys in a peft file."""
        return self._shelf.tensors(name)

    @torch.no_grad()
    def load_adapter_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Sets an adapter's weights to what `adapter_tensors` returned; also of one that is baked in.

        Raises:
            CheckpointError: If names or shapes differ.
        """
        self._shelf.set_tensors(name, tensors)

    def past_factors(self, names: Sequence[str] | None = None) -> dict[str, PastFactors]:
        """The stacked low-rank factors of past adapters by module path, for penalties: copies without gradient.

        Args:
            names: Which, in this order; None for those that are active and do not learn.
        """
        chosen = [name for name in self.active if name not in self.trainable] if names is None else names
        require(chosen, self.names)
        return stacked_factors(self._shelf.layers, [peft_name(name) for name in chosen])

    def factors(self, name: str) -> dict[str, Factors]:
        """The low-rank factors of one adapter by module path in the base model: its parameters, with gradient."""
        require([name], self.names)
        return live_factors(self._shelf.layers, peft_name(name))

    def observed(self) -> AbstractContextManager[dict[str, tuple[Tensor, Tensor]]]:
        """What modules with adapters or open base weights read and gave: see `layers.observed`."""
        layers = self._shelf.layers
        paths = [*layers, *(path for path in self.base_weights() if path not in layers)]
        return observed({path: self.base_model.get_submodule(path) for path in paths})

    def summary(self) -> ParameterSummary:
        """Counts and bytes of the model as it is now."""
        held = [holder.held_bytes() for holder in (self._shelf.holder, self.change) if holder is not None]
        return summarise(self.model, self._shelf.layers, held)

    def _hook(self, name: str) -> Any:
        """A hook of what carries the learning adapters, if it has it."""
        return hook_of(self._shelf.holder, name) if self.trainable else None

    def _live(self) -> tuple[str, ...]:
        """The adapters that are computed one by one: those that learn, or else the last one of the plan."""
        return tuple(name for name in self.active if name in self.trainable) or self.active[-1:]

    def _base_learns(self) -> bool:
        return self._plan.base is not None and self._plan.base.learn

    def _activate(self) -> None:
        """Says what is computed, freezes all that does not learn, and checks it."""
        holder = self._shelf.holder
        if holder is not None:
            holder.compute(self._live(), known=self.names[0])
            self._set_gradients(self.trainable)
        for weight in self.base_weights().values():
            weight.requires_grad_(self._base_learns())
        for parameter in self._heads.values():
            parameter.requires_grad_(True)
        if holder is not None or self._heads:
            self.check()

    def _set_gradients(self, learn: Sequence[str]) -> None:
        """Of all adapters, exactly these learn."""
        wanted = {id(parameter) for parameter in self._wanted(learn)}
        for name in self.names:
            for parameter in self._shelf.parameters(name).values():
                parameter.requires_grad_(id(parameter) in wanted)

    def _wanted(self, learn: Sequence[str]) -> Iterator[nn.Parameter]:
        """What must learn if these adapters do."""
        fixed = tuple(f".{part}." for part in (*self._plan.fixed, *(("lora_A",) if self._spec.lora_fa else ())))
        for name in learn:
            for key, parameter in self._shelf.parameters(name).items():
                if not any(part in key for part in fixed):
                    yield parameter
        if self._base_learns():
            yield from self.base_weights().values()
        yield from self._heads.values()
