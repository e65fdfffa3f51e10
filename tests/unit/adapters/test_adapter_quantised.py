"""The same calls on a quantised base: it is never written to, past adapters are stacked into one."""

from __future__ import annotations

import importlib.util

import pytest
import torch
import transformers as hf

from evertune.adapters.baking import STACKED
from evertune.adapters.bank import AdapterBank
from evertune.adapters.capabilities import quantised_table
from evertune.adapters.kinds import KINDS as EVERY_KIND
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from tests.unit.adapters.kinds_models import script

NAMES = ("first", "second", "third")
KINDS = {
    "nf4": hf.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32),
    "int8": hf.BitsAndBytesConfig(load_in_8bit=True),
}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed (extra `quantization`)"
)


# bitsandbytes' CPU kernel for 4 bits wants widths of whole blocks of 64 numbers.
SIZES = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


@pytest.fixture(params=KINDS)
def load(request, tmp_path_factory):
    """Loads a tiny Llama quantised, with the same weights every time."""
    folder = tmp_path_factory.mktemp("base")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        hf.LlamaForCausalLM(hf.LlamaConfig(**SIZES)).save_pretrained(folder)

    def loaded():
        model = hf.AutoModelForCausalLM.from_pretrained(folder, quantization_config=KINDS[request.param])
        return model.eval()

    loaded.kind = request.param
    return loaded


def _bank(model):
    spec = AdapterSpec(r=4, lora_alpha=8, lora_dropout=0.1)
    bank = AdapterBank(model, spec, task_type="causal_lm", base_path="models/tiny")
    for index, name in enumerate(NAMES):
        bank.add(name, seed=index)
        generator = torch.Generator().manual_seed(100 + index)
        shapes = {key: tensor.shape for key, tensor in bank.adapter_tensors(name).items()}
        bank.load_adapter_tensors(
            name, {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}
        )
    return bank


def _stored(bank):
    return {key: p.clone() for key, p in bank.base_model.named_parameters() if "base_layer" in key}


def test_the_sum_of_frozen_adapters(load, inputs):
    """Compared with peft adding them one by one; quantised kernels round the input, so the model must be the same."""
    bank = _bank(load())
    batch = inputs(bank.base_model)
    bank.apply(AdapterPlan(NAMES, NAMES[-1:]))
    assert {p.dtype for p in bank.trainable_parameters().values()} == {torch.float32}
    logits = bank.model(**batch).logits
    logits.square().mean().backward()
    gradients = {key: p.grad.clone() for key, p in bank.trainable_parameters().items()}
    assert STACKED in bank.model.peft_config

    native = bank.model
    native.zero_grad()
    native.base_model.set_adapter(list(NAMES))
    theirs = native(**batch).logits
    theirs.square().mean().backward()
    torch.testing.assert_close(logits, theirs, rtol=0, atol=_rounding(load.kind))
    named = dict(native.named_parameters())
    for key, gradient in gradients.items():
        assert gradient.any()
        torch.testing.assert_close(gradient, named[key].grad, rtol=1e-2, atol=_rounding(load.kind))
    native.base_model.set_adapter([])
    assert (native(**batch).logits - logits).abs().max() > 10 * _rounding(load.kind)


def _rounding(kind):
    """int8 rounds activations to 8 bits, so that one last bit of the input moves an output by 1/127 of its row."""
    return 2e-3 if kind == "int8" else 1e-5


def test_the_base_is_not_written_to(load):
    bank = _bank(load())
    before = _stored(bank)
    assert before
    for plan in (AdapterPlan(NAMES, ("third",)), AdapterPlan(NAMES), AdapterPlan(("first",)), AdapterPlan(())):
        bank.apply(plan)
        frozen = [name for name in plan.active if name not in plan.trainable]
        live = plan.trainable or plan.active[-1:]
        assert (STACKED in bank.model.peft_config) == bool(set(frozen) - set(live))
        assert all(torch.equal(tensor, before[key]) for key, tensor in _stored(bank).items())
        assert bank.names == NAMES
        wanted = {key for key, _ in bank.model.named_parameters() if any(f".{n}." in key for n in plan.trainable)}
        assert bank.trainable_parameters().keys() == wanted
    assert "base copies" not in " ".join(bank.summary().bytes)


def test_factors_and_new_weights_follow(load, inputs):
    bank = _bank(load())
    bank.apply(AdapterPlan(NAMES, ("third",)))
    layer = next(iter(bank.past_factors()))
    A = torch.cat([bank.adapter_tensors(n)[f"base_model.model.{layer}.lora_A.weight"] for n in NAMES[:2]])
    B = torch.cat([bank.adapter_tensors(n)[f"base_model.model.{layer}.lora_B.weight"] * 2.0 for n in NAMES[:2]], dim=1)
    assert torch.equal(bank.past_factors()[layer].A, A)
    assert torch.equal(bank.past_factors()[layer].B, B)
    batch = inputs(bank.base_model)
    with torch.no_grad():
        before = bank.model(**batch).logits
        bank.load_adapter_tensors("first", {k: t * -3 for k, t in bank.adapter_tensors("first").items()})
        assert (bank.model(**batch).logits - before).abs().max() > 1e-3
    assert bank.trainable == ("third",)


def test_counts_and_files(load, tmp_path, capsys):
    bank = _bank(load())
    bank.apply(AdapterPlan(NAMES, ("third",)))
    summary = bank.summary()
    bank.model.print_trainable_parameters()
    assert summary.line() == capsys.readouterr().out.strip()
    quantised = sum(p.nbytes for key, p in bank.model.named_parameters() if p.dtype in (torch.uint8, torch.int8))
    assert summary.bytes["base uint8" if load.kind == "nf4" else "base int8"] == quantised > 0
    bank.save("second", tmp_path)
    again = AdapterBank(load(), bank._spec, task_type="causal_lm", base_path="models/tiny")
    again.load("second", tmp_path)
    kept = bank.adapter_tensors("second")
    assert all(torch.equal(tensor, kept[key]) for key, tensor in again.adapter_tensors("second").items())


def test_the_table_says_of_every_kind_whether_it_goes_on_quantised_weights():
    table = quantised_table()
    assert set(EVERY_KIND) <= set(table)
    assert all(set(row) == set(KINDS) and all(len(why) > 10 for why in row.values() if why) for row in table.values())
    for kind in ("lora", "ia3", "oft", "vera", "prompt_tuning", "p_tuning", "ln_tuning"):
        assert table[kind] == {"nf4": "", "int8": ""}
    assert table["lora use_dora"]["nf4"] == ""


@pytest.mark.parametrize("name", ["adalora", "ia3", "oft", "p_tuning", "trainable_tokens", "glora", "full"])
def test_measured_again_on_quantised_weights(name):
    (row,) = (row for row in script().rows() if row.name == name)
    assert script().measure_quantised(row) == quantised_table()[name]
