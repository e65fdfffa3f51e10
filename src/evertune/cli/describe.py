"""``evertune describe``: one thing in detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from evertune.cli.options import JsonOption
from evertune.cli.output import console_for, result, write, write_json
from evertune.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from evertune.console import Console


def describe(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="`config`, a section of it (`train`), or the name of a method, a stream, a recipe, a metric, ...",
            show_default=False,
        ),
    ],
    json_output: JsonOption = False,
) -> None:
    """Describe the configuration, or one method, stream, recipe, metric, task type or adapter kind."""
    with result(json_output=json_output):
        if name == "config" and json_output:
            from evertune.config.json_schema import config_schema

            found: Any = config_schema()
        else:
            found = _found(name)
    if json_output:
        write_json(found)
    elif "text" in found:
        write(found["text"])
    else:
        _show(console_for(json_output=False), found)


def _found(name: str) -> dict[str, Any]:
    """Everything about a name as plain values."""
    from evertune.adapters.kinds import KINDS, otherwise
    from evertune.cli.catalog import REGISTRIES, entries
    from evertune.config.load import recipes
    from evertune.config.schema import SECTIONS

    if name == "config":
        return _config()
    if name in SECTIONS:
        return _class("section", name, SECTIONS[name])
    adapter: dict[str, Any] = {}
    if name in KINDS:
        from evertune.cli.kinds import described_kind

        adapter = described_kind(name) | {"listed under": "adapters"}
    for kind, registry in REGISTRIES.items():
        if name in registry:
            found = _class(registry.kind, name, registry.get(name)) | {"kind": registry.kind, "listed under": kind}
            return found | ({"adapter": adapter} if adapter else {})  # `osf` is a method and a kind of adapter
    if adapter:
        return adapter
    if name in recipes():
        return {"kind": "recipe", "name": name, "text": recipes()[name].read_text(encoding="utf-8")}
    for entry in entries("models"):
        if entry.name == name:
            return {"kind": "model", "name": name, "doc": entry.summary, "options": []}
    known = [
        "config",
        *SECTIONS,
        *recipes(),
        *KINDS,
        *(one for registry in REGISTRIES.values() for one in registry.names()),
    ]
    instead = otherwise(name) or did_you_mean(name, known)
    raise InputError(f"There is nothing called `{name}`.", where="evertune describe", instead=instead)


def _class(kind: str, name: str, thing: Any) -> dict[str, Any]:
    """What the docstring of a class says; for anything else its first sentence."""
    import dataclasses

    from evertune.cli.catalog import first_sentence
    from evertune.config.describe import as_json, options, parts, prose, source

    if not (isinstance(thing, type) and dataclasses.is_dataclass(thing)):
        return {"kind": kind, "name": name, "doc": first_sentence(thing), "options": []}
    facts = {
        "owns": sorted(getattr(thing, "owns", ())),
        "requires": sorted(getattr(thing, "requires", ())),
        "source": source(thing),
        "parts": {", ".join(names): as_json(options(part)) for part, names in parts(thing).items()},
    }
    described = {"kind": kind, "name": name, "doc": prose(thing), "options": as_json(options(thing))}
    return described | {key: value for key, value in facts.items() if value}


def _config() -> dict[str, Any]:
    from evertune.config.schema import SECTION_DOCS, SECTIONS, RunOptions

    parts = [_class("section", "", RunOptions)]
    for section, doc in SECTION_DOCS.items():
        parts.append(_class("section", section, SECTIONS[section]) if section in SECTIONS else _plain(section, doc))
    return {"kind": "configuration", "name": "config", "doc": "", "options": [], "sections": parts}


def _plain(section: str, doc: str) -> dict[str, Any]:
    more = {"stream": "evertune list streams", "method": "evertune list methods"}.get(section)
    advice = f" See `{more}`, and `evertune describe NAME` for the options of one." if more else ""
    return {"kind": "section", "name": section, "doc": f"{doc}{advice}", "options": []}


def _show(console: Console, found: dict[str, Any]) -> None:
    if found["kind"] != "configuration":
        title = f"{found['kind']} {found['name']}" if found["name"] else "top level"
        console.say(title if found["kind"] != "section" else f"{found['name']}:" if found["name"] else "top level")
    if found["doc"] and found["name"]:
        console.say(found["doc"])
    for key in ("source", "owns", "requires"):
        if key in found:
            value = found[key]
            console.say(f"{key}: {value if isinstance(value, str) else ', '.join(value)}")
    if found["options"]:
        console.show(_table(found["options"]))
    for name, options in found.get("parts", {}).items():
        console.say(f"\nin {name}:")
        console.show(_table(options))
    if "targets" in found:
        console.say(f"\ntargets: {', '.join(found['targets'])}, a list of module names, or a regular expression")
    if "tasks" in found:
        from evertune.cli.kinds import capability_lines

        console.say("\n" + "\n".join(capability_lines(found["tasks"])))
    if "adapter" in found:
        console.say()
        _show(console, found["adapter"])
    for section in found.get("sections", []):
        _show(console, section)
        console.say()


def _table(options: list[dict[str, Any]]) -> Any:
    import json

    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # A name that is cut short cannot be written.
    table.add_column("option", no_wrap=True)
    table.add_column("may be", overflow="fold", max_width=36)
    table.add_column("what it means", overflow="fold")
    for option in options:
        default = json.dumps(option["default"], ensure_ascii=False)
        value = f"{option['type']}\n{'must be written' if option['required'] else f'default {default}'}"
        table.add_row(*(Text(cell) for cell in (option["name"], value, option["doc"])))
    return table
