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
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from stages import fixed_length, interleaved, paired_ratio, stage_job
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterSpec
from evertune.backbones.seq2seq_lm import Seq2SeqLM
from evertune.methods.base import Context, Method, MethodState, task_adapter
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.n_lora import NLoRA
from evertune.methods.o_lora import OLoRA
from evertune.methods.stack import MethodStack
from evertune.streams.task import Stage
from evertune.training.feed import Feed
from evertune.training.step import Stepper

PAST, RANK, ROWS, PROMPT, ANSWER, VOCABULARY = 15, 8, 8, 96, 8, 8000


FixedLengthLM = fixed_length(Seq2SeqLM, prompt=PROMPT, answer=ANSWER, vocabulary=VOCABULARY)


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
    methods = MethodStack((("bench", choose(bank)),))
    model_of = {"built_in": "tiny-t5", "task_type": "seq2seq_lm", "batch_size": ROWS}
    job = stage_job(bank, stage, methods, FixedLengthLM, **model_of)
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
    steps = {name: candidate.step for name, candidate in candidates.items()}
    times = interleaved(steps, arguments.blocks, arguments.size)
    for name, values in times.items():
        print(
            f"{name:16s} {statistics.median(values):7.1f} ms a step (least {min(values):.1f})  "
            f"median of paired ratios to inc-lora: {paired_ratio(times, name, 'inc-lora'):.3f}  "
            f"terms alone {alone(candidates[name]):.2f} ms"
        )


if __name__ == "__main__":
    main()
