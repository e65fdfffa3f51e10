"""A base model with peft's layers in it: which adapters are computed, and how the frozen ones are added."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn

from evertune.adapters.baking import Baked, FrozenSum, Native, Stacked, can_bake
from evertune.adapters.beginning import Loss, begin_eva
from evertune.adapters.kinds import can_be_baked, kind_of
from evertune.adapters.layers import Layers, peft_name, tuner_layers
from evertune.adapters.peft_config import build_config, refused
from evertune.adapters.summary import base_copies
from evertune.errors import CapabilityError

if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTuner
    from transformers import PreTrainedModel

    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets


# Options of LoRA with which peft writes to the base model itself.
_TOUCHING = frozenset({"bias", "kasa_config", "layer_replication", "modules_to_save"})


class WrappedModel:
    """What peft made of a base model: see `evertune.adapters.holder.Holder`.

    Attributes:
        layers: The modules with adapters, by path in the base model.
        shown: The frozen adapters that take part at no cost of their own, or at peft's.
    """

    def __init__(
        self,
        base_model: PreTrainedModel,
        name: str,
        spec: AdapterSpec,
        targets: Targets,
        task_type: str,
        *,
        own: AdapterSpec | None = None,
    ) -> None:
        """Puts the first adapter on a model.

        Args:
            base_model: Its modules are replaced.
            name: The adapter.
            spec: Of all adapters.
            targets: Where they sit.
            task_type: Name in `evertune.backbones.BACKBONES`.
            own: What this adapter is, if it is of another size.

        Raises:
            ConfigError: If peft cannot do that on this model.
        """
        self._base_model = base_model
        self._spec, self._targets, self._task_type = spec, targets, task_type
        self._learning: dict[str, dict[str, nn.Parameter]] = {}
        self._files: dict[str, dict[str, Tensor]] = {}
        self.shown: tuple[str, ...] = ()
        self._stacked: tuple[str, ...] = ()  # what peft must have active for it
        self._came = _Came(base_model, targets, spec) if spec.options.keys() & _TOUCHING else None
        self._put_on(name, self._config(own))

    def add(self, name: str, spec: AdapterSpec | None = None) -> None:
        """Adds another adapter; of another size if `spec` says so."""
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
        with self._speaking():
            self.model.add_adapter(peft_name(name), self._config(spec))
        self._note(name)

    def delete(self, name: str) -> None:
        """See `Holder.delete`."""
        self.model.delete_adapter(peft_name(name))
        self._learning.pop(name)
        self._files.clear()

    def show(self, names: Sequence[str]) -> None:
        """See `Holder.show`."""
        if tuple(names) != self.shown:
            self._show(tuple(names))

    def refresh(self) -> None:
        """See `Holder.refresh`."""
        self._show(self.shown)

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`; PeftModel keeps one name to find a configuration by, even if none is active."""
        self.model.set_adapter(peft_name(known), inference_mode=True)
        self._tuner.set_adapter([*self._stacked, *map(peft_name, live)], inference_mode=True)

    def parameters(self, name: str) -> Mapping[str, nn.Parameter]:
        """See `Holder.parameters`."""
        return self._learning[name]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`."""
        # On a model without weights there are shapes alone.
        return {
            key: tensor.detach() if tensor.is_meta else tensor.detach().to("cpu", copy=True).contiguous()
            for key, tensor in self._file(name).items()
        }

    @torch.no_grad()
    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`."""
        held = self._file(name)
        stored = {tensor.untyped_storage().data_ptr() for tensor in self.model.state_dict().values()}
        if all(tensor.untyped_storage().data_ptr() in stored for tensor in held.values()):
            for key, tensor in held.items():
                tensor.copy_(tensors[key])
        else:  # peft computes what is in the file
            set_peft_model_state_dict(self.model, dict(tensors), adapter_name=peft_name(name))
            self._files.pop(name)

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`: a file holds all of it."""
        return self.tensors(name)

    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""
        self.load(name, tensors)

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`."""
        names = [*self._stacked, *map(peft_name, live)]
        if self._spec.kind == "oft":  # the input meets the oldest rotation first, so that its factor stands last
            names.reverse()
        try:
            self._tuner.merge_and_unload(adapter_names=names)
        except (NotImplementedError, ValueError, AttributeError, TypeError, RuntimeError) as error:
            raise cannot_merge(self._spec) from error

    def unload(self) -> None:
        """See `Holder.unload`."""
        self.show(())
        self._tuner.unload()
        if self._came is not None:
            self._came.restore()
        self._base_model.requires_grad_(False)  # what peft put aside, it gives back as it was created

    def held_bytes(self) -> dict[str, int]:
        """See `Holder.held_bytes`."""
        held = self._frozen_sum.held_bytes()
        return held if self._came is None else held | self._came.held_bytes()

    def _put_on(self, name: str, config: PeftConfig) -> None:
        """Lets peft put the first adapter on the base model."""
        self._base_model.requires_grad_(False)
        with self._speaking():
            peft_model = get_peft_model(self._base_model, config, adapter_name=peft_name(name))
        assert isinstance(peft_model, PeftModel)
        self.model = peft_model
        self.layers: Layers = tuner_layers(self._base_model)
        assert set(self.layers) >= set(self._targets.paths), "peft reads the targets otherwise than we do"
        self._files.clear()
        self._note(name)
        self._frozen_sum = self._sum()

    def begin_from(self, name: str, batches: Iterable[Any], loss: Loss) -> None:
        """Lets a new adapter begin from data."""
        begin_eva(self.model, peft_name(name), batches, loss)
        self._files.clear()

    def _show(self, names: tuple[str, ...]) -> None:
        self._tuner.set_adapter([])  # so that peft need not choose another when one goes
        self._stacked = self._frozen_sum.show([peft_name(name) for name in names])
        self.shown = names

    def _sum(self) -> FrozenSum:
        if not can_be_baked(self._spec):
            return Native()
        if can_bake(self._base_model, self.layers):
            return Baked(self.layers)
        if self._spec.kind == "lora" and not self._spec.options.keys() & {"rank_pattern", "alpha_pattern"}:
            return Stacked(self.model, self.layers, self._spec, self._targets, self._task_type)
        return Native()

    def _config(self, spec: AdapterSpec | None = None) -> PeftConfig:
        return build_config(spec or self._spec, self._targets, self._task_type)

    def _note(self, name: str) -> None:
        """Notes what peft lets learn of a new adapter, which it says by what requires gradients when it is active."""
        self.model.set_adapter(peft_name(name))
        learning = {key: held for key, held in self.model.named_parameters() if held.requires_grad}
        for parameter in learning.values():
            parameter.data = parameter.data.float()
        self._learning[name] = learning

    def _file(self, name: str) -> dict[str, Tensor]:
        """What a file of the adapter holds: the parameters and buffers themselves."""
        if name not in self._files:
            state = self.model.state_dict(keep_vars=True)
            self._files[name] = get_peft_model_state_dict(
                self.model, state_dict=state, adapter_name=peft_name(name), save_embedding_layers=False
            )
        return self._files[name]

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """What peft says where it cannot put an adapter on a model is the user's to mend."""
        with warnings.catch_warnings():
            # peft asks transformers for a name that it has deprecated.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            try:
                yield
            except (ValueError, TypeError, AttributeError, AssertionError, KeyError, RuntimeError) as error:
                raise refused(error, self._spec) from error

    @property
    def _tuner(self) -> BaseTuner:
        return cast("BaseTuner", self.model.base_model)


class _Came:
    """A base model as it came: the weights below the adapters, its biases, and modules that peft replaces."""

    def __init__(self, model: nn.Module, targets: Targets, spec: AdapterSpec) -> None:
        self._model = model
        self._weights = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in model.named_parameters()
            if name.rpartition(".")[0] in targets.paths or name.endswith("bias")
        }
        endings = tuple(f".{name}" for name in spec.options.get("modules_to_save") or ())
        self._modules = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, nn.ModuleList) or f".{path}".endswith(endings)
        }
        self._depth = getattr(getattr(model, "config", None), "num_hidden_layers", None)

    @torch.no_grad()
    def restore(self) -> None:
        for path, module in self._modules.items():
            above, _, name = path.rpartition(".")
            setattr(self._model.get_submodule(above), name, module)
        if self._depth is not None:
            self._model.config.num_hidden_layers = self._depth  # pyright: ignore[reportAttributeAccessIssue]
        for name, came in self._weights.items():
            self._model.get_parameter(name).copy_(came)

    def held_bytes(self) -> dict[str, int]:
        return base_copies(self._weights.values())


def cannot_merge(spec: AdapterSpec) -> CapabilityError:
    """Said where adapters are to become weights and are none."""
    kind = "virtual tokens" if kind_of(spec).prompts else f"adapters of the kind `{spec.kind}`"
    return CapabilityError(
        f"{kind[0].upper()}{kind[1:]} are no change of weights, and cannot be merged into them.",
        where="--as merged",
        instead="Write `--as adapter`.",
    )
