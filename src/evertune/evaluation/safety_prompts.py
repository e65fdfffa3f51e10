"""Reads the prompts of safety measurements: which rows of a file, and how they are put to the model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evertune.evaluation.config import SafetyConfig
from evertune.streams.bad_rows import BadRows
from evertune.streams.examples import PromptTarget
from evertune.streams.prompts import parse_template, prompt_target
from evertune.streams.readers import RawRow, read_rows, shown_path

Kind = Literal["harmful", "harmless"]
KINDS: tuple[Kind, ...] = ("harmful", "harmless")

# As AdvBench, HarmBench, XSTest and others name their column of prompts; the first that a file has is read.
_COLUMNS = ("prompt", "goal", "behavior", "Behavior", "instruction", "question")
_LABELS: Mapping[str, Kind] = {"safe": "harmless", "unsafe": "harmful", "harmless": "harmless", "harmful": "harmful"}
# XSTest's first version has no labels: the types of its unsafe prompts begin so.
_CONTRAST = "contrast_"


@dataclass(frozen=True)
class SafetyPrompt:
    """A prompt to which the answer is looked at.

    Attributes:
        kind: Whether it should be refused.
        row: The prompt as the model reads it; its id is ``<kind>/<row of the file>``.
        sha256: Of the prompt's own text, 64 hex digits: what is kept in its place.
    """

    kind: Kind
    row: PromptTarget
    sha256: str


def read_safety_prompts(config: SafetyConfig) -> tuple[SafetyPrompt, ...]:
    """Reads both files.

    A prompt that occurs twice is asked once. Of more than `max_rows` the sample depends on the texts alone, not on
    their order or a seed: all runs answer the same ones.

    Returns:
        The harmful prompts, then the harmless ones, each in the order of the file.

    Raises:
        DataError: With the first 20 bad rows, if a file is missing, or holds no prompt of its kind.
    """
    bad = BadRows()
    files: dict[Kind, Path] = {"harmful": config.harmful, "harmless": config.harmless}
    found = [prompt for kind in KINDS for prompt in _read(files[kind], kind, config, bad)]
    bad.raise_if_any()
    return tuple(found)


def prompts_sha256(prompts: Sequence[SafetyPrompt]) -> str:
    """A hash over prompts, whatever their order: equal hash, equal prompts as the model reads them."""
    digest = hashlib.sha256()
    for prompt in sorted(prompts, key=lambda prompt: prompt.sha256):
        digest.update(f"{prompt.sha256} {prompt.row.prompt_text} {list(prompt.row.messages)}\n".encode())
    return digest.hexdigest()


def _read(path: Path, kind: Kind, config: SafetyConfig, bad: BadRows) -> list[SafetyPrompt]:
    before = len(bad)
    rows = read_rows(path, split="test", bad=bad)
    contrasted = any(_type(row).startswith(_CONTRAST) for row in rows)
    texts: dict[str, tuple[RawRow, str]] = {}
    for row in rows:
        text = _text(row, bad)
        if text is not None and _kind(row, bad, contrasted=contrasted) in (kind, None):
            texts.setdefault(hashlib.sha256(text.encode()).hexdigest(), (row, text))
    if not texts and len(bad) == before:
        bad.add(shown_path(path), f"None of the {len(rows)} rows is labelled {kind}.", "Name a file that has some.")
    kept = set(sorted(texts)[: config.max_rows])
    return [
        SafetyPrompt(kind, _asked(f"{kind}/{row.where.rpartition(':')[2]}", text, config.template), sha256)
        for sha256, (row, text) in texts.items()
        if sha256 in kept
    ]


def _text(row: RawRow, bad: BadRows) -> str | None:
    column = next((name for name in _COLUMNS if name in row.values), None)
    if column is None:
        keys = ", ".join(map(str, row.values)) or "none"
        bad.add(row.where, f"There is no prompt; the keys are [{keys}].", f"Name it `{_COLUMNS[0]}`.")
        return None
    text = row.values[column]
    if not isinstance(text, str) or not text.strip():
        bad.add(row.where, f"`{column}` must be a text that is not blank, not {_shown(text)}.")
    elif not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        bad.add(row.where, f"`{column}` is not UTF-8 text.", "Save the file as UTF-8.")
    else:
        return text.strip()
    return None


def _shown(value: Any) -> str:
    return repr(value) if value is None or isinstance(value, str | int | float) else f"a {type(value).__name__}"


def _type(row: RawRow) -> str:
    return str(row.values.get("type", ""))


def _kind(row: RawRow, bad: BadRows, *, contrasted: bool) -> Kind | None:
    """What a row is labelled; None where it has no label, and so is what its file is named for."""
    if "label" in row.values:
        label = row.values["label"]
        known = _LABELS.get(label.strip().casefold()) if isinstance(label, str) else None
        if known is None:
            bad.add(row.where, f"`label` is {_shown(label)}, not safe or unsafe.", "Write one of the two.")
        return known
    if contrasted:
        return "harmful" if _type(row).startswith(_CONTRAST) else "harmless"
    return None


def _asked(id: str, text: str, template: str) -> PromptTarget:
    parsed = parse_template(template)
    # The prompt is an instruction, which is never cut, unless a template of one's own has no place for any.
    as_input = bool(parsed.fields) and "instruction" not in parsed.fields
    instruction, input = ("", text) if as_input else (text, "")
    return prompt_target(id, parsed, instruction=instruction, input=input, output="")
