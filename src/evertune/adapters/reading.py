"""An adapter folder as others read it: by peft itself."""

from __future__ import annotations

from pathlib import Path

from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from evertune.adapters.folder import CONFIG
from evertune.adapters.poly import route_all_alike
from evertune.adapters.prompts import hide_virtual_tokens
from evertune.files import read_json


def with_adapter(base: PreTrainedModel, folder: Path) -> nn.Module:
    """The base model with the adapter of a folder, as `PeftModel.from_pretrained` makes it.

    It is called as the base model is: outputs of virtual tokens are cut off, and no ids of tasks are asked for.
    """
    # peft 0.21 does not read AdaLoRA for answering alone.
    learns = read_json(folder / CONFIG)["peft_type"] == "ADALORA"
    model = PeftModel.from_pretrained(base, str(folder), is_trainable=learns)
    model.eval().requires_grad_(False)
    if model.active_peft_config.is_prompt_learning:
        hide_virtual_tokens(model)
    route_all_alike(model)
    return model
