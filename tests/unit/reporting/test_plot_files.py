from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text
from run_folder import FOUR, write_run

from evertune.reporting import plots
from evertune.reporting.load import load_run


def test_the_files_of_a_run(four: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(four, tmp_path / "run"))
    before = dict(matplotlib.rcParams)
    written = plots.write_plots(folder)
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in written) == sorted(path.name for path in (folder / "plots").iterdir())
    names = {f"train_loss_{task}.png" for task in FOUR} | {"evaluation_loss.png", "matrix.png"}
    assert {path.name for path in written} == names
    for path in written:
        pixels = imread(path)
        assert min(pixels.shape[:2]) >= 300
        packed = (pixels[..., :3] * 255).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
        assert len(np.unique(packed)) > 50, f"{path.name} shows something"


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ("dbpedia",))
    first = {path.name: path.read_bytes() for path in plots.write_plots(folder)}
    assert {path.name: path.read_bytes() for path in plots.write_plots(folder)} == first


def test_finished_stages_need_not_be_drawn_again(four: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(four, tmp_path / "run"))
    assert len(plots.write_plots(folder, redraw=False)) == 6, "nothing is there yet"
    names = {path.name for path in plots.write_plots(folder, redraw=False)}
    assert names == {"train_loss_agnews.png", "evaluation_loss.png", "matrix.png"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"finished": 0, "zero_shot": False}, {"train_loss_dbpedia.png"}),
        ({"finished": 0}, {"train_loss_dbpedia.png", "matrix.png"}),
        ({"multi_task": True}, {"train_loss_multi-task.png", "matrix.png", "evaluation_loss.png"}),
    ],
)
def test_only_what_there_is_is_drawn(options: dict, expected: set[str], tmp_path: Path) -> None:
    assert {path.name for path in plots.write_plots(write_run(tmp_path / "run", **options))} == expected


def test_evaluation_loss_has_the_numbers_of_the_matrix(four: Path) -> None:
    run = load_run(four)
    axes = plots._evaluation_loss_figure(run).axes[0]
    for task, line in enumerate(axes.lines):
        assert list(line.get_xdata()) == list(range(task + 1, 5))
        assert list(line.get_ydata()) == [run.matrix.loss[row][task] for row in range(task, 4)]
    assert {text.get_text() for text in axes.texts} == set(FOUR)


def test_names_at_the_lines_do_not_overlap(fifteen: Path) -> None:
    figure = plots._evaluation_loss_figure(load_run(fifteen))
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    # The extent of the name alone, without the line that leads to it.
    boxes = sorted((Text.get_window_extent(text, renderer) for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 15
    for below, above in itertools.pairwise(boxes):
        assert above.y0 - below.y0 >= 0.75 * below.height
    assert max(box.x1 for box in boxes) <= figure.bbox.x1


def test_the_matrix_plot_has_the_numbers_of_the_matrix(four: Path) -> None:
    run = load_run(four)
    texts = [text.get_text() for text in plots._matrix_figure(run).axes[0].texts]
    rows = (run.matrix.zero_shot, *run.matrix.values)
    assert texts == [f"{100 * score:.1f}" for row in rows for score in row if score is not None]


def test_repeated_steps_of_a_resumed_run_count_once(four: Path, tmp_path: Path) -> None:
    from evertune.reporting.series import training_series

    folder = Path(shutil.copytree(four, tmp_path / "run"))
    before = training_series(load_run(folder))
    with (folder / "events.jsonl").open("a") as out:
        out.write(
            os.linesep + '{"event": "step", "stage": 0, "task": "dbpedia", "step": 500, "loss": 9.0}' + os.linesep
        )
    after = training_series(load_run(folder))
    assert len(after[0].loss) == len(before[0].loss)
    assert after[0].loss[-1] == (500, 9.0)
    assert after[1:] == before[1:]
