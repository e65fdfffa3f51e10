"""From `AdapterSpec.target` to the modules of one model: by role, by name or by regular expression."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from transformers.pytorch_utils import Conv1D

from evertune.adapters import roles
from evertune.adapters.kinds import DEFAULT_TARGET, kind_of
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
    "attention_key_value_mlp_down": frozenset(
        {roles.KEY, roles.VALUE, roles.KEY_VALUE, roles.QUERY_KEY_VALUE, roles.MLP_DOWN}
    ),
    "norms": frozenset({roles.NORM}),
    "embeddings": frozenset({roles.EMBEDDING}),
}
_FEED_FORWARD = frozenset({roles.MLP_GATE, roles.MLP_UP, roles.MLP_GATE_UP, roles.MLP_DOWN})


@dataclass(frozen=True)
class Targets:
    """The modules that adapters sit on.

    Attributes:
        paths: Their whole paths, in the order of the model.
        names: The shortest endings of paths that mean these modules and no others, sorted: what peft is given.
        is_conv1d: Whether all of them are GPT-2's ``Conv1D``, whose weight lies the other way round.
        feed_forward: As `names`, of those that belong to feed-forward networks.
    """

    paths: tuple[str, ...]
    names: tuple[str, ...]
    is_conv1d: bool
    feed_forward: tuple[str, ...] = ()


NOWHERE = Targets((), (), is_conv1d=False)
"""Of adapters that sit on no module, or on modules that peft chooses."""


def resolve_targets(model: nn.Module, spec: AdapterSpec) -> Targets:
    """Finds the modules that adapters sit on.

    Args:
        model: The base model, without adapters.
        spec: Its `target` and `layers` are read.

    Raises:
        ConfigError: If a role, name, expression or layer index matches nothing; lists what exists.
    """
    _check_saved(model, spec.options.get("modules_to_save") or ())
    place = kind_of(spec).place
    if place in ("inside", ""):
        return NOWHERE
    modules = targetable_modules(model, place)
    # A default for linear modules is not meant where there are none among those that can be chosen.
    target = kind_of(spec).target if place != "linear" and spec.target == DEFAULT_TARGET else spec.target
    paths = resolve_paths(model, modules, target, key="adapter.target")
    if excluded := spec.options.get("exclude_modules"):
        paths = _without(paths, excluded)
    if spec.layers is not None:
        paths = _in_layers(paths, spec.layers)
    if spec.num_frozen_layers:
        paths = _above(paths, spec.num_frozen_layers, model)
    if spec.kind in _PATTERNED:
        _check_patterns(paths, spec)
    everything = [path for path, _ in model.named_modules()]
    is_conv1d = all(isinstance(modules[path], Conv1D) for path in paths)
    inner = [path for path in paths if roles.role_of(path) in _FEED_FORWARD]
    feed_forward = tuple(sorted(_shortest_endings(inner, everything))) if inner else ()
    return Targets(paths, tuple(sorted(_shortest_endings(paths, everything))), is_conv1d, feed_forward)


# Kinds whose patterns peft reads by `get_pattern_key`; of AdaLoRA it is what was learnt.
_PATTERNED = frozenset({"lora", "delora", "hira", "loha", "lokr"})


def _check_saved(model: nn.Module, names: Iterable[str]) -> None:
    """Refuses names of modules to save that no path of the model ends with: peft passes over some of them."""
    paths = [path for path, _ in model.named_modules() if path]
    there = list(dict.fromkeys(last for path in paths if not (last := path.split(".")[-1]).isdigit()))
    missing = [name for name in names if not any(path.endswith(name) for path in paths)]
    _refuse("adapter.modules_to_save", "No module of this model is called", missing, there)


def _check_patterns(paths: Iterable[str], spec: AdapterSpec) -> None:
    """Refuses keys of patterns that match no target: peft takes the usual value for all of them, silently."""
    there = list(dict.fromkeys(path.split(".")[-1] for path in paths))
    for option in ("rank_pattern", "alpha_pattern", "lambda_pattern"):
        missing = [key for key in spec.options.get(option) or {} if not _pattern_matches(key, paths)]
        _refuse(f"adapter.{option}", "No target is matched by", missing, there)


def _pattern_matches(key: str, paths: Iterable[str]) -> bool:
    """Whether a name or expression means one of the paths, as `peft.utils.other.get_pattern_key` reads it."""
    try:
        return any(re.match(rf"(.*\.)?({key})$", path) for path in paths)
    except re.error:
        return False


def _refuse(where: str, what: str, missing: Sequence[str], there: Sequence[str]) -> None:
    problems = [
        Problem(where, f"{what} `{name}`.", f"{_near(name, there)}There are: {', '.join(there)}.") for name in missing
    ]
    if problems:
        raise ConfigError(problems)


def _near(name: str, there: Sequence[str]) -> str:
    near = did_you_mean(name, there)
    return f"{near} " if near.startswith("Did") else ""


def targetable_modules(model: nn.Module, place: str) -> dict[str, nn.Module]:
    """The modules of a base model that adapters can sit on, by path.

    Args:
        model: Without adapters.
        place: As `evertune.adapters.kinds.Kind.place`: ``linear``, ``norm`` or ``embedding``.
    """
    if place == "linear":
        return linear_modules(model)
    if place == "norm":
        return {
            path: module
            for path, module in model.named_modules()
            if roles.role_of(path) == roles.NORM and getattr(module, "weight", None) is not None
        }
    table = getattr(model, "get_input_embeddings", lambda: None)()
    return {path: module for path, module in model.named_modules() if module is table}


def _without(paths: tuple[str, ...], excluded: str | Sequence[str]) -> tuple[str, ...]:
    """The paths that peft's `exclude_modules` leaves: a regular expression for whole paths, or a list of names."""
    if isinstance(excluded, str):
        left = tuple(path for path in paths if not re.fullmatch(excluded, path))
    else:
        left = tuple(path for path in paths if not any(_matching(name, [path]) for name in excluded))
    if not left or len(left) == len(paths):
        raise ConfigError(
            f"`{excluded}` leaves out {'every' if not left else 'no'} target.",
            where="adapter.exclude_modules",
            instead="A text is a regular expression over whole module paths; a list holds names." if left else "",
        )
    return left


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
    if target == "embeddings":  # the table of the input is the only one that can be chosen
        return set(linear)
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
    hint = roles.put_otherwise(word, groups) or did_you_mean(word, [*ROLES, ALL_LINEAR, *names])
    return f"{hint} The model has: {roles.describe(groups)}."
