"""What self-distillation costs: bytes a probe, memory, and time a step, for slsd beside ds-lora.

    python benchmarks/distillation_cost.py
    python benchmarks/distillation_cost.py --batch-size 8    # as many probes at once as rows in a step

A Llama of width 256 with 8 layers and a vocabulary of 32 000, LoRA r=8 on query and value of the upper four, steps of 8
rows of 96 + 32 tokens, 4 probes of the same size in a distillation, one thread. Candidates have models of their own and
take the same steps, block by block in turn; figures are medians of paired ratios to ds-lora alone. The peer for bytes
is what the published code keeps of a row: the bfloat16 logits of all its positions.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import psutil
import torch
from accelerate import Accelerator
from penalty_cost import Candidate, interleaved
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.backbones.base import BackboneConfig, Encoded, Identity
from evertune.backbones.builtin import builtin_folder
from evertune.backbones.causal_lm import CausalLM
from evertune.console import Console
from evertune.functional.divergence import top_distribution
from evertune.methods.base import Context, Method
from evertune.methods.ds_lora import DSLoRA
from evertune.methods.slsd import SLSD
from evertune.methods.stack import MethodStack
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task
from evertune.training.config import TrainConfig
from evertune.training.feed import Feed
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob
from evertune.training.step import Stepper
from evertune.training.tracking import EventLog

ROWS, PROMPT, ANSWER, VOCABULARY, LENGTH, LAYERS = 8, 96, 32, 32_000, 512, 8


class FixedLengthLM(CausalLM):
    """Rows are already token ids: what is measured is the step, not the tokenizer."""

    def encode(self, rows, *, max_source_length, max_target_length):
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(4, VOCABULARY, (len(rows), PROMPT + ANSWER), generator=draw).tolist()
        return [
            Encoded(row.id, tuple(line[:PROMPT]), tuple(line[PROMPT:])) for row, line in zip(rows, ids, strict=True)
        ]


def build(methods: tuple[tuple[str, Method], ...], probes: int) -> tuple[Candidate, float, int]:
    """The candidate, seconds and bytes of memory that it took to have the probes answered."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    spec = AdapterSpec(r=8, lora_alpha=32, num_frozen_layers=LAYERS // 2)
    bank = AdapterBank(model, spec, task_type="causal_lm", base_path="bench")
    stage, stack = Stage(0, "bench", (0,), 0), MethodStack(methods)
    for seed, name in enumerate(stack.adapters(stage).active):
        bank.add(name, seed=seed)
    bank.apply(stack.adapters(stage))
    job = make_job(bank, stage, stack, probes)
    feed = Feed(job)
    job = dataclasses.replace(job, context=dataclasses.replace(job.context, batch=feed.batch, computing=job.computing))
    memory, begun = psutil.Process().memory_info().rss, time.perf_counter()
    stack.begin_task(job.states, job.context)
    taken = time.perf_counter() - begun, psutil.Process().memory_info().rss - memory
    stepper = Stepper(job, feed.total_steps)
    stepper.model.train()
    return Candidate(lambda number: stepper.take(feed.step(number).batches) and None, lambda: None), *taken


def make_job(bank: AdapterBank, stage: Stage, stack: MethodStack, probes: int) -> FitJob:
    rows = tuple(
        PromptTarget(f"bench/train/{index}", (Segment("x", cut=True),), "y") for index in range(max(400, 2 * probes))
    )
    stream = Stream("bench", (Task("bench", rows, (), ()),))
    config = BackboneConfig(path="bench", task_type="causal_lm")
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tiny-llama"))
    identity = Identity("bench", "local folder", None, "0" * 64)
    backbone = FixedLengthLM(config, identity, bank.base_model, tokenizer)
    folder = Path(tempfile.mkdtemp())
    return FitJob(
        title="bench",
        context=Context(stream, stage, bank, backbone, 0, {"bench": 10}, slow=stack.slow_adapters(stage)),
        methods=stack,
        states=stack.init_state(),
        config=TrainConfig(per_device_train_batch_size=ROWS, learning_rate=1e-5),
        rows=rows,
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        autocast=None,
        checkpoint_root=folder,
        events=EventLog(folder / "events.jsonl"),
        console=Console(),
        stop=StopRequest(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12)
    parser.add_argument("--size", type=int, default=4, help="steps of a block: a multiple of the cadence of 4")
    parser.add_argument("--batch-size", type=int, default=4, help="probes at once")
    parser.add_argument("--probes", type=int, default=64)
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    logits = torch.randn(LENGTH, VOCABULARY, dtype=torch.bfloat16)
    kept = top_distribution(logits, SLSD().top_k).nbytes
    print(f"a row of {LENGTH} tokens, all of them answer: {kept:,} bytes kept, {logits.nbytes:,} as logits: ", end="")
    print(f"{logits.nbytes / kept:.0f}x")

    dual = ("ds-lora", DSLoRA())
    shared = {"probes": arguments.probes, "batch_size": arguments.batch_size}
    stacks = {
        "ds-lora": (dual,),
        "slsd, cadence 1": (dual, ("slsd", SLSD(**shared))),
        "slsd, cadence 4": (dual, ("slsd", SLSD(cadence=4, **shared))),
    }
    candidates: dict[str, Candidate] = {}
    for name, stack in stacks.items():
        candidates[name], seconds, memory = build(stack, arguments.probes)
        print(f"{name:16s} before the first step: {seconds:.1f} s, {memory / 1e6:.1f} MB more memory")
    times = interleaved(candidates, arguments.blocks, arguments.size)
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, times["ds-lora"], strict=True)]
        print(f"{name:16s} {statistics.median(values):7.1f} ms a step, {statistics.median(ratios):.2f} of ds-lora's")


if __name__ == "__main__":
    main()
