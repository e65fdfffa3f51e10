"""Kinds of adapters as ``list adapters`` and ``describe KIND`` show them."""

from __future__ import annotations

from typing import Any

from evertune.adapters.capabilities import COLUMNS, capability_table
from evertune.adapters.kinds import KINDS
from evertune.adapters.peft_config import SPEC_FIELDS, option_default
from evertune.adapters.peft_options import REFUSED, kind_options
from evertune.adapters.spec import AdapterSpec
from evertune.adapters.targets import ALL_LINEAR, ROLES
from evertune.config.describe import attribute_docs, options, plain_text
from evertune.config.hints import expected
from evertune.config.typed import plain_value

ADVICE = {
    "r": "4, 8 or 16 for one task, more for much to learn: parameters and files grow with it.",
    "lora_alpha": "Twice the rank is usual; with `use_rslora` the rank itself.",
    "lora_dropout": "0.05 to 0.1 for a few thousand rows, 0 for many.",
    "target": "Queries and values first; `all-linear` learns more, at about four times the parameters.",
    "use_rslora": "For ranks above 32.",
    "use_dora": "Often a little better at low ranks, and slower.",
    "init_lora_weights": "`pissa`, `olora`: faster at first; what is saved is a plain adapter of twice the rank.",
    "loraplus_lr_ratio": "16 in the paper, with a smaller `learning_rate`.",
    "num_virtual_tokens": "8 to 100; every one makes each input a token longer.",
    "oft_block_size": "Must divide the width of the layers; `r` must then be 0.",
    "boft_block_size": "Must divide the width of the layers.",
    "init_r": "About one and a half times `target_r`.",
    "target_r": "The mean rank at the end.",
    "encoder_hidden_size": "128 or the width of the model.",
    "bias": "`none`, unless the adapter is to be alone.",
}
"""What to write, where experience says something."""

_SHORT = {
    "causal_lm": "LM",
    "seq2seq_lm": "S2S",
    "sequence_classification": "SEQ",
    "token_classification": "TOK",
    "question_answering": "QA",
    "image_classification": "IMG",
}


def adapter_entries() -> list[dict[str, Any]]:
    """Every kind and measured variant with what it can do, as plain values."""
    found: list[dict[str, Any]] = []
    table = capability_table()
    for name in [*KINDS, *sorted(set(table) - set(KINDS))]:
        kind = KINDS[name.split(" ")[0]]
        tasks = {
            task: {"usable": cell.usable, **cell.can, "why": dict(cell.why)}
            for task, cell in table.get(name, {}).items()
        }
        summary = kind.summary if name in KINDS else f"A variant of {name.split(' ')[0]}."
        found.append({"name": name, "summary": summary, "tasks": tasks})
    return found


def adapter_tables(entries: list[dict[str, Any]]) -> list[Any]:
    """The entries as two tables, kinds and variants: one column a task, one letter for each thing that works there."""
    from rich.table import Table
    from rich.text import Text

    tables: list[Any] = []
    for heading, chosen in (
        ("kind", [entry for entry in entries if entry["name"] in KINDS]),
        ("variant", [entry for entry in entries if entry["name"] not in KINDS]),
    ):
        table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
        table.add_column(heading, no_wrap=True)
        for short in _SHORT.values():
            table.add_column(short, no_wrap=True, min_width=4)
        table.add_column("what it is" if heading == "kind" else "", overflow="fold")
        for entry in chosen:
            cells = [_marks(entry["tasks"].get(task)) for task in _SHORT]
            table.add_row(Text(entry["name"]), *cells, Text(entry["summary"] if heading == "kind" else ""))
        tables.append(table)
    return tables


LEGEND = (
    f"{', '.join(f'{short} {task}' for task, short in _SHORT.items())}\n"
    "t trains, r reloads in peft, s several take part together, m merges into the weights; `evertune describe KIND` "
    "says why something is missing"
)


def _marks(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "?"
    return "".join(letter if cell[column] else "-" for letter, column in zip("trsm", COLUMNS, strict=True))


def described_kind(name: str) -> dict[str, Any]:
    """Everything about a kind as plain values: its options with defaults, meanings and advice, and what it can do."""
    kind = KINDS[name]
    ours = {option.name: option for option in options(AdapterSpec)}
    kept = [*(["target", "layers", "num_frozen_layers"] if kind.target else []), "start_from", "config"]
    if name == "lora":
        kept = [*SPEC_FIELDS, *kept, "loraplus_lr_ratio", "lora_fa"]
    if name == "osf":
        kept = ["effective_rank", *kept]
    docs = attribute_docs(AdapterSpec)
    shown: list[dict[str, Any]] = []
    for key in kept:
        option = ours[key]
        default = kind.target if key == "target" else option.default
        shown.append(_entry(key, option.type, default, docs.get(key, "")))
    for option in kind_options(name).values():
        if option.name not in kept and option.name not in REFUSED:
            default = plain_value(option_default(name, option.name))
            shown.append(_entry(option.name, expected(option.hint), default, plain_text(option.doc)))
    found: dict[str, Any] = {"kind": "adapter kind", "name": name, "doc": kind.summary, "options": shown}
    if kind.target:
        found["targets"] = [*ROLES, ALL_LINEAR]
    found["tasks"] = next(entry["tasks"] for entry in adapter_entries() if entry["name"] == name)
    return found


def capability_lines(tasks: dict[str, Any]) -> list[str]:
    """What a kind can do, a line a task, with the reasons for what it cannot."""
    lines: list[str] = []
    for task, cell in tasks.items():
        can = [column for column in COLUMNS if cell[column]]
        cannot = [f"{column}: no, {cell['why'][column]}" for column in COLUMNS if not cell[column]]
        lines.append(f"{task}: {', '.join(can) or 'nothing'}{'; ' if cannot else ''}{'; '.join(cannot)}")
    return lines


def _entry(name: str, words: str, default: Any, doc: str) -> dict[str, Any]:
    advice = ADVICE.get(name, "")
    return {
        "name": name,
        "type": words,
        "default": default,
        "required": False,
        "doc": f"{doc} Advice: {advice}" if advice else doc,
        "advice": advice,
    }
