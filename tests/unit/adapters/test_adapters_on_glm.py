"""GLM and GLM-4 as transformers has them: their modules by role and by name, and one that only ChatGLM has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    Glm4Config,
    Glm4ForCausalLM,
    GlmConfig,
    GlmForCausalLM,
    PreTrainedModel,
)

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.adapters.targets import resolve_targets
from evertune.errors import ConfigError

SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1,
}  # fmt: skip
IDS = torch.tensor([[5, 6, 7, 8, 9, 10]])


def build(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "glm":
        return GlmForCausalLM(GlmConfig(**SIZES)).eval()
    return Glm4ForCausalLM(Glm4Config(**SIZES)).eval()


KINDS = pytest.mark.parametrize("kind", ["glm", "glm4"])


@KINDS
@pytest.mark.parametrize(
    ("target", "names"),
    [
        ("attention_query_value", {"q_proj", "v_proj"}),
        ("attention", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("mlp", {"gate_up_proj", "down_proj"}),
        ("all-linear", {"q_proj", "k_proj", "v_proj", "o_proj", "gate_up_proj", "down_proj"}),
        (("q_proj", "v_proj", "gate_up_proj"), {"q_proj", "v_proj", "gate_up_proj"}),
    ],
)
def test_targets(kind: str, target: str | tuple[str, ...], names: set[str]) -> None:
    paths = resolve_targets(build(kind), AdapterSpec(target=target)).paths
    assert {path.rpartition(".")[2] for path in paths} == names
    assert len(paths) == 2 * len(names)


@KINDS
def test_what_chatglm_fuses_is_split(kind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_targets(build(kind), AdapterSpec(target=("query_key_value",)))
    text = str(caught.value)
    assert "No linear module of this model is called `query_key_value`." in text
    assert "This model splits it into `q_proj`, `k_proj`, `v_proj`." in text
    assert "o_proj 32->32 x2, gate_up_proj 32->96 x2, down_proj 48->32 x2" in text


def test_what_others_split_may_be_fused() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=32, n_layer=1, n_head=4))
    with pytest.raises(ConfigError, match=r"This model fuses query, key and value in `query_key_value`\."):
        resolve_targets(model, AdapterSpec(target=("q_proj",)))


@KINDS
def test_a_step_is_learnt_saved_and_read_again(kind: str, tmp_path: Path) -> None:
    spec = AdapterSpec(r=2, target="all-linear")
    model = build(kind)
    bank = AdapterBank(model, spec, task_type="causal_lm", base_path=kind)
    bank.add("a", seed=1)
    bank.apply(AdapterPlan(("a",), ("a",)))
    untouched = bank.model(IDS).logits.detach()
    optimizer = torch.optim.SGD(bank.trainable_parameters().values(), lr=1.0)
    loss = bank.model(IDS, labels=IDS).loss
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        assert bank.model(IDS, labels=IDS).loss < loss
        logits = bank.model(IDS).logits
    assert not torch.equal(logits, untouched)
    bank.save("a", tmp_path / "a")
    again = AdapterBank(build(kind), spec, task_type="causal_lm", base_path=kind)
    again.load("a", tmp_path / "a")
    again.apply(AdapterPlan(("a",)))
    with torch.no_grad():
        assert torch.equal(again.model(IDS).logits, logits)
