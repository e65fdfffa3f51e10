"""From `AdapterSpec.target` to the modules of one model: by role, by name or by regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from evertune.adapters import roles
from evertune.adapters.spec import AdapterSpec
from evertune.errors import ConfigError, Problem, did_you_mean

ALL_LINEAR = "all-linear"
_QUERY_VALUE = frozenset({roles.QUERY, roles.VALUE, roles.KEY_VALUE, roles.QUERY_KEY_VALUE})
ROLES: Mapping[str, frozenset[str]] = {
    "attention_query_value": _QUERY_VALUE,
    "attention_query_key_value": _QUERY_VALUE | {roles.KEY},
    "attention": _QUERY_VALUE | {roles.KEY, roles.ATTENTION_OUTPUT},
    "self_attention_query_value": _QUERY_VALUE,
    "cross_attention_query_value": _QUERY_VALUE,
    "mlp": frozenset({roles.MLP_GATE, roles.MLP_UP, roles.MLP_GATE_UP, roles.MLP_DOWN}),
    "mlp_gate": frozenset({roles.MLP_GATE, roles.MLP_GATE_UP}),  # `up` in models without gates
}


@dataclass(frozen=True)
class Targets:
    """The modules that adapters sit on.

    Attributes:
        paths: Their whole paths, in the order of the model.
        names: The shortest endings of paths that mean these modules and no others, sorted: what peft is given.
        is_conv1d: Whether all of them are GPT-2's ``Conv1D``, whose weight lies the other way round.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    is_conv1d: bool


def resolve_targets(model: nn.Module, spec: AdapterSpec) -> Targets:
    """Finds the modules that adapters sit on.

    Args:
        model: The base model, without adapters.
        spec: Its `target` and `layers` are read.

    Raises:
        ConfigError: If a role, name, expression or layer index matches nothing; lists what exists.
    """
    modules = linear_modules(model)
    paths = resolve_paths(model, modules, spec.target, key="adapter.target")
    if spec.layers is not None:
        paths = _in_layers(paths, spec.layers)
    if spec.num_frozen_layers:
        paths = _above(paths, spec.num_frozen_layers, model)
    everything = [path for path, _ in model.named_modules()]
    is_conv1d = all(isinstance(modules[path], Conv1D) for path in paths)
    return Targets(paths, tuple(sorted(_shortest_endings(paths, everything))), is_conv1d)


def linear_modules(model: nn.Module) -> dict[str, nn.Module]:
    """The linear modules of a base model without adapters, by path."""
    return {path: module for path, module in model.named_modules() if roles.is_linear(module)}


def resolve_paths(
    model: nn.Module, linear: Mapping[str, nn.Module], target: str | tuple[str, ...], *, key: str
) -> tuple[str, ...]:
    """Finds linear modules by role, names or a regular expression.

    Args:
        model: The base model.
        linear: Its modules, as `linear_modules` returned before there were adapters.
        target: As `AdapterSpec.target`.
        key: Where the target was written, for messages.

    Returns:
        Their paths, in the order of the model.

    Raises:
        ConfigError: If it matches nothing; lists what exists.
    """
    try:
        if isinstance(target, str):
            chosen = _by_role(model, linear, target) or _by_expression(model, linear, target)
        else:
            chosen = _by_names(model, linear, target)
    except ConfigError as error:
        raise ConfigError([replace(problem, where=key) for problem in error.problems]) from error
    return tuple(path for path in linear if path in chosen)


def _by_role(model: nn.Module, linear: Mapping[str, nn.Module], target: str) -> set[str]:
    if target == ALL_LINEAR:
        output_embeddings = getattr(model, "get_output_embeddings", lambda: None)()
        return {
            path
            for path, module in linear.items()
            if roles.role_of(path) != roles.HEAD and module is not output_embeddings
        }
    if target not in ROLES:
        return set()
    chosen = {path for path in linear if roles.role_of(path) in ROLES[target]}
    if target == "mlp_gate" and not chosen:
        chosen = {path for path in linear if roles.role_of(path) == roles.MLP_UP}
    if target.startswith(("self_", "cross_")):
        across = target.startswith("cross_")
        chosen = {path for path in chosen if roles.attends_across(path) is across}
    if not chosen:
        raise _nothing(model, target, "No module of this model has the role")
    return chosen


