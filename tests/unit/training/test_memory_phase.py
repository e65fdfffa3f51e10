"""The memory of a phase: against an allocation of known size."""

from __future__ import annotations

import time

import pytest
import torch

from evertune.training.memory import SAMPLED_EVERY_S, MemoryPhase, PhaseMemory, phase_memory

MEGABYTE = 10**6


def test_a_passing_peak_is_seen_and_what_stays_is_consumed() -> None:
    with MemoryPhase() as phase:
        passing = torch.ones(50 * MEGABYTE)  # 200 MB
        kept = torch.ones(10 * MEGABYTE)  # 40 MB
        time.sleep(5 * SAMPLED_EVERY_S)
        del passing
    memory = phase.record["cpu"]
    assert memory.peak_consumed == pytest.approx(240 * MEGABYTE, rel=0.1)
    assert memory.consumed == pytest.approx(4 * kept.numel(), rel=0.25)
    assert memory.peak == memory.before + memory.peak_consumed


def test_what_is_given_back_is_consumed_with_a_minus() -> None:
    held = [torch.ones(50 * MEGABYTE)]
    with MemoryPhase() as phase:
        held.clear()
    memory = phase.record["cpu"]
    assert memory.consumed == pytest.approx(-200 * MEGABYTE, rel=0.1)
    assert memory.peak_consumed < 50 * MEGABYTE


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_the_numbers_are_plain_and_of_this_machine() -> None:
    with MemoryPhase() as phase:
        pass
    record = phase.to_json()
    assert record.keys() == {"cpu"}
    assert record["cpu"].keys() == {"before", "consumed", "peak_consumed", "peak"}


def test_a_peak_from_before_a_kill_counts() -> None:
    phase = MemoryPhase()
    phase.record = {"cpu": PhaseMemory(before=100, consumed=5, peak_consumed=20, peak=120)}
    assert phase.to_json(seen=110)["cpu"]["peak"] == 120
    assert phase.to_json(seen=150)["cpu"] == {"before": 100, "consumed": 5, "peak_consumed": 50, "peak": 150}
    # On a GPU the counters are those of the GPU.
    phase.record["gpu"] = PhaseMemory(before=10, consumed=0, peak_consumed=3, peak=13)
    seen = phase.to_json(seen=150)
    assert (seen["cpu"]["peak"], seen["gpu"]["peak"]) == (120, 150)


def test_a_peak_between_two_samples_is_no_lower_than_the_ends() -> None:
    assert phase_memory(before=10, end=30, peak=20) == PhaseMemory(10, 20, 20, 30)
    assert phase_memory(before=30, end=10, peak=20) == PhaseMemory(30, -20, 0, 30)


def test_an_error_ends_the_phase_too() -> None:
    with pytest.raises(ValueError, match="x"), MemoryPhase() as phase:
        raise ValueError("x")
    assert phase.record["cpu"].peak > 0
