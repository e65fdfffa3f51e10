"""SLSD: self-distillation from a small buffer of probes, which holds the slow adapter in place."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le

from evertune.backbones.language_model import evaluating, without_dropout
from evertune.errors import ConfigError
from evertune.functional.divergence import top_divergence
from evertune.functional.sampling import lowest_priorities
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.probes import Probe, ProbeBuffer, ask, entropy_bins
from evertune.methods.row_answers import answer_logits
from evertune.randomness import python_generator
from evertune.streams.examples import PromptTarget

if TYPE_CHECKING:
    from torch import Tensor

# Mass outside the kept tokens, on average: above it, a warning.
_MUCH = 0.05
_BUFFER, _ROWS = "slsd probes", "slsd rows"


@dataclass(frozen=True, kw_only=True)
class SLSD(Method):
    """Before the first step of a task the model answers some rows; while it learns, it is held to those answers.

    The answers are those of the model itself at that moment: no second model is ever in memory. Rows come from the
    running task and from earlier ones; of the running task only those that the model is sure of are kept. An answer is
    kept as its `top_k` most likely tokens at each position and the mass of all others. The term `distillation` is

    ``lambda_distillation * cadence * temperature^2 * mean over answer tokens of KL(then || now)``

    on `batch_size` probes every `cadence` optimiser steps, both at `temperature` and without dropout: lambda means the
    same per optimiser step at any cadence. Its gradient reaches the slow adapter alone. Every probe is visited once
    before any is visited again.

    Attributes:
        probes: Most rows of the running task.
        earlier_probes: Most rows of each earlier task; 0 keeps none of their rows.
        selection: ``low_entropy``: rows that the model is sure of, by the mean entropy over the answer's tokens;
            ``random``: any.
        kept_fraction: Of the rows looked at, the share with the lowest entropy that is kept.
        max_entropy: In place of `kept_fraction`: the highest entropy (nats) of a row that is kept.
        lambda_distillation: Weight of the term; at 0 there are no probes, and nothing changes.
        temperature: What logits are divided by. Above 1 much of a distribution lies outside its most likely tokens, of
            which nothing but the mass is kept: raise `top_k` with it. A warning is given where it is over a twentieth.
        top_k: Tokens kept at each position.
        cadence: Optimiser steps from one distillation to the next.
        batch_size: Probes at once.
        reach: ``slow``: the slow adapters of the method beside it; ``all``: everything that learns, for methods without
            a slow part.
        student: Who answers, before the task and while it is learnt. ``slow``: the slow adapters without the other
            learning ones, so that these are free to learn the task. ``all``: everything that learns, as published: then
            the slow adapter is moved to undo what the fast one learns, that one learns against it, and both grow.
            Without effect at ``reach: all``, where everything answers.

    Source: SLSD, the published code of DS-LoRA (2025), which filters by the entropy behind the last token (threshold
    1.5), keeps whole logits of whole rows, visits one probe in ten, and lets the term reach both adapters. Hinton et
    al. (2015), arXiv:1503.02531, for the temperature.
    """

    probes: Annotated[int, Ge(1)] = 500
    earlier_probes: Annotated[int, Ge(0)] = 100
    selection: Literal["low_entropy", "random"] = "low_entropy"
    kept_fraction: Annotated[float, Gt(0), Le(1)] = 0.5
    max_entropy: Annotated[float, Gt(0)] | None = None
    lambda_distillation: Annotated[float, Ge(0)] = 0.5
    temperature: Annotated[float, Gt(0)] = 1.0
    top_k: Annotated[int, Ge(1)] = 64
    cadence: Annotated[int, Ge(1)] = 1
    batch_size: Annotated[int, Ge(1)] = 4
    reach: Literal["slow", "all"] = "slow"
    student: Literal["slow", "all"] = "slow"

    requires: ClassVar[frozenset[str]] = frozenset({"old_data", "slow_adapters", "text_answers"})
    term_keys: ClassVar[Mapping[str, str]] = {"distillation": "lambda_distillation"}

    def __post_init__(self) -> None:
        """Refuses a filter that would have no effect.

        Raises:
            ConfigError: If rows are taken at random, or by a highest entropy, and filtered otherwise as well.
        """
        beside = {"max_entropy": self.max_entropy is not None, "kept_fraction": self.kept_fraction != 0.5}
        for option in beside if self.selection == "random" else ():
            if beside[option]:
                raise ConfigError("Rows are taken at random.", where=option, instead="Remove the key.")
        if self.reach == "all" and self.student != "slow":
            raise ConfigError("Everything answers at `reach: all`.", where="student", instead="Remove the key.")
        if self.max_entropy is not None and beside["kept_fraction"]:
            raise ConfigError("`max_entropy` says what is kept.", where="kept_fraction", instead="Keep one of them.")

    def required(self) -> frozenset[str]:
        """Rows of earlier tasks, and a slow adapter, unless the options do without."""
        spared = {"old_data": self.earlier_probes == 0, "slow_adapters": self.reach == "all"}
        return self.requires - {capability for capability, without in spared.items() if without}

    def init_state(self) -> MethodState:
        """No probes."""
        return MethodState(values={"step": 0, "rows": [], "earlier": [], "audit": {}})

    def begin_task(self, state: MethodState, context: Context) -> None:
        """Lets the model answer the probes."""
        if not self.lambda_distillation:
            return
        state.values["step"] = 0
        rows = context.stream.train_rows(state.values["earlier"])
        own = [row for task in context.tasks for row in task.train]
        python_generator(context.seed, "slsd candidates", context.stage.index).shuffle(own)
        with context.bank.without(self._silent(context)):
            candidates, chosen = self._choose(self._ask(context, own))
            earlier = list(self._ask(context, list(rows.values())))
        state.values["audit"] = _audit(candidates, chosen, earlier)
        if chosen or earlier:
            buffer = ProbeBuffer.of([*chosen, *earlier])
            buffer.save(state)
            rest = buffer.answers.rest.exp().mean().item()
            state.values["audit"] |= {"bytes": buffer.nbytes, "mass_not_kept": rest}
            self._warn_of_rest(context, rest)
        if not chosen:
            # Of a share of the rows at least one is left.
            limit = f"its `max_entropy` of {self.max_entropy:g}"
            context.warn(f"slsd: no row of {context.stage.name} is below {limit}; only earlier rows are held to")

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        """The distillation, in the steps that it is due in."""
        step = state.values["step"]
        state.values["step"] = step + 1
        buffer = self._buffer(state, context)
        turn, off = divmod(step + 1, self.cadence)
        if buffer is None or off:
            return {}
        places = self._visited(context, len(buffer.rows), turn - 1)
        bank, silent = context.bank, self._silent(context)
        student = bank.without(silent) if silent else nullcontext()
        reached = nullcontext() if self.reach == "all" or silent else bank.learning_only(context.slow)
        with student, reached, without_dropout(bank.model):
            divergences = self._divergences(context, buffer, places)
        weight = self.lambda_distillation * self.cadence * self.temperature**2
        return {"distillation": weight * divergences.mean()}

    def end_task(self, state: MethodState, context: Context) -> None:
        """Measures how far the answers have moved, remembers which rows stay probes, and forgets the answers."""
        buffer = self._buffer(state, context)
        if buffer is None:
            return
        state.values["audit"]["divergence"] = self._moved(context, buffer)
        state.values["earlier"] += list(state.values["audit"]["entropy"])[: self.earlier_probes]
        ProbeBuffer.clear(state)

    def facts(self, state: MethodState, context: Context) -> Mapping[str, Any]:
        """What the filter kept, and how far the answers to the probes moved."""
        return state.values["audit"]

    def _silent(self, context: Context) -> tuple[str, ...]:
        """The learning adapters that take no part in answering probes."""
        if self.reach == "all" or self.student == "all":
            return ()
        return tuple(name for name in context.bank.trainable if name not in context.slow)

    def _ask(self, context: Context, rows: Sequence[PromptTarget]) -> Iterator[Probe]:
        sizes = {"batch_size": self.batch_size, "top_k": self.top_k, "temperature": self.temperature}
        return ask(context, rows, **sizes)

    def _warn_of_rest(self, context: Context, rest: float) -> None:
        if rest > _MUCH:
            kept = f"the {self.top_k} most likely tokens leave out {rest:.0%} of the answers of {context.stage.name}"
            context.warn(f"slsd: {kept}; raise its `top_k`, or lower its `temperature` ({self.temperature:g})")

    def _choose(self, probes: Iterator[Probe]) -> tuple[list[float], list[Probe]]:
        """The entropies of the rows that were looked at, and those of them that are kept."""
        if self.selection == "random":
            kept = list(islice(probes, self.probes))
            return [probe.entropy for probe in kept], kept
        if self.max_entropy is not None:
            seen, kept = [], []
            for probe in probes:
                seen.append(probe.entropy)
                if probe.entropy < self.max_entropy:
                    kept.append(probe)
                if len(kept) == self.probes:
                    break
            return seen, kept
        looked_at = list(islice(probes, math.ceil(self.probes / self.kept_fraction)))
        seen = [probe.entropy for probe in looked_at]
        count = min(self.probes, math.ceil(self.kept_fraction * len(seen)))
        return seen, [looked_at[place] for place in lowest_priorities(seen, [1] * len(seen), count)]

    def _visited(self, context: Context, count: int, turn: int) -> list[int]:
        """The places of the probes of one distillation: batch by batch through one order after another."""
        size = min(self.batch_size, count)
        first, end = turn * size, (turn + 1) * size
        laps = range(first // count, (end - 1) // count + 1)
        orders = [python_generator(context.seed, "slsd order", context.stage.index, lap) for lap in laps]
        places = [place for order in orders for place in order.sample(range(count), count)]
        return places[first - laps[0] * count :][:size]

    def _buffer(self, state: MethodState, context: Context) -> ProbeBuffer | None:
        """The probes of the stage."""
        if _BUFFER not in context.derived:
            context.derived[_BUFFER] = buffer = ProbeBuffer.load(state)
            context.derived[_ROWS] = context.stream.train_rows(buffer.rows if buffer else ())
        return context.derived[_BUFFER]

    def _divergences(self, context: Context, buffer: ProbeBuffer, places: Sequence[int]) -> Tensor:
        """The divergence at each position of the answers of some probes, ``(positions,)``."""
        rows = context.derived[_ROWS]
        batch = context.batch([rows[buffer.rows[place]] for place in places])
        with context.computing():
            output = context.backbone.loss(context.bank.model, batch)
        teacher = buffer.take(places).to(output.logits.device)
        return top_divergence(answer_logits(output), teacher, self.temperature)

    def _moved(self, context: Context, buffer: ProbeBuffer) -> dict[str, float]:
        """Mean divergence (nats per answer token) from the kept answers: of the model, and without its parts."""
        learning = context.bank.trainable
        left_out: dict[str, tuple[str, ...]] = {"all": ()}
        if context.slow and len(learning) > len(context.slow):
            left_out["slow"] = tuple(name for name in learning if name not in context.slow)
            left_out["fast"] = context.slow
        return {part: self._mean_divergence(context, buffer, without) for part, without in left_out.items()}

    def _mean_divergence(self, context: Context, buffer: ProbeBuffer, without: Sequence[str]) -> float:
        with context.bank.without(without), evaluating(context.bank.model):
            places = range(len(buffer.rows))
            starts = range(0, len(places), self.batch_size)
            parts = [self._divergences(context, buffer, places[start : start + self.batch_size]) for start in starts]
        return torch.cat(parts).mean().item()


def _audit(looked_at: Sequence[float], chosen: Sequence[Probe], earlier: Sequence[Probe]) -> dict[str, Any]:
    """What the filter kept."""
    kept = [probe.entropy for probe in chosen]
    return {
        "candidates": len(looked_at),
        "kept": len(chosen),
        "earlier": len(earlier),
        "mean_entropy_of_candidates": fmean(looked_at) if looked_at else None,
        "mean_entropy_of_kept": fmean(kept) if kept else None,
        "entropy_bins": entropy_bins(looked_at, kept),
        "entropy": {probe.id: round(probe.entropy, 4) for probe in chosen},
    }
