"""Which process this is, and the few things processes tell each other.

Everything works without `torch.distributed`: one process is a world of one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from evertune.errors import EvertuneError

if TYPE_CHECKING:
    from torch import Tensor

Result = TypeVar("Result")


def _active() -> bool:
    import torch.distributed as dist

    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Index of this process, 0 for the main one; read from the launcher's environment before torch is set up."""
    if "RANK" in os.environ:
        return int(os.environ["RANK"])
    return 0


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files and speaks."""
    return rank() == 0


def all_sum(values: Tensor) -> Tensor:
    """Sum over the processes, elementwise; the argument itself in a world of one."""
    if not _active():
        return values
    import torch.distributed as dist

    total = values.clone()
    dist.all_reduce(total)
    return total


def gather(value: Any) -> list[Any]:
    """What every process passed, in the order of their ranks."""
    if not _active():
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: Any) -> Any:
    """What the main process passed."""
    if not _active():
        return value
    import torch.distributed as dist

    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def barrier() -> None:
    """Waits for the other processes."""
    if _active():
        import torch.distributed as dist

        dist.barrier()


def leave() -> None:
    """Ends the group of processes: without it some back ends abort when the program ends."""
    if _active():
        import torch.distributed as dist

        dist.destroy_process_group()


def on_main(function: Callable[[], Result]) -> Result:
    """Calls `function` in the main process only; all processes get its result, or its error.

    Raises:
        EvertuneError: The one that the main process met: no process waits for one that has given up.
    """
    if not _active():
        return function()
    outcome: tuple[Any, EvertuneError | None] = (None, None)
    if is_main():
        try:
            outcome = (function(), None)
        except EvertuneError as error:
            outcome = (None, error)
    result, error = broadcast(outcome)
    if error is not None:
        raise error
    return result


def agreed(flag: bool) -> bool:
    """Whether any process says yes; all processes get the same answer."""
    return any(gather(flag))
