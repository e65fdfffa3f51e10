"""What is odd about the rows of a task: duplicates, contradictions, labels that do not exist."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from evertune.console import Console
from evertune.metrics.classification import colliding_labels
from evertune.streams.contents import Picture, group_of
from evertune.streams.examples import PromptTarget
from evertune.streams.task import SPLITS, Split, Task

_MOST_IDS = 20


def _normalised(text: str) -> str:
    return " ".join(text.split()).casefold()


def _prompt_of(row: PromptTarget) -> str:
    if isinstance(row.content, Picture):
        return row.content.sha256
    if row.messages:
        return json.dumps([row.messages, row.tools], ensure_ascii=False, sort_keys=True)
    return row.prompt_text


def prompt_key(row: PromptTarget) -> str:
    """A short key of a row's prompt or image; prompts that differ only in case and white space have the same."""
    return _short(_prompt_of(row))


def group_key(row: PromptTarget) -> str:
    """A key of what rows must not share over splits: the passage or document that they are about, or the prompt."""
    return _short(group_of(row.content) or _prompt_of(row))


def _short(text: str) -> str:
    return hashlib.blake2b(_normalised(text).encode(), digest_size=16).hexdigest()


def row_key(row: PromptTarget) -> str:
    """A key of a row's prompt and answer, up to case and white space."""
    return _with_answer(prompt_key(row), row)


def _with_answer(key: str, row: PromptTarget) -> str:
    return f"{key} {_normalised(row.target)}"


def overlap(rows: Sequence[PromptTarget], others: Sequence[PromptTarget]) -> int:
    """How many of `rows` also occur among `others`, with the same answer."""
    known = {row_key(row) for row in others}
    return sum(row_key(row) in known for row in rows)


def audit(rows: Mapping[Split, Sequence[PromptTarget]], labels: Sequence[str] | None) -> dict[str, Any]:
    """Examines the rows of a task as they are used.

    Args:
        rows: The rows of each split.
        labels: The closed set of answers, or None.

    Returns:
        ``duplicates``: per split the rows that repeat an earlier one (prompt and answer), and for ``test in train``,
        ``test in dev`` and ``dev in train`` the rows of the first that occur in the second. ``contradictory_labels``:
        ``count`` of rows, over all splits, whose prompt occurs with another label too, and the first ``ids``; only with
        labels. ``invalid_labels``: ids of the rows whose answer is none of the labels.
    """
    prompts = {split: [prompt_key(row) for row in rows[split]] for split in SPLITS}
    keys = {split: list(map(_with_answer, prompts[split], rows[split])) for split in SPLITS}
    sets = {split: set(keys[split]) for split in SPLITS}
    duplicates = {split: len(keys[split]) - len(sets[split]) for split in SPLITS}
    for earlier, later in combinations(SPLITS, 2):
        duplicates[f"{later} in {earlier}"] = sum(key in sets[earlier] for key in keys[later])
    everything = [row for split in SPLITS for row in rows[split]]
    known = frozenset(labels or ())
    invalid = [row.id for row in everything if row.target not in known] if known else []
    return {
        "duplicates": duplicates,
        "contradictory_labels": _contradictions([key for split in SPLITS for key in prompts[split]], everything)
        if known
        else {"count": 0, "ids": []},
        "invalid_labels": invalid,
    }


def _contradictions(keys: Sequence[str], rows: Sequence[PromptTarget]) -> dict[str, Any]:
    answers: dict[str, set[str]] = {}
    for key, row in zip(keys, rows, strict=True):
        answers.setdefault(key, set()).add(row.target)
    ids = [row.id for key, row in zip(keys, rows, strict=True) if len(answers[key]) > 1]
    return {"count": len(ids), "ids": ids[:_MOST_IDS]}


def say_findings(tasks: Sequence[Task], console: Console) -> None:
    """Warns of what can distort results: one line a finding."""
    for task in tasks:
        invalid = sum(row.target not in task.labels for row in task.test) if task.labels else 0
        shared = task.audit["duplicates"]["test in train"]
        contradictory = task.audit["contradictory_labels"]["count"]
        if invalid:
            console.warn(
                f"{task.name}: {invalid} of {len(task.test)} test rows have a label that is none of the task's labels; "
                "they are kept and count as wrong."
            )
        if shared:
            console.warn(f"{task.name}: {shared} of {len(task.test)} test rows also occur in train.")
        if contradictory:
            console.warn(f"{task.name}: {contradictory} rows share their prompt with a row of another label.")
        alike = colliding_labels(task.labels or ())
        if task.metric == "exact_match" and alike:
            console.warn(
                f"{task.name}: exact_match drops case and punctuation, and so takes labels for the same among "
                f"[{', '.join(alike[:6])}]; accuracy tells them apart."
            )
        for stamp in task.audit["stamps"]:
            console.warn(f"{task.name}: {stamp}")
