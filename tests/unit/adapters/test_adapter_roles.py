"""Roles, targets and the folded module tree, for each architecture."""

from __future__ import annotations

import itertools
import re

import pytest
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import nn

from evertune.adapters.roles import module_tree, role_of
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.targets import resolve_targets
from evertune.errors import ConfigError

_LLAMA_ATTENTION = "model.layers.{n}.self_attn.{m}"
_LLAMA_MLP = "model.layers.{n}.mlp.{m}"
_T5_QV = ("encoder.block.{n}.layer.0.SelfAttention.{m}", "decoder.block.{n}.layer.0.SelfAttention.{m}")
_BART_SELF = ("model.encoder.layers.{n}.self_attn.{m}", "model.decoder.layers.{n}.self_attn.{m}")


def _paths(patterns, modules):
    patterns = (patterns,) if isinstance(patterns, str) else patterns
    return {p.format(n=n, m=m) for p, n, m in itertools.product(patterns, range(2), modules)}


def _t5(modules):
    return _paths((*_T5_QV, "decoder.block.{n}.layer.1.EncDecAttention.{m}"), modules)


def _bart(modules):
    return _paths((*_BART_SELF, "model.decoder.layers.{n}.encoder_attn.{m}"), modules)


def _t5_mlp(modules):
    return _paths(
        ("encoder.block.{n}.layer.1.DenseReluDense.{m}", "decoder.block.{n}.layer.2.DenseReluDense.{m}"), modules
    )


_SPLIT = {
    "attention_query_value": _paths(_LLAMA_ATTENTION, ["q_proj", "v_proj"]),
    "attention_query_key_value": _paths(_LLAMA_ATTENTION, ["q_proj", "k_proj", "v_proj"]),
    "attention": _paths(_LLAMA_ATTENTION, ["q_proj", "k_proj", "v_proj", "o_proj"]),
    "mlp": _paths(_LLAMA_MLP, ["gate_proj", "up_proj", "down_proj"]),
}
_FUSED_MLP = {**_SPLIT, "mlp": _paths(_LLAMA_MLP, ["gate_up_proj", "down_proj"])}


def _fused(inside, qkv, output, mlp):
    only = _paths("transformer.h.{n}." + inside + ".{m}", [qkv])
    return {
        "attention_query_value": only,
        "attention_query_key_value": only,
        "attention": only | _paths("transformer.h.{n}." + inside + ".{m}", [output]),
        "mlp": _paths("transformer.h.{n}.mlp.{m}", mlp),
    }


_BERT = "bert.encoder.layer.{n}.{m}"
_VIT = "vit.layers.{n}.{m}"
EXPECTED = {
    "llama": _SPLIT,
    "qwen2": _SPLIT,
    "mistral": _SPLIT,
    "gemma": _SPLIT,
    "glm": _FUSED_MLP,
    "phi3": {
        "attention_query_value": _paths(_LLAMA_ATTENTION, ["qkv_proj"]),
        "attention_query_key_value": _paths(_LLAMA_ATTENTION, ["qkv_proj"]),
        "attention": _paths(_LLAMA_ATTENTION, ["qkv_proj", "o_proj"]),
        "mlp": _paths(_LLAMA_MLP, ["gate_up_proj", "down_proj"]),
    },
    "gpt2": _fused("attn", "c_attn", "c_proj", ["c_fc", "c_proj"]),
    "bloom": _fused("self_attention", "query_key_value", "dense", ["dense_h_to_4h", "dense_4h_to_h"]),
    "t5": {
        "attention_query_value": _t5("qv"),
        "attention_query_key_value": _t5("qkv"),
        "attention": _t5("qkvo"),
        "mlp": _t5_mlp(["wi", "wo"]),
    },
    "t5-gated": {"attention": _t5("qkvo"), "mlp": _t5_mlp(["wi_0", "wi_1", "wo"])},
    "bart": {
        "attention_query_value": _bart(["q_proj", "v_proj"]),
        "attention_query_key_value": _bart(["q_proj", "k_proj", "v_proj"]),
        "attention": _bart(["q_proj", "k_proj", "v_proj", "out_proj"]),
        "mlp": _paths(("model.encoder.layers.{n}.{m}", "model.decoder.layers.{n}.{m}"), ["fc1", "fc2"]),
    },
    "bert": {
        "attention_query_value": _paths(_BERT, ["attention.self.query", "attention.self.value"]),
        "attention": _paths(
            _BERT, [f"attention.self.{m}" for m in ("query", "key", "value")] + ["attention.output.dense"]
        ),
        "mlp": _paths(_BERT, ["intermediate.dense", "output.dense"]),
    },
    "vit": {
        "attention_query_value": _paths(_VIT, ["attention.q_proj", "attention.v_proj"]),
        "attention": _paths(_VIT, [f"attention.{m}_proj" for m in "qkvo"]),
        "mlp": _paths(_VIT, ["mlp.fc1", "mlp.fc2"]),
    },
}


