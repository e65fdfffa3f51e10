"""A tiny T5 with adapters of three tasks, and short runs, for methods that penalise the newest adapter."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import Tensor

from evertune import load_config, run
from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.console import Console
from evertune.methods.base import Context, Method
from evertune.streams.task import sequential_stages
from tests.invariants.conftest import BASE, merged
from tests.unit.builders import context, stream

STREAM = stream(2, 2, 2)
TERMS = dict[str, Tensor]


def filled_bank(*, d_kv: int = 8, target: str | tuple[str, ...] = ("q", "v", "wi")) -> AdapterBank:
    """Three adapters with values; q and v are square, wi is not, and the encoder is as wide as the decoder."""
    sizes = {"vocab_size": 32, "d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": d_kv}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    spec = AdapterSpec(r=3, lora_alpha=12, target=target)
    bank = AdapterBank(model, spec, task_type="seq2seq_lm", base_path="tiny")
    for index in range(3):
        name = f"task-{index + 1:02d}"
        bank.add(name, seed=index)
        generator = torch.Generator().manual_seed(10 + index)
        tensors = bank.adapter_tensors(name)
        drawn = {key: torch.randn(tensor.shape, generator=generator) for key, tensor in tensors.items()}
        bank.load_adapter_tensors(name, drawn)
    return bank


def at_stage(method: Method, bank: AdapterBank, index: int) -> Context:
    """The context of a stage whose adapters are in place."""
    bank.apply(method.adapters(sequential_stages(STREAM.tasks)[index]))
    return context(STREAM, index, bank=bank)


def plain_factors(bank: AdapterBank, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """A and B of every module in float64, from what would be saved."""
    tensors = bank.adapter_tensors(name)
    for key in tensors:
        if key.endswith("lora_A.weight"):
            yield tensors[key].double(), tensors[key.replace("lora_A", "lora_B")].double()


def gradients(terms: TERMS, bank: AdapterBank) -> dict[str, Tensor]:
    """Of the sum of the terms, by parameter; only what learns can have one."""
    parameters = bank.trainable_parameters()
    found = torch.autograd.grad(torch.stack(list(terms.values())).sum(), list(parameters.values()), allow_unused=True)
    return {name: grad for name, grad in zip(parameters, found, strict=True) if grad is not None}


def short_run(folder: Path, name: str, method: Any, *, target: str = "attention_query_value") -> dict[str, bytes]:
    """The adapters that two tasks of a few steps leave."""
    folder.mkdir(exist_ok=True)
    change = {
        "method": method,
        "adapter": {"target": target},
        "stream": {"train_rows": 24, "test_rows": 2, "dev_fraction": 0.0},
        "train": {"max_steps": 3, "save_steps": 0},
        "evaluation": {"zero_shot": False},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(merged(BASE, change)), encoding="utf-8")
    output = folder / name
    run(load_config(path, output_dir=output), console=Console(io.StringIO()))
    files = sorted(output.glob("stages/*/**/adapter_model.safetensors"))
    return {file.relative_to(output).as_posix(): file.read_bytes() for file in files}
