"""The section `adapter`: its own keys, and those of peft's configuration class of its kind."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evertune.adapters.kinds import KINDS, otherwise
from evertune.adapters.peft_config import SPEC_FIELDS, option_default, task_of
from evertune.adapters.peft_options import OURS, REFUSED, RENAMED, kind_options, kinds_with
from evertune.adapters.spec import AdapterSpec
from evertune.config.adapter_rules import tokenizer_place, why_decided, without_decided
from evertune.config.hints import fields_of
from evertune.config.marks import Node, Plain, invented, join, parse
from evertune.config.messages import described, unknown_key
from evertune.config.typed import INVALID, Findings, build, build_section, plain_value, resolve_path
from evertune.errors import ConfigError, did_you_mean

CONFIG_FILE = "adapter_config.json"
# What a run's own configuration always names of these kinds, whether or not it was written.
_ALWAYS = ("kind", *SPEC_FIELDS, "target", "layers", "num_frozen_layers", "effective_rank", "start_from")
_OF_ALL_KINDS = ("kind", "target", "layers", "num_frozen_layers", "start_from")
_BY_NUMBER = re.compile(r"pissa_niter_\d+")
_ALSO = ("lora_ga",)  # ways to begin that peft knows and its type hint does not


def build_adapter(node: Node, findings: Findings, *, task_type: str, model: str, elsewhere: Mapping[str, str]) -> Any:
    """The `AdapterSpec` of a section; `INVALID` after its problems were noted.

    Args:
        node: The section; nothing (null) stands for an empty one.
        findings: Where problems go.
        task_type: `backbone.task_type`, empty if unknown.
        model: `backbone.path`, empty if unknown.
        elsewhere: Keys of other sections to their dotted names, for suggestions.
    """
    written = {} if node.value is None else node.value
    if not isinstance(written, dict):
        what = f"must be a mapping of options, got {described(node.plain)}."
        return findings.at(node, what, "Write `kind: ...` and the like, indented below it.")
    notes: list[str] = []
    written = _renamed(written, findings)
    if "config" in written:
        found = _from_file(written["config"], findings, notes, task_type=task_type, model=model)
        if found is INVALID:
            return INVALID
        if "kind" in written and written["kind"].plain != found["kind"].plain:
            what = f"the file is of the kind `{found['kind'].plain}`."
            return findings.at(written["kind"], what, "Remove the key.")
        written = {**found, **written}
    kind = written["kind"].value if "kind" in written else "lora"
    if not isinstance(kind, str) or kind not in KINDS:
        near = otherwise(str(kind)) or did_you_mean(str(kind).lower().replace("-", "_"), list(KINDS))
        return findings.at(written["kind"], f"there is no adapter kind `{written['kind'].plain}`.", near)
    own, foreign = _divided(kind, written)
    options: dict[str, Any] = {}
    for name, child in foreign.items():
        if why := why_decided(kind, name, child, task_type):
            options[name] = findings.at(child, why, "Remove the key.", at_key=True)
        else:
            options[name] = _option(kind, name, child, node, findings, elsewhere)
    _place_tokenizer(options, foreign, findings, model)
    own = _placed(kind, own, node, findings)
    spec = build_section(AdapterSpec, node.with_value(own), findings, name="`adapter`", elsewhere=elsewhere)
    if spec is INVALID or any(value is INVALID for value in options.values()):
        return INVALID
    kept = {name: value for name, value in options.items() if value != option_default(kind, name)}
    if kind == "adalora" and kept.pop("total_step", None):
        notes.append("`adapter.total_step` is not used: ranks come down over the steps that each stage has")
    return dataclasses.replace(spec, config=None, options=kept, notes=tuple(notes))


def plain_adapter(spec: AdapterSpec) -> dict[str, Plain]:
    """An adapter as plain values, with the defaults that matter, that builds again to an equal one."""
    plain = plain_value(spec)
    assert isinstance(plain, dict)
    if spec.kind in ("lora", "osf"):
        usual = AdapterSpec()
        more = [name for name in ("loraplus_lr_ratio", "lora_fa") if getattr(spec, name) != getattr(usual, name)]
        options = {name: plain_value(value) for name, value in spec.options.items()}
        return {**{name: plain[name] for name in (*_ALWAYS, *more)}, **options}
    defaults = {name: option_default(spec.kind, name) for name in kind_options(spec.kind) if name not in REFUSED}
    return {
        **{name: plain[name] for name in _OF_ALL_KINDS if name != "target" or KINDS[spec.kind].target},
        **{name: plain_value(value) for name, value in {**defaults, **spec.options}.items()},
    }


def _renamed(written: Mapping[str, Node], findings: Findings) -> dict[str, Node]:
    """The fields by their names here, whichever of the two was written."""
    renamed: dict[str, Node] = {}
    for key, child in written.items():
        name = RENAMED.get(key, key)
        if name != key and name in written:
            findings.at(child, f"says the same as `{name}`.", "Keep one of the two.", at_key=True)
        elif name == "layers" and isinstance(child.value, int):
            child = child.with_value([child])
        renamed[name] = child
    return renamed


def _divided(kind: str, written: Mapping[str, Node]) -> tuple[dict[str, Node], dict[str, Node]]:
    """Keys of the section that are fields of `AdapterSpec`, and those that are left to peft's class."""
    fields = {field.name for field in fields_of(AdapterSpec)}
    ours = fields if kind == "lora" else fields - set(SPEC_FIELDS)
    own = {key: child for key, child in written.items() if key in ours}
    foreign = {key: child for key, child in written.items() if key not in ours}
    if kind == "osf":  # its configurations have always named these, at their defaults
        usual = AdapterSpec()
        for name in SPEC_FIELDS:
            if name in foreign and foreign[name].plain == getattr(usual, name):
                del foreign[name]
    return own, foreign


