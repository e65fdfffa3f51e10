"""The five tasks of DS-LoRA: general instructions, mathematics, code, tool calls and safety, from public data sets.

Sources, sampling and shares are those of the DS-LoRA code (https://github.com/1132451958/dslora_project). What it got
wrong is done otherwise: published test files are the test rows, calls keep their schemas and their own turn, replies
are told from the conversation before them, no two rows ask the same, and the small version shares no row with the full
one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evertune.console import Console
from evertune.errors import DataError
from evertune.streams.prepare.alpaca import ALPACA
from evertune.streams.prepare.cleaning import RULES, Cleaner
from evertune.streams.prepare.code_alpaca import CODE_ALPACA
from evertune.streams.prepare.dolly import DOLLY
from evertune.streams.prepare.function_calling import FUNCTION_CALLING
from evertune.streams.prepare.gsm8k import GSM8K
from evertune.streams.prepare.hh_rlhf import HH_RLHF
from evertune.streams.prepare.prepared import check_same, prepared_before, write_prepared
from evertune.streams.prepare.rows import PreparedRow
from evertune.streams.prepare.sources import Fetched, Source, fetch
from evertune.streams.prepare.splitting import SplitPart, split_task
from evertune.streams.task import Split

STREAM = "five-tasks"
TASK_SOURCES: Mapping[str, tuple[Source, ...]] = {
    "T1_general": (ALPACA, DOLLY),
    "T2_math": (GSM8K,),
    "T3_code": (CODE_ALPACA,),
    "T4_tool": (FUNCTION_CALLING,),
    "T5_safety": (HH_RLHF,),
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a preparation came to.

    Attributes:
        folder: The folder.
        manifest: Its manifest.
        written: Whether it was written now; otherwise it was there already.
    """

    folder: Path
    manifest: Mapping[str, Any]
    written: bool


class FiveTasksPreparation:
    """Makes the folder of the stream ``five-tasks``."""

    def prepare(self, output: Path, *, source: Path | None, seed: int, max_rows: int, console: Console) -> Prepared:
        """Reads, cleans, splits and writes; the same inputs give the same bytes.

        Args:
            output: Folder to write.
            source: Folder of the published files; None to download them from the hub.
            seed: Decides what is sampled and in which order rows stand.
            max_rows: Most rows of each task.
            console: Shows how far it is.

        Returns:
            The folder and its manifest.

        Raises:
            InputError: If something else is in `output`.
            DataError: If sources are missing, unreadable or too small.
        """
        before = prepared_before(output, STREAM)
        sources = [each for group in TASK_SOURCES.values() for each in group]
        fetched = fetch(sources, source, console)
        inputs = {"seed": seed, "max_rows": max_rows, "sources": [each.record() for each in fetched]}
        if before is not None:
            check_same(output, STREAM, before, inputs)
            return Prepared(output, before, written=False)
        tasks, parts = _build(fetched, seed=seed, max_rows=max_rows)
        manifest = {
            "stream": STREAM,
            "inputs": inputs,
            "rules": dict(RULES),
            "licences": {each.name: each.licence for each in sources},
            "tasks": tasks,
        }
        return Prepared(output, write_prepared(output, manifest, parts), written=True)


def _build(
    fetched: Sequence[Fetched], *, seed: int, max_rows: int
) -> tuple[dict[str, Any], dict[str, Mapping[str, Mapping[Split, SplitPart]]]]:
    """What the manifest says of each task beside its splits, and the splits."""
    cleaner = Cleaner()
    dropped = {task: Counter[str]() for task in TASK_SOURCES}
    # The rows of all test files first: whatever asks the same is then no training row of any task.
    tests = {task: _test_rows(task, fetched, cleaner, dropped[task]) for task in TASK_SOURCES}
    tasks: dict[str, Any] = {}
    parts: dict[str, Mapping[str, Mapping[Split, SplitPart]]] = {}
    for task, sources in TASK_SOURCES.items():
        rows = cleaner.clean(
            (row for each in fetched if each.source in sources and each.split == "train" for row in each.convert()),
            task=task,
            pool="train",
            dropped=dropped[task],
        )
        parts[task] = split_task(rows, tests[task], task=task, seed=seed, max_rows=max_rows)
        files, used = _test_files(task, fetched)
        unused = [] if used else files
        tasks[task] = {
            "sources": [each.name for each in sources],
            "fit": {"train": len(rows), **({} if tests[task] is None else {"test": len(tests[task] or ())})},
            "dropped": dict(sorted(dropped[task].items())),
            "unused": [each.file for each in unused],
        }
    _check_sizes(parts, tasks)
    return tasks, parts


def _test_files(task: str, fetched: Sequence[Fetched]) -> tuple[list[Fetched], bool]:
    """The test files of a task, and whether they are used: only if each of its sources has one."""
    found = [each for each in fetched if each.source in TASK_SOURCES[task] and each.split == "test"]
    return found, len(found) == len(TASK_SOURCES[task])


def _test_rows(
    task: str, fetched: Sequence[Fetched], cleaner: Cleaner, dropped: Counter[str]
) -> list[PreparedRow] | None:
    """The rows of the test files of a task; None if test is cut from train."""
    found, used = _test_files(task, fetched)
    if not used:
        return None
    rows = (row for each in found for row in each.convert())
    return cleaner.clean(rows, task=task, pool="test", dropped=dropped)


def _check_sizes(parts: Mapping[str, Mapping[str, Mapping[Split, SplitPart]]], tasks: Mapping[str, Any]) -> None:
    for task, sizes in parts.items():
        for split in ("train", "test"):
            if not sizes["full"][split].rows:
                dropped = ", ".join(f"{count} {reason}" for reason, count in tasks[task]["dropped"].items())
                raise DataError(
                    f"No row is left for {split}; dropped: {dropped or 'none'}.",
                    where=task,
                    instead="Give files with more rows, or a higher `--max-rows`.",
                )
