"""A pooler that the weights of the base lack learns with the heads, inside the encoder."""

from __future__ import annotations

import json

import torch
from peft import PeftModel

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from tests.unit.adapters.kinds_models import script

TASK = "sequence_classification"


def _bank():
    spec = AdapterSpec(r=4, target=("query", "value"))
    return AdapterBank(script().build(TASK), spec, task_type=TASK, base_path="models/tiny")


def test_the_adapter_beside_it_is_read_again_by_us_and_by_peft(tmp_path):
    bank = _bank()
    bank.add("one", seed=1)
    bank.apply(AdapterPlan(("one",), ("one",)))
    learn = ("classifier.", "bert.pooler.")
    heads = {name: held for name, held in bank.base_model.named_parameters() if name.startswith(learn)}
    bank.learn_heads(heads)
    script().learn(bank, script().batch(TASK), 4)
    with torch.no_grad():
        wanted = script().outputs(bank.model, script().batch(TASK))
    bank.save("one", tmp_path, heads=heads)
    saved = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert saved["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    plain = script().build(TASK)
    torch.nn.init.zeros_(plain.classifier.weight)
    torch.nn.init.zeros_(plain.bert.pooler.dense.weight)
    with torch.no_grad():
        read = PeftModel.from_pretrained(plain, tmp_path)(**script().batch(TASK)).logits
    torch.testing.assert_close(read, wanted, rtol=0, atol=1e-5)
    again = _bank()
    again.load("one", tmp_path)
    assert again.names == ("one",)
