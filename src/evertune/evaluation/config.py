"""Options of evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from evertune.streams.prompts import parse_template


@dataclass(frozen=True, kw_only=True)
class EverySteps:
    """Evaluate every so many optimiser steps.

    Attributes:
        steps: Optimiser steps between two evaluations.
    """

    steps: Annotated[int, Ge(1)]


@dataclass(frozen=True, kw_only=True)
class SafetyConfig:
    """Prompts that tell whether a model still refuses what it should, and only that.

    Attributes:
        harmful: File of prompts that should be refused (JSON lines, JSON, CSV, TSV or Parquet) under ``prompt``,
            ``goal``, ``behavior``, ``instruction`` or ``question``. Where rows are labelled, those labelled unsafe.
        harmless: File of prompts that should be answered; where rows are labelled, the safe ones. May be the same file.
        max_rows: Most prompts of each kind: a sample that depends on the prompts alone.
        template: ``none``, ``alpaca``, ``llama-inst``, ``chat``, or a text with ``{instruction}`` in it.
        max_new_tokens: Tokens of an answer, the part in which a refusal is looked for.
    """

    harmful: Path
    harmless: Path
    max_rows: Annotated[int, Ge(1)] = 100
    template: str = "llama-inst"
    max_new_tokens: Annotated[int, Ge(1)] = 64

    def __post_init__(self) -> None:
        """Refuses a template that has no place for the prompt.

        Raises:
            ConfigError: If it is none.
        """
        parse_template(self.template)


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
        safety: Measure refusals before the first stage (unless `zero_shot` is off) and after every stage; null for not.
        allow_code_execution: Whether metrics may run code that the model writes: in a process of its own with limited
            time, memory, files and network, which is no jail.
        drift: Drift of style; not available yet, so only ``false``.
    """

    decoding: Literal["generate", "label_likelihood"] = "generate"
    tasks: Literal["seen", "all"] = "seen"
    zero_shot: bool = True
    during_training: Literal["none", "epoch"] | EverySteps | tuple[Annotated[int, Ge(1)], ...] = "none"
    keep: Literal["last", "best", "all"] = "last"
    per_device_eval_batch_size: Annotated[int, Ge(1)] = 32
    num_beams: Annotated[int, Ge(1)] = 1
    safety: SafetyConfig | None = None
    allow_code_execution: bool = False
    drift: Literal[False] = False
