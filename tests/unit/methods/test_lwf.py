"""LwF on a toy, against autograd of the formula on whole logits with a copy of the teacher."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from evertune.adapters.bank import AdapterBank
from evertune.adapters.spec import AdapterPlan, AdapterSpec
from evertune.backbones import BACKBONES
from evertune.backbones.base import BackboneConfig, Batch
from evertune.backbones.language_model import LanguageModel
from evertune.methods import lwf
from evertune.methods.base import Context, Method, MethodState
from evertune.methods.gorp import GORP
from evertune.methods.inc_lora import IncLoRA
from evertune.methods.lwf import LwF
from evertune.methods.replay import Replay
from evertune.methods.row_answers import row_answers
from evertune.methods.seq_lora import SeqLoRA
from evertune.streams.task import sequential_stages
from evertune.training.fit import fit
from evertune.training.job import FitJob
from tests.unit.methods.parts_of_stages import fed, interrupt
from tests.unit.methods.walks import walk
from tests.unit.training.toys import VOCABULARY, toy_bank, toy_job, toy_rows, toy_stream

STREAM = toy_stream(10, 9)
SECOND = sequential_stages(STREAM.tasks)[1]
TERM = "distillation_of_rows"
WHOLE = {"top_k": VOCABULARY}


def sharp_bank() -> AdapterBank:
    """An adapter on a model that prefers some tokens by far, as trained ones do."""
    bank = toy_bank()
    with torch.no_grad():
        bank.base_model.lm_head.weight *= 40
    return bank


def second_stage(folder: Path, *methods: Method, **options: object) -> FitJob:
    """The stage of the second task."""
    given = {"optim": "adamw_torch", "learning_rate": 1e-2, "num_train_epochs": 3.0, "save_steps": 0, **options}
    return toy_job(folder, *methods, stream=STREAM, stage=SECOND, bank=sharp_bank(), **given)  # type: ignore[arg-type]


def moved(bank: AdapterBank, size: float = 0.3, seed: int = 9) -> None:
    """Changes what learns, as steps would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in bank.trainable_parameters().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def plain_term(method: LwF, teacher: nn.Module, student: nn.Module, batch: Batch, rows: Sequence[int]) -> Tensor:
    """``lambda T^2 sum KL`` over the answers of some rows of a batch, on whole logits, position by position."""
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "logits_to_keep"}
    decoder = "decoder_input_ids" in inputs
    with torch.no_grad():
        before = teacher(**inputs).logits.double() / method.temperature
    now = student(**inputs).logits.double() / method.temperature
    total = now.new_zeros(())
    for row in rows:
        for place in (batch.labels[row] != -100).nonzero().flatten().tolist():
            at = place if decoder else place - 1
            p, q = before[row, at].softmax(-1), now[row, at].softmax(-1)
            total = total + (p * (p.log() - q.log())).sum()
    return method.lambda_distillation * method.temperature**2 * total


def term(method: LwF, state: MethodState, context: Context, batch: Batch) -> Tensor:
    output = context.backbone.loss(context.bank.model, batch)
    return method.batch_loss(state, context, batch, output)[TERM]


def slopes(value: Tensor, bank: AdapterBank) -> Tensor:
    found = torch.autograd.grad(value, list(bank.trainable_parameters().values()))
    return torch.cat([gradient.flatten().double() for gradient in found])


# The term


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_term_and_gradient_are_those_of_whole_logits(tmp_path: Path, temperature: float) -> None:
    method = LwF(lambda_distillation=0.7, temperature=temperature, **WHOLE)
    context = fed(second_stage(tmp_path, method))
    bank, state = context.bank, method.init_state()
    teacher = copy.deepcopy(bank.model).eval()
    method.begin_task(state, context)
    with method.watch(state, context):
        moved(bank)
        batch = context.batch(STREAM.tasks[1].train[2:7])
        value = term(method, state, context, batch)
        plain = plain_term(method, teacher, bank.model, batch, range(5))
        assert plain.item() > 0.01
        assert value.item() == pytest.approx(plain.item(), rel=5e-3)
        wanted, found = slopes(plain, bank), slopes(value, bank)
        assert float((found - wanted).norm() / wanted.norm()) < 2e-3  # the teacher is kept in float16


