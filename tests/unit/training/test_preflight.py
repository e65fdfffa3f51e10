"""What is said before the first step."""

from __future__ import annotations

import pytest
import torch

from evertune.adapters.summary import ParameterSummary
from evertune.training.config import TrainConfig
from evertune.training.preflight import Preflight

SUMMARY = ParameterSummary(
    trainable=4096,
    total=1_000_000,
    bytes={"base bfloat16": 2_000_000, "adapters float32": 16384},
    trains={"attention query": 2048, "attention value": 2048},
)
SHAPES = [(8, 256), (256, 8)]


def preflight(device: str = "cpu", autocast: torch.dtype | None = None, gpus: object = ()) -> Preflight:
    return Preflight(torch.device(device), gpus, autocast, SUMMARY, SHAPES, TrainConfig())  # type: ignore[arg-type]


def test_the_block_on_one_cpu() -> None:
    first, *rest = preflight().lines()
    assert first.startswith("process 1 of 1 on cpu, ")
    assert first.endswith(", computing in float32")
    threads = torch.get_num_threads()
    assert f" {threads} thread{'s' if threads > 1 else ''}," in first
    assert rest == [
        "bytes: base bfloat16 2.0 MB, adapters float32 16.4 kB, optimiser float32 32.8 kB",
        "learns: attention query 2,048, attention value 2,048",
        "trainable params: 4,096 || all params: 1,000,000 || trainable%: 0.4096",
    ]


def test_the_table_marks_the_gpu_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    gpus = [("cuda:0 A", 10**9, 8 * 10**9), ("cuda:1 B", 7 * 10**9, 8 * 10**9), ("cuda:10 C", 1, 2)]
    lines = preflight("cuda:1", torch.bfloat16, gpus).lines()
    assert lines[0].startswith("process 2 of 2 on cuda:1, ")
    assert lines[0].endswith("computing in bfloat16")
    assert lines[1:4] == [
        "     cuda:0 A: 1.0 GB free of 8.0 GB",
        "  -> cuda:1 B: 7.0 GB free of 8.0 GB",
        "     cuda:10 C: 1 B free of 2 B",
    ]


def test_the_table_marks_the_gpu_that_a_single_process_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    lines = preflight("cuda", None, [("cuda:0 A", 1, 2), ("cuda:1 B", 2, 2)]).lines()
    assert [line[:5].strip() for line in lines[1:3]] == ["", "->"]


def test_one_gpu_needs_no_table() -> None:
    assert len(preflight("cuda:0", None, [("cuda:0 A", 1, 2)]).lines()) == 4


def test_bytes_include_the_optimiser() -> None:
    assert preflight().bytes() == {**SUMMARY.bytes, "optimiser float32": 2 * 4 * 4096}


def test_nothing_that_learns_is_said() -> None:
    nothing = ParameterSummary(0, 10, {}, {})
    lines = Preflight(torch.device("cpu"), (), None, nothing, [], TrainConfig()).lines()
    assert "learns: nothing" in lines


def test_projected_weights_count_with_the_state_that_they_have() -> None:
    found = Preflight(torch.device("cpu"), (), None, SUMMARY, SHAPES, TrainConfig(), projected_bytes=1000)
    assert found.bytes()["optimiser float32"] == preflight().bytes()["optimiser float32"] + 1000
