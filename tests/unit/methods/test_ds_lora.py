"""DS-LoRA: two adapters, two rates, and what is left of them after a task."""

from pathlib import Path

import pytest
import torch

from evertune.adapters.spec import AdapterSpec
from evertune.errors import ConfigError
from evertune.methods.base import task_adapter
from evertune.methods.ds_lora import FAST, SLOW, DSLoRA
from evertune.streams.task import Stage
from tests.unit.methods.walks import walk, weights

STAGES = [Stage(index, f"t{index}", (index,), index) for index in range(3)]


def test_each_adapter_learns_at_its_own_rate(tmp_path: Path) -> None:
    """Adam's first step moves every entry with a gradient by the rate itself."""
    method = DSLoRA(slow_learning_rate=1e-3, fast_learning_rate=5e-3)
    options = {"max_steps": 1, "weight_decay": 0.0, "max_grad_norm": 0.0}
    _, after = walk(tmp_path, method, tasks=1, **options)
    for name, rate in ((SLOW, 1e-3), (task_adapter(0), 5e-3)):
        moved = torch.cat([factors.B.detach().abs().flatten() for factors in after.bank.factors(name).values()])
        assert moved.median().item() == pytest.approx(rate, rel=1e-2)


def test_without_a_rate_the_fast_one_learns_at_that_of_the_loop(tmp_path: Path) -> None:
    method = DSLoRA(slow_learning_rate=1e-3)
    _, after = walk(tmp_path, method, tasks=1, max_steps=1, weight_decay=0.0, max_grad_norm=0.0)
    moved = torch.cat([factors.B.detach().abs().flatten() for factors in after.bank.factors("task-01").values()])
    assert moved.median().item() == pytest.approx(1e-2, rel=1e-2)


def test_the_slow_adapter_moves_in_the_first_task_and_is_shared_by_all(tmp_path: Path) -> None:
    states = [
        {path: factors.B.detach().clone() for path, factors in walked.bank.factors(SLOW).items()}
        for walked in walk(tmp_path, DSLoRA(slow_learning_rate=1e-3))
    ]
    first, learnt, second, later = states
    assert not any(B.any() for B in first.values())
    assert all(B.abs().max() > 1e-4 for B in learnt.values())
    assert all(torch.equal(learnt[path], second[path]) for path in learnt)
    assert all(not torch.equal(second[path], later[path]) for path in later)


def test_a_task_begins_with_a_fast_adapter_that_adds_nothing(tmp_path: Path) -> None:
    added = [
        [bool(factors.B.any()) for factors in walked.bank.factors(walked.bank.trainable[1]).values()]
        for walked in walk(tmp_path, DSLoRA(slow_learning_rate=1e-3))
    ]
    assert [set(stage) for stage in added] == [{False}, {True}, {False}, {True}]


@pytest.mark.parametrize(
    ("method", "answers"),
    [
        (DSLoRA(), [(SLOW, "task-01"), (SLOW, "task-02"), (SLOW,)]),
        (DSLoRA(at_test="slow"), [(SLOW,)] * 3),
        (DSLoRA(at_test="fast"), [("task-01",), ("task-02",), ()]),
        (DSLoRA(at_test="last"), [(SLOW, "task-02")] * 3),
        (DSLoRA(fast="shared"), [(SLOW, FAST)] * 3),
        (DSLoRA(fast="shared", at_test="fast"), [(FAST,)] * 3),
        (DSLoRA(fast="merged"), [(SLOW,)] * 3),
    ],
)
def test_what_answers_after_the_second_task(method: DSLoRA, answers: list[tuple[str, ...]]) -> None:
    assert [method.eval_adapters(STAGES[1], task).active for task in range(3)] == answers


@pytest.mark.parametrize(
    ("method", "needs"),
    [
        (DSLoRA(), True),
        (DSLoRA(at_test="fast"), True),
        (DSLoRA(at_test="slow"), False),
        (DSLoRA(at_test="last"), False),
        (DSLoRA(fast="shared"), False),
        (DSLoRA(fast="merged"), False),
    ],
)
def test_it_says_whether_the_task_of_a_row_must_be_known(method: DSLoRA, needs: bool) -> None:
    assert ("task_id_at_test" in method.required()) is needs


def test_merged_the_slow_adapter_holds_the_sum(tmp_path: Path) -> None:
    """At full rank nothing is cut off: the weights before and after the merge multiply alike."""
    spec = AdapterSpec(r=16, lora_alpha=16)
    stages = walk(tmp_path, DSLoRA(slow_learning_rate=1e-3, fast="merged"), spec=spec)
    next(stages)
    seen: dict[str, torch.Tensor] = {}
    original = DSLoRA._merge

    def watched(self: DSLoRA, context: object) -> float:
        seen.update(weights(context.bank))  # type: ignore[attr-defined]
        return original(self, context)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DSLoRA, "_merge", watched)
        after = next(stages)
    assert after.bank.names == (SLOW,)
    assert after.state.values["kept_energy"] == pytest.approx(1.0, abs=1e-6)
    for path, weight in weights(after.bank).items():
        torch.testing.assert_close(weight, seen[path], atol=1e-5, rtol=0)
    start = next(stages)
    assert start.bank.trainable == (SLOW, "task-02")


def test_a_merged_adapter_still_learns(tmp_path: Path) -> None:
    walked = list(walk(tmp_path, DSLoRA(slow_learning_rate=1e-2, fast="merged")))
    assert all(factors.A.norm(dim=1).min() > 0.3 for factors in walked[1].bank.factors(SLOW).values())


@pytest.mark.parametrize(
    ("options", "where"),
    [({"fast": "merged", "at_test": "fast"}, "at_test"), ({"merge_weight": 0.5}, "merge_weight")],
)
def test_options_without_effect_are_refused(options: dict, where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DSLoRA(**options)
    assert caught.value.problems[0].where == where
