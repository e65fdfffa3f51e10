"""What the modules of a model are for, read from their names: one table of words for all architectures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from torch import nn
from transformers.pytorch_utils import Conv1D

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUERY, KEY, VALUE = "attention query", "attention key", "attention value"
KEY_VALUE, QUERY_KEY_VALUE = "attention key value", "attention query key value"
ATTENTION_OUTPUT = "attention output"
MLP_GATE, MLP_UP, MLP_GATE_UP, MLP_DOWN = "mlp gate", "mlp up", "mlp gate up", "mlp down"
HEAD, EMBEDDING, NORM, OTHER = "output head", "embedding", "norm", "other"

# Matched against the last part of a path. The words of the first table count only below an attention module: `wo`,
# `c_proj` and `dense` are attention outputs there and something else elsewhere.
_IN_ATTENTION: Mapping[str, str] = {
    **dict.fromkeys(["q", "q_proj", "q_lin", "query", "query_proj", "wq", "to_q", "q_attn"], QUERY),
    **dict.fromkeys(["q_a_proj", "q_b_proj"], QUERY),
    **dict.fromkeys(["k", "k_proj", "k_lin", "key", "key_proj", "wk", "to_k"], KEY),
    **dict.fromkeys(["v", "v_proj", "v_lin", "value", "value_proj", "wv", "to_v"], VALUE),
    **dict.fromkeys(["kv_proj", "kv_a_proj_with_mqa", "kv_b_proj", "key_value"], KEY_VALUE),
    **dict.fromkeys(["c_attn", "query_key_value", "qkv", "qkv_proj", "wqkv", "in_proj"], QUERY_KEY_VALUE),
    **dict.fromkeys(
        ["o", "o_proj", "out_proj", "out_lin", "dense", "c_proj", "wo", "to_out", "proj"], ATTENTION_OUTPUT
    ),
}
_OUTSIDE: Mapping[str, str] = {
    **dict.fromkeys(["gate_proj", "wi_0", "w1"], MLP_GATE),
    **dict.fromkeys(["up_proj", "wi", "wi_1", "w3", "fc1", "fc_in", "c_fc", "lin1", "dense_h_to_4h"], MLP_UP),
    **dict.fromkeys(["gate_up_proj"], MLP_GATE_UP),
    **dict.fromkeys(["down_proj", "wo", "w2", "fc2", "fc_out", "c_proj", "lin2", "dense_4h_to_h"], MLP_DOWN),
    "intermediate.dense": MLP_UP,
    "output.dense": MLP_DOWN,
}
_HEADS = frozenset(
    {
        "lm_head",
        "embed_out",
        "output_layer",
        "score",
        "classifier",
        "pre_classifier",
        "classification_head",
        "qa_outputs",
    }
    | {"cls", "predictions", "task_heads"}
)
_EMBEDDINGS = re.compile(r"embed|wte|wpe|^shared$")
_CROSS_ATTENTION = re.compile(r"encdec|cross|encoder_attn", re.IGNORECASE)


def role_of(module_path: str) -> str:
    """What a module is for.

    Args:
        module_path: Its path in the base model, ``model.layers.0.self_attn.q_proj``.

    Returns:
        ``attention query``, ``mlp down``, ``output head``, ``embedding``, ``norm``, ``other``, ...
    """
    parts = [part for part in module_path.lower().split(".") if not part.isdigit()]
    if not parts:
        return OTHER
    above, leaf = parts[:-1], parts[-1]
    if _HEADS & set(parts):
        return HEAD
    if "norm" in leaf or re.fullmatch(r"ln(_.*)?", leaf):
        return NORM
    if any("attn" in part or "attention" in part for part in above):
        return _IN_ATTENTION.get(leaf, OTHER)
    if _EMBEDDINGS.search(leaf):
        return EMBEDDING
    return _OUTSIDE.get(leaf) or _OUTSIDE.get(".".join(parts[-2:]), OTHER)


def put_otherwise(name: str, groups: Iterable[TargetGroup]) -> str:
    """A sentence for a name of attention modules that this model does not have, where it splits or fuses them.

    Args:
        name: What was asked for: ``query_key_value``.
        groups: The modules of the model.

    Returns:
        ``This model splits it into `q_proj`, `k_proj`, `v_proj`.``; empty if there is nothing to say.
    """
    role = _IN_ATTENTION.get(name.lower())
    there: dict[str, list[str]] = {}
    for group in groups:
        if group.targetable and group.name not in there.setdefault(group.role, []):
            there[group.role].append(group.name)
    fused = there.get(QUERY_KEY_VALUE, [])
    if role in (QUERY, KEY, VALUE) and fused:
        return f"This model fuses query, key and value in `{'`, `'.join(fused)}`."
    split = [name for part in (QUERY, KEY, VALUE, KEY_VALUE) for name in there.get(part, [])]
    if role == QUERY_KEY_VALUE and split:
        return f"This model splits it into `{'`, `'.join(split)}`."
    return ""


def attends_across(module_path: str) -> bool:
    """Whether a module belongs to the attention of a decoder to an encoder."""
    return _CROSS_ATTENTION.search(module_path) is not None


def reads_answer(module_path: str) -> bool:
    """Whether a module of an encoder-decoder model reads a state for every token of the answer, not of the prompt."""
    if attends_across(module_path) and role_of(module_path) in (KEY, VALUE, KEY_VALUE):
        return False
    return role_of(module_path) == HEAD or any("decoder" in part for part in module_path.lower().split("."))


def is_linear(module: nn.Module) -> bool:
    """Whether adapters can sit on it: a ``Linear`` (quantised ones too) or GPT-2's ``Conv1D``."""
    return isinstance(module, (nn.Linear, Conv1D))


