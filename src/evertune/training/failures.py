"""Why a stage stopped, and which keys to change, cheapest first."""

from __future__ import annotations

from collections.abc import Sequence

from evertune.errors import Interrupted, MemoryExhaustedError, NonFiniteError
from evertune.evaluation.config import EvaluationConfig
from evertune.training.config import TrainConfig

_SHOWN_IDS = 20


def not_finite(
    title: str, *, step: int, what: Sequence[str], ids: Sequence[str], saved: bool, config: TrainConfig
) -> NonFiniteError:
    """The error for a NaN or infinite loss or gradient norm."""
    keys = [f"`train.learning_rate` (now {config.learning_rate:g}: try {config.learning_rate / 3:.1g})"]
    if not config.max_grad_norm:
        keys.append("`train.max_grad_norm: 1.0` (clipping is off)")
    if not config.warmup_steps and not config.warmup_ratio:
        # The schedule without warm-up refuses the ratio.
        schedule = config.lr_scheduler_type == "constant"
        keys.append(
            f"{'`train.lr_scheduler_type: constant_with_warmup` with ' if schedule else ''}`train.warmup_ratio: 0.05` "
            "(there is no warm-up)"
        )
    keys.append("`backbone.dtype: float32` if it is less")
    shown = ", ".join(ids[:_SHOWN_IDS]) + (f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else "")
    kept = "The last checkpoint is whole" if saved else "Finished stages are kept"
    return NonFiniteError(
        f"{' and '.join(what)} {'is' if len(what) == 1 else 'are'} not finite at step {step}; "
        "the weights were not touched by this step. "
        f"Rows of the step: {shown}.",
        where=title,
        instead=f"Look at these rows with `evertune inspect`, or run with another `--output-dir` and change, cheapest "
        f"first: {'; '.join(keys)}. {kept}.",
    )


def memory_exhausted(title: str, step: int, config: TrainConfig) -> MemoryExhaustedError:
    """The error for a device without memory left."""
    harmless = []
    batch, accumulation = config.per_device_train_batch_size, config.gradient_accumulation_steps
    if batch > 1:
        parts = next(divisor for divisor in range(2, batch + 1) if batch % divisor == 0)
        harmless.append(
            f"`train.per_device_train_batch_size: {batch // parts}` with "
            f"`train.gradient_accumulation_steps: {accumulation * parts}`"
        )
    harmless.append("`backbone.gradient_checkpointing: true`")
    keys = [
        f"`train.max_source_length` (now {config.max_source_length})",
        "`backbone.dtype: bfloat16`",
        "`backbone.quantization: nf4`",
    ]
    return MemoryExhaustedError(
        f"Memory ran out in step {step + 1}.",
        where=title,
        instead=f"Change, cheapest first: {'; '.join(harmless)} (the result stays the same, and this run goes on); "
        f"or, with another `--output-dir`: {'; '.join(keys)}. Finished stages and the last checkpoint are whole.",
    )


def memory_exhausted_scoring(title: str, config: EvaluationConfig) -> MemoryExhaustedError:
    """The error for a device without memory left while answers are scored."""
    keys, harmless = [], ""
    if config.per_device_eval_batch_size > 1:
        smaller = config.per_device_eval_batch_size // 2
        harmless = f"`evaluation.per_device_eval_batch_size: {smaller}` (this run goes on); "
        harmless += "or, with another `--output-dir`: "
    if config.num_beams > 1:
        keys.append("`evaluation.num_beams: 1`")
    keys += ["`train.max_source_length`", "`backbone.dtype: bfloat16`", "`backbone.quantization: nf4`"]
    return MemoryExhaustedError(
        "Memory ran out while scoring.",
        where=title,
        instead=f"Change, cheapest first: {harmless}{'; '.join(keys)}. Finished stages and scores are kept.",
    )


def interrupted(title: str, place: str) -> Interrupted:
    """The error for a run that the user stopped."""
    return Interrupted(
        f"Stopped {place}; the state is saved.", where=title, instead="Run the same command again to continue."
    )
