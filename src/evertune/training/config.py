"""Options of the training loop, spelt as Hugging Face spells them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How one task is learnt.

    Attributes:
        num_train_epochs: Passes over the training rows; fractions are allowed.
        max_steps: Optimiser steps; when positive it overrides `num_train_epochs`.
        learning_rate: Peak learning rate.
        per_device_train_batch_size: Rows per process and micro-batch.
        gradient_accumulation_steps: Micro-batches per optimiser step; how the same rows are split changes nothing.
        lr_scheduler_type: Shape of the learning rate over one task.
        warmup_steps: Steps of linear warm-up; overrides `warmup_ratio` when positive.
        warmup_ratio: Warm-up as a share of the task's steps.
        optim: The optimiser.
        weight_decay: Decoupled weight decay.
        adam_beta1: Decay of AdamW's first moment.
        adam_beta2: Decay of AdamW's second moment.
        adam_epsilon: AdamW's epsilon.
        max_grad_norm: Gradients are clipped to this global 2-norm; 0 switches clipping off.
        max_source_length: Tokens of the prompt, at most; only the input text is cut.
        max_target_length: Tokens of the answer with its end token, at most; also the most that is generated.
        group_by_length: Batch rows of like length together.
        logging_steps: Optimiser steps between two progress records.
        save_steps: Optimiser steps between two checkpoints; 0 saves only on Ctrl-C.
    """

    num_train_epochs: Annotated[float, Gt(0)] = 1.0
    max_steps: Annotated[int, Ge(-1)] = -1
    learning_rate: Annotated[float, Gt(0)] = 1e-3
    per_device_train_batch_size: Annotated[int, Ge(1)] = 8
    gradient_accumulation_steps: Annotated[int, Ge(1)] = 1
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine", "polynomial", "inverse_sqrt"] = (
        "constant"
    )
    warmup_steps: Annotated[int, Ge(0)] = 0
    warmup_ratio: Annotated[float, Ge(0), Lt(1)] = 0.0
    optim: Literal["adamw_torch", "sgd", "adafactor"] = "adamw_torch"
    weight_decay: Annotated[float, Ge(0)] = 0.0
    adam_beta1: Annotated[float, Ge(0), Lt(1)] = 0.9
    adam_beta2: Annotated[float, Ge(0), Lt(1)] = 0.999
    adam_epsilon: Annotated[float, Gt(0)] = 1e-8
    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    max_source_length: Annotated[int, Ge(8)] = 512
    max_target_length: Annotated[int, Ge(2)] = 50
    group_by_length: bool = True
    logging_steps: Annotated[int, Ge(1)] = 10
    save_steps: Annotated[int, Ge(0)] = 100
