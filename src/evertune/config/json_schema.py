"""The JSON Schema (draft 2020-12) of a configuration file, for editors that complete and check while one types."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import TypeAdapter

from evertune.adapters.kinds import KINDS
from evertune.adapters.peft_options import RENAMED, kind_options
from evertune.adapters.spec import AdapterSpec
from evertune.backbones import BACKBONES
from evertune.config.describe import attribute_docs, summary
from evertune.config.hints import Hint, bare, branches, fields_of, is_list, is_mapping, is_section, registry_of
from evertune.config.schema import OVERRIDABLE, REGISTERED, SECTION_DOCS, SECTIONS, RunOptions
from evertune.config.typed import plain_value
from evertune.registry import Registry
from evertune.streams import STREAMS

Schema = dict[str, Any]


def config_schema() -> Schema:
    """The schema of the whole file, with descriptions, choices and defaults."""
    properties: Schema = {
        **section_schema(RunOptions)["properties"],
        **{name: section_schema(cls) for name, cls in SECTIONS.items()},
        "adapter": _adapter_schema(),
        "stream": _stream_schema(),
        "method": _method_schema(),
        "after_first": _changes_schema(),
        "per_task": {"type": "object", "additionalProperties": _changes_schema()},
    }
    backbone = properties["backbone"]
    backbone["properties"]["task_type"] |= {"enum": BACKBONES.names()}
    # A built-in model implies its task type.
    backbone["required"] = ["path"]
    for name, doc in SECTION_DOCS.items():
        properties[name]["description"] = doc
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Evertune configuration",
        "type": "object",
        "properties": properties,
        "required": ["stream", "backbone"],
        "additionalProperties": False,
    }


def section_schema(cls: type) -> Schema:
    """The schema of a dataclass: an object without other keys than its options."""
    docs = attribute_docs(cls)
    properties: dict[str, Schema] = {}
    for field in fields_of(cls):
        schema = hint_schema(field.hint)
        if field.name in docs:
            schema["description"] = docs[field.name]
        if not field.required:
            schema["default"] = plain_value(field.default)
        properties[field.name] = schema
    required = [field.name for field in fields_of(cls) if field.required]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def _adapter_schema() -> Schema:
    """The keys of the section, and those of every kind of adapter; which go together is checked when a file is read."""
    schema = section_schema(AdapterSpec)
    properties: dict[str, Schema] = schema["properties"]
    properties["kind"]["enum"] = list(KINDS)
    forms: dict[str, list[Schema]] = {}
    docs: dict[str, str] = {}
    for option in (option for kind in KINDS for option in kind_options(kind).values()):
        docs.setdefault(option.name, option.doc)
        if (form := hint_schema(option.hint)) not in forms.setdefault(option.name, []):
            forms[option.name].append(form)
    for name in forms.keys() - properties.keys():
        properties[name] = {"anyOf": [*forms[name], {"type": "null"}], "description": docs[name]}
    for theirs, ours in RENAMED.items():
        properties[theirs] = properties[ours]
    return schema


def hint_schema(hint: Hint) -> Schema:
    """The schema of a type hint."""
    inner = bare(hint)
    registry = registry_of(hint)
    if registry is not None:
        return {"enum": registry.names()}
    if len(branches(hint)) > 1:
        return {"anyOf": [hint_schema(branch) for branch in branches(hint)]}
    if is_section(inner):
        return section_schema(inner)
    if is_list(hint):
        return {"type": "array", "items": hint_schema(get_args(inner)[0])}
    if is_mapping(hint):
        return {"type": "object", "additionalProperties": hint_schema(get_args(inner)[1])}
    if get_origin(inner) is Literal:
        return {"enum": list(get_args(inner))}
    return {"type": "string"} if inner is Path else TypeAdapter(hint).json_schema()


def _entries(registry: Registry) -> list[Schema]:
    """One schema for each name, with the name fixed and the options of its class."""
    entries: list[Schema] = []
    for name in registry.names():
        cls = registry.get(name)
        schema = section_schema(cls)
        schema["properties"] = {"name": {"const": name}, **schema["properties"]}
        schema["required"] = ["name", *schema.get("required", [])]
        entries.append({"title": name, "description": summary(cls), **schema})
    return entries


def _stream_schema() -> Schema:
    written_out = [
        field.hint for field in fields_of(STREAMS.get("instructions")) if field.name == "tasks" and is_list(field.hint)
    ]
    bare_names = [entry["properties"]["name"]["const"] for entry in _entries(STREAMS) if entry["required"] == ["name"]]
    return {"oneOf": [{"enum": bare_names}, *_entries(STREAMS), *(hint_schema(hint) for hint in written_out)]}


def _method_schema() -> Schema:
    one = {"oneOf": [{"enum": REGISTERED["method"].names()}, *_entries(REGISTERED["method"])]}
    return {"anyOf": [one, {"type": "array", "items": one, "minItems": 1}]}


def _changes_schema() -> Schema:
    """Blocks of changes: nested, or with dotted keys."""
    nested: dict[str, Schema] = {}
    dotted: dict[str, Schema] = {}
    for section in OVERRIDABLE:
        if section in SECTIONS:
            properties = section_schema(SECTIONS[section])["properties"]
            # What is not written keeps the value of the base, not its default.
            options = {
                name: {key: part for key, part in option.items() if key != "default"}
                for name, option in properties.items()
            }
            nested[section] = {"type": "object", "properties": options, "additionalProperties": False}
            dotted |= {f"{section}.{name}": option for name, option in options.items()}
        else:
            nested[section] = {"type": "object"}
    return {
        "type": "object",
        "properties": {**nested, **dotted},
        "patternProperties": {r"^(method|evaluation)\..": {}},
        "additionalProperties": False,
    }