@pytest.mark.parametrize(("name", "role"), [(name, role) for name, roles in EXPECTED.items() for role in roles])
def test_a_role_is_exactly_these_modules(build, name, role):
    model = build(name)
    targets = resolve_targets(model, AdapterSpec(target=role))
    assert set(targets.paths) == EXPECTED[name][role]
    assert targets.is_conv1d == (name == "gpt2")
    # The short names mean the same modules under peft's rule for lists.
    by_suffix = {p for p, _ in model.named_modules() if any(p == n or p.endswith(f".{n}") for n in targets.names)}
    assert by_suffix == set(targets.paths)


@pytest.mark.parametrize("name", ["llama", "qwen2", "mistral", "gemma", "gpt2", "bloom", "t5", "bart", "bert"])
def test_query_and_value_agree_with_the_table_of_peft(build, name):
    targets = resolve_targets(build(name), AdapterSpec(target="attention_query_value"))
    assert set(targets.names) == set(PEFT_TARGETS[name])


@pytest.mark.parametrize("name", EXPECTED)
def test_all_linear_is_everything_but_the_head(build, name):
    model = build(name)
    linear = {p for p, m in model.named_modules() if isinstance(m, nn.Linear) or type(m).__name__ == "Conv1D"}
    assert set(resolve_targets(model, AdapterSpec(target="all-linear")).paths) == linear - {"lm_head", "classifier"}


def test_names_and_expressions(build):
    model = build("t5")
    listed = resolve_targets(model, AdapterSpec(target=("SelfAttention.q", "wo")))
    assert set(listed.paths) == _paths(_T5_QV, "q") | _t5_mlp(["wo"])
    matched = resolve_targets(model, AdapterSpec(target=r"decoder\..*EncDecAttention\.[qk]"))
    assert set(matched.paths) == _paths("decoder.block.{n}.layer.1.EncDecAttention.{m}", "qk")
    assert matched.names == ("EncDecAttention.k", "EncDecAttention.q")


def test_layers_of_every_stack(build):
    targets = resolve_targets(build("t5"), AdapterSpec(layers=(1,)))
    assert set(targets.paths) == {path for path in _t5("qv") if ".block.1." in path}
    one = resolve_targets(build("llama"), AdapterSpec(target="mlp", layers=(0,)))
    assert set(one.names) == {"0.mlp.gate_proj", "0.mlp.up_proj", "0.mlp.down_proj"}


