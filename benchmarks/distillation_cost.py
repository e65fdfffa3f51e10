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
import gc
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from stages import fixed_length, interleaved, paired_ratio, stage_job
from transformers import LlamaConfig, LlamaForCausalLM

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.backbones.causal_lm import CausalLM
from evertune.functional.divergence import top_distribution
from evertune.methods.base import Method
from evertune.methods.ds_lora import DSLoRA
from evertune.methods.slsd import SLSD
from evertune.methods.stack import MethodStack
from evertune.streams.task import Stage
from evertune.training.feed import Feed
from evertune.training.step import Stepper

ROWS, PROMPT, ANSWER, VOCABULARY, LENGTH, LAYERS = 8, 96, 32, 32_000, 512, 8


FixedLengthLM = fixed_length(CausalLM, prompt=PROMPT, answer=ANSWER, vocabulary=VOCABULARY)


def build(methods: tuple[tuple[str, Method], ...], probes: int) -> tuple[Callable[[int], None], float, int]:
    """How a step is taken, the seconds that answering the probes took, and the bytes of tensors that it left."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": LAYERS, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))
    spec = AdapterSpec(r=8, lora_alpha=32, num_frozen_layers=LAYERS // 2)
    bank = AdapterBank(model, spec, task_type="causal_lm", base_path="bench")
    stage, stack = Stage(0, "bench", (0,), 0), MethodStack(methods)
    for seed, name in enumerate(stack.adapters(stage).active):
        bank.add(name, seed=seed)
    bank.apply(stack.adapters(stage))
    model_of = {"built_in": "tiny-llama", "task_type": "causal_lm", "batch_size": ROWS}
    job = stage_job(bank, stage, stack, FixedLengthLM, **model_of, rows=max(400, 2 * probes))
    feed = Feed(job)
    job = dataclasses.replace(job, context=dataclasses.replace(job.context, batch=feed.batch, computing=job.computing))
    memory, begun = tensor_bytes(), time.perf_counter()
    stack.begin_task(job.states, job.context)
    taken = time.perf_counter() - begun, tensor_bytes() - memory
    stepper = Stepper(job, feed.total_steps)
    stepper.model.train()

    def step(number: int) -> None:
        stepper.take(feed.step(number).batches)

    return step, *taken


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, each memory once: what a process holds depends on its allocator too."""
    gc.collect()
    alive = (each for each in gc.get_objects() if issubclass(type(each), torch.Tensor))
    held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in alive}
    return sum(held.values())


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
    steps: dict[str, Callable[[int], None]] = {}
    for name, stack in stacks.items():
        steps[name], seconds, memory = build(stack, arguments.probes)
        print(f"{name:16s} before the first step: {seconds:.1f} s, {memory / 1e6:.1f} MB of tensors kept")
    times = interleaved(steps, arguments.blocks, arguments.size)
    for name, values in times.items():
        ratio = paired_ratio(times, name, "ds-lora")
        print(f"{name:16s} {statistics.median(values):7.1f} ms a step, {ratio:.2f} of ds-lora's")


if __name__ == "__main__":
    main()
