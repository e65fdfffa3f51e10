"""The walk over the steps of one stage: logging, evaluation while training, checkpoints, exact resume."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from evertune import distributed
from evertune.console import Progress
from evertune.randomness import global_state, restore_global_state, seed_everything
from evertune.training.checkpoint import (
    Checkpoint,
    latest_checkpoint,
    load_checkpoint,
    pack_optimizer,
    save_checkpoint,
    unpack_optimizer,
)
from evertune.training.device import MemoryMeter, human_bytes, is_out_of_memory
from evertune.training.failures import interrupted, memory_exhausted, not_finite
from evertune.training.feed import Feed
from evertune.training.job import Counters, FitJob, FitResult
from evertune.training.step import StepOutcome, Stepper

# Gradient of a penalty over gradient of the task: above it, a warning.
STRONG_TERM = 10.0


def fit(job: FitJob) -> FitResult:
    """Learns one stage, from its checkpoint if there is one.

    Raises:
        NonFiniteError: If a loss or a gradient norm is NaN or infinite, before the weights are touched.
        MemoryExhaustedError: If memory runs out.
        Interrupted: If the user asked to stop; a checkpoint was written.
        CheckpointError: If the checkpoint is damaged.
    """
    loop: _Loop | None = None
    try:
        loop = _Loop(job)
        with (
            job.methods.watch(job.states, loop.job.context),
            job.console.progress(job.title, loop.feed.total_steps) as progress,
        ):
            loop.run(progress)
        return loop.finish()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            # What a method does when a task ends counts to its last step.
            done = min(loop.step, loop.feed.total_steps - 1) if loop else 0
            raise memory_exhausted(job.title, done, job.config) from error
        raise
    finally:
        if distributed.world_size() > 1:
            job.accelerator.free_memory()


class _Loop:
    """State of a running stage."""

    def __init__(self, job: FitJob) -> None:
        self.step = 0
        self.counters = Counters()
        self.best: dict[str, dict[str, Tensor]] = {}
        self.meter = MemoryMeter(job.accelerator.device)
        self.window = torch.zeros((), device=job.accelerator.device)
        self.shown = ""
        self.since = time.monotonic()

        path = latest_checkpoint(job.checkpoint_root)
        checkpoint = load_checkpoint(path) if path else None
        seed_everything(job.context.seed, "train", job.context.stage.index, distributed.rank())
        if checkpoint is not None:
            job.states.clear()
            job.states.update(checkpoint.methods)
            job.context.bank.load_learning_tensors(checkpoint.adapters)
        self.feed = Feed(job)
        given = {"batches": self.feed.own_batches, "batch": self.feed.batch, "computing": job.computing}
        self.job = job = replace(job, context=replace(job.context, **given))
        if checkpoint is None:
            backbone = job.context.backbone
            job.context.bank.begin_from(job.context.batches, lambda model, batch: backbone.loss(model, batch).sum)
            job.methods.begin_task(job.states, job.context)
        self.stepper = Stepper(job, self.feed.total_steps)
        if checkpoint is not None:
            self._resume(checkpoint)

    def run(self, progress: Progress) -> None:
        self.stepper.model.train()
        self.since = time.monotonic()
        progress.update(self.step)
        total, every = self.feed.total_steps, self.job.config.save_steps
        while self.step < total:
            stop = self._advance()
            progress.update(self.step, self.shown)
            self._evaluate()
            if stop or (every and self.step % every == 0 and self.step < total):
                self._save()
            if stop:
                raise interrupted(self.job.title, f"at step {self.step} of {total}")

    def _advance(self) -> bool:
        rows = self.feed.step(self.step)
        logged = (self.step + 1) % self.job.config.logging_steps == 0 or self.step + 1 == self.feed.total_steps
        outcome = self.stepper.take(rows.batches, measure=logged)
        if outcome.broken:
            saved = latest_checkpoint(self.job.checkpoint_root) is not None
            raise not_finite(
                self.job.title,
                step=self.step + 1,
                what=outcome.broken,
                ids=rows.ids,
                saved=saved,
                config=self.job.config,
            )
        self.step += 1
        counters = self.counters
        counters.samples += len(rows.ids)
        counters.tokens += rows.tokens
        counters.target_tokens += outcome.count
        counters.window_tokens += outcome.count
        self.window += outcome.loss
        if logged:
            self._log(outcome)
        return outcome.stop

    def _close_window(self) -> None:
        self.counters.window_loss += float(distributed.all_sum(self.window))
        self.window.zero_()

    def _tick(self) -> None:
        now = time.monotonic()
        self.counters.seconds += now - self.since
        self.since = now

    def _log(self, outcome: StepOutcome) -> None:
        counters, job = self.counters, self.job
        self._close_window()
        counters.loss = counters.window_loss / max(counters.window_tokens, 1)
        counters.window_loss, counters.window_tokens = 0.0, 0
        memory = self.meter.read()
        counters.peak_memory_bytes = max(counters.peak_memory_bytes, self.meter.peak)
        self._tick()
        speed = counters.tokens / max(counters.seconds, 1e-9)
        rate = self.stepper.schedule.get_last_lr()[0]
        job.events.write(
            "step",
            stage=job.context.stage.index,
            task=job.context.stage.name,
            step=self.step,
            total_steps=self.feed.total_steps,
            epoch=round(self.step / self.feed.steps_per_epoch, 4),
            loss=counters.loss,
            terms=outcome.terms,
            gradient_ratios=outcome.ratios,
            learning_rate=rate,
            gradient_norm=outcome.gradient_norm,
            tokens_per_second=speed,
            memory_bytes=memory,
        )
        terms = [f"{name} {value:.4g}" for name, value in outcome.terms.items()]
        measures = [f"lr {rate:.2e}", f"|g| {outcome.gradient_norm:.2f}", f"{speed:,.0f} tokens/s", human_bytes(memory)]
        self._warn_of_strong_terms(outcome)
        self.shown = "  ".join([f"loss {counters.loss:.4f}", *terms, *measures])

    def _warn_of_strong_terms(self, outcome: StepOutcome) -> None:
        """Once per stage and term: the task hardly learns where a term outweighs it."""
        for term, ratio in outcome.ratios.items():
            if ratio > STRONG_TERM and term not in self.counters.strong_terms:
                self.counters.strong_terms.append(term)
                text = (
                    f"{self.job.title}: the gradient of `{term}` is {ratio:.0f} times that of the task; if it does not "
                    f"learn, lower {self.job.methods.term_key(term)}"
                )
                self.job.events.warn(self.job.console, text)

    def _evaluate(self) -> None:
        dev, job = self.job.dev, self.job
        # Training may end within an epoch: what was begun ends there too.
        ended = self.step % self.feed.steps_per_epoch == 0 or self.step == self.feed.total_steps
        if dev is None or not dev.due(self.step, end_of_epoch=ended):
            return
        self._tick()
        score, loss, metrics = dev.score()
        self.since = time.monotonic()
        self.stepper.model.train()
        best = self.counters.best_score is None or score > self.counters.best_score
        if best:
            self.counters.best_score, self.counters.best_step = score, self.step
            if job.keep == "best":
                self.best = job.context.bank.learning_tensors()
        job.events.write(
            "evaluation",
            stage=job.context.stage.index,
            task=job.context.stage.name,
            step=self.step,
            split="dev",
            score=score,
            loss=loss,
            metrics=dict(metrics),
            epoch=round(self.step / self.feed.steps_per_epoch, 4),
            best=best,
        )
        shown_loss = f", loss {loss:.4f}" if loss is not None else ""
        mark = "  (best so far)" if best else ""
        job.console.say(f"{job.title} step {self.step}: dev score {score:.4f}{shown_loss}{mark}")
        if job.save_evaluated is not None:
            job.save_evaluated(self.step)

    def _save(self) -> None:
        self._tick()
        self._close_window()
        random = distributed.gather(global_state())
        distributed.on_main(lambda: save_checkpoint(self.job.checkpoint_root, self._checkpoint(random)))

    def _checkpoint(self, random: list[tuple[dict[str, Tensor], dict[str, Any]]]) -> Checkpoint:
        bank, stepper = self.job.context.bank, self.stepper
        values = {
            "schedule": stepper.schedule.state_dict(),
            "scaler": stepper.scaler.state_dict(),
            "counters": vars(self.counters).copy(),
            "events": self.job.events.position(),
        }
        optimizer = pack_optimizer(stepper.optimizer)
        return Checkpoint(self.step, bank.learning_tensors(), optimizer, random, self.job.states, self.best, values)

    def _resume(self, checkpoint: Checkpoint) -> None:
        unpack_optimizer(self.stepper.optimizer, *checkpoint.optimizer)
        self.stepper.schedule.load_state_dict(checkpoint.values["schedule"])
        self.stepper.scaler.load_state_dict(checkpoint.values["scaler"])
        self.counters = Counters(**checkpoint.values["counters"])
        self.best = checkpoint.best
        self.step = checkpoint.step
        self.job.events.rewind(checkpoint.values["events"])
        restore_global_state(*checkpoint.random[distributed.rank() % len(checkpoint.random)])
        self.job.console.say(f"{self.job.title}: continuing behind step {self.step} of {self.feed.total_steps}")

    def finish(self) -> FitResult:
        """Puts the best weights in place where they are kept, lets the methods end the task, and reports."""
        job = self.job
        if job.keep == "best" and self.counters.best_step is None:
            text = f"{job.title}: nothing was evaluated within its {self.step} steps, so the last weights are kept"
            job.events.warn(job.console, text)
        job.context.bank.load_learning_tensors(self.best)
        result = FitResult(
            steps=self.step,
            epochs=self.step / self.feed.steps_per_epoch,
            counters=self.counters,
            truncation=self.feed.truncation(),
            foreign_ids=self.feed.foreign_ids(self.step),  # asks the methods: before they end the task
        )
        job.methods.end_task(job.states, job.context)
        return result