def test_a_few_tokens_give_nearly_the_whole_gradient(tmp_path: Path) -> None:
    method = LwF(temperature=1.0, top_k=30)
    context = fed(second_stage(tmp_path, method))
    teacher, state = copy.deepcopy(context.bank.model).eval(), method.init_state()
    method.begin_task(state, context)
    with method.watch(state, context):
        moved(context.bank)
        batch = context.batch(STREAM.tasks[1].train)
        plain = plain_term(method, teacher, context.bank.model, batch, range(9))
        value = term(method, state, context, batch)
        wanted, found = slopes(plain, context.bank), slopes(value, context.bank)
    assert 0 < value.item() < plain.item()
    assert torch.cosine_similarity(found, wanted, dim=0) > 0.99


def test_before_the_first_step_nothing_pulls(tmp_path: Path) -> None:
    method = LwF(**WHOLE)
    context = fed(second_stage(tmp_path, method))
    state = method.init_state()
    method.begin_task(state, context)
    with method.watch(state, context):
        batch = context.batch(STREAM.tasks[1].train)
        value = term(method, state, context, batch)
        of_data = slopes(context.backbone.loss(context.bank.model, batch).sum, context.bank)
        assert abs(value.item()) < 1e-4 * batch.count
        assert float(slopes(value, context.bank).norm() / of_data.norm()) < 1e-3


def test_padding_and_the_other_rows_of_a_batch_do_not_matter(tmp_path: Path) -> None:
    method = LwF(top_k=5)
    context = fed(second_stage(tmp_path, method))
    state, rows = method.init_state(), STREAM.tasks[1].train
    method.begin_task(state, context)
    with method.watch(state, context):
        moved(context.bank)
        alone = [term(method, state, context, context.batch([row])) for row in rows]
        together = [term(method, state, context, context.batch(order)) for order in (rows, rows[::-1])]
    assert min(value.item() for value in alone) > 0
    assert [value.item() for value in together] == pytest.approx([sum(value.item() for value in alone)] * 2, rel=1e-5)


def test_rows_of_other_tasks_and_rows_that_fill_up_count_nothing(tmp_path: Path) -> None:
    method = LwF(**WHOLE)
    context = fed(second_stage(tmp_path, method))
    state, (other, own) = method.init_state(), (STREAM.tasks[0].train[4], STREAM.tasks[1].train[3])
    method.begin_task(state, context)
    with method.watch(state, context):
        moved(context.bank)
        wanted = term(method, state, context, context.batch([own])).item()
        assert term(method, state, context, context.batch([other, own])).item() == pytest.approx(wanted, rel=1e-5)
        assert term(method, state, context, context.batch([other])).item() == 0.0
        encoded = context.backbone.encode([own], max_source_length=50, max_target_length=50)
        filler = context.backbone.filler(encoded[0])
        assert term(method, state, context, context.backbone.collate([filler])).item() == 0.0
        mixed = context.backbone.collate([filler, *encoded])
        assert term(method, state, context, mixed).item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("path", ["builtin:tiny-llama", "builtin:tiny-t5"])
def test_both_families_of_models_and_their_ways_to_align_logits(path: str) -> None:
    kind = "seq2seq_lm" if path.endswith("t5") else "causal_lm"
    backbone: LanguageModel = BACKBONES.get(kind).load(BackboneConfig(path=path, task_type=kind))
    bank = AdapterBank(backbone.model, AdapterSpec(r=2, lora_alpha=4), task_type=kind, base_path=path)
    bank.add("shared", seed=1)
    bank.apply(AdapterPlan(("shared",), ("shared",)))
    moved(bank, 0.02, seed=1)
    rows = toy_rows("b", 5)
    encoded = backbone.encode(rows, max_source_length=20, max_target_length=8)
    by_id = dict(zip([row.id for row in rows], encoded, strict=True))
    context = Context(
        STREAM,
        SECOND,
        bank,
        backbone,
        5,
        batches=lambda: [backbone.collate(encoded[:2]), backbone.collate(encoded[2:])],
        batch=lambda some: backbone.collate([by_id[row.id] for row in some]),
    )
    method = LwF(top_k=10**6)
    state, teacher = method.init_state(), copy.deepcopy(bank.model).eval()
    bank.model.eval()
    method.begin_task(state, context)
    with method.watch(state, context):
        moved(bank, 0.02)
        batch = context.batch([rows[4], rows[1], rows[2]])
        value = term(method, state, context, batch)
        plain = plain_term(method, teacher, bank.model, batch, range(3))
    assert plain.item() > 0.01
    assert value.item() == pytest.approx(plain.item(), rel=1e-2)


