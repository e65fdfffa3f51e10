"""What a penalty costs a training step when 15 tasks have been learnt: O-LoRA and N-LoRA against inc-lora.

    python benchmarks/penalty_cost.py
    python benchmarks/penalty_cost.py --layers 24 --blocks 4 --size 1    # as many modules as T5-large has: 144

A T5 of width 256 with 4 + 4 layers, batches of 8 prompts of 96 tokens and answers of 8, LoRA r=8 on query and value
(24 modules), 15 frozen adapters below the one that learns, one thread. Every candidate has a model of its own and takes
the same steps, block by block in turn; the figure is the median of the paired ratios to inc-lora. Beside it stands what
the terms take alone, which does not drown in the noise of the steps. `nested loop` is O-LoRA's L1 penalty as it is
usually written: for every name of past directions, all names of the model are searched for the new ones of the same
module. Milliseconds depend on the machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import AutoTokenizer, T5Config, T5ForConditionalGeneration

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.backbones.base import BackboneConfig, Encoded, Identity
from evertune.backbones.builtin import builtin_folder
from evertune.backbones.seq2seq_lm import Seq2SeqLM
from evertune.console import Console
from evertune.methods.base import Context, Method, MethodState, task_adapter
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.n_lora import NLoRA
from evertune.methods.o_lora import OLoRA
from evertune.methods.stack import MethodStack
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task
from evertune.training.config import TrainConfig
from evertune.training.feed import Feed
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob
from evertune.training.step import Stepper
from evertune.training.tracking import EventLog

PAST, RANK, ROWS, PROMPT, ANSWER, VOCABULARY = 15, 8, 8, 96, 8, 8000


class FixedLengthLM(Seq2SeqLM):
    """Rows are already token ids: what is measured is the step, not the tokenizer."""

    def encode(self, rows, *, max_source_length, max_target_length):
        draw = torch.Generator().manual_seed(0)
        ids = torch.randint(4, VOCABULARY, (len(rows), PROMPT + ANSWER), generator=draw).tolist()
        return [
            Encoded(row.id, tuple(line[:PROMPT]), tuple(line[PROMPT:])) for row, line in zip(rows, ids, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class NestedLoop(IncLoRA):
    """The peer: pairs of matrices are found by comparing names, in every step, and multiplied one by one."""

    names: nn.Module
    lambda_1: float = 0.5

    def step_loss(self, state: MethodState, context: Context) -> Mapping[str, Tensor]:
        total = torch.zeros(())
        for name, past in self.names.named_parameters():
            if name.endswith(".past_A"):
                for other, new in self.names.named_parameters():
                    if other.endswith(".new_A") and other.split(".new_A")[0] == name.split(".past_A")[0]:
                        total = total + (past @ new.T).abs().sum()
        return {"orthogonality": self.lambda_1 * total}


def named_plainly(bank: AdapterBank) -> nn.Module:
    """The names that such a loop walks over: the base model's, and one past and one new adapter on every module."""
    with torch.device("meta"):
        names = T5ForConditionalGeneration(bank.base_model.config)
    past, new = bank.past_factors(), bank.factors(bank.trainable[0])
    for path, old in past.items():
        module = names.get_submodule(path)
        for key, tensor in (("past_A", old.A), ("past_B", old.B)):
            module.register_parameter(key, nn.Parameter(tensor, requires_grad=False))
        module.register_parameter("new_A", new[path].A)
        module.register_parameter("new_B", new[path].B)
    return names


@dataclass(frozen=True)
class Candidate:
    """A whole step, given its number, and the method's terms with their gradients alone."""

    step: Callable[[int], None]
    terms: Callable[[], None]


