"""The memory record of a run as a table, in the words of peft's examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from evertune.reporting.load import Run

if TYPE_CHECKING:
    from rich.table import Table

PHASES = ("load", "train", "eval")
HEADS = {
    "before": "before entering",
    "consumed": "consumed at the end (end-begin)",
    "peak_consumed": "peak consumed (max-begin)",
    "peak": "total peak (max)",
}
MEGABYTE = 10**6  # as everywhere else here; peft's examples count in 2**20

Record = Mapping[str, Mapping[str, Mapping[str, int]]]
"""Phase to device to the four numbers, in bytes."""


def memory_records(run: Run) -> dict[str, Record]:
    """Stage to what its ``metrics.json`` holds under ``memory``; stages without a record are left out."""
    found = {stage.name: stage.metrics.get("memory") for stage in run.stages}
    return {name: record for name, record in found.items() if record}


def memory_rows(run: Run) -> Iterator[tuple[str, Mapping[str, int]]]:
    """What is shown: (``GPU train``, the four numbers in bytes).

    Of several stages, that with the highest peak of a phase is shown, with its name.
    """
    records = memory_records(run)
    for device in ("gpu", "cpu"):
        for phase in PHASES:
            each = {name: record[phase][device] for name, record in records.items() if device in record.get(phase, {})}
            if each:
                stage = max(each, key=lambda name: each[name]["peak"])
                several = f", {stage}" if len(each) > 1 and phase != "load" else ""
                yield f"{device.upper()} {phase}{several}", each[stage]


def memory_table(run: Run) -> Table | None:
    """The table of `memory_rows` in MB; None if the run has no record."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("memory in MB", no_wrap=True)
    for head in HEADS.values():
        table.add_column(head, justify="right")
    for name, numbers in memory_rows(run):
        table.add_row(Text(name), *(f"{numbers[key] / MEGABYTE:,.0f}".replace("-", "−") for key in HEADS))
    return table if table.row_count else None


def highest_peak(run: Run) -> int | None:
    """The most bytes in use while any stage was trained, of the GPU where there is one."""
    trained = [record["train"] for record in memory_records(run).values() if "train" in record]
    peaks = [(record.get("gpu") or record["cpu"])["peak"] for record in trained]
    return max(peaks, default=run.summary.get("peak_memory_bytes"))
