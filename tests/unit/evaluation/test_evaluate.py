from __future__ import annotations

import math
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bigram import END, BigramBackbone, BigramModel, row, task_of

from evertune.errors import MemoryExhaustedError
from evertune.evaluation.cell import Cell
from evertune.evaluation.config import EvaluationConfig
from evertune.evaluation.evaluate import evaluate_rows
from evertune.streams.examples import PromptTarget
from evertune.streams.task import Task
from evertune.training.config import TrainConfig

# What the model answers, by the last character of the prompt: 1 "ab", 2 "cd", 3 nothing, 4 "eeee..." without end.
FOLLOWS = {"1": "a", "a": "b", "b": "", "2": "c", "c": "d", "d": "", "3": "", "4": "e", "e": "e"}
ROWS = (
    row(0, "short 1", "ab"),
    row(1, "a much longer prompt 2", "cd"),
    row(2, "middling 1", "cd"),
    row(3, "x 3", "ab"),
    row(4, "another long prompt 2", "cd"),
)
EXPECTED = ["ab", "cd", "ab", "", "cd"]


def evaluate(
    rows: tuple[PromptTarget, ...] = ROWS,
    *,
    task: Task | None = None,
    backbone: BigramBackbone | None = None,
    model: BigramModel | None = None,
    max_target_length: int = 50,
    autocast_dtype: torch.dtype | None = None,
    on_progress: Any = None,
    **config: Any,
) -> Cell:
    return evaluate_rows(
        backbone or BigramBackbone(),  # type: ignore[arg-type]
        model or BigramModel(FOLLOWS),
        task or task_of(rows),
        rows,
        config=EvaluationConfig(**config),
        train=TrainConfig(max_target_length=max_target_length),
        device="cpu",
        autocast_dtype=autocast_dtype,
        on_progress=on_progress,
    )


def nll(model: BigramModel, prompt: str, target: str) -> list[float]:
    """Negative log-likelihood of every token of an answer and its end, by a plain loop."""
    table = model.table.weight.detach().double()
    losses, last = [], ord(prompt[-1])
    for token in [*map(ord, target), END]:
        losses.append(-math.log(math.exp(table[last, token]) / sum(map(math.exp, table[last].tolist()))))
        last = token
    return losses


def test_answers_come_in_the_order_of_the_rows() -> None:
    backbone = BigramBackbone()
    cell = evaluate(backbone=backbone, per_device_eval_batch_size=2)
    assert [prediction.id for prediction in cell.predictions] == [row.id for row in ROWS]
    assert [prediction.prediction for prediction in cell.predictions] == EXPECTED
    assert [prediction.reference for prediction in cell.predictions] == [row.target for row in ROWS]
    assert [prediction.correct for prediction in cell.predictions] == [True, True, False, False, True]
    assert {prediction.score for prediction in cell.predictions} == {None}
    # Batches hold rows of like length, the longest first.
    assert backbone.batches == [
        ["letters/test/1", "letters/test/4"],
        ["letters/test/2", "letters/test/0"],
        ["letters/test/3"],
    ]


def test_score_loss_and_standard_error() -> None:
    model = BigramModel(FOLLOWS)
    cell = evaluate(model=model)
    assert (cell.task, cell.metric, cell.count, cell.score) == ("letters", "exact_match", 5, 0.6)
    assert cell.standard_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))
    losses = [loss for each in ROWS for loss in nll(model, each.prompt_text, each.target)]
    assert cell.loss == pytest.approx(sum(losses) / len(losses), rel=1e-6)
    assert cell.metrics == {"exact_match": 0.6, "rouge1": 0.6, "rougeL": 0.6}
    assert cell.generated_tokens == pytest.approx(8 / 5)
    assert cell.seconds > 0


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_the_batch_size_changes_nothing(size: int) -> None:
    cell = evaluate(per_device_eval_batch_size=size)
    assert replace(cell, seconds=0.0) == replace(evaluate(), seconds=0.0)


def test_free_text_may_be_as_long_as_training_allows() -> None:
    backbone = BigramBackbone()
    cell = evaluate((row(0, "4", "e"),), backbone=backbone, max_target_length=7, num_beams=3)
    assert cell.predictions[0].prediction == "e" * 7
    assert (backbone.max_new_tokens, backbone.num_beams) == ({7}, {3})


def test_a_classification_task_stops_at_its_longest_label() -> None:
    rows = (row(0, "4", "eee"),)
    backbone = BigramBackbone()
    cell = evaluate(rows, task=task_of(rows, labels=("a", "eee")), backbone=backbone)
    assert backbone.max_new_tokens == {4}, "three letters and the end"
    assert cell.predictions[0].prediction == "eeee"
    evaluate(rows, task=task_of(rows, labels=("a", "eee")), backbone=backbone, max_target_length=2)
    assert backbone.max_new_tokens == {4, 2}


def test_labels_add_the_metrics_of_classification() -> None:
    cell = evaluate(task=task_of(ROWS, labels=("ab", "cd"), metric="accuracy"))
    # ab was 2 times, said 2 times, right once; cd was 3 times, said 2 times, right twice; one answer is no label.
    assert cell.metrics == {
        "exact_match": 0.6,
        "rouge1": 0.6,
        "rougeL": 0.6,
        "accuracy": 0.6,
        "f1": pytest.approx((2 / 4 + 4 / 5) / 2),
        "precision": pytest.approx((1 / 2 + 1) / 2),
        "recall": pytest.approx((1 / 2 + 2 / 3) / 2),
    }


