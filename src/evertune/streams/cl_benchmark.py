"""The CL benchmark (O-LoRA's collection of 15 text classification tasks), or one's own data, in its published layout.

``<root>/<Group>/<Dataset>/{train,dev,test,labels}.json``, each split a JSON list of ``{"sentence", "label"}``.
"""

from __future__ import annotations

import filecmp
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Lt

from evertune.console import Console
from evertune.errors import ConfigError, did_you_mean
from evertune.randomness import python_generator
from evertune.streams.audit import overlap, say_findings
from evertune.streams.bad_rows import BadRows
from evertune.streams.cl_orders import Dataset, choose, discover, read_config_json, read_task_lists
from evertune.streams.cl_prompts import DEFAULT_INSTRUCTIONS, find_instruction_file, prompt, read_instructions
from evertune.streams.examples import PromptTarget
from evertune.streams.readers import read_rows, shown_path
from evertune.streams.row_formats import SENTENCE_LABEL, CheckedRow, check_rows, known_labels, label_problem
from evertune.streams.splits import SplitRows, build_task, carve_rows
from evertune.streams.task import Split, Stream, Task
from evertune.streams.task_names import check_task_names

Choice = Literal["first", "random", "all"]


@dataclass(frozen=True, kw_only=True)
class CLBenchmark:
    """The CL benchmark; exactly one of `order` and `configs` is needed.

    Attributes:
        root: Folder that holds ``<Group>/<Dataset>/train.json``.
        order: 1-6, ``order_1`` ... ``order_6``, ``long`` (6), or a list of data set names.
        configs: A published folder of task lists (``order1_configs``), from which the order is read.
        instructions: Which of a group's instructions a row gets: the ``first``, a ``random`` one by seed, or ``all``,
            each in a training row of its own (dev and test rows get the first). Or an instruction file, and ``first``.
        instruction_file: A published ``instruction_config.json``; by default it is looked for beside `root` and
            `configs`, and without one our own wording is used.
        task_names_in_prompt: Whether prompts begin with the names of group and data set, which tell the model the task.
        max_train_samples: Most training rows of each task: a sample by seed, in the order of the file.
        max_dev_samples: Most dev rows of each task.
        max_test_samples: Most test rows of each task.
        dev_fraction: Share of the training rows that becomes dev, none of them a test row; 0 for none.
        allow_dev_is_test: Take the published ``dev.json`` as dev instead of carving, even where it is the test file;
            the report says so.
    """

    root: Path
    order: int | str | tuple[str, ...] | None = None
    configs: Path | None = None
    instructions: Choice | Path = "first"
    instruction_file: Path | None = None
    task_names_in_prompt: bool = True
    max_train_samples: Annotated[int, Ge(1)] | None = None
    max_dev_samples: Annotated[int, Ge(1)] | None = None
    max_test_samples: Annotated[int, Ge(1)] | None = None
    dev_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    allow_dev_is_test: bool = False

    def load(self, *, seed: int, console: Console) -> Stream:
        """Reads and checks all tasks.

        Args:
            seed: Decides what is carved, sampled and drawn.
            console: Told what is peculiar about the data.

        Returns:
            The stream.

        Raises:
            ConfigError: If the order, a folder or the instruction file is wrong.
            DataError: With the first 20 bad rows.
        """
        datasets = self._datasets()
        check_task_names([dataset.name for dataset in datasets], where="stream.order")
        choice, instructions, source = self._instructions(console)
        bad = BadRows()
        read = [_read_dataset(dataset, read_dev=self.allow_dev_is_test, bad=bad) for dataset in datasets]
        bad.raise_if_any()
        tasks = tuple(
            self._task(files, choice, instructions.get(files.dataset.group, ()), source, seed) for files in read
        )
        _say_dev_is_test(read, self.dev_fraction, console)
        say_findings(tasks, console)
        return Stream("cl-benchmark", tasks, task_identity_in_prompt=self.task_names_in_prompt)

    def _datasets(self) -> list[Dataset]:
        known = discover(Path(self.root))
        if (self.order is None) == (self.configs is None):
            raise ConfigError(
                "Exactly one of `order` and `configs` is needed.",
                where="stream",
                instead="Write `order: 1` (to 6), a list of data sets, or `configs:` with a published folder.",
            )
        if self.configs is not None:
            return read_task_lists(Path(self.configs), known)
        return choose(self.order, known)  # type: ignore[arg-type]

    def _instructions(self, console: Console) -> tuple[Choice, Mapping[str, tuple[str, ...]], str]:
        """How to choose, the instructions of each group, and where they are from."""
        file = None if self.instruction_file is None else Path(self.instruction_file)
        choice: Choice = "first"
        if self.instructions in ("first", "random", "all"):
            choice = self.instructions  # type: ignore[assignment]
        elif file is not None:
            raise ConfigError(
                "`instructions` and `instruction_file` both name a file.",
                where="stream.instructions",
                instead="Write first, random or all for `instructions`.",
            )
        else:
            file = Path(self.instructions)
            if not file.exists():
                hint = did_you_mean(file.name, ["first", "random", "all"])
                raise ConfigError(
                    f"There is no instruction file {shown_path(file)}.", where="stream.instructions", instead=hint
                )
        file = file or find_instruction_file(Path(self.root), self.configs and Path(self.configs))
        if file is None:
            console.say("No instruction_config.json was found; prompts use Evertune's own instructions.")
            return choice, DEFAULT_INSTRUCTIONS, "Evertune's own wording"
        console.say(f"Instructions are read from {shown_path(file)}.")
        return choice, read_instructions(file), file.name

    def _task(self, files: _Files, choice: Choice, instructions: Sequence[str], source: str, seed: int) -> Task:
        name = files.dataset.name
        train, test = (_rows(files, split, self.task_names_in_prompt) for split in ("train", "test"))
        shared = 0
        if self.allow_dev_is_test and files.dev:
            dev = _rows(files, "dev", self.task_names_in_prompt)
            shared = overlap(dev.rows, test.rows)
        else:
            train, dev = carve_rows(train, "dev", self.dev_fraction, task=name, seed=seed, apart_from=test.rows)
        instruct = _Instruct(files, choice, tuple(instructions), self.task_names_in_prompt, seed)
        return build_task(
            name,
            {"train": instruct(train, "train"), "dev": instruct(dev, "dev"), "test": instruct(test, "test")},
            caps={"train": self.max_train_samples, "dev": self.max_dev_samples, "test": self.max_test_samples},
            seed=seed,
            labels=files.labels,
            metric="exact_match",
            group=files.dataset.group,
            notes=[*files.notes, _instruction_note(choice, instructions, files.dataset.group, source)],
            stamps=[f"{shared} of {len(dev.rows)} dev rows are test rows (allow_dev_is_test)."] if shared else [],
        )


