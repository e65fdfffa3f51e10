"""An adapter folder as others read it: by peft itself."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel


def with_adapter(base: PreTrainedModel, folder: Path) -> nn.Module:
    """The base model with the adapter of a folder, as `PeftModel.from_pretrained` makes it."""
    return PeftModel.from_pretrained(base, str(folder))
