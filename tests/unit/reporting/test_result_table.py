from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from run_folder import FIFTEEN, FOUR, write_run

from evertune.metrics.matrix import EvalMatrix, summary_metrics
from evertune.reporting.explain import hints
from evertune.reporting.load import load_run
from evertune.reporting.table import MatrixTable, result, row_table, run_result, summary_table


def drawn(renderable: object, width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(renderable)
    return [line.rstrip() for line in captured.get().splitlines()]


def matrix_of(values: list[list[float | None]], zero_shot: list[float | None] | None = None) -> EvalMatrix:
    tasks = [f"task{index}" for index in range(len(values))]
    data = EvalMatrix.empty(tasks, dict.fromkeys(tasks, "exact_match")).to_json()
    return EvalMatrix.from_json({**data, "values": values, "zero_shot": zero_shot or [None] * len(values)})


def test_the_matrix_of_four_tasks(four: Path) -> None:
    matrix = load_run(four).matrix
    lines = drawn(MatrixTable(matrix))
    assert lines[1].split() == ["after", *FOUR]
    assert lines[3].split() == ["zero-shot", *(f"{100 * score:.1f}" for score in matrix.zero_shot if score is not None)]
    for row in range(4):
        scores = [f"{100 * score:.1f}" for score in matrix.values[row] if score is not None]
        assert lines[4 + row].split() == [FOUR[row], *scores, *["·"] * (3 - row)]
    assert lines[-1].split() == ["rows", "40", "40", "40", "40"]


@pytest.mark.parametrize("width", [80, 120])
def test_fifteen_tasks_fit(fifteen: Path, width: int) -> None:
    matrix = load_run(fifteen).matrix
    lines = drawn(MatrixTable(matrix), width)
    assert "…" not in "".join(lines)
    assert lines[1].split() == ["after", *map(str, range(1, 16))]
    last = lines[-3].split()
    digits = 0 if width == 80 else 1
    assert last == [
        "15",
        FIFTEEN[-1],
        *(f"{100 * score:.{digits}f}" for score in matrix.values[-1] if score is not None),
    ]


def test_colours_need_more_than_noise() -> None:
    data = matrix_of([[0.9, None], [0.5, 0.8]]).to_json()
    noisy = EvalMatrix.from_json({**data, "standard_error": [[0.2, None], [0.2, 0.1]]})
    exact = EvalMatrix.from_json({**data, "standard_error": [[0.01, None], [0.01, 0.1]]})
    console = Console(width=80, force_terminal=True, color_system="standard")
    red = "\x1b[31m"
    for matrix, expected in ((noisy, False), (exact, True)):
        with console.capture() as captured:
            console.print(MatrixTable(matrix))
        assert (red in captured.get()) is expected


def test_multi_task_and_unfinished_runs(tmp_path: Path) -> None:
    lines = drawn(run_result(load_run(write_run(tmp_path / "multi", multi_task=True))))
    assert [line.split()[0] for line in lines[3:5]] == ["zero-shot", "all"]
    assert not any(line.startswith("Learning accuracy") for line in lines)
    lines = drawn(run_result(load_run(write_run(tmp_path / "begun", finished=0, zero_shot=False))))
    assert lines[0] == "Nothing is scored yet."


def test_the_summary_stands_together(four: Path) -> None:
    summary = load_run(four).summary
    lines = drawn(summary_table(summary))
    titles = [line[: line.find("  ")] for line in lines]
    assert titles[:5] == ["Average accuracy", "Learning accuracy", "Backward transfer", "Forgetting", "Worst task"]
    assert f"{100 * summary['average_accuracy']:.1f}" in lines[0]
    # 20.83 points lost: the sign is a real minus.
    assert f"−{-100 * summary['backward_transfer']:.1f}" in lines[2]
    assert "294,912  0.49 % of 60,801,024" in "\n".join(lines)
    assert not any(line.startswith("Forward transfer") for line in lines), "undefined, so it is left out"
    assert max(map(len, lines)) <= 80


def sentences(values: list[list[float | None]], zero_shot: list[float | None], chance: list[float | None]) -> str:
    matrix = matrix_of(values, zero_shot)
    return "\n".join(hints(matrix, summary_metrics(matrix, chance), chance))


def test_a_task_that_was_never_learnt_is_no_success() -> None:
    text = sentences([[0.1, None], [0.12, 0.1]], [0.08, 0.1], [None, None])
    assert "A good backward transfer (+2.0) with a poor learning accuracy (10.0) is not a success" in text
    # Learnt and kept: nothing to say.
    assert sentences([[0.9, None], [0.9, 0.9]], [0.1, 0.1], [0.25, 0.25]) == ""


def test_chance_counts_as_not_learnt() -> None:
    assert "is not a success" in sentences([[0.5, None], [0.5, 0.5]], [0.0, 0.0], [0.5, 0.5])
    assert "is not a success" not in sentences([[0.5, None], [0.5, 0.5]], [0.0, 0.0], [None, None])


def test_losses_are_named() -> None:
    text = sentences([[0.9, None, None], [0.0, 0.8, None], [0.4, 0.1, 0.9]], [0.2, 0.15, 0.1], [0.5, 0.5, 0.5])
    assert "task1 lost most: 80.0 when learnt, 10.0 at the end." in text
    assert "task1 ends below the score of the untouched model." in text
    assert "task0 and task1 end below guessing" in text
    assert "Scores came back by 20.0 points without new data" in text


def test_noise_is_no_finding() -> None:
    data = matrix_of([[0.9, None], [0.4, 0.9]], [0.5, 0.0]).to_json()
    for error, expected in ((0.2, False), (0.01, True)):
        matrix = EvalMatrix.from_json({**data, "standard_error": [[0.1, None], [error, 0.1]]})
        text = "\n".join(hints(matrix, summary_metrics(matrix, [0.5, 0.5]), [0.5, 0.5]))
        assert ("task0 ends below guessing" in text) is expected
        assert ("task0 ends below the score of the untouched model" in text) is expected


def test_no_hints_without_numbers() -> None:
    assert sentences([[None, None], [None, None]], [None, None], [None, None]) == ""
    assert hints(EvalMatrix.empty([], {}), {}, []) == []


def test_result_prints_hints_last() -> None:
    matrix = matrix_of([[0.9, None], [0.1, 0.9]])
    lines = drawn(result(matrix, summary_metrics(matrix, [None, None]), [None, None]))
    assert lines[-1] == "- task0 lost most: 90.0 when learnt, 10.0 at the end."


def test_row_table(four: Path) -> None:
    scores = load_run(four).stages[1].metrics["scores"]
    lines = drawn(row_table(scores))
    assert lines[3].split()[0] == "dbpedia"
    entry = scores["amazon"]
    expected = [f"{100 * entry['score']:.1f}", f"{100 * entry['standard_error']:.1f}", "40", f"{entry['loss']:.3f}"]
    assert lines[4].split() == ["amazon", *expected, "exact_match"]
