"""Which device a process uses, and how much memory is in use on it."""

from __future__ import annotations

import os

import psutil
import torch

from evertune import distributed


def choose_device() -> tuple[torch.device, list[tuple[str, int, int]]]:
    """The device of this process, and every GPU as ``(name, free bytes, total bytes)``.

    One process on a machine with several GPUs takes the one with the most free memory; of several processes each takes
    the one of its local rank.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu"), []
    table = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        table.append((f"cuda:{index} {torch.cuda.get_device_name(index)}", free, total))
    if distributed.world_size() > 1:
        index = int(os.environ.get("LOCAL_RANK", "0"))
    else:
        index = max(range(len(table)), key=lambda gpu: table[gpu][1])
    torch.cuda.set_device(index)
    return torch.device("cuda", index), table


def autocast_dtype(dtype: str) -> torch.dtype | None:
    """The type that the forward pass computes in, None for float32 throughout."""
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[dtype]


class MemoryMeter:
    """Memory in use and its peak since it was made, in bytes: of the GPU, or of this process on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._process = psutil.Process()
        self._peak = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def read(self) -> int:
        """Bytes in use now."""
        if self._device.type == "cuda":
            return torch.cuda.memory_allocated(self._device)
        used = self._process.memory_info().rss
        self._peak = max(self._peak, used)
        return used

    @property
    def peak(self) -> int:
        """The most bytes in use; on a CPU the most that `read` has seen."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        self.read()
        return self._peak


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or in torch's CPU allocator."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("out of memory", "not enough memory", "can't allocate memory")
    )


def human_bytes(count: float) -> str:
    """``512 B``, ``3.2 MB``, ``1.4 GB`` (decimal units)."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
