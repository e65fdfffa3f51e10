"""A stream of tasks written out: one's own files, in any of the text row formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Gt, Len, Lt

from evertune.console import Console
from evertune.errors import ConfigError, Problem, did_you_mean
from evertune.metrics import METRICS
from evertune.metrics.classification import colliding_labels
from evertune.streams.audit import overlap, say_findings
from evertune.streams.bad_rows import BadRows
from evertune.streams.content_formats import Notes
from evertune.streams.content_prompts import asked_rows, inventory_of
from evertune.streams.contents import METRIC_OF, Picture, TaggedTokens, task_type_of
from evertune.streams.examples import PromptTarget
from evertune.streams.prompts import CHAT, Template, parse_template, prompt_target
from evertune.streams.row_formats import FORMATS, KNOWN_KEYS, MESSAGES, CheckedRow, known_labels, label_problem
from evertune.streams.sources import HubData, Read, Sources, as_sources, common_folder, read_splits, source_names
from evertune.streams.splits import NO_ROWS, SplitRows, build_task, carve_rows
from evertune.streams.task import SPLITS, Split, Stream, Task
from evertune.streams.task_names import check_task_names

MetricName = Annotated[str, METRICS]
_NEED_LABELS = ("accuracy", "f1")
Cap = Annotated[int, Ge(1)] | None


@dataclass(frozen=True, kw_only=True)
class TaskSource:
    """A task written out.

    Attributes:
        name: Its name; letters, digits, ``-``, ``_``, ``.``.
        train: Training rows: a file (JSON, JSON lines, CSV, TSV, Parquet), a folder saved by `datasets`,
            ``hub:owner/name``, ``{path: hub:owner/name, subset, split, revision}``, or a list of these.
        test: Test rows; carved from train if not given.
        dev: Dev rows; carved from train if not given. They may share no row with test.
        template: ``none`` (instruction, newline, input, nothing added), ``alpaca``, ``llama-inst``, ``chat`` (the chat
            template of the model's tokenizer), or a text with ``{instruction}`` and ``{input}`` in it.
        columns: Our key to the column name of the files: ``{input: "Tweet text", output: Label}``.
        format: The row format, where rows have the keys of several: ``image-label`` for images with labels and
            captions.
        metrics: How answers are scored; the first is the task's score, the others are reported beside it. By default
            ``exact_match`` for tasks with labels (``accuracy`` where only case or punctuation tells some of them apart,
            which ``exact_match`` drops) and ``rougeL`` for free text, of which hardly any answer is met
            exactly; for rows that hold more than text that of their kind (``entity_f1``, ``squad_f1``, ...).
        labels: The closed set of answers. Rows with a ``label`` key have those of their training rows by default;
            others are free text. For rows of tokens whose tags are numbers: the tags, in the order of the numbers.
        instruction: Put before the input of rows that have no instruction of their own, and in the place of the usual
            one before texts that are asked for entities, answers or arguments.
        system: System turn of ``chat`` prompts.
        max_train_samples: Overrides the stream's.
        max_dev_samples: Overrides the stream's.
        max_test_samples: Overrides the stream's.
    """

    name: str
    train: Sources
    test: Sources | None = None
    dev: Sources | None = None
    template: str = "none"
    columns: Mapping[str, str] = field(default_factory=dict)
    format: str | None = None
    metrics: tuple[MetricName, ...] = ()
    labels: Annotated[tuple[str, ...], Len(2)] | None = None
    instruction: str = ""
    system: str = ""
    max_train_samples: Cap = None
    max_dev_samples: Cap = None
    max_test_samples: Cap = None


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """One's own tasks, learnt in the order in which they are written.

    Attributes:
        tasks: The tasks.
        dev_fraction: Share of the training rows that becomes dev where a task names none; 0 for none.
        test_fraction: Share of the rows that becomes test where a task names none.
        max_train_samples: Most training rows of each task: a sample by seed, in the order of the file.
        max_dev_samples: Most dev rows of each task.
        max_test_samples: Most test rows of each task.
        allow_dev_is_test: Accept dev files that share rows with test; the report says so.
    """

    tasks: Annotated[tuple[TaskSource, ...], Len(1)]
    dev_fraction: Annotated[float, Ge(0), Lt(1)] = 0.1
    test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.1
    max_train_samples: Cap = None
    max_dev_samples: Cap = None
    max_test_samples: Cap = None
    allow_dev_is_test: bool = False

    def load(self, *, seed: int, console: Console) -> Stream:
        """Reads and checks all tasks.

        Args:
            seed: Decides what is carved and sampled.
            console: Told what is odd about the data.

        Returns:
            The stream.

        Raises:
            ConfigError: If an option is wrong, or does not fit the rows.
            DataError: With the first 20 bad rows, if a data set cannot be had, or if dev and test share rows.
        """
        check_task_names([task.name for task in self.tasks], where="stream.tasks")
        templates = _checked_options(self.tasks)
        bad = BadRows()
        read = [_read_task(task, bad, console) for task in self.tasks]
        bad.raise_if_any()
        _check_fit(self.tasks, templates, read)
        base = common_folder([source for each in read for split in each.values() for source in split.sources])
        built = [
            self._build(task, template, splits, base=base, seed=seed)
            for task, template, splits in zip(self.tasks, templates, read, strict=True)
        ]
        self._check_firewall(built)
        say_findings(built, console)
        return Stream("instructions", tuple(built))

    def _build(
        self, task: TaskSource, template: Template, read: Mapping[Split, Read], *, base: Path, seed: int
    ) -> Task:
        train, dev, test = (_split_rows(task, template, read, split, base) for split in SPLITS)
        # Test first: which rows are test must not depend on the dev fraction.
        if "test" not in read:
            train, test = carve_rows(train, "test", self.test_fraction, task=task.name, seed=seed)
        if "dev" not in read:
            train, dev = carve_rows(train, "dev", self.dev_fraction, task=task.name, seed=seed, apart_from=test.rows)
        labels = _labels(task, read)
        # What is carved shares nothing with test; one's own dev file may.
        shared = overlap(dev.rows, test.rows) if "dev" in read else 0
        return build_task(
            task.name,
            {"train": train, "dev": dev, "test": test},
            caps={
                "train": task.max_train_samples or self.max_train_samples,
                "dev": task.max_dev_samples or self.max_dev_samples,
                "test": task.max_test_samples or self.max_test_samples,
            },
            seed=seed,
            labels=labels,
            metric=task.metrics[0] if task.metrics else _usual_metric(train.rows, labels),
            metrics=task.metrics[1:],
            notes=list(_notes(read, labels)),
            stamps=[f"{shared} of {len(dev.rows)} dev rows are test rows (allow_dev_is_test)."] if shared else [],
        )

    def _check_firewall(self, tasks: Sequence[Task]) -> None:
        bad = BadRows()
        for task in tasks:
            if not task.test:
                bad.add(task.name, "No test rows could be carved: all prompts are equal.", "Name a `test` file.")
            if task.audit["stamps"] and not self.allow_dev_is_test:
                stamp = task.audit["stamps"][0].removesuffix(" (allow_dev_is_test).")
                bad.add(
                    ", ".join(task.splits["dev"].sources),
                    f"{stamp} of {task.name}, so dev would select by test.",
                    "Remove `dev` (it is carved from train), or write `allow_dev_is_test: true` beside `tasks`: "
                    "`stream: {name: instructions, tasks: [...], allow_dev_is_test: true}`.",
                )
        bad.raise_if_any()


def _usual_metric(rows: Sequence[PromptTarget], labels: tuple[str, ...] | None) -> str:
    content = rows[0].content if rows else None
    usual = ("accuracy" if colliding_labels(labels) else "exact_match") if labels else "rougeL"
    return usual if content is None else METRIC_OF[task_type_of(content)]


def _checked_options(tasks: Sequence[TaskSource]) -> list[Template]:
    """The templates of the tasks, after a check of all that can be checked without the rows."""
    problems: list[Problem] = []
    templates: list[Template] = []
    for number, task in enumerate(tasks):
        where = f"stream.tasks.{number}"
        try:
            templates.append(parse_template(task.template, where=f"{where}.template"))
        except ConfigError as error:
            problems += error.problems
        for key in task.columns:
            if key not in KNOWN_KEYS:
                hint = did_you_mean(key, KNOWN_KEYS)
                problems.append(Problem(f"{where}.columns.{key}", f"`{key}` is no key of a row format.", hint))
        if not any(set(task.columns) <= each.keys for each in FORMATS) and set(task.columns) <= set(KNOWN_KEYS):
            names = ", ".join(each.name for each in FORMATS)
            what = f"The keys [{', '.join(task.columns)}] are not of one row format."
            problems.append(Problem(f"{where}.columns", what, f"The formats are {names}."))
        names = [each.short_name for each in FORMATS]
        if task.format is not None and task.format not in names:
            hint = did_you_mean(task.format, names) or f"The formats are {', '.join(names)}."
            problems.append(Problem(f"{where}.format", f"There is no row format `{task.format}`.", hint))
        for metric in task.metrics:
            if metric not in METRICS:
                hint = did_you_mean(metric, METRICS.names())
                problems.append(Problem(f"{where}.metrics", f"There is no metric `{metric}`.", hint))
        for split in SPLITS:
            if getattr(task, split) is not None and not as_sources(getattr(task, split)):
                problems.append(Problem(f"{where}.{split}", "This list of files is empty.", "Name at least one."))
    if problems:
        raise ConfigError(problems)
    return templates


def _read_task(task: TaskSource, bad: BadRows, console: Console) -> dict[Split, Read]:
    """The splits that the task names, with every label checked."""
    named: dict[Split, Sources | None] = {"train": task.train, "dev": task.dev, "test": task.test}
    sources: dict[Split, tuple[Path | HubData, ...]] = {
        split: found for split, written in named.items() if (found := as_sources(written))
    }
    for split, several in sources.items():
        for source in several:
            if isinstance(source, HubData):
                console.say(f"{task.name}: the {split} rows are read from the hub ({source}).")
    read: dict[Split, Read] = read_splits(
        sources, columns=task.columns, bad=bad, named=task.format, names=task.labels or ()
    )
    inventory = inventory_of([row.content for row in read["train"].rows])
    read = {
        split: replace(each, rows=asked_rows(each.rows, inventory, task.instruction)) for split, each in read.items()
    }
    for note in _counted(read):
        console.say(f"{task.name}: {note}")
    labels = _labels(task, read) or ()
    for row in chain.from_iterable(each.rows for each in read.values()) if labels else ():
        if row.output not in labels:
            what, instead = label_problem(row.output, labels)
            bad.add(row.where, what, instead or "Correct it, or list it under `labels`.")
    return read


def _labels(task: TaskSource, read: Mapping[Split, Read]) -> tuple[str, ...] | None:
    if any(isinstance(row.content, TaggedTokens) for row in read["train"].rows[:1]):
        return None
    if task.labels is not None:
        return tuple(task.labels)
    if any(row_format.labelled for row_format in read["train"].formats):
        return known_labels([row.output for row in read["train"].rows])
    return None


def _check_fit(
    tasks: Sequence[TaskSource], templates: Sequence[Template], read: Sequence[Mapping[Split, Read]]
) -> None:
    """Checks options against the rows: nothing that a row or an option holds may get lost without a word."""
    problems: list[Problem] = []
    for number, (task, template, splits) in enumerate(zip(tasks, templates, read, strict=True)):
        where = f"stream.tasks.{number}"
        problems += _misfits(task, template, splits, where)
        labels = _labels(task, splits)
        for metric in task.metrics:
            if metric in _NEED_LABELS and not labels:
                what = f"The metric {metric} needs a closed set of labels, and {task.name} has free text."
                problems.append(Problem(f"{where}.metrics", what, "List the answers under `labels`."))
    if problems:
        raise ConfigError(problems)


def _misfits(task: TaskSource, template: Template, splits: Mapping[Split, Read], where: str) -> Iterator[Problem]:
    rows = list(chain.from_iterable(each.rows for each in splits.values()))
    formats = set(chain.from_iterable(each.formats for each in splits.values()))
    if any(isinstance(row.content, Picture) for row in rows):
        for option in ("instruction", "system"):
            if getattr(task, option):
                yield Problem(
                    f"{where}.{option}", "Rows of images have no prompt to put it into.", f"Remove `{option}`."
                )
    if MESSAGES in formats and template.name not in ("none", CHAT):
        what = f"Rows of {MESSAGES.name} cannot be put into the template {template.name}."
        yield Problem(f"{where}.template", what, "Write `template: chat`.")
    if task.system and template.name != CHAT and formats != {MESSAGES}:
        what = f"The template {template.name} has no place for `system`."
        yield Problem(f"{where}.system", what, "Write `template: chat`, or put the text into `instruction`.")
    if task.system and any(turn["role"] == "system" for row in rows for turn in row.turns):
        yield Problem(f"{where}.system", "Rows have a system turn of their own.", "Remove `system`.")
    if task.instruction and (MESSAGES in formats or any(row.instruction and row.content is None for row in rows)):
        instead = "Write `system` for messages." if MESSAGES in formats else "Remove `instruction`."
        yield Problem(f"{where}.instruction", "Rows have instructions of their own.", instead)
    if template.name == "custom":
        # The usual instruction of rows that hold more than text is ours, and may go.
        has_instruction = bool(task.instruction) or any(
            (row.instruction and row.content is None) or row.tools for row in rows
        )
        found = {"instruction": has_instruction, "input": any(row.input for row in rows)}
        for name, present in found.items():
            if present and name not in template.fields:
                what = f"The template has no {{{name}}}, but rows have one: it would get lost."
                yield Problem(f"{where}.template", what, f"Put {{{name}}} into it.")


def _split_rows(
    task: TaskSource, template: Template, read: Mapping[Split, Read], split: Split, base: Path
) -> SplitRows:
    if split not in read:
        return NO_ROWS
    rows = [_example(task, template, row, f"{task.name}/{split}/{row.number}") for row in read[split].rows]
    return SplitRows(rows, source_names(read[split].sources, base), len(rows), "file")


def _example(task: TaskSource, template: Template, row: CheckedRow, id: str) -> PromptTarget:
    if row.turns:
        start = ({"role": "system", "content": task.system},) if task.system else ()
        return PromptTarget(id, (), row.output, messages=(*start, *row.turns), tools=row.tools)
    return prompt_target(
        id,
        template,
        instruction=row.instruction or task.instruction,
        input=row.input,
        output=row.output,
        system=task.system,
        tools=row.tools,
        facts=row.facts,
        closing=row.closing,
        content=row.content,
    )


def _notes(read: Mapping[Split, Read], labels: tuple[str, ...] | None) -> Iterator[str]:
    names = sorted({row_format.name for each in read.values() for row_format in each.formats})
    yield f"Rows are {' and '.join(names)}."
    yield from _counted(read)
    unused = sum(row.unused_turns > 0 for each in read.values() for row in each.rows)
    if unused:
        yield f"{unused} conversations go on after their last assistant turn; those turns are not used."
    count = len(read["train"].rows)
    if labels and 2 * len(labels) > count:
        yield f"There are {len(labels)} different labels for {count} rows; free text belongs in `output`."
    if labels and (alike := colliding_labels(labels)):
        yield f"Only case or punctuation tells the labels {alike[:6]} apart; accuracy, not exact_match, sees it."
    folded: dict[str, list[str]] = {}
    for label in labels or ():
        folded.setdefault(" ".join(label.split()).casefold(), []).append(label)
    for alike in folded.values():
        if len(alike) > 1:
            yield f"The labels {alike} differ only in case or spaces."


def _counted(read: Mapping[Split, Read]) -> list[str]:
    """What was done to odd rows while they were read, one sentence each."""
    counted: Notes = sum((each.notes for each in read.values()), Counter())
    return [sentence.format(count=count) for sentence, count in sorted(counted.items())]
