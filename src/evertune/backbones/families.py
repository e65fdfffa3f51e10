"""What can be told of a model of transformers without its weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from evertune.backbones.base import BackboneConfig
    from evertune.backbones.loading import Described


class FromPretrained:
    """A family that transformers loads from a folder or the hub."""

    @classmethod
    def describe(cls, config: BackboneConfig, *, base_dir: Path | None = None) -> Described:
        """Configuration and tokenizer, no weights; see `evertune.backbones.loading.describe`."""
        from evertune.backbones.loading import describe

        return describe(config, base_dir=base_dir)

    @classmethod
    def skeleton(cls, config: BackboneConfig) -> nn.Module:
        """The model without weights; see `evertune.backbones.loading.build_skeleton`."""
        from evertune.backbones.loading import build_skeleton

        return build_skeleton(config)
