"""Measures refusals: what a model answers to harmful and to harmless prompts, and how it leans before it answers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evertune.backbones.base import Backbone, Encoded
from evertune.evaluation.config import EvaluationConfig, SafetyConfig
from evertune.evaluation.dealing import OnProgress, deal, scoring, unwrapped_of_processes
from evertune.evaluation.safety_prompts import KINDS, Kind, SafetyPrompt, prompts_sha256
from evertune.files import write_json_lines
from evertune.metrics.refusal import COMPLY_OPENERS, REFUSAL_OPENERS, Refusals, is_refusal, log_odds, youden


@dataclass(frozen=True, slots=True)
class SafetyAnswer:
    """What a model answered to one prompt. The prompt itself is not kept: it may be offensive, and is in its file.

    Attributes:
        id: ``<kind>/<row of the file>``.
        prompt_sha256: Of the prompt.
        answer: The beginning of the answer, without special tokens.
        refused: Whether it refuses.
        log_odds: Log-odds that an answer begins with a refusal rather than with compliance, in nats.
    """

    id: str
    prompt_sha256: str
    answer: str
    refused: bool
    log_odds: float


@dataclass(frozen=True)
class SafetyResult:
    """A measurement.

    Attributes:
        answers: By kind, in the order of the prompts.
        sha256: By kind, a hash over the prompts.
        seconds: Time it took.
    """

    answers: Mapping[Kind, tuple[SafetyAnswer, ...]]
    sha256: Mapping[Kind, str]
    seconds: float

    def refusals(self, kind: Kind) -> Refusals:
        """What the answers to prompts of a kind come to."""
        answers = self.answers[kind]
        return Refusals.of([answer.refused for answer in answers], [answer.log_odds for answer in answers])

    def to_json(self) -> dict[str, Any]:
        """The entry ``safety`` of a ``metrics.json``."""
        found: dict[Kind, Refusals] = {kind: self.refusals(kind) for kind in KINDS}
        difference, interval = youden(found["harmful"], found["harmless"])
        kinds = {kind: {**_entry(each), "prompts_sha256": self.sha256[kind]} for kind, each in found.items()}
        return {**kinds, "youden": difference, "youden_interval": list(interval), "seconds": self.seconds}

    @property
    def line(self) -> str:
        """All of it in one line."""
        harmful, harmless = (self.refusals(kind) for kind in KINDS)
        difference, _ = youden(harmful, harmless)
        odds = ("not finite" if each.log_odds is None else f"{each.log_odds:.2f}" for each in (harmful, harmless))
        return (
            f"refused {harmful.refused} of {harmful.count} harmful and {harmless.refused} of {harmless.count} harmless "
            f"prompts, J {difference:.3f}; refusal log-odds {', '.join(odds)}"
        )


def _entry(refusals: Refusals) -> dict[str, Any]:
    return {
        "count": refusals.count,
        "refused": refusals.refused,
        "rate": refusals.rate,
        "interval": list(refusals.interval),
        "log_odds": {"mean": refusals.log_odds, "standard_error": refusals.standard_error},
    }


def measure_safety(
    backbone: Backbone,
    model: nn.Module,
    prompts: Sequence[SafetyPrompt],
    *,
    safety: SafetyConfig,
    config: EvaluationConfig,
    max_source_length: int,
    device: torch.device | str,
    autocast_dtype: torch.dtype | None = None,
    on_progress: OnProgress | None = None,
) -> SafetyResult:
    """Answers prompts greedily with the adapters that are active on the model.

    The result does not depend on how many processes there are; every process returns the whole of it.

    Args:
        backbone: The model family.
        model: The module to call; it is in evaluation mode meanwhile and comes back as it was.
        prompts: From `read_safety_prompts`.
        safety: How long answers are.
        config: Options of evaluation: the batch size.
        max_source_length: Tokens of a prompt.
        device: Where to compute.
        autocast_dtype: Type of autocast, None for none.
        on_progress: Called after every batch with (prompts done, prompts in all) of this process.

    Raises:
        DataError: If a prompt is too long.
        MemoryExhaustedError: If memory runs out.
    """
    start = time.perf_counter()
    module = unwrapped_of_processes(model)
    encoded = backbone.encode(
        [prompt.row for prompt in prompts],
        max_source_length=max_source_length,
        max_target_length=safety.max_new_tokens,
        answers=False,
    )
    # Beginnings, not whole answers: without an end token, and none is added to rows without answers.
    openers = backbone.label_ids((*REFUSAL_OPENERS, *COMPLY_OPENERS), ended=False)

    def examine(batch: Sequence[Encoded]) -> list[tuple[str, float]]:
        texts = backbone.generate(module, batch, max_new_tokens=safety.max_new_tokens)
        scores = backbone.label_scores(module, batch, openers).double().tolist()
        refusing = len(REFUSAL_OPENERS)
        odds = [log_odds(row[:refusing], row[refusing:]) for row in scores]
        return list(zip(texts, odds, strict=True))

    with scoring("scoring safety prompts", module, config, device=device, autocast_dtype=autocast_dtype):
        found = deal(encoded, examine, size=config.per_device_eval_batch_size, on_progress=on_progress)
    answers: dict[Kind, list[SafetyAnswer]] = {kind: [] for kind in KINDS}
    for prompt, (text, odds) in zip(prompts, found, strict=True):
        answers[prompt.kind].append(SafetyAnswer(prompt.row.id, prompt.sha256, text, is_refusal(text), odds))
    return SafetyResult(
        {kind: tuple(given) for kind, given in answers.items()}, hashes(prompts), time.perf_counter() - start
    )


def hashes(prompts: Sequence[SafetyPrompt]) -> dict[Kind, str]:
    """A hash over the prompts of each kind."""
    return {kind: prompts_sha256([prompt for prompt in prompts if prompt.kind == kind]) for kind in KINDS}


def write_safety_answers(folder: Path, result: SafetyResult) -> None:
    """Writes ``safety/<kind>.jsonl`` into a stage's folder, or ``zero_shot``."""
    for kind, answers in result.answers.items():
        write_json_lines(folder / "safety" / f"{kind}.jsonl", [_finite(asdict(answer)) for answer in answers])


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no number that is not finite."""
    odds = row["log_odds"]
    return row if odds - odds == 0 else {**row, "log_odds": None}


def with_safety(summary: Mapping[str, Any], result: SafetyResult | None) -> dict[str, Any]:
    """A row's summary with what was measured beside it, whose time counts as evaluation."""
    if result is None:
        return dict(summary)
    seconds = summary["evaluation_seconds"] + result.seconds
    return {**summary, "safety": result.to_json(), "evaluation_seconds": seconds}
