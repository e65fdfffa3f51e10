"""Which rows make which step: a pure function of seed, epoch and lengths, whatever the number of processes.

An optimiser step is a set of rows. How they are spread over processes and micro-batches changes nothing but speed: that
is what makes accumulation 1x8 equal 8x1, and one process equal two.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evertune.randomness import python_generator

# Rows are sorted by length within so many steps: long enough to save padding, short enough to keep the order random.
STEPS_SORTED_TOGETHER = 50


def rows_per_step(per_device: int, accumulation: int, processes: int) -> int:
    """Rows of one optimiser step over all processes."""
    return per_device * accumulation * processes


def steps_per_epoch(rows: int, step_rows: int) -> int:
    """Optimiser steps of one pass; the last may hold fewer rows."""
    return math.ceil(rows / step_rows)


def epoch_steps(
    lengths: Sequence[int], *, step_rows: int, group_by_length: bool, seed: int, stage: int, epoch: int
) -> list[list[int]]:
    """The rows of every optimiser step of one epoch.

    Args:
        lengths: Tokens of every row.
        step_rows: Rows per step over all processes.
        group_by_length: Whether rows of like length go into one step.
        seed: Seed of the run.
        stage: Index of the stage.
        epoch: Index of the epoch; every epoch has another order.

    Returns:
        Row indices by step. With `group_by_length` the step with the longest row comes first in epoch 0, so that a
        lack of memory shows at once.
    """
    draw = python_generator(seed, "order", stage, epoch)
    order = list(range(len(lengths)))
    draw.shuffle(order)
    if not group_by_length:
        return [order[start : start + step_rows] for start in range(0, len(order), step_rows)]
    together = step_rows * STEPS_SORTED_TOGETHER
    steps: list[list[int]] = []
    for start in range(0, len(order), together):
        chunk = sorted(order[start : start + together], key=lambda row: lengths[row], reverse=True)
        steps += [chunk[offset : offset + step_rows] for offset in range(0, len(chunk), step_rows)]
    draw.shuffle(steps)
    if epoch == 0 and steps:
        longest = max(range(len(steps)), key=lambda step: max(lengths[row] for row in steps[step]))
        steps.insert(0, steps.pop(longest))
    return steps


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], *, per_device: int, processes: int, rank: int
) -> list[list[int]]:
    """The micro-batches of one step that fall to one process.

    Rows are sorted by length and dealt out in turn, so that processes have like amounts of work. Every process gets
    equally many micro-batches; where rows run out it gets an empty one, which it must fill to take part.

    Args:
        step: Row indices of the step.
        lengths: Tokens of every row.
        per_device: Rows per process and micro-batch.
        processes: Number of processes.
        rank: This process.
    """
    ordered = sorted(step, key=lambda row: (-lengths[row], row))
    chunks = [ordered[start : start + per_device] for start in range(0, len(ordered), per_device)]
    rounds = math.ceil(len(chunks) / processes)
    chunks += [[]] * (rounds * processes - len(chunks))
    return [chunks[index * processes + rank] for index in range(rounds)]