@pytest.mark.parametrize(
    ("target", "layers", "message"),
    [
        (
            "attention_qurey_value",
            None,
            "Did you mean `attention_query_value`? The model has: q_proj 32->32 x2, k_proj 32->16 x2",
        ),
        (
            "q_proj",
            None,
            "is read as a regular expression over whole module paths and matches none. A module's name is",
        ),
        ("encoder.*", None, "There is no role and no path of a linear module `encoder.*`."),
        ("(q", None, "`(q` is not a regular expression: "),
        (("q_porj", "v_proj"), None, "No linear module of this model is called `q_porj`. Did you mean `q_proj`?"),
        (("embed_tokens",), None, "No linear module of this model is called `embed_tokens`."),
        ((), None, "The list is empty."),
        ("mlp", (0, 7), "No layer with a target has the index 7. `model.layers` has 0 to 1."),
        ("mlp", (-1,), "No layer with a target has the index -1."),
        ("mlp", (), "No layer is named."),
        (("lm_head",), (0,), "The targets are in no stack of layers: leave `layers` out."),
    ],
)
def test_targets_that_match_nothing(build, target, layers, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        resolve_targets(build("llama"), AdapterSpec(target=target, layers=layers))
    assert caught.value.problems[0].where in ("adapter.target", "adapter.layers")


def test_a_role_that_the_model_lacks():
    with pytest.raises(ConfigError, match=r"No module of this model has the role `mlp`\. .*The model has: 0 2->3 x1\."):
        resolve_targets(nn.Sequential(nn.Linear(2, 3)), AdapterSpec(target="mlp"))


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("model.layers.0.self_attn.q_proj", "attention query"),
        ("encoder.block.0.layer.1.DenseReluDense.wo", "mlp down"),
        ("decoder.block.3.layer.1.EncDecAttention.o", "attention output"),
        ("transformer.h.0.attn.c_proj", "attention output"),
        ("transformer.h.0.mlp.c_proj", "mlp down"),
        ("bert.encoder.layer.0.attention.output.dense", "attention output"),
        ("bert.encoder.layer.0.output.dense", "mlp down"),
        ("bert.pooler.dense", "other"),
        ("cls.predictions.transform.dense", "output head"),
        ("lm_head", "output head"),
        ("shared", "embedding"),
        ("transformer.wte", "embedding"),
        ("transformer.h.0.ln_1", "norm"),
        ("model.encoder.layers.0.self_attn_layer_norm", "norm"),
        ("model.layers.0.self_attn.q_norm", "norm"),
        ("", "other"),
    ],
)
def test_role_of_a_path(path, role):
    assert role_of(path) == role


def test_the_tree_folds_layers(build):
    tree = module_tree(build("llama"))
    lines = [str(group) for group in tree]
    assert lines[:2] == [
        "model.embed_tokens  Embedding 64x32  x1  embedding",
        "model.layers.{0..1}.self_attn.q_proj  Linear 32->32  x2  attention query",
    ]
    assert lines[-1] == "lm_head  Linear 32->64  x1  output head"
    assert len(tree) == 12
    assert [group.name for group in tree if not group.targetable] == [
        "embed_tokens", "input_layernorm", "post_attention_layernorm", "norm",
    ]  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_the_tree_counts_every_module_once(build, name):
    model = build(name)
    own = [m for m in model.modules() if list(m.parameters(recurse=False))]
    tree = module_tree(model)
    assert sum(group.count for group in tree) == len(own)
    assert len({group.path_pattern for group in tree}) == len(tree)


def test_numbers_that_are_not_layers_stay(build):
    patterns = {group.path_pattern for group in module_tree(build("t5"))}
    assert "decoder.block.{0..1}.layer.1.EncDecAttention.q" in patterns
    assert "decoder.block.{0..1}.layer.{0..2}.layer_norm" in patterns
    gaps = nn.ModuleDict({"layers": nn.ModuleDict({"0": nn.Linear(1, 1), "2": nn.Linear(1, 1), "10": nn.Linear(1, 1)})})
    assert [str(group) for group in module_tree(gaps)] == ["layers.{0,2,10}  Linear 1->1  x3  other"]


def test_frozen_layers_are_counted_from_the_bottom_of_every_stack(build):
    for name in ("t5", "llama"):
        model = build(name)
        upper = resolve_targets(model, AdapterSpec(num_frozen_layers=1)).paths
        assert upper == resolve_targets(model, AdapterSpec(layers=(1,))).paths
        assert len(upper) < len(resolve_targets(model, AdapterSpec()).paths)


def test_freezing_every_layer_of_a_stack_is_refused(build):
    with pytest.raises(ConfigError) as caught:
        resolve_targets(build("t5"), AdapterSpec(num_frozen_layers=2))
    (problem,) = caught.value.problems
    assert problem.where == "adapter.num_frozen_layers"
    assert "encoder.block" in problem.what
    assert problem.instead == "Write at most 1."


def test_layers_below_those_with_targets_count(build):
    """Only the second layer has the target: freezing one leaves it, and freezing two would leave nothing."""
    target = r"model\.layers\.1\.self_attn\.q_proj"
    assert len(resolve_targets(build("llama"), AdapterSpec(target=target, num_frozen_layers=1)).paths) == 1
    with pytest.raises(ConfigError):
        resolve_targets(build("llama"), AdapterSpec(target=target, num_frozen_layers=2))
