"""The options of a kind of adapter as peft's configuration class has them: types, defaults and meanings."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from evertune.adapters.kinds import FULL, KINDS, NONE
from evertune.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from peft import PeftConfig

OURS: Mapping[str, str] = {
    "peft_type": "Write `kind`.",
    "task_type": "It follows from `backbone.task_type`.",
    "base_model_name_or_path": "It follows from `backbone.path`.",
    "revision": "Write `backbone.revision`.",
    "inference_mode": "What learns is decided by the method.",
    "auto_mapping": "It is written when an adapter is saved.",
    "peft_version": "It is written when an adapter is saved.",
    "runtime_config": "It says nothing of the adapter itself.",
    "megatron_config": "Megatron models are not trained here.",
    "megatron_core": "Megatron models are not trained here.",
    "fan_in_fan_out": "It follows from the model.",
}
"""Fields that are not written here, and why."""

RENAMED: Mapping[str, str] = {"target_modules": "target", "layers_to_transform": "layers"}
"""Fields of peft that have another name here; both are understood."""

REFUSED: Mapping[str, str] = {
    "layers_pattern": "Write the layers that are meant as a regular expression in `target`.",
    "target_parameters": "Only modules can be targets here.",
    "arrow_config": "Arrow routes between finished adapters and learns nothing.",
    "use_bdlora": "It needs tensor parallelism.",
    "save_only_topk_weights": "What is saved then cannot be trained on.",
}
"""Fields whose default alone is possible, and what to do instead."""


@dataclass(frozen=True)
class KindOption:
    """One field of peft's configuration class.

    Attributes:
        name: Its name.
        hint: Its type, without forward references.
        default: Its value if it is not written.
        doc: What it means, as peft says it.
    """

    name: str
    hint: Any
    default: Any
    doc: str


def config_class(kind: str) -> type[PeftConfig]:
    """Peft's configuration class of a kind.

    Raises:
        ConfigError: If there is no such kind.
    """
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    if kind not in KINDS or kind in (FULL, NONE):
        instead = did_you_mean(kind, list(KINDS))
        raise ConfigError(f"There is no adapter kind `{kind}`.", where="adapter.kind", instead=instead)
    return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(kind.upper())]


@cache
def kind_options(kind: str) -> dict[str, KindOption]:
    """The fields of a kind that can be written, in peft's order; none for ``full`` and ``none``."""
    if kind in (FULL, NONE):
        return {}
    cls = config_class(kind)
    hints, docs = get_type_hints(cls), argument_docs(cls)
    found: dict[str, KindOption] = {}
    for field in dataclasses.fields(cls):
        if field.init and field.name not in OURS and field.name not in RENAMED:
            doc = docs.get(field.name) or str(field.metadata.get("help", ""))
            found[field.name] = KindOption(field.name, _plain(hints[field.name]), _default(field), _sentence(doc))
    return found


def kinds_with(option: str) -> list[str]:
    """The kinds that have an option."""
    return [kind for kind in KINDS if option in kind_options(kind)]


def argument_docs(cls: type) -> dict[str, str]:
    """The entries of the ``Args:`` sections of a class and its bases: name to text."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        inside, name = False, ""
        for line in inspect.cleandoc(base.__dict__.get("__doc__") or "").splitlines():
            if not line.startswith(" ") and line:
                inside, name = line.strip() == "Args:", ""
                continue
            entry = re.match(r" {4}(\w+) ?(?:\(.*\))?:\s*(.*)", line) if inside else None
            if entry:
                name = entry[1]
                found[name] = entry[2]
            elif inside and name:
                found[name] += f" {line.strip()}"
    return found


def built(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the class takes them: nested configurations become objects of their classes."""
    known = kind_options(kind)
    return {name: _built(known[name].hint, value) for name, value in options.items() if name in known}


def nested_class(hint: Any) -> type | None:
    """The dataclass that a nested configuration is, if an option is one."""
    return next((one for one in (hint, *get_args(hint)) if dataclasses.is_dataclass(one)), None)  # pyright: ignore[reportReturnType]


def _built(hint: Any, value: Any) -> Any:
    cls = nested_class(hint)
    return cls(**value) if cls is not None and isinstance(value, Mapping) else value


def _plain(hint: Any) -> Any:
    """A hint that says what its lists and mappings hold, and takes enumerations by their values."""
    if hint is dict:
        return dict[str, Any]
    if hint is list:
        return list[Any]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return str
    if get_origin(hint) in (Union, types.UnionType):
        return Union[tuple(dict.fromkeys(_plain(one) for one in get_args(hint)))]  # noqa: UP007
    return hint


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # pyright: ignore[reportArgumentType]
    value = None if field.default is dataclasses.MISSING else field.default
    return value.value if isinstance(value, enum.Enum) else value


def _sentence(doc: str) -> str:
    return " ".join(doc.split())
