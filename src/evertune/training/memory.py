"""Memory over a phase of the work, of the CPU and of the GPU, in the four numbers that peft's examples print."""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch

# A reading of this process's size takes about 20 microseconds: a thousandth of one processor at most.
SAMPLED_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class PhaseMemory:
    """Memory of one device over one phase, in bytes.

    Attributes:
        before: In use when the phase began.
        consumed: In use at its end, less `before`; negative where it gave memory back (end-begin).
        peak_consumed: The most in use, less `before` (max-begin).
        peak: The most in use (max).
    """

    before: int
    consumed: int
    peak_consumed: int
    peak: int


def phase_memory(before: int, end: int, peak: int) -> PhaseMemory:
    """The four numbers of three readings in bytes; a sampled peak may have missed the highest of them."""
    peak = max(before, end, peak)
    return PhaseMemory(before, end - before, peak - before, peak)


class MemoryPhase:
    """A phase of the work while it is held open; afterwards `record` tells what it took.

    The size of the process is sampled in a thread that touches neither tensors nor random generators. Memory of a GPU
    is what torch allocated there; torch itself keeps its peak.

    Attributes:
        record: Device (``cpu``, and ``gpu`` where there is one) to its memory; empty while the phase goes on.
    """

    def __init__(self) -> None:
        self.record: dict[str, PhaseMemory] = {}
        self._process = psutil.Process()
        self._ended = threading.Event()
        self._before = self._peak = 0
        self._gpu_before = 0

    def __enter__(self) -> MemoryPhase:
        self._before = self._peak = self._process.memory_info().rss
        # Asking sooner would put every process of a launch on the first GPU.
        if torch.cuda.is_initialized():
            torch.cuda.reset_peak_memory_stats()
            self._gpu_before = torch.cuda.memory_allocated()
        self._thread = threading.Thread(target=self._sample, name="memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        end = self._process.memory_info().rss
        self.record["cpu"] = phase_memory(self._before, end, self._peak)
        if torch.cuda.is_initialized():
            end, peak = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            self.record["gpu"] = phase_memory(self._gpu_before, end, peak)

    def _sample(self) -> None:
        while not self._ended.wait(SAMPLED_EVERY_S):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def to_json(self, *, seen: int = 0) -> dict[str, Any]:
        """The record as JSON.

        Args:
            seen: A peak of the device that trains that is known from before: a resumed stage has one in its counters.
        """
        record = dict(self.record)
        device = "gpu" if "gpu" in record else "cpu"
        if device in record and seen > record[device].peak:
            before, end = record[device].before, record[device].before + record[device].consumed
            record[device] = phase_memory(before, end, seen)
        return {name: asdict(memory) for name, memory in record.items()}