def linear_shape(module: nn.Module) -> tuple[int, int]:
    """(input width, output width) of a module for which `is_linear` holds."""
    if isinstance(module, Conv1D):  # its weight lies the other way round
        return module.weight.shape[0], module.weight.shape[1]
    assert isinstance(module, nn.Linear)
    return module.in_features, module.out_features


@dataclass(frozen=True)
class TargetGroup:
    """Modules that are the same in every layer, folded into one line.

    Attributes:
        name: Last part of their paths: what `AdapterSpec.target` may list.
        type: Class of the module.
        role: As `role_of` says.
        shape: ``64->48`` (in, out) for linear modules, the shape of the weight for others.
        count: How many there are.
        path_pattern: ``model.layers.{0..3}.self_attn.q_proj``.
        targetable: Whether adapters can sit on them.
    """

    name: str
    type: str
    role: str
    shape: str
    count: int
    path_pattern: str
    targetable: bool

    def __str__(self) -> str:
        return f"{self.path_pattern}  {self.type} {self.shape}  x{self.count}  {self.role}"


_Entry: TypeAlias = tuple[tuple[str, ...], TargetGroup]  # the parts of a path, folded as far as it goes


def module_tree(model: PreTrainedModel | nn.Module) -> list[TargetGroup]:
    """Every module that holds weights of its own, in the order of the model, repeated layers folded.

    Args:
        model: A base model without adapters.
    """
    entries = [_entry(path, module) for path, module in model.named_modules() if _own_weights(module)]
    for position in range(max((len(parts) for parts, _ in entries), default=0)):
        entries = _fold(entries, position)
    return [replace(group, name=parts[-1], path_pattern=".".join(parts)) for parts, group in entries]


def describe(groups: Iterable[TargetGroup]) -> str:
    """The modules that adapters can sit on, by name: ``q_proj 64->64 x4, v_proj 64->64 x4``."""
    counts: dict[tuple[str, str], int] = {}
    for group in groups:
        if group.targetable:
            key = group.name, group.shape
            counts[key] = counts.get(key, 0) + group.count
    return ", ".join(f"{name} {shape} x{count}" for (name, shape), count in counts.items())


def _own_weights(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _entry(path: str, module: nn.Module) -> _Entry:
    targetable = is_linear(module)
    if targetable:
        shape = "{}->{}".format(*linear_shape(module))
    else:
        shape = "x".join(str(size) for size in next(module.parameters(recurse=False)).shape)
    return tuple(path.split(".")), TargetGroup("", type(module).__name__, role_of(path), shape, 1, "", targetable)


def _fold(entries: list[_Entry], position: int) -> list[_Entry]:
    """Joins entries that differ in nothing but the number at one position of their paths."""
    alike: dict[tuple[tuple[str, ...], TargetGroup], list[int]] = {}
    for parts, group in entries:
        if position < len(parts) and parts[position].isdigit():
            key = (*parts[:position], "#", *parts[position + 1 :]), group
            alike.setdefault(key, []).append(int(parts[position]))
        else:
            alike[parts, group] = []
    return [_join(parts, group, position, numbers) for (parts, group), numbers in alike.items()]


def _join(parts: tuple[str, ...], group: TargetGroup, position: int, numbers: list[int]) -> _Entry:
    if not numbers:
        return parts, group
    numbers = sorted(numbers)
    shown = str(numbers[0])
    if len(numbers) > 1:
        whole = numbers == list(range(numbers[0], numbers[-1] + 1))
        shown = "{" + (f"{numbers[0]}..{numbers[-1]}" if whole else ",".join(map(str, numbers))) + "}"
    return (*parts[:position], shown, *parts[position + 1 :]), replace(group, count=group.count * len(numbers))
