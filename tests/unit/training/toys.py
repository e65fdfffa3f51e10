"""A tiny model with letters as tokens, and the stage that trains it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones.base import BackboneConfig, Batch, Encoded, Identity, LossOutput
from evertune.console import Console
from evertune.methods.base import Context, Method
from evertune.methods.stack import MethodStack
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stage, Stream, Task
from evertune.training.config import TrainConfig
from evertune.training.interrupt import StopRequest
from evertune.training.job import FitJob
from evertune.training.tracking import EventLog

VOCABULARY = 40
END = 2


class ToyBackbone:
    """The part of a backbone that training uses; every letter is a token."""

    config = BackboneConfig(path="toy", task_type="causal_lm")
    identity = Identity("toy", "built in", None, "0" * 64)

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model
        self.encoded: list[str] = []  # ids, in the order in which they were encoded

    def encode(self, rows: Sequence[PromptTarget], *, max_source_length: int, max_target_length: int) -> list[Encoded]:
        self.encoded += [row.id for row in rows]
        return [self._encode(row, max_source_length, max_target_length) for row in rows]

    def _encode(self, row: PromptTarget, source: int, target: int) -> Encoded:
        prompt, answer = _letters(row.prompt_text), _letters(row.target)
        kept = (*answer[: target - 1], END)
        return Encoded(row.id, prompt[-source:], kept, len(prompt) > source, len(answer) > target - 1)

    def filler(self, like: Encoded) -> Encoded:
        return Encoded("", like.prompt[:1], ())

    def collate(self, rows: Sequence[Encoded]) -> Batch:
        width = max(row.length for row in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        labels = torch.full((len(rows), width), -100)
        mask = torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, : row.length] = torch.tensor(row.prompt + row.target)
            labels[place, len(row.prompt) : row.length] = torch.tensor(row.target, dtype=torch.long)
            mask[place, : row.length] = 1
        inputs = {"input_ids": ids, "attention_mask": mask}
        return Batch(inputs, labels, tuple(row.id for row in rows), int((labels != -100).sum()))

    def loss(self, model: nn.Module, batch: Batch) -> LossOutput:
        logits = model(**batch.inputs, use_cache=False).logits.float()
        aligned = {"labels": batch.labels[:, 1:]}
        return LossOutput(summed_loss(logits, batch.labels), batch.count, logits[:, :-1], aligned)


def _letters(text: str) -> tuple[int, ...]:
    return tuple(3 + ord(letter) % (VOCABULARY - 3) for letter in text)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (nats) of the labels that are not -100, summed."""
    scored = labels[:, 1:] != -100
    likelihood = logits[:, :-1].log_softmax(-1)
    picked = likelihood.gather(-1, labels[:, 1:].clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(picked * scored).sum()


def toy_model(seed: int = 0) -> LlamaForCausalLM:
    """A Llama of one layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes))


def toy_bank(*, moved: bool = True) -> AdapterBank:
    """One adapter that learns; `moved` gives its B matrices values, so that A has a gradient too."""
    bank = AdapterBank(toy_model(), AdapterSpec(r=2, lora_alpha=4), task_type="causal_lm", base_path="toy")
    bank.add("shared", seed=1)
    if moved:
        generator = torch.Generator().manual_seed(2)
        tensors = bank.adapter_tensors("shared")
        drawn = {name: torch.randn(tensor.shape, generator=generator) * 0.2 for name, tensor in tensors.items()}
        bank.load_adapter_tensors("shared", drawn)
    bank.apply(AdapterPlan(("shared",), ("shared",)))
    return bank


def toy_rows(task: str, count: int) -> tuple[PromptTarget, ...]:
    """Rows of different lengths."""
    return tuple(
        PromptTarget(f"{task}/train/{n}", (Segment("abcdefghij"[: 2 + n % 7], cut=True),), "xyzw"[: 1 + n % 4])
        for n in range(count)
    )


def toy_stream(*sizes: int) -> Stream:
    """Tasks ``a``, ``b``, ..."""
    return Stream("toy", tuple(Task("abc"[n], toy_rows("abc"[n], size), (), ()) for n, size in enumerate(sizes)))


def toy_job(
    folder: Path,
    *methods: Method,
    stream: Stream | None = None,
    stage: Stage | None = None,
    bank: AdapterBank | None = None,
    backbone: Any = None,
    autocast: torch.dtype | None = None,
    epochs: dict[str, float] | None = None,
    more: Callable[[], dict[str, Any]] = dict,
    **options: Any,
) -> FitJob:
    """A stage of training; `options` are those of `TrainConfig`, `more` are fields of the job."""
    stream = stream or toy_stream(10)
    stage = stage or Stage(0, "a", (0,), 0)
    bank = bank or toy_bank()
    config = TrainConfig(**{"per_device_train_batch_size": 4, "optim": "sgd", "max_grad_norm": 0.0, **options})
    epochs = epochs or {stream.names[task]: config.num_train_epochs for task in stage.tasks}
    backbone = backbone or ToyBackbone(bank.base_model)  # type: ignore[arg-type]
    stack = MethodStack(tuple((f"method-{n}", method) for n, method in enumerate(methods)))
    return FitJob(
        title="1/1 a",
        context=Context(stream, stage, bank, backbone, 5, epochs, slow=stack.slow_adapters(stage)),
        methods=stack,
        states=stack.init_state(),
        config=config,
        rows=[row for task in stage.tasks for row in stream.tasks[task].train],
        accelerator=Accelerator(mixed_precision="no", cpu=True),
        autocast=autocast,
        checkpoint_root=folder / "checkpoint" / stage.folder,
        events=EventLog(folder / "events.jsonl"),
        console=Console(io.StringIO()),
        stop=StopRequest(),
        **more(),
    )
