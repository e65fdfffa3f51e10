"""The distillation from kept tokens against that from whole logits, on a real model that has drifted."""

from collections.abc import Sequence

import pytest
import torch

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig, Encoded
from evertune.backbones.language_model import evaluating
from evertune.console import Console
from evertune.functional.divergence import divergence, entropy, top_distribution, top_divergence
from evertune.methods.row_answers import answer_logits
from evertune.methods.slsd import SLSD
from evertune.streams.demo import Synthetic

DEFAULTS = SLSD()


@pytest.fixture(scope="module")
def gradients() -> tuple[torch.Tensor, torch.Tensor, float]:
    """Of the slow adapter, from all tokens and from the kept ones, and the divergence in nats.

    The probes are the half of the arithmetic rows that the built-in model is surest of; it drifts on topics.
    """
    backbone = BACKBONES.get("causal_lm").load(BackboneConfig(path="builtin:tiny-llama", task_type="causal_lm"))
    stream = Synthetic(tasks=("arithmetic", "topic"), train_rows=48, test_rows=4).load(
        seed=1, console=Console(speaks=False)
    )
    sums, topics = (backbone.encode(task.train, max_source_length=96, max_target_length=24) for task in stream.tasks)
    bank = AdapterBank(backbone.model, AdapterSpec(r=8, lora_alpha=16), task_type="causal_lm", base_path="x")
    for seed, name in enumerate(("slow", "fast")):
        bank.add(name, seed=seed)
    bank.apply(AdapterPlan(("slow", "fast"), ("slow", "fast")))
    bank.model.eval()

    def logits(rows: Sequence[Encoded]) -> torch.Tensor:
        return answer_logits(backbone.loss(bank.model, backbone.collate(rows)))

    with evaluating(bank.model):
        sure = sorted(sums, key=lambda row: entropy(logits([row])).mean().item())[: len(sums) // 2]
        teacher = logits(sure)
    optimizer = torch.optim.AdamW(bank.trainable_parameters().values(), lr=2e-3)
    for step in range(20):
        some = backbone.collate([topics[(step * 8 + place) % len(topics)] for place in range(8)])
        output = backbone.loss(bank.model, some)
        (output.sum / output.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    slow = [weight for factors in bank.factors("slow").values() for weight in (factors.A, factors.B)]
    student, temperature = logits(sure), DEFAULTS.temperature
    whole = divergence(student, teacher, temperature).mean()
    kept = top_divergence(student, top_distribution(teacher, DEFAULTS.top_k, temperature), temperature).mean()
    vectors = [
        torch.cat([part.flatten() for part in torch.autograd.grad(value, slow, retain_graph=True)])
        for value in (whole, kept)
    ]
    return vectors[0], vectors[1], whole.item()


def test_the_gradient_is_within_one_per_cent_of_that_of_all_logits(gradients: tuple) -> None:
    whole, kept, nats = gradients
    assert nats > 0.1, "nothing has drifted: there would be nothing to compare"
    assert ((kept - whole).norm() / whole.norm()).item() < 0.01
