"""Methods that read the task's rows themselves do so as training does: a half-precision model computes in its type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from evertune.methods import protected
from evertune.methods.base import Method
from evertune.methods.gorp import GORP
from evertune.methods.inf_lora import InfLoRA
from tests.unit.methods import walks
from tests.unit.training.toys import toy_model


@pytest.mark.parametrize("method", [GORP(space="inputs", energy_threshold=0.5), InfLoRA(energy_threshold=0.5)])
def test_rows_are_read_in_the_precision_of_training(
    method: Method, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walks, "toy_model", lambda: toy_model().bfloat16())
    seen: set[torch.dtype] = set()
    stages = walks.walk(tmp_path, method, autocast=torch.bfloat16, num_train_epochs=1.0)
    first = next(stages)
    loss = first.context.backbone.loss

    def watched(model, batch):
        seen.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return loss(model, batch)

    monkeypatch.setattr(first.context.backbone, "loss", watched)
    assert protected.bases(next(stages).state)
    assert seen == {torch.bfloat16}