@dataclass(frozen=True)
class _Files:
    """What the files of a data set hold."""

    dataset: Dataset
    train: list[CheckedRow]
    test: list[CheckedRow]
    dev: list[CheckedRow]
    labels: tuple[str, ...]
    dev_is_test: bool
    notes: tuple[str, ...]


def _read_dataset(dataset: Dataset, *, read_dev: bool, bad: BadRows) -> _Files:
    folder = dataset.folder
    notes: list[str] = []
    train, test = _read(folder, "train", bad), _read(folder, "test", bad)
    has_dev = (folder / "dev.json").is_file()
    dev_is_test = has_dev and (folder / "test.json").is_file() and _same_bytes(folder)
    dev = _read(folder, "dev", bad) if has_dev and read_dev else []
    if dev_is_test and not read_dev:
        notes.append("dev.json equals test.json byte for byte and is never read.")
    elif has_dev and not read_dev:
        notes.append("dev.json is not read: dev is carved from train, so that all data sets are treated alike.")
    if (folder / "labels.json").is_file():
        labels = _read_labels(folder / "labels.json", bad)
    else:
        labels = known_labels([row.output for row in train])
        notes.append("labels.json is missing; the labels are those of the training rows, sorted.")
    for row in train if labels else ():
        if row.output not in labels:
            bad.add(row.where, *label_problem(row.output, labels))
    return _Files(dataset, train, test, dev, labels, dev_is_test, tuple(notes))


