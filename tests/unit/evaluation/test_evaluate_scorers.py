"""Metrics that need more than two texts, through the whole of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bigram import BigramBackbone, BigramModel, row, task_of
from test_evaluate import FOLLOWS, nll

from evertune.errors import ConfigError
from evertune.evaluation import sandbox
from evertune.evaluation.cell import Cell, read_cell, write_cell
from evertune.evaluation.config import EvaluationConfig
from evertune.evaluation.evaluate import evaluate_rows
from evertune.evaluation.measuring import execution_problem
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Task
from evertune.training.config import TrainConfig


def evaluate(rows: Sequence[PromptTarget], task: Task, on_progress: Any = None, **config: Any) -> Cell:
    return evaluate_rows(
        BigramBackbone(),  # type: ignore[arg-type]
        BigramModel(FOLLOWS),
        task,
        rows,
        config=EvaluationConfig(**config),
        train=TrainConfig(max_target_length=50),
        device="cpu",
        on_progress=on_progress,
    )


def pair(number: int, prompt: str, target: str, rejected: str) -> PromptTarget:
    return replace(row(number, prompt, target), facts={"rejected": rejected})


PAIRS = (
    pair(0, "1", "ab", "ba"),
    pair(1, "longer 2", "x", "cd"),
    pair(2, "1", "ab", "a"),
    pair(3, "4", "eeeeeeee", "x"),
    pair(4, "1", "ab", "ab"),
    pair(5, "2", "zzzz", "q"),
)


@pytest.mark.parametrize("size", [1, 2, 50])
def test_preference_is_the_likelihood_of_both_answers(size: int) -> None:
    model = BigramModel(FOLLOWS)
    losses = [
        [nll(model, each.prompt_text, answer) for answer in (each.target, each.facts["rejected"])] for each in PAIRS
    ]
    by_token = [float(sum(right) / len(right) < sum(other) / len(other)) for right, other in losses]
    by_sum = [float(sum(right) < sum(other)) for right, other in losses]
    assert by_token != by_sum, "the rows tell the two apart"
    cell = evaluate(PAIRS, task_of(PAIRS, metric="preference_accuracy"), per_device_eval_batch_size=size)
    assert [prediction.value for prediction in cell.predictions] == by_token
    assert cell.score == cell.metrics["preference_accuracy"] == pytest.approx(sum(by_token) / 6)
    assert cell.metrics["preference_accuracy_sum"] == pytest.approx(sum(by_sum) / 6)
    assert cell.standard_error == pytest.approx(math.sqrt(cell.score * (1 - cell.score) / 6))
    # The answers that are kept are generated, and the loss is that of the right answers, as of any task.
    plain = evaluate(PAIRS, task_of(PAIRS), per_device_eval_batch_size=size)
    assert [each.prediction for each in cell.predictions] == [each.prediction for each in plain.predictions]
    assert (cell.loss, cell.metrics["rougeL"]) == (plain.loss, plain.metrics["rougeL"])


def test_a_cell_of_likelihoods_is_read_as_it_was_written(tmp_path: Path) -> None:
    cell = evaluate(PAIRS, task_of(PAIRS, metric="preference_accuracy"), decoding="label_likelihood", num_beams=2)
    write_cell(tmp_path, cell)
    assert read_cell(tmp_path, "letters") == cell


def test_progress_counts_every_pass_as_its_share() -> None:
    seen: list[tuple[int, int]] = []
    task = task_of(PAIRS, metric="preference_accuracy")
    evaluate(PAIRS, task, lambda done, total: seen.append((done, total)), per_device_eval_batch_size=3)
    assert seen == [(1, 6), (3, 6), (4, 6), (6, 6)]


def test_further_metrics_are_reported_beside_the_score() -> None:
    rows = (row(0, "1", "ab"), row(1, "1", "cd"))
    cell = evaluate(rows, replace(task_of(rows), metrics=("code_parses", "gsm8k_strict")))
    assert (cell.metric, cell.score) == ("exact_match", 0.5)
    assert cell.metrics == {
        "exact_match": 0.5,
        "rouge1": 0.5,
        "rougeL": 0.5,
        "code_parses": 0.5,
        "gsm8k_strict": 0.0,
        "gsm8k_flexible": 0.0,
    }


def test_an_unknown_metric_is_refused_before_anything_is_answered() -> None:
    with pytest.raises(ConfigError, match=r"letters: There is no metric `rogueL`\. Did you mean `rougeL`\?"):
        evaluate(PAIRS, replace(task_of(PAIRS), metrics=("rogueL",)))


def test_instruction_and_tools_reach_the_metric() -> None:
    # The model answers "ab" whatever is asked; the input text is no instruction.
    rows = (
        PromptTarget("t/test/0", (Segment("In two words. "), Segment("In one word. 1", cut=True)), "x"),
        PromptTarget("t/test/1", (Segment("In one word. "), Segment("In two words. 1", cut=True)), "x"),
        PromptTarget("t/test/2", (Segment("In two words. 1", cut=True),), "x"),
    )
    cell = evaluate(rows, task_of(rows, metric="instruction_format"))
    assert [prediction.score for prediction in cell.predictions] == [0, 1, 0]


TESTS = ("assert ab == 1", "assert 2 > 1")


@pytest.mark.skipif(not sandbox.is_available(), reason="this platform cannot limit a process")
def test_code_is_run_where_that_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, str]] = []
    passes = sandbox.passes
    monkeypatch.setattr(sandbox, "passes", lambda code, tests: ran.append((code, tests)) or passes(code, tests))
    rows = tuple(replace(row(index, "1", "x"), facts={"tests": [test]}) for index, test in enumerate(TESTS))
    # The answer "ab" is a name that nothing is bound to.
    cell = evaluate(rows, task_of(rows, metric="code_passes"), allow_code_execution=True)
    assert ran == [("ab", test) for test in TESTS], "each once"
    assert [prediction.correct for prediction in cell.predictions] == [False, False]
    assert (cell.metrics["code_passes"], cell.metrics["code_parses"]) == (0, 0)
    silent = tuple(replace(each, prompt=(Segment("3"),)) for each in rows)  # an empty program: only the tests count
    cell = evaluate(silent, task_of(silent, metric="code_passes"), allow_code_execution=True)
    assert [prediction.correct for prediction in cell.predictions] == [False, True]


def test_code_is_not_run_unless_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = (replace(row(0, "1", "x"), facts={"tests": "assert True"}),)
    task = replace(task_of(rows), metrics=("code_passes",))
    monkeypatch.setattr(sandbox, "passes", lambda *_: pytest.fail("it was run"))
    with pytest.raises(ConfigError) as error:
        evaluate(rows, task)
    assert str(error.value).startswith(
        "evaluation.allow_code_execution: The metric code_passes of task letters runs code"
    )
    assert "Write `evaluation: {allow_code_execution: true}`" in str(error.value)
    assert execution_problem(task_of(rows), EvaluationConfig()) is None
    monkeypatch.setattr(sandbox, "is_available", lambda: False)
    problem = execution_problem(task, EvaluationConfig(allow_code_execution=True))
    assert problem is not None
    assert "which this platform cannot limit" in problem.what
