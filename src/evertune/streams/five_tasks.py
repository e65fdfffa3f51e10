"""The five tasks of DS-LoRA, as prepared: general instructions, mathematics, code, tool calls and safety."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Len

from evertune.console import Console
from evertune.errors import ConfigError, DataError, InputError, Problem, did_you_mean
from evertune.streams.audit import say_findings
from evertune.streams.bad_rows import BadRows
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.prepare.prepared import check_file, read_manifest
from evertune.streams.prompts import Template, parse_template, prompt_target
from evertune.streams.readers import read_rows, shown_path
from evertune.streams.row_formats import INSTRUCTION, CheckedRow, check_rows
from evertune.streams.splits import NO_ROWS, SplitRows, build_task
from evertune.streams.task import SPLITS, Split, Stream, Task
from evertune.streams.task_names import check_task_names

NAME = "five-tasks"
# The first metric is the task's score.
TASK_METRICS: Mapping[str, tuple[str, ...]] = {
    "T1_general": ("rougeL", "instruction_format"),
    "T2_math": ("gsm8k_strict", "gsm8k_flexible"),
    "T3_code": ("code_parses",),
    "T4_tool": ("tool_call_exact", "tool_call_json", "tool_call_name", "tool_call_required", "tool_call_types"),
    "T5_safety": ("preference_accuracy",),
}
# What begins the last turn of a person, in inputs that are conversations.
_LAST_TURN: Mapping[str, str] = {"T4_tool": "\nUser: ", "T5_safety": "\n\nHuman:"}
Cap = Annotated[int, Ge(1)] | None


@dataclass(frozen=True, kw_only=True)
class FiveTasks:
    """Five tasks of public instruction data; `evertune prepare five-tasks` makes their folder.

    Attributes:
        root: The prepared folder.
        size: ``full``, or ``tiny``: a tenth of the training rows, at most 1000, none of them a row of ``full``.
        tasks: Which tasks, in the order in which they are learnt.
        template: ``llama-inst``, ``alpaca``, ``none``, or ``chat``: the chat template of the model's tokenizer.
        max_train_samples: Most training rows of each task: a sample by seed, in the order of the file.
        max_dev_samples: Most dev rows of each task.
        max_test_samples: Most test rows of each task.
    """

    root: Path
    size: Literal["tiny", "full"] = "full"
    tasks: Annotated[tuple[str, ...], Len(1)] = tuple(TASK_METRICS)
    template: Literal["llama-inst", "chat", "alpaca", "none"] = "llama-inst"
    max_train_samples: Cap = None
    max_dev_samples: Cap = None
    max_test_samples: Cap = None

    def load(self, *, seed: int, console: Console) -> Stream:
        """Reads and checks the tasks.

        Args:
            seed: Decides what is sampled; which rows are train, dev and test was decided when they were prepared.
            console: Told what is odd about the data.

        Returns:
            The stream.

        Raises:
            ConfigError: If a task does not exist, or the folder was not prepared.
            DataError: If a file was changed since it was prepared, or a size has no rows.
        """
        self._check_names()
        root = Path(self.root)
        try:
            manifest = read_manifest(root, NAME, where="stream.root")
        except InputError as error:
            raise ConfigError(error.problems) from error
        if missing := [name for name in self.tasks if name not in manifest["tasks"]]:
            what = f"The folder {shown_path(root)} was prepared without {', '.join(missing)}."
            raise ConfigError(what, where="stream.root", instead="Prepare it again.")
        template = parse_template(self.template, where="stream.template")
        bad = BadRows()
        tasks = [self._task(name, root, manifest["tasks"][name][self.size], template, seed, bad) for name in self.tasks]
        bad.raise_if_any()
        self._check_sizes(tasks)
        say_findings(tasks, console)
        return Stream(NAME, tuple(tasks))

    def _check_names(self) -> None:
        problems = [
            Problem("stream.tasks", f"There is no task `{name}`.", did_you_mean(name, list(TASK_METRICS)))
            for name in self.tasks
            if name not in TASK_METRICS
        ]
        if problems:
            raise ConfigError(problems)
        check_task_names(self.tasks, where="stream.tasks")

    def _task(
        self, name: str, root: Path, records: Mapping[str, Any], template: Template, seed: int, bad: BadRows
    ) -> Task:
        splits: dict[Split, SplitRows] = {
            split: _split_rows(name, root, records[split], split, template, bad) for split in SPLITS
        }
        return build_task(
            name,
            splits,
            caps={"train": self.max_train_samples, "dev": self.max_dev_samples, "test": self.max_test_samples},
            seed=seed,
            labels=None,
            metric=TASK_METRICS[name][0],
            metrics=TASK_METRICS[name][1:],
            notes=[f"Prepared, size {self.size}."],
        )

    def _check_sizes(self, tasks: Sequence[Task]) -> None:
        larger = "Write `size: full`, or prepare more rows." if self.size == "tiny" else "Prepare more rows."
        problems = [
            Problem("stream.size", f"{task.name} has no {split} rows of size {self.size}.", larger)
            for task in tasks
            for split in ("train", "test")
            if not task.rows(split)
        ]
        if problems:
            raise DataError(problems)


def _split_rows(
    task: str, root: Path, record: Mapping[str, Any], split: Split, template: Template, bad: BadRows
) -> SplitRows:
    path = check_file(root, record, NAME)
    if not record["rows"]:  # a small task may have no dev rows
        return replace(NO_ROWS, sources=(record["file"],), rule=record["rule"])
    checked = check_rows(read_rows(path, split=split, bad=bad), INSTRUCTION, {}, bad)
    rows = [_example(task, row, f"{task}/{split}/{row.number}", template) for row in checked]
    return SplitRows(rows, (record["file"],), len(rows), record["rule"])


def _example(task: str, row: CheckedRow, id: str, template: Template) -> PromptTarget:
    example = prompt_target(
        id,
        template,
        instruction=row.instruction,
        input=row.input,
        output=row.output,
        tools=row.tools,
        facts=row.facts,
    )
    marker = _LAST_TURN.get(task)
    return replace(example, prompt=_turn_apart(example.prompt, marker)) if marker else example


def _turn_apart(prompt: Sequence[Segment], marker: str) -> tuple[Segment, ...]:
    """The prompt with the last turn of a conversation as a piece of its own.

    Of several pieces that may be cut the longest is cut first, each from its end: so a long history does not push out
    the turn that is to be answered.
    """
    apart: list[Segment] = []
    for segment in prompt:
        before, found, last = segment.text.rpartition(marker)
        if segment.cut and found and before:
            apart += [Segment(before, cut=True), Segment(found + last, cut=True)]
        else:
            apart.append(segment)
    return tuple(apart)
