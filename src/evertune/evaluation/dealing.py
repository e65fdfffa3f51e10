"""Deals rows out to the processes and brings together what each of them found out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from evertune import distributed
from evertune.backbones.base import Encoded
from evertune.backbones.language_model import evaluating
from evertune.evaluation.config import EvaluationConfig
from evertune.training.device import is_out_of_memory
from evertune.training.failures import memory_exhausted_scoring

OnProgress = Callable[[int, int], None]
Found = TypeVar("Found")


def deal(
    encoded: Sequence[Encoded],
    examine: Callable[[Sequence[Encoded]], Sequence[Found]],
    *,
    size: int,
    on_progress: OnProgress | None = None,
) -> list[Found]:
    """Examines rows in batches, each in one of the processes.

    Batches are formed before they are dealt out, so that the result does not depend on how many processes there are.

    Args:
        encoded: The rows.
        examine: What is found out about every row of a batch.
        size: Rows of a batch.
        on_progress: Called after every batch with (rows done, rows in all) of this process.

    Returns:
        What was found, in the order of the rows; the same in every process.
    """
    mine = _batches(encoded, size)[distributed.rank() :: distributed.world_size()]
    found: dict[int, Found] = {}
    for batch in mine:
        found.update(zip(batch, examine([encoded[index] for index in batch]), strict=True))
        if on_progress is not None:
            on_progress(len(found), sum(map(len, mine)))
    merged = {index: each for part in distributed.gather(found) for index, each in part.items()}
    return [merged[index] for index in range(len(encoded))]


def _batches(encoded: Sequence[Encoded], size: int) -> list[list[int]]:
    """Indices of rows in batches of like length, the longest first: what does not fit in memory shows at once."""
    order = sorted(range(len(encoded)), key=lambda index: (-len(encoded[index].prompt), -encoded[index].length, index))
    return [order[begin : begin + size] for begin in range(0, len(order), size)]


def unwrapped_of_processes(model: nn.Module) -> nn.Module:
    """The module inside a wrapper for several processes: its forward pass waits for processes with fewer batches."""
    return model.module if isinstance(model, DistributedDataParallel) else model


@contextlib.contextmanager
def scoring(
    title: str,
    model: nn.Module,
    config: EvaluationConfig,
    *,
    device: torch.device | str,
    autocast_dtype: torch.dtype | None,
) -> Iterator[None]:
    """Evaluation mode under autocast; running out of memory becomes an error that says what to do.

    Args:
        title: What is scored, for that error.
        model: The module; it comes back in the mode in which it was.
        config: Options of evaluation.
        device: Where to compute.
        autocast_dtype: Type of autocast, None for none.

    Raises:
        MemoryExhaustedError: If memory runs out.
    """
    cast = contextlib.nullcontext()
    if autocast_dtype is not None:
        cast = torch.autocast(torch.device(device).type, dtype=autocast_dtype)
    try:
        with evaluating(model), cast:
            yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise memory_exhausted_scoring(title, config) from error
