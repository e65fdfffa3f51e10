"""What a run says when it has ended: its scores, what they are to be compared with, its memory, its answers."""

from __future__ import annotations

from evertune.assembly import Parts
from evertune.console import Console
from evertune.evaluation.baselines import baseline_lines
from evertune.reporting.before_after import adapter_line, before_after_table, before_and_after
from evertune.reporting.load import Run
from evertune.reporting.memory import memory_table
from evertune.reporting.table import run_result


def say_results(done: Run, parts: Parts, console: Console) -> None:
    """Shows the tables of a finished run.

    Args:
        done: Its folder.
        parts: What it worked with.
        console: Where to speak.
    """
    console.show(run_result(done))
    for line in baseline_lines(parts.stream.tasks):
        console.say(line)
    memory = memory_table(done)
    if memory is not None:
        console.show(memory)
    # What was answered before and after, where answers are free text, and what is kept of it.
    rows = before_and_after(done, parts.stream) if parts.backbone.answers_in_text else []
    if rows:
        console.show(before_after_table(rows))
    if line := adapter_line(done):
        console.say(line)