def _by_expression(model: nn.Module, linear: Mapping[str, nn.Module], target: str) -> set[str]:
    try:
        pattern = re.compile(target)
    except re.error as error:
        raise ConfigError(
            f"`{target}` is not a regular expression: {error}.", instead=_exists(model, target)
        ) from error
    chosen = {path for path in linear if pattern.fullmatch(path)}
    if not chosen:
        if _matching(target, linear):
            raise ConfigError(
                f"`{target}` is read as a regular expression over whole module paths and matches none.",
                instead=f"A module's name is written in a list: `target: [{target}]`.",
            )
        raise _nothing(model, target, "There is no role and no path of a linear module")
    return chosen


def _by_names(model: nn.Module, linear: Mapping[str, nn.Module], names: Iterable[str]) -> set[str]:
    matches = {name: _matching(name, linear) for name in names}
    problems = [
        Problem("", f"No linear module of this model is called `{name}`.", _exists(model, name))
        for name, found in matches.items()
        if not found
    ]
    if problems or not matches:
        raise ConfigError(problems or [Problem("", "The list is empty.", _exists(model, ""))])
    return {path for found in matches.values() for path in found}


def _matching(name: str, paths: Iterable[str]) -> set[str]:
    """The paths that are `name` or end with it at a dot: how peft reads a list of targets."""
    return {path for path in paths if path == name or path.endswith(f".{name}")}


_IN_LAYER = re.compile(r"(?:(?P<stack>.*?)\.)?(?P<index>\d+)\.")


def _above(paths: tuple[str, ...], frozen: int, model: nn.Module) -> tuple[str, ...]:
    """The paths in layers from index `frozen` on; every stack with a target must have such layers."""
    layers = {path: found for path in paths if (found := _IN_LAYER.match(path))}
    if not layers:
        raise ConfigError(
            "The targets are in no stack of layers, so none can be frozen.",
            where="adapter.num_frozen_layers",
            instead="Leave it out.",
        )
    stacks = {found["stack"] or "": 0 for found in layers.values()}
    for path, _ in model.named_modules():
        if (found := _IN_LAYER.match(f"{path}.")) and (found["stack"] or "") in stacks:
            stacks[found["stack"] or ""] = max(stacks[found["stack"] or ""], int(found["index"]) + 1)
    if short := {stack: count for stack, count in stacks.items() if count <= frozen}:
        there = ", ".join(f"`{stack}` has {count} layers" for stack, count in short.items())
        raise ConfigError(
            f"With {frozen} frozen layers nothing would be left to learn: {there}.",
            where="adapter.num_frozen_layers",
            instead=f"Write at most {min(stacks.values()) - 1}.",
        )
    return tuple(path for path, found in layers.items() if int(found["index"]) >= frozen)


def _in_layers(paths: tuple[str, ...], layers: Collection[int]) -> tuple[str, ...]:
    """The paths whose first number, the index in their stack of layers, is one of `layers`."""
    stacks: dict[str, set[int]] = {}
    index_of: dict[str, int] = {}
    for path in paths:
        if found := re.search(r"(?:^|(.*?)\.)(\d+)\.", path):
            index_of[path] = int(found[2])
            stacks.setdefault(found[1] or "", set()).add(int(found[2]))
    missing = sorted(set(layers) - set(index_of.values()))
    if missing or not layers:
        there = ", ".join(f"`{stack}` has {min(numbers)} to {max(numbers)}" for stack, numbers in stacks.items())
        raise ConfigError(
            f"No layer with a target has the index {', '.join(map(str, missing))}."
            if missing
            else "No layer is named.",
            where="adapter.layers",
            instead=f"{there}." if there else "The targets are in no stack of layers: leave `layers` out.",
        )
    return tuple(path for path in paths if index_of.get(path) in set(layers))


def _shortest_endings(paths: Collection[str], everything: Collection[str]) -> set[str]:
    """Endings of equal length that match `paths` and nothing else of `everything`; whole paths if there are none."""
    wanted = set(paths)
    for length in range(1, max(path.count(".") for path in paths) + 1):
        endings = {".".join(path.split(".")[-length:]) for path in paths}
        matched = {path for path in everything if any(path.endswith(f".{e}") or path == e for e in endings)}
        if matched == wanted:
            return endings
    return wanted


def _nothing(model: nn.Module, target: str, what: str) -> ConfigError:
    return ConfigError(f"{what} `{target}`.", instead=_exists(model, target))


def _exists(model: nn.Module, word: str) -> str:
    groups = [group for group in roles.module_tree(model) if group.targetable]
    names = list(dict.fromkeys(group.name for group in groups))
    return f"{did_you_mean(word, [*ROLES, ALL_LINEAR, *names])} The model has: {roles.describe(groups)}."
