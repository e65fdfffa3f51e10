"""The table that is shipped is whole, says why of everything that does not work, and is what is measured here."""

from __future__ import annotations

import json
from importlib import resources

import peft
import pytest

from evertune.adapters.capabilities import COLUMNS, capability_table, unusable
from evertune.adapters.kinds import FULL, KINDS, NONE, not_several
from evertune.adapters.spec import AdapterSpec
from tests.unit.adapters.kinds_models import script

TASKS = ("causal_lm", "seq2seq_lm", "sequence_classification", "token_classification", "question_answering")
# One of every way in which adapters are carried.
SAMPLE = (
    ("lora", "seq2seq_lm"),
    ("lora use_dora", "causal_lm"),
    ("lora init_lora_weights: pissa_niter_4", "causal_lm"),
    ("lora init_lora_weights: lora_ga", "sequence_classification"),
    ("adalora", "causal_lm"),
    ("ia3", "token_classification"),
    ("ln_tuning", "image_classification"),
    ("prompt_tuning", "token_classification"),
    ("p_tuning LSTM", "question_answering"),
    ("prefix_tuning", "sequence_classification"),
    ("multitask_prompt_tuning", "seq2seq_lm"),
    ("poly", "question_answering"),
    ("adaption_prompt", "causal_lm"),
    ("adaption_prompt", "token_classification"),
    ("vblora", "seq2seq_lm"),
    ("trainable_tokens", "sequence_classification"),
    (FULL, "sequence_classification"),
    (NONE, "token_classification"),
)


def test_every_kind_of_peft_is_there():
    assert {kind.value.lower() for kind in peft.PeftType} | {FULL, NONE} == set(KINDS)
    table = capability_table()
    lines = {row.name for row in script().rows()}
    assert set(KINDS) <= lines
    assert set(table) == lines
    assert all(set(row) == set(script().MODELS) for row in table.values())


def test_what_does_not_work_says_why():
    for name, row in capability_table().items():
        for task, cell in row.items():
            assert set(cell.can) == set(COLUMNS)
            for column, can in cell.can.items():
                assert can or len(cell.why[column]) > 10, (name, task, column)


def test_enough_of_them_work_everywhere():
    table = capability_table()
    everywhere = [kind for kind in KINDS if all(table[kind][task].usable for task in TASKS)]
    assert len([kind for kind in everywhere if kind not in (FULL, NONE)]) >= 36
    assert unusable("lora", "causal_lm") == ""
    assert "decoder-only" in unusable("shadow", "seq2seq_lm")


def test_the_table_agrees_with_what_the_bank_refuses():
    """Several together where the bank allows it, nowhere else; only a kind that is not usable was not measured."""
    for kind in set(KINDS) - {NONE}:
        for cell in capability_table()[kind].values():
            if cell.usable:
                assert cell.can["several"] is not bool(not_several(AdapterSpec(kind=kind)))


def test_the_versions_are_those_that_are_installed():
    text = (resources.files("evertune.adapters") / "capabilities.json").read_text(encoding="utf-8")
    assert json.loads(text)["versions"]["peft"] == peft.__version__


@pytest.mark.parametrize(("name", "task"), SAMPLE)
def test_measured_again(name, task):
    (row,) = (row for row in script().rows() if row.name == name)
    found, kept = script().measure(row, task), capability_table()[name][task]
    assert found["can"] == dict(kept.can)
    assert found.get("why", {}) == dict(kept.why)