# The teacher


def test_the_teacher_is_the_model_before_the_stage_whatever_is_on_the_model(tmp_path: Path) -> None:
    """As after a resume; and what was on the model is there again, bit for bit."""
    method = LwF(**WHOLE)
    context = fed(second_stage(tmp_path, method))
    bank, state = context.bank, method.init_state()
    wanted = {id: batch.logits[place] for batch in row_answers(context) for id, place in batch.places.items()}
    method.begin_task(state, context)
    moved(bank)
    bank.model.train()
    now = bank.learning_tensors()["shared"]
    with method.watch(state, context):
        answers = context.derived["lwf answers"]
    assert bank.model.training
    assert all(torch.equal(tensor, now[name]) for name, tensor in bank.learning_tensors()["shared"].items())
    assert answers.keys() == wanted.keys() == {row.id for row in STREAM.tasks[1].train}
    for id, logits in wanted.items():
        log_probs = torch.full_like(logits, torch.nan).scatter(1, answers[id].ids.long(), answers[id].log_probs.float())
        assert torch.allclose(log_probs, (logits / 2.0).log_softmax(-1), atol=5e-3), id


def test_a_failure_while_the_teacher_answers_puts_the_weights_back(tmp_path: Path) -> None:
    method = LwF()
    context = fed(second_stage(tmp_path, method))
    state = method.init_state()
    method.begin_task(state, context)
    moved(context.bank)
    now = context.bank.learning_tensors()["shared"]

    def failing() -> list[Batch]:
        raise MemoryError

    with pytest.raises(MemoryError), method.watch(state, replace(context, batches=failing)):
        pass
    assert all(torch.equal(tensor, now[name]) for name, tensor in context.bank.learning_tensors()["shared"].items())


def learnt(folder: Path, *methods: Method, **options: object) -> dict[str, Tensor]:
    """What the second stage leaves."""
    job = second_stage(folder, *methods, **options)
    fit(job)
    return job.context.bank.adapter_tensors("shared")


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
@pytest.mark.parametrize("step", [1, 5])
def test_a_stage_that_was_interrupted_ends_in_the_same_bits(
    tmp_path: Path, step: int, autocast: torch.dtype | None
) -> None:
    method = LwF(lambda_distillation=5.0, top_k=8)
    alone = learnt(tmp_path / "alone", method, autocast=autocast)
    interrupt(second_stage(tmp_path, method, autocast=autocast), step)
    again = second_stage(tmp_path, method, autocast=autocast)
    moved(again.context.bank, 1.0, seed=3)  # what a new process has on the model is not the teacher
    fit(again)
    assert same(alone, again.context.bank.adapter_tensors("shared"))
    assert not same(alone, learnt(tmp_path / "without", SeqLoRA(), autocast=autocast))


# What it is for


def test_the_answers_stay_nearer_to_the_old_ones(tmp_path: Path) -> None:
    distances = []
    for weight in (0.0, 5.0):
        job = second_stage(tmp_path / str(weight), LwF(lambda_distillation=weight), learning_rate=3e-2)
        context = fed(job)
        before = torch.cat([batch.logits for batch in row_answers(context)])
        fit(job)
        after = torch.cat([batch.logits for batch in row_answers(context)])
        p, q = before.log_softmax(-1), after.log_softmax(-1)
        distances.append(float((p.exp() * (p - q)).sum(-1).mean()))
    assert distances[1] < 0.5 * distances[0]


