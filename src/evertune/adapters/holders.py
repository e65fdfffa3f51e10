"""Which holder carries the adapters of a kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evertune.adapters.alone import OneAtATime
from evertune.adapters.holder import Holder
from evertune.adapters.kinds import FULL, NONE, kind_of, mutates_base, not_several
from evertune.adapters.peft_config import check_sizes
from evertune.adapters.whole import NoAdapter, WholeModel
from evertune.adapters.wrapped import WrappedModel
from evertune.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets

_LANGUAGE = ("causal_lm", "seq2seq_lm")


def new_holder(
    model: PreTrainedModel,
    name: str,
    spec: AdapterSpec,
    targets: Targets,
    task_type: str,
    *,
    own: AdapterSpec | None = None,
) -> Holder:
    """Puts a first adapter on a base model.

    Args:
        model: The base model.
        name: The adapter.
        spec: Of all adapters.
        targets: Where they sit.
        task_type: Name in `evertune.backbones.BACKBONES`.
        own: What this adapter is, if it is of another size.

    Raises:
        ConfigError: If peft cannot do that on this model.
        CapabilityError: If the weights cannot learn.
    """
    if spec.kind == NONE:
        return NoAdapter(model)

    def made(one: str) -> Holder:
        if spec.kind == FULL:
            return WholeModel(model, heads=task_type not in _LANGUAGE)
        return _wrapper(spec)(model, one, spec, targets, task_type)

    if not_several(spec):
        return OneAtATime(model, made, name)
    if spec.kind == "poly":
        from evertune.adapters.poly import PolyModel

        return PolyModel(model, name, spec, targets, task_type)
    return WrappedModel(model, name, spec, targets, task_type, own=own)


def rehearse(model: PreTrainedModel, spec: AdapterSpec, targets: Targets, task_type: str) -> None:
    """Puts an adapter on a model without weights, as far as peft goes there; the model is spent.

    Raises:
        ConfigError: If peft cannot do that on this model, whatever its weights.
    """
    check_sizes(spec, model, targets)
    try:
        new_holder(model, "check", spec, targets, task_type)
    except NotImplementedError:
        return
    except ConfigError as error:
        # What a kind computes from the weights fails where there are none, and says nothing about it.
        if not isinstance(error.__cause__, RuntimeError):
            raise


def _wrapper(spec: AdapterSpec) -> type:
    if kind_of(spec).prompts:
        from evertune.adapters.prompts import PromptModel

        return PromptModel
    if spec.kind == "adalora":
        from evertune.adapters.adalora import AdaLoraModel

        return AdaLoraModel
    if mutates_base(spec):
        from evertune.adapters.mutating import MutatingLora

        return MutatingLora
    if spec.kind == "adaption_prompt":
        from evertune.adapters.adaption import AdaptionModel

        return AdaptionModel
    return WrappedModel
