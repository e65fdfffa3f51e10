"""Speed of the training step, with its peer in the same run, interleaved.

    python benchmarks/step_speed.py            # Evertune's step against a bare PyTorch loop of the same maths
    python benchmarks/step_speed.py --growth   # inc-lora: the step at task 15 against the step at task 1

A Llama of width 256 with 4 layers, batches of 8 rows of 64 tokens, LoRA r=8 on query and value, one thread.
Ratios of medians over interleaved blocks; milliseconds depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones.base import BackboneConfig, Encoded, Identity
from evertune.backbones.causal_lm import CausalLM
from evertune.console import Console
from evertune.methods.base import Context, task_adapter
from evertune.methods.seq_lora import SeqLoRA
from evertune.methods.stack import MethodStack
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task
from evertune.training.config import TrainConfig
from evertune.training.feed import Feed
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob
from evertune.training.step import Stepper
from evertune.training.tracking import EventLog

ROWS, TOKENS, VOCABULARY = 8, 64, 512


class FixedLengthLM(CausalLM):
    """Rows are already token ids: what is measured is the step, not the tokenizer."""

    def encode(self, rows, *, max_source_length, max_target_length):
        draw = torch.Generator().manual_seed(0)
        half = TOKENS // 2
        ids = torch.randint(4, VOCABULARY, (len(rows), TOKENS), generator=draw).tolist()
        return [Encoded(row.id, tuple(line[:half]), tuple(line[half:])) for row, line in zip(rows, ids, strict=True)]


def build(past: int) -> tuple[Feed, Stepper, FixedLengthLM]:
    """A job with `past` frozen adapters below the one that learns."""
    from transformers import AutoTokenizer

    from evertune.backbones.builtin import builtin_folder

    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        use_cache=False,
    )
    model = LlamaForCausalLM(shape)
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tiny-llama"))
    backbone = make_backbone(model, tokenizer)
    bank = AdapterBank(model, AdapterSpec(r=8, lora_alpha=16), task_type="causal_lm", base_path="bench")
    names = tuple(task_adapter(index) for index in range(past + 1))
    for index, name in enumerate(names):
        bank.add(name, seed=index)
        tensors = bank.adapter_tensors(name)
        bank.load_adapter_tensors(name, {key: torch.randn_like(value) * 0.01 for key, value in tensors.items()})
    bank.apply(AdapterPlan(names, names[-1:]))
    rows = tuple(PromptTarget(f"bench/train/{index}", (Segment("x", cut=True),), "y") for index in range(400))
    stream = Stream("bench", (Task("bench", rows, (), ()),))
    methods = MethodStack((("seq-lora", SeqLoRA()),))
    job = FitJob(
        title="bench",
        context=Context(stream, Stage(0, "bench", (0,), 0), bank, backbone, 0, {"bench": 10}),
        methods=methods,
        states=methods.init_state(),
        config=TrainConfig(per_device_train_batch_size=ROWS, learning_rate=1e-4),
        rows=rows,
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        autocast=None,
        checkpoint_root=Path(tempfile.mkdtemp()),
        events=EventLog(Path(tempfile.mkdtemp()) / "events.jsonl"),
        console=Console(),
        stop=StopRequest(),
    )
    feed = Feed(job)
    return feed, Stepper(job, feed.total_steps), backbone


def make_backbone(model, tokenizer) -> FixedLengthLM:
    config = BackboneConfig(path="bench", task_type="causal_lm")
    return FixedLengthLM(config, Identity("bench", "local folder", None, "0" * 64), model, tokenizer)


def evertune_step(feed: Feed, stepper: Stepper) -> Callable[[int], None]:
    stepper.model.train()

    def step(number: int) -> None:
        stepper.take(feed.step(number).batches)

    return step


def bare_step(feed: Feed, stepper: Stepper) -> Callable[[int], None]:
    """The same rows, the same model, the same maths: forward, cross entropy on the answer, backward, clip, AdamW."""
    model, parameters = stepper.model, list(stepper.parameters.values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    model.train()

    def step(number: int) -> None:
        batch = feed.step(number).batches[0]
        # Logits at the positions before each answer token only, as the batch asks for: both loops do the same work.
        logits = model(**batch.inputs).logits
        answers = batch.labels[:, TOKENS // 2 :]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), answers.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(steps: dict[str, Callable[[int], None]], blocks: int, size: int) -> dict[str, list[float]]:
    """Milliseconds a step of every candidate, block by block in turn."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for number in range(3):
            step(number)
    for block in range(blocks):
        order = list(steps.items())
        for name, step in order if block % 2 == 0 else reversed(order):
            start = time.perf_counter()
            for number in range(size):
                step(3 + (block * size + number) % 40)
            times[name].append((time.perf_counter() - start) / size * 1000)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--size", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.growth:
        steps = {f"task {past + 1}": evertune_step(*build(past)[:2]) for past in (0, 14)}
    else:
        feed, stepper, _ = build(0)
        other_feed, other, _ = build(0)
        steps = {"bare loop": bare_step(feed, stepper), "evertune": evertune_step(other_feed, other)}
    times = interleaved(steps, arguments.blocks, arguments.size)
    base, *_ = times
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, times[base], strict=True)]
        print(
            f"{name:10s} {statistics.median(values):7.1f} ms a step (least {min(values):.1f})  "
            f"median of paired ratios to {base}: {statistics.median(ratios):.3f}"
        )


if __name__ == "__main__":
    main()