def test_without_weight_it_is_the_method_beside_it_and_keeps_nothing(tmp_path: Path) -> None:
    off = second_stage(tmp_path / "off", LwF(lambda_distillation=0.0))
    fit(off)
    assert same(learnt(tmp_path / "plain", SeqLoRA()), off.context.bank.adapter_tensors("shared"))
    assert off.context.derived == {}
    assert off.states["method-0"].tensors == {}


def test_the_first_task_has_no_teacher(tmp_path: Path) -> None:
    stages = [list(walk(tmp_path / str(n), method))[1] for n, method in enumerate((LwF(), SeqLoRA()))]
    assert stages[0].context.derived == {}
    assert LwF().facts(stages[0].state, stages[0].context) == {}
    first, plain = (
        list(walk(tmp_path / f"whole {n}", method, tasks=1))[-1] for n, method in enumerate((LwF(), SeqLoRA()))
    )
    assert same(first.bank.adapter_tensors("shared"), plain.bank.adapter_tensors("shared"))


def test_beside_a_new_adapter_for_every_task_the_teacher_is_all_that_came_before(tmp_path: Path) -> None:
    stages = walk(tmp_path, IncLoRA(), LwF(**WHOLE))
    next(stages)
    next(stages)
    second = next(stages)
    with torch.no_grad():
        context = fed(second.job)
        before = {id: b.logits[place] for b in row_answers(context) for id, place in b.places.items()}
    last = next(stages)
    answers = last.context.derived["lwf answers"]
    for id, logits in before.items():
        kept = torch.empty_like(logits).scatter(1, answers[id].ids.long(), answers[id].log_probs.float())
        assert torch.allclose(kept, (logits / 2.0).log_softmax(-1), atol=5e-3)
    after = torch.cat([batch.logits for batch in row_answers(context)])
    assert (after - torch.cat(list(before.values()))).abs().max() > 0.03  # it has learnt


def test_beside_a_method_that_changes_base_weights_they_are_the_teachers_too(tmp_path: Path) -> None:
    method = LwF(**WHOLE)
    stages = walk(tmp_path, GORP(full_rank_learning_rate=1e-2, projection_rank=4, refresh_gap=3, sketch_rows=8), method)
    next(stages)
    next(stages)
    second = next(stages)
    context, bank = fed(second.job), second.bank
    before = torch.cat([batch.logits for batch in row_answers(context)])
    method.begin_task(second.state, context)
    moved(bank)
    now = bank.learning_tensors()
    assert len(now) == 2
    with method.watch(second.state, context):
        answers = context.derived["lwf answers"]
    after = bank.learning_tensors()
    assert all(torch.equal(after[name][key], held) for name, part in now.items() for key, held in part.items())
    log_probs = torch.cat([answer.log_probs.float().sort()[0] for answer in answers.values()])
    assert torch.allclose(log_probs, (before / 2.0).log_softmax(-1).sort()[0], atol=5e-3)
    changed = torch.cat([batch.logits for batch in row_answers(context)])
    assert not torch.allclose(changed, before, atol=0.1)


def test_replayed_rows_are_learnt_beside_it(tmp_path: Path) -> None:
    *_, last = walk(tmp_path, Replay(ratio=0.5), LwF())
    assert set(last.context.derived["lwf answers"]) == {row.id for row in last.context.tasks[0].train}


# What it takes


def test_what_is_kept_and_for_how_long(tmp_path: Path) -> None:
    job = second_stage(tmp_path, LwF(top_k=6))
    fit(job)
    tokens = sum(len(row.target) + 1 for row in STREAM.tasks[1].train)
    assert job.methods.facts(job.states, job.context) == {"method-0": {"bytes": tokens * (6 * 6 + 4)}}
    assert job.states["method-0"].tensors == {}


def test_much_memory_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    job = second_stage(tmp_path, LwF())
    job = replace(job, context=replace(job.context, warn=said.append))
    fit(job)
    assert said == []
    monkeypatch.setattr(lwf, "MUCH_MEMORY", 2**20 // 1024)
    job = second_stage(tmp_path / "small", LwF())
    job = replace(job, context=replace(job.context, warn=said.append))
    for _ in range(2):
        fit(job)
    assert len(said) == 1
    assert "lwf: the answers of the teacher of b take more than" in said[0]
    assert "lower `method.top_k`" in said[0]
