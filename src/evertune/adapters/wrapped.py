"""A base model with peft's layers in it: which adapters are computed, and how the frozen ones are added."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from peft import PeftConfig, PeftModel, get_peft_model

from evertune.adapters.baking import Baked, FrozenSum, Stacked, can_bake
from evertune.adapters.layers import Layers, peft_name, tuner_layers

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets


class WrappedModel:
    """What peft made of a base model; names are those of the bank, and nothing here knows about plans.

    Attributes:
        model: The module to call.
        layers: The modules with adapters, by path in the base model.
        shown: The frozen adapters that are baked or stacked now.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        name: str,
        config: PeftConfig,
        spec: AdapterSpec,
        targets: Targets,
        task_type: str,
    ) -> None:
        """Puts the first adapter on a model.

        Args:
            base_model: Its modules are replaced.
            name: The adapter.
            config: Its configuration.
            spec: Of all adapters.
            targets: Where they sit.
            task_type: Name in `evertune.backbones.BACKBONES`.
        """
        with warnings.catch_warnings():
            # peft asks transformers for a name that it has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            peft_model = get_peft_model(base_model, config, adapter_name=peft_name(name))
        assert isinstance(peft_model, PeftModel)
        self.model = peft_model
        self.layers: Layers = tuner_layers(base_model)
        assert set(self.layers) == set(targets.paths), "peft reads the targets otherwise than we do"
        self._frozen_sum: FrozenSum = (
            Baked(self.layers)
            if can_bake(base_model, self.layers)
            else Stacked(peft_model, self.layers, spec, targets, task_type)
        )
        self.shown: tuple[str, ...] = ()
        self._stacked: tuple[str, ...] = ()  # what peft must have active for it

    def add(self, name: str, config: PeftConfig) -> None:
        """Adds another adapter."""
        self.model.add_adapter(peft_name(name), config)

    def delete(self, name: str) -> None:
        """Removes an adapter that is not shown."""
        self.model.delete_adapter(peft_name(name))

    def show(self, names: Sequence[str]) -> None:
        """Adds frozen adapters to the base model at no cost of their own, in this order; nothing if they are there."""
        if tuple(names) != self.shown:
            self._show(tuple(names))

    def refresh(self) -> None:
        """Takes up new weights of those that are shown."""
        self._show(self.shown)

    def compute(self, live: Sequence[str], *, known: str, learn: Sequence[str]) -> None:
        """Tells peft which adapters are computed one by one, beside those shown, and which of them require gradients.

        Args:
            live: Names, in the order of addition.
            known: Any adapter: PeftModel keeps one name to find a configuration by, even if none is active.
            learn: Names.
        """
        self.model.set_adapter(peft_name(known), inference_mode=True)
        self._tuner.set_adapter([*self._stacked, *map(peft_name, live)], inference_mode=True)
        self.model.set_requires_grad([peft_name(name) for name in learn])

    def merge(self, live: Sequence[str]) -> None:
        """Writes what is shown and these adapters into the base weights and takes peft off; there is no way back."""
        self._tuner.merge_and_unload(adapter_names=[*self._stacked, *map(peft_name, live)])

    def unload(self) -> None:
        """Takes peft off the base model again; its weights keep the bits that they came with."""
        self.show(())
        self.model.unload()

    def held_bytes(self) -> dict[str, int]:
        """Memory beyond the model's own parameters, by what it is."""
        return self._frozen_sum.held_bytes()

    def _show(self, names: tuple[str, ...]) -> None:
        self._tuner.set_adapter([])  # so that peft need not choose another when one goes
        self._stacked = self._frozen_sum.show([peft_name(name) for name in names])
        self.shown = names

    @property
    def _tuner(self) -> BaseTuner:
        return cast("BaseTuner", self.model.base_model)
