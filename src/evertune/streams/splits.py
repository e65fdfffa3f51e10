"""From rows to the splits of a task: carving, caps, hashes and the record of how each split came about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from evertune.metrics.base import Metric
from evertune.metrics.chosen import with_companions
from evertune.randomness import python_generator
from evertune.streams.audit import audit, group_key
from evertune.streams.bad_rows import BadRows
from evertune.streams.contents import Picture
from evertune.streams.examples import PromptTarget
from evertune.streams.task import SPLITS, Split, SplitRecord, Task


@dataclass(frozen=True)
class SplitRows:
    """Rows of one split before its cap.

    Attributes:
        rows: The rows, with ids.
        sources: Where they come from, as the manifest names it.
        available: Rows of the source before carving.
        rule: How they were chosen.
    """

    rows: Sequence[PromptTarget]
    sources: tuple[str, ...]
    available: int
    rule: str


NO_ROWS = SplitRows((), (), 0, "none")


def carve(keys: Sequence[str], wanted: int, *, seed: int, purpose: str) -> frozenset[int]:
    """Chooses rows to set apart: rows with equal keys stay together, and order and position decide nothing.

    Distinct keys are ranked by ``sha256(seed, purpose, key)`` and taken in that order while their rows fit into
    `wanted`. If none fits, the smallest group is taken. At least one key stays behind.

    Args:
        keys: One key a row, see `group_key`.
        wanted: How many rows, at least 1; exactly so many are found unless many keys are equal.
        seed: The seed of the run.
        purpose: ``dev`` or ``test``.

    Returns:
        Indices of the chosen rows; none if all keys are equal.
    """
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(keys):
        groups.setdefault(key, []).append(index)
    if len(groups) < 2:
        return frozenset()
    ranked = sorted(groups, key=lambda key: hashlib.sha256(f"{seed}\x1f{purpose}\x1f{key}".encode()).digest())
    chosen: list[int] = []
    groups_left = len(groups)
    for key in ranked:
        if groups_left > 1 and len(chosen) + len(groups[key]) <= wanted:
            chosen.extend(groups[key])
            groups_left -= 1
    return frozenset(chosen or min((groups[key] for key in ranked), key=len))


def carve_rows(
    source: SplitRows,
    split: Split,
    fraction: float,
    *,
    task: str,
    seed: int,
    apart_from: Sequence[PromptTarget] = (),
) -> tuple[SplitRows, SplitRows]:
    """Carves a split from the training rows; equal prompts stay together, and so do rows about one text.

    Args:
        source: The training rows.
        split: ``dev`` or ``test``.
        fraction: Share of the rows to carve.
        task: Name of the task.
        seed: The seed of the run.
        apart_from: The test rows: a training row with the prompt or the text of one of them never becomes dev, as dev
            selects.

    Returns:
        What is left to train on, and what was carved, under new ids.
    """
    if fraction <= 0:
        return source, replace(NO_ROWS, rule=f"none: {split}_fraction is 0")
    forbidden = {group_key(row) for row in apart_from}
    keys = [group_key(row) for row in source.rows]
    eligible = [index for index, key in enumerate(keys) if key not in forbidden]
    wanted = max(1, round(fraction * len(keys)))
    chosen = {eligible[index] for index in carve([keys[index] for index in eligible], wanted, seed=seed, purpose=split)}
    if not chosen:
        return source, replace(NO_ROWS, rule="none: too few different prompts to carve from")
    carved = [
        replace(source.rows[index], id=f"{task}/{split}/{source.rows[index].id.rpartition('/')[2]}")
        for index in sorted(chosen)
    ]
    left = [row for index, row in enumerate(source.rows) if index not in chosen]
    share = f"{100 * fraction:g} %"
    return (
        replace(source, rows=left, rule=f"{source.rule}, without the {share} carved for {split}"),
        replace(source, rows=carved, rule=f"carved from train: {share} by sha256(seed, prompt)"),
    )


def _capped(source: SplitRows, most: int | None, *, task: str, split: Split, seed: int) -> SplitRows:
    if most is None or most >= len(source.rows):
        return source
    kept = python_generator(seed, "sample", task, split).sample(range(len(source.rows)), most)
    rows = [source.rows[index] for index in sorted(kept)]
    return replace(source, rows=rows, rule=f"{source.rule}; a sample of {most} by seed")


def hash_rows(rows: Sequence[PromptTarget]) -> str:
    """The sha256 over the rows as used, one canonical JSON object a line, as 64 hex digits."""
    digest = hashlib.sha256()
    for row in rows:
        content: dict[str, object] = {"id": row.id, "prompt": row.prompt_text, "target": row.target}
        if row.messages:
            content |= {"messages": row.messages, "tools": row.tools}
        elif row.tools:
            content["tools"] = row.tools
        if row.facts:
            content["facts"] = row.facts
        if isinstance(row.content, Picture):
            content["image"] = row.content.sha256
        elif row.content is not None:
            content["content"] = asdict(row.content)
        line = json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def build_task(
    name: str,
    splits: Mapping[Split, SplitRows],
    *,
    caps: Mapping[Split, int | None],
    seed: int,
    labels: tuple[str, ...] | None,
    metric: str,
    metrics: tuple[str, ...] = (),
    group: str = "",
    notes: Sequence[str] = (),
    stamps: Sequence[str] = (),
) -> Task:
    """Caps, hashes and audits the rows of a task.

    Args:
        name: Name of the task.
        splits: Rows of each split.
        caps: Most rows of each split, None for all.
        seed: The seed of the run.
        labels: The closed set of answers, or None.
        metric: How answers are scored.
        metrics: Further metrics to compute.
        group: Group of the task.
        notes: Sentences for the audit.
        stamps: Sentences that belong on every report of the run.

    Returns:
        The task.

    Raises:
        ConfigError: If there is no such metric.
        DataError: If rows that will be scored lack what a metric must know of them; with the first 20.
    """
    capped = {split: _capped(splits[split], caps[split], task=name, split=split, seed=seed) for split in SPLITS}
    rows: dict[Split, tuple[PromptTarget, ...]] = {split: tuple(capped[split].rows) for split in SPLITS}
    records = {
        split: SplitRecord(each.sources, hash_rows(each.rows), len(each.rows), each.available, each.rule)
        for split, each in capped.items()
    }
    _check_facts((*rows["dev"], *rows["test"]), with_companions((metric, *metrics), where=name))
    findings = audit(rows, labels)
    return Task(
        name=name,
        train=rows["train"],
        dev=rows["dev"],
        test=rows["test"],
        labels=labels,
        metric=metric,
        metrics=metrics,
        group=group,
        splits=records,
        audit={**findings, "notes": list(notes), "stamps": list(stamps)},
    )


def _check_facts(rows: Sequence[PromptTarget], metrics: Sequence[Metric]) -> None:
    """Refuses rows that a metric cannot score, before anything is trained.

    Raises:
        DataError: With the first 20.
    """
    bad = BadRows()
    for row in rows:
        # Metrics that are reported beside one another need the same: the first to miss something says so.
        facts = row.scorer_facts
        lacking = {name: (metric, what) for metric in reversed(metrics) for name, what in metric.lacking(facts)}
        for name, (metric, what) in lacking.items():
            bad.add(
                row.id,
                f"{what} The metric {metric.name} needs it.",
                "Name another metric." if name == metric.content else f"Add `{name}`, or name another metric.",
            )
    bad.raise_if_any()