def build(choose: Callable[[AdapterBank], Method], layers: int) -> Candidate:
    """The method that `choose` returns, on a model of its own with 15 past tasks."""
    torch.manual_seed(0)
    sizes = {"d_model": 256, "d_ff": 1024, "d_kv": 64, "num_layers": layers, "num_heads": 4}
    model = T5ForConditionalGeneration(T5Config(vocab_size=VOCABULARY, decoder_start_token_id=0, **sizes))
    spec = AdapterSpec(r=RANK, lora_alpha=32)
    bank = AdapterBank(model, spec, task_type="seq2seq_lm", base_path="bench")
    for index in range(PAST + 1):
        bank.add(task_adapter(index), seed=index)
        tensors = bank.adapter_tensors(task_adapter(index))
        drawn = {key: torch.randn_like(value) * 0.01 for key, value in tensors.items()}
        bank.load_adapter_tensors(task_adapter(index), drawn)
    stage = Stage(PAST, "bench", (0,), 0)
    bank.apply(IncLoRA().adapters(stage))
    job = make_job(bank, stage, MethodStack((("bench", choose(bank)),)))
    feed = Feed(job)
    stepper = Stepper(job, feed.total_steps)
    stepper.model.train()
    parameters = list(stepper.parameters.values())

    def step(number: int) -> None:
        stepper.take(feed.step(number).batches)

    def terms() -> None:
        for value in job.methods.step_loss(job.states, job.context).values():
            torch.autograd.grad(value, parameters, allow_unused=True)

    return Candidate(step, terms)


def make_job(bank: AdapterBank, stage: Stage, methods: MethodStack) -> FitJob:
    rows = tuple(PromptTarget(f"bench/train/{index}", (Segment("x", cut=True),), "y") for index in range(400))
    stream = Stream("bench", (Task("bench", rows, (), ()),))
    config = BackboneConfig(path="bench", task_type="seq2seq_lm")
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tiny-t5"))
    backbone = FixedLengthLM(config, Identity("bench", "local folder", None, "0" * 64), bank.base_model, tokenizer)
    folder = Path(tempfile.mkdtemp())
    return FitJob(
        title="bench",
        context=Context(stream, stage, bank, backbone, 0, {"bench": 10}),
        methods=methods,
        states=methods.init_state(),
        config=TrainConfig(per_device_train_batch_size=ROWS, learning_rate=1e-5),
        rows=rows,
        accelerator=Accelerator(cpu=True, mixed_precision="no"),
        autocast=None,
        checkpoint_root=folder,
        events=EventLog(folder / "events.jsonl"),
        console=Console(),
        stop=StopRequest(),
    )


def interleaved(candidates: Mapping[str, Candidate], blocks: int, size: int) -> dict[str, list[float]]:
    """Milliseconds a step of every candidate, block by block in turn."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for candidate in candidates.values():
        candidate.step(0)
        candidate.step(1)
    for block in range(blocks):
        order = list(candidates.items())
        for name, candidate in order if block % 2 == 0 else reversed(order):
            begun = time.perf_counter()
            for number in range(size):
                candidate.step((block * size + number) % 40)
            times[name].append((time.perf_counter() - begun) / size * 1000)
    return times


def alone(candidate: Candidate, times: int = 15) -> float:
    """Milliseconds for the terms and their gradients, median."""
    measured: list[float] = []
    for _ in range(times):
        begun = time.perf_counter()
        candidate.terms()
        measured.append((time.perf_counter() - begun) * 1000)
    return statistics.median(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4, help="of the encoder, and of the decoder")
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--size", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    methods: dict[str, Callable[[AdapterBank], Method]] = {
        "inc-lora": lambda _: IncLoRA(),
        "o-lora paper": lambda _: OLoRA(),
        "o-lora released": lambda _: OLoRA(variant="released"),
        "nested loop": lambda bank: NestedLoop(names=named_plainly(bank)),
        "n-lora paper": lambda _: NLoRA(lambda_1=1e-4),
        "n-lora released": lambda _: NLoRA(variant="released"),
    }
    candidates = {name: build(choose, arguments.layers) for name, choose in methods.items()}
    times = interleaved(candidates, arguments.blocks, arguments.size)
    for name, values in times.items():
        ratios = [value / reference for value, reference in zip(values, times["inc-lora"], strict=True)]
        print(
            f"{name:16s} {statistics.median(values):7.1f} ms a step (least {min(values):.1f})  "
            f"median of paired ratios to inc-lora: {statistics.median(ratios):.3f}  "
            f"terms alone {alone(candidates[name]):.2f} ms"
        )


if __name__ == "__main__":
    main()