def _placed(kind: str, own: dict[str, Node], node: Node, findings: Findings) -> dict[str, Node]:
    """The keys with the target of the kind, where it has one of its own."""
    place, target = KINDS[kind].place, KINDS[kind].target
    if place in ("inside", ""):
        for name in ("target", "layers", "num_frozen_layers"):
            if name in own and own[name].plain not in (None, 0):
                what = f"has no effect on adapters of the kind `{kind}`, which sit on no modules that can be chosen."
                findings.at(own[name], what, "Remove the key.", at_key=True)
        return {name: child for name, child in own.items() if name not in ("target", "layers", "num_frozen_layers")}
    if "target" not in own or own["target"].value is None:
        return {**own, "target": invented(target, node, join(node.key, "target"))}
    return own


def _option(kind: str, name: str, node: Node, section: Node, findings: Findings, elsewhere: Mapping[str, str]) -> Any:
    """The plain value of a field of peft's class."""
    known = kind_options(kind)
    if name in OURS:
        return findings.at(node, "is not written here.", OURS[name], at_key=True)
    if name not in known:
        instead = _advice(kind, name, node, elsewhere)
        return findings.at(node, f"is not an option of `{section.key}`.", instead, at_key=True)
    if name in REFUSED and node.plain != known[name].default:
        return findings.at(node, "is not supported.", REFUSED[name], at_key=True)
    if node.plain == known[name].default:
        return node.plain
    if name == "init_lora_weights" and (_BY_NUMBER.fullmatch(str(node.value)) or node.value in _ALSO):
        return node.plain
    return INVALID if build(known[name].hint, node, findings) is INVALID else node.plain


def _place_tokenizer(options: dict[str, Any], written: Mapping[str, Node], findings: Findings, model: str) -> None:
    """Reads the name of a tokenizer as `backbone.path` is read: built in, a folder from here, or a hub id."""
    name = "tokenizer_name_or_path"
    if isinstance(options.get(name), str):
        options[name], wrong = tokenizer_place(written[name], model)
        if wrong:
            findings.at(written[name], wrong, "Leave it out to use the tokenizer of the model.")


