"""A stage on rows of fixed length, for benchmarks of a training step: what is measured is not the tokenizer."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoTokenizer

from evertune.adapters.bank import AdapterBank
from evertune.backbones.base import BackboneConfig, Encoded, Identity
from evertune.backbones.builtin import builtin_folder
from evertune.backbones.language_model import LanguageModel
from evertune.console import Console
from evertune.methods.base import Context
from evertune.methods.stack import MethodStack
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task
from evertune.training.config import TrainConfig
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob
from evertune.training.tracking import EventLog


def fixed_length(family: type[LanguageModel], *, prompt: int, answer: int, vocabulary: int) -> type[LanguageModel]:
    """A backbone whose rows are random ids: `prompt` tokens and an answer of `answer` tokens."""

    class FixedLength(family):
        def encode(self, rows: Any, **_: Any) -> list[Encoded]:
            draw = torch.Generator().manual_seed(0)
            ids = torch.randint(4, vocabulary, (len(rows), prompt + answer), generator=draw).tolist()
            return [
                Encoded(row.id, tuple(line[:prompt]), tuple(line[prompt:])) for row, line in zip(rows, ids, strict=True)
            ]

    return FixedLength


def stage_job(
    bank: AdapterBank,
    stage: Stage,
    methods: MethodStack,
    family: type[LanguageModel],
    *,
    built_in: str,
    task_type: str,
    batch_size: int,
    rows: int = 400,
) -> FitJob:
    """The job of a stage; its tokenizer is that of a built-in model and only pads."""
    examples = tuple(PromptTarget(f"bench/train/{index}", (Segment("x", cut=True),), "y") for index in range(rows))
    stream = Stream("bench", (Task("bench", examples, (), ()),))
    config = BackboneConfig(path="bench", task_type=task_type)
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder(built_in))
    backbone = family(config, Identity("bench", "local folder", None, "0" * 64), bank.base_model, tokenizer)
    folder = Path(tempfile.mkdtemp())
    return FitJob(
        title="bench",
        context=Context(stream, stage, bank, backbone, 0, {"bench": 10}, slow=methods.slow_adapters(stage)),
        methods=methods,
        states=methods.init_state(),
        config=TrainConfig(per_device_train_batch_size=batch_size, learning_rate=1e-5),
        rows=examples,
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        autocast=None,
        checkpoint_root=folder,
        events=EventLog(folder / "events.jsonl"),
        console=Console(),
        stop=StopRequest(),
    )


def interleaved(steps: Mapping[str, Callable[[int], None]], blocks: int, size: int) -> dict[str, list[float]]:
    """Milliseconds a step of every candidate, block by block in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step(0)
        step(1)
    for block in range(blocks):
        order = list(steps.items())
        for name, step in order if block % 2 == 0 else reversed(order):
            begun = time.perf_counter()
            for number in range(size):
                step((block * size + number) % 40)
            times[name].append((time.perf_counter() - begun) / size * 1000)
    return times


def paired_ratio(times: Mapping[str, list[float]], name: str, reference: str) -> float:
    """Median of the ratios of a candidate's blocks to those of another."""
    return statistics.median(mine / its for mine, its in zip(times[name], times[reference], strict=True))
