"""Cost of routed heads and of reading places, beside transformers' own forward pass on the same rows.

    python benchmarks/encoder_step.py

A BERT of width 256 with 4 layers, LoRA r=8 on query and value, batches of 8 rows, one thread: forward and backward of
a batch of one task, and of a batch that holds rows of three tasks, against `AutoModelForTokenClassification` with peft
and labels. Medians of paired ratios over interleaved blocks.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "0")

import torch
from peft import LoraConfig, get_peft_model
from stages import interleaved, paired_ratio
from transformers import AutoTokenizer, BertConfig, BertForTokenClassification

from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig
from evertune.backbones.builtin import builtin_folder
from evertune.backbones.windows import WindowBatch
from evertune.streams.contents import TaggedTokens
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task

ROWS, WORDS, TASKS = 8, 48, 3


def task(number: int) -> Task:
    """Sentences of fixed length with tags of their own."""
    draw = torch.Generator().manual_seed(number)
    rows = []
    for row in range(ROWS * TASKS):
        words = tuple(f"word{index}" for index in torch.randint(0, 50, (WORDS,), generator=draw).tolist())
        tags = tuple("B-x" if index == 0 else "O" for index in torch.randint(0, 4, (WORDS,), generator=draw).tolist())
        prompt = (Segment(" ".join(words), True),)
        rows.append(PromptTarget(f"t{number}/train/{row}", prompt, "[]", content=TaggedTokens(words, tags)))
    return Task(f"t{number}", tuple(rows), (), ())


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folder = Path(tempfile.mkdtemp())
    tokenizer = AutoTokenizer.from_pretrained(builtin_folder("tiny-bert"))
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    BertForTokenClassification(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lora = LoraConfig(r=8, target_modules=["query", "value"])

    tasks = [task(number) for number in range(TASKS)]
    backbone = BACKBONES.get("token_classification").load(
        BackboneConfig(path=str(folder), task_type="token_classification")
    )
    backbone.prepare(tasks, seed=0)
    ours = get_peft_model(backbone.model, lora)
    theirs = get_peft_model(BertForTokenClassification.from_pretrained(folder, num_labels=2), lora)
    for model in (ours, theirs):
        model.train()
    one = batch(backbone, tasks[0].train[:ROWS])
    mixed = batch(backbone, [tasks[row % TASKS].train[row] for row in range(ROWS)])

    def forward_backward(loss: Callable[[], torch.Tensor]) -> Callable[[int], None]:
        return lambda _: loss().backward()

    steps = {
        "transformers": forward_backward(lambda: theirs(**one.inputs, labels=one.labels).loss),
        "one task": forward_backward(lambda: backbone.loss(ours, one).sum / one.count),
        "three tasks": forward_backward(lambda: backbone.loss(ours, mixed).sum / mixed.count),
    }
    times = interleaved(steps, blocks=20, size=5)
    for name, values in times.items():
        ratio = paired_ratio(times, name, "transformers")
        print(f"{name:14s} {statistics.median(values):7.1f} ms  ratio {ratio:.3f}")


def batch(backbone, rows: list[PromptTarget]) -> WindowBatch:
    return backbone.collate(backbone.encode(rows, max_source_length=512, max_target_length=1))


if __name__ == "__main__":
    main()
