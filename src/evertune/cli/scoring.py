"""What `evaluate` scores: the run's own tasks, or other rows with the adapters of one of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evertune.cli.stored import task_index
from evertune.config.load import load_config, recipes
from evertune.console import Console
from evertune.errors import ConfigError, DataError
from evertune.evaluation.cell import Cell
from evertune.evaluation.evaluate import evaluate_rows
from evertune.restore import RestoredStage
from evertune.streams.instructions import Instructions, TaskSource
from evertune.streams.task import Task


@dataclass(frozen=True)
class Item:
    """Rows to score.

    Attributes:
        task: The task whose test rows are scored.
        anchor: Index in the run's stream of the task whose adapters and options are used.
    """

    task: Task
    anchor: int


def items(restored: RestoredStage, names: Sequence[str] | None, data: str | None, console: Console) -> list[Item]:
    """What to score.

    Args:
        restored: The stage.
        names: Tasks of the run that were asked for.
        data: Other rows: a file, or a configuration.
        console: Told what is odd about other rows.

    Raises:
        ConfigError: If a name is unknown, or it is not clear what other rows belong to.
        DataError: If other rows are wrong.
    """
    tasks = restored.stream.tasks
    wanted = [task_index(restored.stream, name.strip(), where="--tasks") for name in names or ()]
    if data is None:
        return [Item(tasks[index], index) for index in wanted or range(restored.stage.row + 1)]
    if Path(data).suffix in (".yaml", ".yml") or (data in recipes() and not Path(data).exists()):
        return _of_configuration(restored, wanted, data, console)
    if len(wanted) > 1:
        raise ConfigError("Rows of a file belong to one task.", where="--tasks", instead="Name one.")
    return [_of_file(restored, wanted, Path(data), console)]


def _last(restored: RestoredStage) -> int:
    return restored.stage.tasks[-1]


def _of_configuration(restored: RestoredStage, wanted: Sequence[int], data: str, console: Console) -> list[Item]:
    """The tasks of another stream; those that the run has too are answered by their own adapters."""
    own = restored.stream.names
    settings = load_config(data)
    stream = settings.stream.load(seed=settings.seed, console=console)
    names = [own[index] for index in wanted]
    unknown = [name for name in names if name not in stream.names]
    if unknown:
        raise ConfigError(f"{data} has no task `{unknown[0]}`.", where="--tasks")
    return [
        Item(task, own.index(task.name) if task.name in own else _last(restored))
        for task in stream.tasks
        if not names or task.name in names
    ]


def _of_file(restored: RestoredStage, wanted: Sequence[int], data: Path, console: Console) -> Item:
    """The rows of a file, read as the run reads those of the task that they belong to."""
    if not data.exists():
        raise DataError("There is no such file.", where=str(data))
    settings = restored.settings
    anchor = wanted[0] if wanted else _last(restored)
    # Nothing is trained on the rows, so what is said of train and test sharing them means nothing.
    source, listener = TaskSource(name=data.stem, train=data, test=data), Console(speaks=False)
    if isinstance(settings.stream, Instructions):
        if not wanted and len(settings.stream.tasks) > 1:
            names = ", ".join(restored.stream.names)
            instead = f"Write `--tasks NAME`, one of: {names}."
            raise ConfigError("Which task the rows belong to is not clear.", where="--data", instead=instead)
        source = dataclasses.replace(settings.stream.tasks[anchor], test=data, dev=None, max_test_samples=None)
        listener = console
    stream = Instructions(tasks=(source,), dev_fraction=0.0)
    return Item(stream.load(seed=settings.seed, console=listener).tasks[0], anchor)


def score(restored: RestoredStage, item: Item, decoding: str | None, console: Console) -> Cell:
    """Scores the test rows of an item.

    Args:
        restored: The stage.
        item: What to score.
        decoding: In place of the configured one.
        console: Where progress is shown.
    """
    own = restored.parts.task_settings(item.anchor)
    evaluation = own.evaluation if decoding is None else dataclasses.replace(own.evaluation, decoding=decoding)  # type: ignore[arg-type]
    restored.place(item.anchor)
    with console.progress(f"scoring {item.task.name}", len(item.task.test)) as progress:
        return evaluate_rows(
            restored.backbone,
            restored.bank.model,
            item.task,
            item.task.test,
            config=evaluation,
            train=own.train,
            device=restored.device,
            autocast_dtype=restored.parts.autocast,
            on_progress=lambda done, _: progress.update(done),
        )
