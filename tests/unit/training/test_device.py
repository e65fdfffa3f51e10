"""Devices, memory, and how a lack of it is told from other errors."""

from __future__ import annotations

import numpy
import pytest
import torch

from evertune.training.device import MemoryMeter, autocast_dtype, choose_device, human_bytes, is_out_of_memory


def caught(action: object) -> BaseException:
    try:
        action()  # type: ignore[operator]
    except (RuntimeError, MemoryError) as error:
        return error
    raise AssertionError("there was no error")


def test_memory_that_runs_out_is_recognised() -> None:
    assert is_out_of_memory(caught(lambda: torch.empty(10**15)))  # what torch's CPU allocator really says
    assert is_out_of_memory(caught(lambda: bytearray(10**18)))
    assert is_out_of_memory(caught(lambda: numpy.zeros(10**17)))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))


def test_other_errors_are_not_taken_for_it() -> None:
    shapes = caught(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
    assert not is_out_of_memory(shapes)
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(KeyboardInterrupt())


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_is_the_cpu() -> None:
    assert choose_device() == (torch.device("cpu"), [])


@pytest.mark.parametrize(
    ("name", "dtype"), [("float32", None), ("bfloat16", torch.bfloat16), ("float16", torch.float16)]
)
def test_precision_of_the_forward_pass(name: str, dtype: torch.dtype | None) -> None:
    assert autocast_dtype(name) == dtype


def test_the_meter_sees_memory_that_comes_and_keeps_its_peak() -> None:
    meter = MemoryMeter(torch.device("cpu"))
    before = meter.read()
    held = torch.ones(50_000_000)  # 200 MB
    during = meter.read()
    assert during - before > 150_000_000
    del held
    assert meter.peak >= during
    assert meter.read() < during - 150_000_000


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (3_210_000, "3.2 MB"),
        (123_456_789, "123 MB"),
        (1_400_000_000, "1.4 GB"),
        (85_899_345_920, "85.9 GB"),
        (2.5e12, "2.5 TB"),
    ],
)
def test_bytes_for_people(count: float, text: str) -> None:
    assert human_bytes(count) == text
