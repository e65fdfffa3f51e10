"""What metrics must know of a row beside texts: what was asked, how likely answers are, whether programs pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

from evertune import distributed
from evertune.errors import Problem
from evertune.evaluation import sandbox
from evertune.evaluation.config import EvaluationConfig
from evertune.evaluation.dealing import OnProgress
from evertune.metrics.base import Likelihood, Metric, Program, Row
from evertune.metrics.chosen import with_companions
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task


def metrics_of(task: Task) -> tuple[Metric, ...]:
    """The metrics that a task names and those that are reported beside them; its own comes first.

    Raises:
        ConfigError: If there is no such metric.
    """
    return with_companions((task.metric, *task.metrics), where=task.name)


def execution_problem(task: Task, config: EvaluationConfig) -> Problem | None:
    """What keeps the metrics of a task from running code; None if nothing does, or none of them runs any."""
    names = [metric.name for metric in metrics_of(task) if metric.program is not None]
    if not names:
        return None
    what = f"The metric {names[0]} of task {task.name} runs code that the model writes"
    if not config.allow_code_execution:
        return Problem(
            "evaluation.allow_code_execution",
            f"{what}, and that is not allowed.",
            "Write `evaluation: {allow_code_execution: true}` if you want it run (it is limited, but in no jail), or "
            "leave the metric out.",
        )
    if not sandbox.is_available():
        return Problem(task.name, f"{what}, which this platform cannot limit.", "Leave the metric out.")
    return None


def known_rows(rows: Sequence[PromptTarget], likelihoods: Mapping[str, Sequence[Likelihood]]) -> list[Row]:
    """What metrics may read of every row.

    Args:
        rows: The rows.
        likelihoods: By name of an answer, that of every row.
    """
    return [
        Row(
            instruction=_instruction(row),
            tools=row.tools,
            facts=row.scorer_facts,
            likelihoods={name: each[index] for name, each in likelihoods.items()},
        )
        for index, row in enumerate(rows)
    ]


def _instruction(row: PromptTarget) -> str:
    asked = [turn["content"] for turn in row.messages if turn["role"] == "user"]
    if asked:
        return asked[-1]
    fixed = "".join(segment.text for segment in row.prompt if not segment.cut)
    return fixed if fixed.strip() else row.prompt_text


def run_programs(
    program: Callable[[str, Row], Program],
    predictions: Sequence[str],
    rows: Sequence[Row],
    on_progress: OnProgress | None,
) -> list[Row]:
    """Runs the program of every answer, each in one of the processes.

    Args:
        program: What to run of an answer.
        predictions: The answers.
        rows: What is known of their rows.
        on_progress: Called after every program with (rows done, rows in all) of this process.

    Returns:
        The rows with `Row.passed`; the same in every process.
    """
    passed: dict[int, bool] = {}
    mine = range(len(rows))[distributed.rank() :: distributed.world_size()]
    for index in mine:
        job = program(predictions[index], rows[index])
        passed[index] = sandbox.passes(job.code, job.tests)
        if on_progress is not None:
            on_progress(len(passed), len(mine))
    merged = {index: each for part in distributed.gather(passed) for index, each in part.items()}
    return [dataclasses.replace(row, passed=merged[index]) for index, row in enumerate(rows)]


def shares(on_progress: OnProgress | None, passes: int) -> Iterator[OnProgress | None]:
    """Progress of several passes over the same rows, each told as its share of one.

    Args:
        on_progress: Called with (rows done, rows in all).
        passes: Number of passes.
    """
    return (None if on_progress is None else _share(on_progress, number, passes) for number in range(passes))


def _share(on_progress: OnProgress, number: int, passes: int) -> OnProgress:
    return lambda done, total: on_progress((number * total + done) // passes, total)
