"""Options of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge


@dataclass(frozen=True, kw_only=True)
class EverySteps:
    """Evaluate every so many optimiser steps.

    Attributes:
        steps: Optimiser steps between two evaluations.
    """

    steps: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How and when tasks are scored.

    Attributes:
        decoding: ``generate`` (greedy, or beams) or ``label_likelihood`` (the most likely label of a classification
            task; tasks without labels are generated all the same).
        tasks: Which tasks are scored after each stage: those ``seen``, or ``all`` (needed for forward transfer).
        zero_shot: Score the untouched model on every task first.
        during_training: Score the carved dev rows of the running task: ``none``, ``epoch``, ``{steps: N}``, or a list
            of steps.
        keep: Which weights of a stage are kept: the ``last``, the ``best`` on dev (never on test), or ``all`` evaluated
            ones (the last is used on).
        per_device_eval_batch_size: Rows per process and batch.
        num_beams: Beams of the search; 1 is greedy.
        drift: Style and safety drift; not available yet, so only ``false``.
    """

    decoding: Literal["generate", "label_likelihood"] = "generate"
    tasks: Literal["seen", "all"] = "seen"
    zero_shot: bool = True
    during_training: Literal["none", "epoch"] | EverySteps | tuple[Annotated[int, Ge(1)], ...] = "none"
    keep: Literal["last", "best", "all"] = "last"
    per_device_eval_batch_size: Annotated[int, Ge(1)] = 32
    num_beams: Annotated[int, Ge(1)] = 1
    drift: Literal[False] = False