def test_f1_is_a_score_of_all_rows() -> None:
    cell = evaluate(task=task_of(ROWS, labels=("ab", "cd"), metric="f1"))
    assert cell.score == pytest.approx(0.65)
    assert [prediction.correct for prediction in cell.predictions] == [True, True, False, False, True]
    assert cell.standard_error is not None
    assert cell.standard_error > 0


def test_graded_metrics_keep_scores() -> None:
    cell = evaluate((row(0, "1", "ab cd"),), task=task_of((), metric="rougeL"))
    assert cell.score == pytest.approx(2 / 3)
    assert (cell.predictions[0].correct, cell.predictions[0].score) == (None, cell.score)
    assert cell.standard_error is None


def test_rows_with_an_invalid_label_are_wrong_whatever_is_answered() -> None:
    # Without its guard the published normalisation would make "-" and an empty answer the same.
    rows = (row(0, "x 3", "-"), row(1, "1", "ab"), row(2, "2", "cd"), row(3, "1", "AB"))
    cell = evaluate(rows, task=task_of(rows, labels=("ab", "cd"), invalid=("letters/test/3",)))
    assert [prediction.correct for prediction in cell.predictions] == [False, True, True, False]
    assert (cell.score, cell.metrics["accuracy"], cell.metrics["rougeL"]) == (0.5, 0.5, 0.5)
    assert [prediction.reference for prediction in cell.predictions] == ["-", "ab", "cd", "AB"]


def test_label_likelihood() -> None:
    backbone = BigramBackbone()
    rows = (row(0, "1", "ab"), row(1, "22", "cd"), row(2, "4", "ab"))
    cell = evaluate(rows, task=task_of(rows, labels=("cd", "ab")), backbone=backbone, decoding="label_likelihood")
    model = BigramModel(FOLLOWS)
    likeliest = [min(("cd", "ab"), key=lambda label: sum(nll(model, each.prompt_text, label))) for each in rows]
    assert [prediction.prediction for prediction in cell.predictions] == likeliest
    assert likeliest[:2] == ["ab", "cd"]
    assert not backbone.max_new_tokens, "nothing is generated"


def test_label_likelihood_generates_for_free_text() -> None:
    assert [prediction.prediction for prediction in evaluate(decoding="label_likelihood").predictions] == EXPECTED


def test_modes_come_back_as_they_were() -> None:
    model = BigramModel(FOLLOWS).train()
    model.frozen_part.eval()
    evaluate(model=model, per_device_eval_batch_size=2)
    assert (model.training, model.table.training, model.frozen_part.training) == (True, True, False)
    assert {(call["training"], call["gradients"], call["autocast"]) for call in model.calls} == {(False, False, None)}


def test_modes_come_back_after_an_error() -> None:
    model = BigramModel(FOLLOWS).train()

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model=model, on_progress=stop)
    assert model.training


def test_autocast_is_used_where_asked() -> None:
    model = BigramModel(FOLLOWS)
    evaluate(model=model, autocast_dtype=torch.bfloat16)
    assert {call["autocast"] for call in model.calls} == {torch.bfloat16}


def test_progress_counts_rows() -> None:
    seen: list[tuple[int, int]] = []
    evaluate(per_device_eval_batch_size=2, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def test_a_loss_that_no_file_can_hold_is_none() -> None:
    model = BigramModel(FOLLOWS)
    with torch.no_grad():
        model.table.weight[ord("1"), ord("z")] = math.inf  # the loss of the answer is NaN
    cell = evaluate(model=model)
    assert (cell.loss, cell.count) == (None, len(ROWS))


def test_a_lack_of_memory_names_the_keys_to_change() -> None:
    def full(done: int, total: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MemoryExhaustedError) as caught:
        evaluate(per_device_eval_batch_size=5, num_beams=4, on_progress=full)
    text = str(caught.value)
    assert text.startswith("scoring letters: Memory ran out while scoring. Change, cheapest first: ")
    assert "`evaluation.per_device_eval_batch_size: 2` (this run goes on); or, with another `--output-dir`: " in text
    assert ": `evaluation.num_beams: 1`; " in text


def test_other_errors_while_scoring_are_left_as_they_are() -> None:
    def broken(done: int, total: int) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        evaluate(on_progress=broken)


def test_no_rows() -> None:
    cell = evaluate(())
    assert (cell.count, cell.score, cell.loss, cell.standard_error, cell.metrics) == (0, None, None, None, {})


def _one_process(rank: int, world_size: int, port: int, folder: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world_size)
    model = BigramModel(FOLLOWS)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    cell = evaluate(model=wrapped, per_device_eval_batch_size=2)  # type: ignore[arg-type]
    torch.save([replace(cell, seconds=0.0), sum(call["rows"] for call in model.calls)], f"{folder}/{rank}.pt")  # type: ignore[misc]
    torch.distributed.destroy_process_group()


def test_any_number_of_processes_gives_the_same_cell(tmp_path: Path) -> None:
    """Three batches over two real processes: one has two of them, the other one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_one_process, (2, port, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined]
    alone = replace(evaluate(per_device_eval_batch_size=2), seconds=0.0)
    loaded = [torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [cell for cell, _ in loaded] == [alone, alone]
    assert all(calls for _, calls in loaded), "both have worked"
