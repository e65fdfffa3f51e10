"""SLSD: what the probes are, whom the distillation reaches, and what it costs."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from evertune.backbones.language_model import evaluating
from evertune.errors import CapabilityError, ConfigError
from evertune.functional.divergence import divergence, top_distribution
from evertune.functional.divergence import entropy as token_entropy
from evertune.methods.base import Method, MethodState
from evertune.methods.ds_lora import DSLoRA
from evertune.methods.probes import Probe, ProbeBuffer
from evertune.methods.row_answers import answer_logits
from evertune.methods.seq_lora import SeqLoRA
from evertune.methods.slsd import SLSD
from evertune.methods.stack import MethodStack, composition_problems
from tests.unit.methods.walks import Walked, walk
from tests.unit.training.toys import VOCABULARY

DUAL = DSLoRA(slow_learning_rate=1e-2)
ALL = SLSD(probes=10, kept_fraction=1.0, top_k=VOCABULARY, earlier_probes=0)


def tensors(walked: Walked) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": tensor for name, held in walked.bank.learning_tensors().items() for key, tensor in held.items()
    }


class Watching(SLSD):
    """Looks at every distillation."""

    seen: list[Any] = []  # noqa: RUF012 - shared on purpose: the dataclass is frozen

    def step_loss(self, state: MethodState, context: Any) -> Any:
        terms = super().step_loss(state, context)
        type(self).seen.append((state, context, terms))
        return terms


def watched(folder: Path, method: Method, **options: Any) -> list[Any]:
    Watching.seen = []
    for _ in walk(folder, method, Watching(**options), tasks=1):
        pass
    return Watching.seen


@pytest.mark.parametrize("student", ["slow", "all"])
def test_the_gradient_is_that_of_the_plain_formula_and_reaches_the_slow_adapter_alone(
    tmp_path: Path, student: Any
) -> None:
    """With every token kept, against autograd through logits of the whole vocabulary."""
    options = {"lambda_distillation": 0.7, "temperature": 2.0, "batch_size": 10, "cadence": 2, "student": student}
    left_out = ("task-01",) if student == "slow" else ()
    teacher: dict[str, torch.Tensor] = {}
    compared = 0

    class Compared(SLSD):
        def begin_task(self, state: MethodState, context: Any) -> None:
            super().begin_task(state, context)
            rows = list(context.tasks[0].train)
            with context.bank.without(left_out), evaluating(context.bank.model):
                for row in rows:
                    output = context.backbone.loss(context.bank.model, context.batch([row]))
                    teacher[row.id] = answer_logits(output)

        def step_loss(self, state: MethodState, context: Any) -> Any:
            nonlocal compared
            terms = super().step_loss(state, context)
            if not terms:
                return terms
            bank, rows = context.bank, list(context.tasks[0].train)
            slow, fast = (
                [weight for factors in bank.factors(name).values() for weight in (factors.A, factors.B)]
                for name in bank.trainable
            )
            ours = torch.autograd.grad(terms["distillation"], [*slow, *fast], retain_graph=True, allow_unused=True)
            assert all(gradient is None for gradient in ours[len(slow) :])
            bank.model.eval()
            with bank.without(left_out):
                answers = answer_logits(context.backbone.loss(bank.model, context.batch(rows)))
            bank.model.train()
            whole = torch.cat([teacher[row.id] for row in rows])
            plain = 0.7 * 2 * 2.0**2 * divergence(answers, whole, 2.0).mean()
            expected = torch.autograd.grad(plain, [*slow, *fast], allow_unused=True)
            assert terms["distillation"].item() == pytest.approx(plain.item(), rel=1e-2, abs=1e-5)
            if plain > 1e-3:
                for got, wanted in zip(ours[: len(slow)], expected, strict=False):
                    assert (got - wanted).norm() <= 1e-2 * wanted.norm()
                if student == "all":
                    assert any(gradient.norm() > 1e-4 for gradient in expected[len(slow) :])
                compared += 1
            return terms

    method = Compared(probes=10, kept_fraction=1.0, top_k=VOCABULARY, earlier_probes=0, **options)
    for _ in walk(tmp_path, DUAL, method, tasks=1, num_train_epochs=8.0):
        pass
    assert compared >= 3


def test_lambda_zero_is_the_method_beside_it_bit_for_bit(tmp_path: Path) -> None:
    plain = [tensors(walked) for walked in walk(tmp_path / "plain", DUAL)]
    silent = [tensors(walked) for walked in walk(tmp_path / "silent", DUAL, SLSD(lambda_distillation=0.0))]
    assert plain[-1].keys() == silent[-1].keys()
    assert all(torch.equal(plain[-1][key], silent[-1][key]) for key in plain[-1])


def test_the_fast_adapter_gets_the_gradient_of_the_data_alone(tmp_path: Path) -> None:
    """After a step from one start its weights are the same whatever lambda is; those of the slow one are not.

    Before the first step there is no divergence but that of rounding the kept answers: a huge lambda shows it.
    """
    options = {"max_steps": 1, "optim": "sgd", "max_grad_norm": 0.0, "weight_decay": 0.0}
    runs = {}
    for strength in (0.1, 1e6):
        method = SLSD(probes=10, kept_fraction=1.0, lambda_distillation=strength, earlier_probes=0, batch_size=10)
        runs[strength] = [tensors(w) for w in walk(tmp_path / str(strength), DUAL, method, tasks=1, **options)][-1]
    weak, strong = runs[0.1], runs[1e6]
    fast = [key for key in weak if key.startswith("task-01/")]
    slow = [key for key in weak if key.startswith("slow/") and "lora_B" in key]
    assert all(torch.equal(weak[key], strong[key]) for key in fast)
    assert any(not torch.equal(weak[key], strong[key]) for key in slow)


def test_all_probes_are_visited_before_one_is_visited_again(tmp_path: Path) -> None:
    method = SLSD(batch_size=3)
    walked = next(walk(tmp_path, DUAL, method, tasks=1))
    visits = [place for turn in range(10) for place in method._visited(walked.context, 7, turn)]
    assert len(visits) == 30
    for lap in range(4):
        assert sorted(visits[7 * lap : 7 * lap + 7]) == list(range(7))
    assert visits[:7] != visits[7:14]
    assert Counter(visits).most_common(1)[0][1] == 5


def test_fewer_probes_than_a_batch_are_all_taken_every_time(tmp_path: Path) -> None:
    walked = next(walk(tmp_path, DUAL, SLSD(), tasks=1))
    assert [sorted(SLSD(batch_size=8)._visited(walked.context, 3, turn)) for turn in range(3)] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("cadence", [1, 3])
def test_it_is_due_every_cadence_steps_and_weighs_as_much_per_step(tmp_path: Path, cadence: int) -> None:
    seen = watched(tmp_path, DUAL, probes=4, kept_fraction=1.0, cadence=cadence)
    due = [bool(terms) for _, _, terms in seen]
    assert due == [(step + 1) % cadence == 0 for step in range(len(due))]
    assert seen[-1][0].values["step"] == len(due)


def test_the_model_is_its_own_teacher_before_the_first_step(tmp_path: Path) -> None:
    first = watched(tmp_path, DUAL, probes=10, kept_fraction=1.0)[0][2]["distillation"]
    assert abs(first.item()) < 1e-4


class Asking(SLSD):
    """Computes the mean entropy over the answer of every row in a plain loop, before the probes are chosen."""

    found: dict[str, float] = {}  # noqa: RUF012

    def begin_task(self, state: MethodState, context: Any) -> None:
        type(self).found.clear()
        for row in context.tasks[0].train:
            with evaluating(context.bank.model):
                output = context.backbone.loss(context.bank.model, context.batch([row]))
            logits = answer_logits(output)
            p = logits.double().softmax(-1)
            type(self).found[row.id] = -(p * p.log()).sum(-1).mean().item()
            assert token_entropy(logits).mean().item() == pytest.approx(type(self).found[row.id], rel=1e-5)
        super().begin_task(state, context)


def probe_ids(folder: Path, **options: Any) -> tuple[list[str], dict[str, Any]]:
    *_, after = walk(folder, DUAL, Asking(**options), tasks=1)
    return [*after.state.values["audit"]["entropy"]], after.state.values["audit"]


def test_the_share_with_the_lowest_entropy_over_the_answer_is_kept(tmp_path: Path) -> None:
    kept, audit = probe_ids(tmp_path, kept_fraction=0.3, probes=100)
    assert sorted(kept) == sorted(sorted(Asking.found, key=Asking.found.__getitem__)[:3])
    assert (audit["candidates"], audit["kept"]) == (10, 3)
    assert audit["mean_entropy_of_kept"] < audit["mean_entropy_of_candidates"]
    assert sum(bin["candidates"] for bin in audit["entropy_bins"]) == 10
    assert sum(bin["kept"] for bin in audit["entropy_bins"]) == 3


def test_a_threshold_keeps_what_is_below_it(tmp_path: Path) -> None:
    probe_ids(tmp_path / "first")
    threshold = sum(sorted(Asking.found.values())[4:6]) / 2
    kept, _ = probe_ids(tmp_path / "second", max_entropy=threshold, probes=100)
    assert sorted(kept) == sorted(id for id, value in Asking.found.items() if value < threshold)


def test_a_random_selection_asks_for_no_more_rows_than_it_keeps(tmp_path: Path) -> None:
    kept, audit = probe_ids(tmp_path, selection="random", probes=4)
    assert len(kept) == audit["candidates"] == 4


def test_rows_of_earlier_tasks_become_probes(tmp_path: Path) -> None:
    *_, after = walk(tmp_path, DUAL, SLSD(probes=6, kept_fraction=1.0, earlier_probes=2))
    assert after.state.values["audit"]["earlier"] == 2
    assert [id.split("/")[0] for id in after.state.values["earlier"]] == ["a", "a", "b", "b"]


def test_answers_are_forgotten_when_the_task_ends(tmp_path: Path) -> None:
    *_, after = walk(tmp_path, DUAL, SLSD(probes=6))
    assert after.state.tensors == {}
    assert after.state.values["rows"] == []
    assert ProbeBuffer.load(after.state) is None


def test_it_holds_the_slow_adapter_where_it_was(tmp_path: Path) -> None:
    def moved(method: SLSD, folder: str) -> float:
        *_, after = walk(tmp_path / folder, DUAL, method, tasks=1, num_train_epochs=20.0)
        return after.state.values["audit"]["divergence"]["slow"]

    weak, strong = SLSD(probes=10, lambda_distillation=1e-6), SLSD(probes=10, lambda_distillation=3.0)
    assert moved(strong, "strong") < 0.8 * moved(weak, "weak")


def test_on_one_adapter_it_reaches_all_that_learns(tmp_path: Path) -> None:
    method = SLSD(probes=10, reach="all", lambda_distillation=3.0)
    *_, held = walk(tmp_path / "held", SeqLoRA(), method, tasks=1, num_train_epochs=20.0)
    weak = SLSD(probes=10, reach="all", lambda_distillation=1e-6)
    *_, free = walk(tmp_path / "free", SeqLoRA(), weak, tasks=1, num_train_epochs=20.0)
    assert set(held.state.values["audit"]["divergence"]) == {"all"}
    assert held.state.values["audit"]["divergence"]["all"] < free.state.values["audit"]["divergence"]["all"]


def test_without_a_slow_adapter_it_is_refused() -> None:
    (problem,) = composition_problems([("seq-lora", SeqLoRA()), ("slsd", SLSD())])
    assert "slow adapters" in problem.what
    assert "reach: all" in problem.instead
    with pytest.raises(CapabilityError):
        MethodStack((("slsd", SLSD()),))
    assert not composition_problems([("ds-lora", DSLoRA()), ("slsd", SLSD())])
    assert not composition_problems([("seq-lora", SeqLoRA()), ("slsd", SLSD(reach="all"))])


def test_it_declares_the_rows_that_it_keeps() -> None:
    assert "old_data" in SLSD().required()
    assert SLSD(earlier_probes=0, reach="all").required() == {"text_answers"}


def test_a_buffer_comes_out_of_a_state_as_it_went_in() -> None:
    drawn = [torch.randn(length, 30) for length in (3, 1, 5)]
    probes = [Probe(f"row-{n}", 0.5, top_distribution(logits, 4)) for n, logits in enumerate(drawn)]
    state = MethodState()
    ProbeBuffer.of(probes).save(state)
    loaded = ProbeBuffer.load(state)
    assert loaded is not None
    assert loaded.rows == ("row-0", "row-1", "row-2")
    taken = loaded.take([2, 0])
    for ours, theirs in ((taken[:5], probes[2].answer), (taken[5:], probes[0].answer)):
        assert torch.equal(ours.ids, theirs.ids)
        assert torch.equal(ours.log_probs, theirs.log_probs)
        assert torch.equal(ours.rest, theirs.rest)
    ProbeBuffer.clear(state)
    assert ProbeBuffer.load(state) is None


@pytest.mark.parametrize(
    ("options", "where"),
    [
        ({"selection": "random", "max_entropy": 1.0}, "max_entropy"),
        ({"selection": "random", "kept_fraction": 0.3}, "kept_fraction"),
        ({"max_entropy": 1.0, "kept_fraction": 0.3}, "kept_fraction"),
        ({"reach": "all", "student": "all"}, "student"),
    ],
)
def test_filters_without_effect_are_refused(options: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SLSD(**options)
    assert caught.value.problems[0].where == where