def _same_bytes(folder: Path) -> bool:
    return filecmp.cmp(folder / "dev.json", folder / "test.json", shallow=False)


def _read(folder: Path, split: Split, bad: BadRows) -> list[CheckedRow]:
    return check_rows(read_rows(folder / f"{split}.json", split=split, bad=bad), SENTENCE_LABEL, {}, bad)


def _read_labels(file: Path, bad: BadRows) -> tuple[str, ...]:
    try:
        labels = read_config_json(file)
    except ConfigError as error:
        for problem in error.problems:
            bad.add(problem.where, problem.what, problem.instead)
        return ()
    texts = [label for label in labels if isinstance(label, str) and label.strip()] if isinstance(labels, list) else []
    if not texts or texts != labels or len(set(texts)) < len(texts):
        bad.add(shown_path(file), "This file is not a list of different labels.", 'Write ["positive", "negative"].')
        return ()
    return tuple(texts)


def _rows(files: _Files, split: Split, task_names: bool) -> SplitRows:
    """The rows of one file with prompts that have no instruction yet: what carving looks at."""
    dataset, checked = files.dataset, {"train": files.train, "dev": files.dev, "test": files.test}[split]
    rows = [
        PromptTarget(
            id=f"{dataset.name}/{split}/{row.number}",
            prompt=prompt(dataset, None, files.labels, row.input, task_names=task_names),
            target=row.output,
        )
        for row in checked
    ]
    return SplitRows(rows, (f"{dataset.group}/{dataset.name}/{split}.json",), len(rows), "file")


@dataclass(frozen=True)
class _Instruct:
    """Puts instructions and options into the prompts of a data set."""

    files: _Files
    choice: Choice
    instructions: tuple[str, ...]
    task_names: bool
    seed: int

    def __call__(self, source: SplitRows, split: Split) -> SplitRows:
        if not self.instructions:
            return source
        draws = python_generator(self.seed, "instruction", self.files.dataset.name, split)
        rows = [row for each in source.rows for row in self._instructed(each, split, draws)]
        return SplitRows(rows, source.sources, source.available, source.rule)

    def _instructed(self, row: PromptTarget, split: Split, draws: random.Random) -> Iterator[PromptTarget]:
        if self.choice == "all" and split == "train" and len(self.instructions) > 1:
            for number, instruction in enumerate(self.instructions):
                yield self._with(row, instruction, f"{row.id}.{number}")
        elif self.choice == "random":
            yield self._with(row, draws.choice(self.instructions), row.id)
        else:
            yield self._with(row, next(iter(self.instructions)), row.id)

    def _with(self, row: PromptTarget, instruction: str, id: str) -> PromptTarget:
        sentence = next(segment.text for segment in row.prompt if segment.cut)
        pieces = prompt(self.files.dataset, instruction, self.files.labels, sentence, task_names=self.task_names)
        return PromptTarget(id, pieces, row.target)


def _instruction_note(choice: Choice, instructions: Sequence[str], group: str, source: str) -> str:
    if not instructions:
        return f"There is no instruction for {group} ({source}): the prompt has neither instruction nor options."
    return f"Instructions: {choice} of {len(instructions)} ({source})."


def _say_dev_is_test(read: Sequence[_Files], dev_fraction: float, console: Console) -> None:
    count = sum(files.dev_is_test and not files.dev for files in read)
    if count:
        dev = f"dev is carved from train ({100 * dev_fraction:g} %)" if dev_fraction else "there is no dev"
        console.say(f"dev.json equals test.json in {count} of {len(read)} data sets and is never read; {dev}.")
