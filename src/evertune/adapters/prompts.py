"""Virtual tokens: adapters that stand before the input and leave the modules of the model as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evertune.adapters.kinds import kind_of
from evertune.adapters.wrapped import WrappedModel, cannot_merge

if TYPE_CHECKING:
    from peft import PeftModel
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel

    from evertune.adapters.spec import AdapterSpec
    from evertune.adapters.targets import Targets

_TIMED = ("logits", "start_logits", "end_logits")  # outputs with one entry a token, where they have that many


class PromptModel(WrappedModel):
    """See `evertune.adapters.holder.Holder`: one set of virtual tokens before the input of a model.

    Outputs of virtual tokens are taken away, so that the rest of the program sees as many as there are real ones; so is
    the cache of keys and values that a forward pass returns: peft would put the virtual tokens before it once more.
    """

    def __init__(
        self, base_model: PreTrainedModel, name: str, spec: AdapterSpec, targets: Targets, task_type: str
    ) -> None:
        """See `WrappedModel`."""
        assert kind_of(spec).prompts
        super().__init__(base_model, name, spec, targets, task_type)
        self._encoder: nn.Module = self.model.prompt_encoder[name]
        self._hooks = hide_virtual_tokens(self.model)

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`."""

    @torch.no_grad()
    def tensors(self, name: str) -> dict[str, Tensor]:
        """See `Holder.tensors`: the virtual tokens as they were computed, whatever wrote them."""
        training = self._encoder.training
        self._encoder.eval()
        try:
            self._files.clear()
            return super().tensors(name)
        finally:
            self._encoder.train(training)

    @torch.no_grad()
    def load(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load`.

        Raises:
            AssertionError: If what writes the virtual tokens would be lost: then `load_state` is called.
        """
        assert set(tensors) == set(self.tensors(name))
        self._encoder._load_adapter_state_dict(dict(tensors))  # pyright: ignore[reportCallIssue]

    def state(self, name: str) -> dict[str, Tensor]:
        """See `Holder.state`: what writes the virtual tokens too."""
        return {key: held.detach().to("cpu", copy=True) for key, held in self._encoder.state_dict().items()}

    @torch.no_grad()
    def load_state(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """See `Holder.load_state`."""
        self._encoder.load_state_dict(dict(tensors))

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`; always raises."""
        raise cannot_merge(self._spec)

    def unload(self) -> None:
        """See `Holder.unload`: the model was not touched."""
        for hook in self._hooks:
            hook.remove()


def hide_virtual_tokens(model: PeftModel) -> list[RemovableHandle]:
    """Makes a model with virtual tokens look like one without, from outside; until the hooks are removed.

    Args:
        model: With one adapter of virtual tokens.
    """
    base = model.get_base_model()
    # Outputs of a decoder are those of the answer, before which there are none.
    answers = bool(getattr(base.config, "is_encoder_decoder", False))

    def cut(module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any) -> Any:
        ids: Tensor | None = kwargs.get("input_ids", args[0] if args else None)
        count: int = model.active_peft_config.num_virtual_tokens  # pyright: ignore[reportAttributeAccessIssue]
        for name in () if answers else _TIMED:
            logits: Tensor | None = getattr(output, name, None)
            # Outputs of a whole text have two dimensions and the name of those of a token.
            if ids is None or logits is None or (name == "logits" and logits.ndim != 3):
                continue
            if logits.shape[1] == ids.shape[1] + count:
                output[name] = logits[:, count:]
        if getattr(output, "past_key_values", None) is not None:  # generation calls the base model, not the wrapper
            output["past_key_values"] = None
        return output

    encoders = model.prompt_encoder.values()
    return [
        model.register_forward_hook(cut, with_kwargs=True),
        *(encoder.register_forward_pre_hook(_of_first_task) for encoder in encoders),
    ]


def _of_first_task(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """Multi-task prompts ask for the task of every row; all rows here are of the only one that they were made for."""
    if len(args) == 2 and args[1] is None:
        return (args[0], torch.zeros(len(args[0]), dtype=torch.long, device=args[0].device))
    return None
