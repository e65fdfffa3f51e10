"""What became of single answers: right when the task was learnt, and at the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evertune.reporting.load import Answer, Run, StageResult

Fate = Literal["lost", "gained", "kept", "wrong"]
FATES: tuple[Fate, ...] = ("lost", "gained", "kept", "wrong")


@dataclass(frozen=True)
class Example:
    """One row with what was answered to it.

    Attributes:
        id: The row's id.
        reference: What would have been right.
        learnt: The answer when the task was just learnt; None if that is the last stage.
        last: The answer after the last complete stage.
        fate: ``lost``, ``gained``, ``kept`` (right at both times) or ``wrong`` (at both); graded answers are compared
            by their scores, with 0.5 as the border.
    """

    id: str
    reference: str
    learnt: str | None
    last: str
    fate: Fate


@dataclass(frozen=True)
class TaskAnswers:
    """A few answers of one task.

    Attributes:
        task: Its name.
        learnt_after: Name of the stage that learnt it.
        last_after: Name of the last complete stage.
        counts: How many rows met each fate.
        examples: A few of them, what was lost first.
    """

    task: str
    learnt_after: str
    last_after: str
    counts: dict[str, int]
    examples: tuple[Example, ...]

    @property
    def compared(self) -> bool:
        """Whether there are two times to compare."""
        return self.learnt_after != self.last_after


def task_answers(run: Run, *, per_fate: int = 3) -> list[TaskAnswers]:
    """A few answers of every learnt task whose predictions were kept.

    Args:
        run: The run.
        per_fate: Most examples of each fate.

    Raises:
        CheckpointError: If a file of predictions is damaged.
    """
    finished = run.finished_stages
    found = []
    for task in run.tasks:
        stage = next((stage for stage in finished if task in stage.tasks), None)
        answers = _answers(run, task, stage, finished[-1], per_fate) if stage else None
        if answers:
            found.append(answers)
    return found


def _answers(run: Run, task: str, stage: StageResult, last: StageResult, per_fate: int) -> TaskAnswers | None:
    final = run.answers(last.path, task)
    if not any(answer.prediction for answer in final):
        return None  # none, or images, which are shown as such
    earlier = {answer.id: answer for answer in run.answers(stage.path, task)} if stage != last else {}
    examples = [_example(answer, earlier.get(answer.id)) for answer in final]
    counts = {fate: sum(example.fate == fate for example in examples) for fate in FATES}
    chosen = [example for fate in FATES for example in _spread(examples, fate, per_fate)]
    return TaskAnswers(task, stage.name, last.name, counts, tuple(chosen))


def _example(last: Answer, learnt: Answer | None) -> Example:
    now = last.value >= 0.5
    before = now if learnt is None else learnt.value >= 0.5
    fate: Fate = ("kept" if now else "lost") if before else ("gained" if now else "wrong")
    return Example(last.id, last.reference, learnt.prediction if learnt else None, last.prediction, fate)


def _spread(examples: list[Example], fate: Fate, most: int) -> list[Example]:
    """Examples from all over the rows: neighbours are often alike."""
    found = [example for example in examples if example.fate == fate]
    if len(found) <= most:
        return found
    return [found[place * (len(found) - 1) // max(1, most - 1)] for place in range(most)]
