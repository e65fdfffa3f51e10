"""Adaption prompts: peft exchanges modules of attention for others, which are no tuner layers."""

from __future__ import annotations

from collections.abc import Sequence

from evertune.adapters.wrapped import WrappedModel, cannot_merge


class AdaptionModel(WrappedModel):
    """See `evertune.adapters.holder.Holder`."""

    def compute(self, live: Sequence[str], *, known: str) -> None:
        """See `Holder.compute`: the one that is there takes part."""

    def merge(self, live: Sequence[str]) -> None:
        """See `Holder.merge`; always raises."""
        raise cannot_merge(self._spec)

    def unload(self) -> None:
        """See `Holder.unload`."""
        for name in list(self.model.peft_config):
            self._tuner.delete_adapter(name)
