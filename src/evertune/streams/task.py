"""A task, and a stream of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from evertune.streams.contents import TaskType, task_type_of
from evertune.streams.examples import PromptTarget

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")


@dataclass(frozen=True)
class SplitRecord:
    """Where the rows of one split come from.

    Attributes:
        sources: Files or hub ids, as written to the manifest (paths relative to the stream's root).
        sha256: Over the canonical JSON of the rows as used (id, prompt, target), 64 hex digits: equal hash, equal rows.
        count: Rows used, after caps.
        available: Rows in the source, before caps and before carving.
        rule: How the split came about: ``file``, ``first 500``, ``carved from train: 10 % by sha256(seed, row)``...
    """

    sources: tuple[str, ...]
    sha256: str
    count: int
    available: int
    rule: str


@dataclass(frozen=True)
class Task:
    """One task of a stream; immutable.

    Attributes:
        name: Unique in the stream; letters, digits, ``-``, ``_``, ``.``: it becomes file names.
        train: Rows to learn from.
        dev: Rows carved from train: what evaluation while training uses. May be empty.
        test: Rows that fill the accuracy matrix; they never select anything.
        labels: The closed set of answers of a classification task, in option order; None for free text.
        metric: Name in `evertune.metrics.METRICS` of what is the task's score.
        metrics: Names of further metrics to compute.
        group: Group of the task in its benchmark (``TC``), empty if none.
        splits: Record of each split.
        audit: Findings to show and keep: ``duplicates`` (within and across splits), ``invalid_labels`` (list of ids),
            ``notes`` (sentences such as "dev.json equals test.json and is not read").
    """

    name: str
    train: tuple[PromptTarget, ...]
    dev: tuple[PromptTarget, ...]
    test: tuple[PromptTarget, ...]
    labels: tuple[str, ...] | None = None
    metric: str = "exact_match"
    metrics: tuple[str, ...] = ()
    group: str = ""
    splits: Mapping[str, SplitRecord] = field(default_factory=dict)
    audit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float | None:
        """Score of a uniform guess among the labels; None for free text."""
        return 1 / len(self.labels) if self.labels else None

    @property
    def task_type(self) -> TaskType:
        """What a model that does not answer in text does with the rows."""
        return task_type_of(self.train[0].content if self.train else None)

    def rows(self, split: Split) -> tuple[PromptTarget, ...]:
        """The rows of one split."""
        return {"train": self.train, "dev": self.dev, "test": self.test}[split]


@dataclass(frozen=True)
class Stream:
    """Tasks in the order in which they are learnt.

    Attributes:
        name: Name of the stream, ``cl-benchmark``.
        tasks: The tasks.
        task_identity_in_prompt: Whether prompts name the task or data set, so that the model knows at test which task
            it is: declared, printed and kept.
    """

    name: str
    tasks: tuple[Task, ...]
    task_identity_in_prompt: bool = False

    @property
    def names(self) -> list[str]:
        """Names of the tasks, in order."""
        return [task.name for task in self.tasks]

    def train_rows(self, ids: Iterable[str]) -> dict[str, PromptTarget]:
        """Training rows with these ids, by id, in the order of the stream."""
        wanted = set(ids)
        return {row.id: row for task in self.tasks for row in task.train if row.id in wanted}

    def row(self, id: str) -> PromptTarget:
        """The row with this id.

        Raises:
            KeyError: If no task has it.
        """
        name, split, _ = id.rsplit("/", 2)
        for task in self.tasks:
            if task.name == name:
                for row in task.rows(split):  # type: ignore[arg-type]
                    if row.id == id:
                        return row
        raise KeyError(id)


@dataclass(frozen=True)
class Stage:
    """One stretch of training between two rows of the accuracy matrix.

    Attributes:
        index: 0 for the first stage.
        name: ``dbpedia``, or ``multi-task`` when all tasks are learnt at once.
        tasks: Indices in the stream of the tasks that are learnt.
        row: Row of the accuracy matrix that is filled after it.
    """

    index: int
    name: str
    tasks: tuple[int, ...]
    row: int

    @property
    def folder(self) -> str:
        """Name of its folder below ``stages/``: ``01-dbpedia``."""
        return f"{self.index + 1:02d}-{self.name}"


def sequential_stages(tasks: Sequence[Task]) -> tuple[Stage, ...]:
    """One stage a task, in order."""
    return tuple(Stage(index, task.name, (index,), index) for index, task in enumerate(tasks))