def _advice(kind: str, name: str, node: Node, elsewhere: Mapping[str, str]) -> str:
    ours = [field.name for field in fields_of(AdapterSpec)]
    others = kinds_with(name)
    if others:
        listed = ", ".join(others[:6]) + (", ..." if len(others) > 6 else "")
        return f"Adapters of the kind `{kind}` have no such option; these have: {listed}."
    return unknown_key(node, name, [*ours, *kind_options(kind)], elsewhere)


def _from_file(node: Node, findings: Findings, notes: list[str], *, task_type: str, model: str) -> Any:
    """The keys of a peft file by their names here."""
    if not isinstance(node.value, str) or not node.value:
        return findings.at(node, f"must be a path, got {described(node.plain)}.")
    path = resolve_path(node.value, node)
    path = path / CONFIG_FILE if path.is_dir() else path
    try:
        root = parse(path.read_text(encoding="utf-8"), source=str(path), folder=path.parent)
    except (OSError, UnicodeDecodeError):
        return findings.at(node, f"cannot be read: {path}.", f"Name an `{CONFIG_FILE}`, or the folder that holds one.")
    except ConfigError as error:
        findings.extend(error.problems)
        return INVALID
    held = root.value if isinstance(root.value, dict) else {}
    kind = held["peft_type"].plain if "peft_type" in held else None
    if not isinstance(kind, str) or kind.lower() not in KINDS:
        near = did_you_mean(str(kind).lower(), list(KINDS)) if kind else f"Name an `{CONFIG_FILE}` that peft wrote."
        return findings.at(node, f"{path} names no kind of adapter that there is: {kind}.", near)
    return _of_file(kind.lower(), held, path, node, findings, notes, task_type=task_type, model=model)


def _of_file(
    kind: str,
    held: Mapping[str, Node],
    path: Path,
    node: Node,
    findings: Findings,
    notes: list[str],
    *,
    task_type: str,
    model: str,
) -> dict[str, Node]:
    known = kind_options(kind)
    keys: dict[str, Node] = {"kind": invented(kind, node, "adapter.kind")}
    if kind == "lora":  # whose defaults here are others than peft's
        keys |= {name: invented(known[name].default, node, f"adapter.{name}") for name in SPEC_FIELDS}
    fields, said = without_decided(kind, held, path, task_type)
    for name, child in fields.items():
        if name in OURS:
            continue
        child = child.renamed(f"adapter.{RENAMED.get(name, name)}")
        if name in RENAMED:
            if child.value is not None:
                keys |= _renamed({name: child}, findings)
        elif name in known:
            keys[name] = child
        elif child.plain not in (None, False, 0, "", [], {}):
            instead = did_you_mean(name, list(known))
            findings.at(child, f"peft here has no such field for `{kind}`.", instead, at_key=True)
    notes += [*_spoken(held, path, model), *said]
    _check_task(held.get("task_type"), node, findings, task_type)
    return keys


def _spoken(held: Mapping[str, Node], path: Path, model: str) -> list[str]:
    """What is worth a word of the fields that are left out."""
    values = {name: child.plain for name, child in held.items()}
    said: list[str] = []
    if values.get("inference_mode"):
        said.append(f"{path}: `inference_mode: true` is left out, the adapter learns")
    named = values.get("base_model_name_or_path")
    if isinstance(named, str) and named and Path(named).name != Path(model).name:
        said.append(f"{path} was made for the base model {named}; here its options are used on {model}")
    return said


def _check_task(written: Node | None, node: Node, findings: Findings, task_type: str) -> None:
    named = None if written is None else written.plain
    here = task_of(task_type, heads=True)
    if named is None or not task_type or named == here or (named == "FEATURE_EXTRACTION" and here != "CAUSAL_LM"):
        return
    fitting = [one for one in ("causal_lm", "seq2seq_lm", "sequence_classification", "token_classification",
                               "question_answering") if task_of(one, heads=True) == named]  # fmt: skip
    instead = f"Write `backbone.task_type: {fitting[0]}`, or " if fitting else "To use it here, "
    what = f"the file is for the task {named}, but `backbone.task_type` is {task_type}."
    findings.at(node, what, f"{instead}set `task_type` in the file to null.")
