"""A few answers in free text beside those of the untouched model, and how large the adapters are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evertune.reporting import formats
from evertune.reporting.load import Answer, Run
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Stream

if TYPE_CHECKING:
    from rich.table import Table

_OF_ONE_TASK = 3
_MOST_TASKS = 5
_LONGEST = 120  # characters of a text: the table is a glance


@dataclass(frozen=True)
class BeforeAfter:
    """One test row with two answers to it.

    Attributes:
        id: The row's id.
        prompt: The input text of its prompt, without the instruction around it where the two can be told apart.
        reference: What would have been right.
        before: The answer of the untouched model.
        after: The answer after the last complete stage.
    """

    id: str
    prompt: str
    reference: str
    before: str
    after: str


def before_and_after(run: Run, stream: Stream) -> list[BeforeAfter]:
    """Three test rows of the task that is answered in free text, or one each of several such tasks (five at most).

    Args:
        run: A run whose untouched model was scored; without that there is nothing to compare, and no row.
        stream: Its stream, for the prompts.

    Raises:
        CheckpointError: If a file of predictions is damaged.
    """
    finished = run.finished_stages
    if not finished or not run.zero_shot:
        return []
    tasks = [task for task in stream.tasks if task.labels is None and task.test]
    each = _OF_ONE_TASK if len(tasks) == 1 else 1
    found: list[BeforeAfter] = []
    for task in tasks[:_MOST_TASKS]:
        before = {answer.id: answer for answer in run.answers(run.folder / "zero_shot", task.name)}
        after = [answer for answer in run.answers(finished[-1].path, task.name) if answer.id in before]
        rows = {row.id: row for row in task.test}
        for answer in _spread([answer for answer in after if answer.id in rows], each):
            prompt = _input_text(rows[answer.id])
            found.append(
                BeforeAfter(answer.id, prompt, answer.reference, before[answer.id].prediction, answer.prediction)
            )
    return found


def _spread(answers: Sequence[Answer], most: int) -> list[Answer]:
    """Answers from all over the rows: neighbours are often alike."""
    if len(answers) <= most:
        return list(answers)
    if most == 1:
        return [answers[0]]
    return [answers[place * (len(answers) - 1) // (most - 1)] for place in range(most)]


def _input_text(row: PromptTarget) -> str:
    if row.messages:
        return str(row.messages[-1].get("content") or "")
    return "".join(segment.text for segment in row.prompt if segment.cut) or row.prompt_text


def before_after_table(rows: Sequence[BeforeAfter]) -> Table:
    """The rows as a table; long texts are shortened."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False, show_lines=True)
    for head in ("prompt", "before", "after"):
        table.add_column(head, overflow="fold", ratio=1)
    for row in rows:
        table.add_row(*(Text(_short(text)) for text in (row.prompt, row.before, row.after)))
    return table


def _short(text: str) -> str:
    text = " ".join(text.split()) or "(nothing)"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def adapter_line(run: Run) -> str:
    """Where the last stage's adapters are and how large; empty if it kept none.

    ``adapter stages/01-adgen/adapter: 7.8 MB``
    """
    if not run.finished_stages:
        return ""
    entry = run.manifest["stages"][run.finished_stages[-1].index]
    folders = list(dict.fromkeys(entry.get("adapters", {}).values()))
    sizes = [file.stat().st_size for folder in folders for file in (run.folder / folder).glob("*.safetensors")]
    if not sizes:
        return ""
    what = f"adapter {folders[0]}" if len(folders) == 1 else f"{len(folders)} adapters of {entry['folder']}"
    return f"{what}: {formats.size(sum(sizes))}"
