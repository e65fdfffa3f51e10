"""Answers beside those of the untouched model at the end of a run, and the size of what it keeps."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from evertune.reporting.before_after import BeforeAfter, adapter_line, before_after_table, before_and_after
from evertune.reporting.load import load_run
from evertune.streams.examples import PromptTarget, Segment
from evertune.streams.task import Stream, Task


def rows(task: str, count: int) -> tuple[PromptTarget, ...]:
    return tuple(
        PromptTarget(f"{task}/test/{n}", (Segment("Advertise: "), Segment(f"skirt {n}", cut=True)), f"fine {n}")
        for n in range(count)
    )


def write_predictions(folder: Path, task: str, answer: str, count: int) -> None:
    lines = [
        {"id": f"{task}/test/{n}", "prediction": f"{answer} {n}", "reference": f"fine {n}", "score": 0.5}
        for n in range(count)
    ]
    path = folder / "predictions" / f"{task}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")


@pytest.fixture
def run(four: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(four, tmp_path / "run"))


def stream(*tasks: Task) -> Stream:
    return Stream("ads", tasks)


def free_text(run: Path, task: str, count: int) -> Task:
    write_predictions(run / "zero_shot", task, "before", count)
    write_predictions(load_run(run).finished_stages[-1].path, task, "after", count)
    return Task(task, (), (), rows(task, count))


def test_three_rows_from_all_over_the_only_task(run: Path) -> None:
    found = before_and_after(load_run(run), stream(free_text(run, "ads", 9)))
    assert [row.id for row in found] == ["ads/test/0", "ads/test/4", "ads/test/8"]
    assert found[1] == BeforeAfter("ads/test/4", "skirt 4", "fine 4", "before 4", "after 4")


def test_fewer_rows_than_three(run: Path) -> None:
    assert len(before_and_after(load_run(run), stream(free_text(run, "ads", 2)))) == 2


def test_one_row_each_of_several_tasks_and_none_of_classes(run: Path) -> None:
    classes = Task("dbpedia", (), (), rows("dbpedia", 3), labels=("a", "b"))
    found = before_and_after(load_run(run), stream(classes, free_text(run, "ads", 3), free_text(run, "notes", 3)))
    assert [row.id for row in found] == ["ads/test/0", "notes/test/0"]


def test_nothing_without_the_untouched_model(run: Path) -> None:
    task = free_text(run, "ads", 3)
    shutil.rmtree(run / "zero_shot")
    assert before_and_after(load_run(run), stream(task)) == []


def test_the_table_is_short_and_takes_texts_as_they_are() -> None:
    out = io.StringIO()
    row = BeforeAfter("ads/test/0", "类型#裙*[bold]图案[/bold]", "fine", "", "word " * 100)
    Console(file=out, width=90).print(before_after_table([row]))
    text = out.getvalue()
    assert text.splitlines()[0].split() == ["prompt", "before", "after"]
    assert "类型#裙*[bold]图案[/bold]" in text
    assert "(nothing)" in text
    assert 10 < text.count("word") < 30
    assert "…" in text


def test_the_size_of_an_adapter(run: Path) -> None:
    (stage,) = load_run(run).manifest["stages"][-1:]
    adapter = run / stage["adapters"]["shared"]
    adapter.mkdir(parents=True, exist_ok=True)
    (adapter / "adapter_model.safetensors").write_bytes(bytes(7_812_345))
    assert adapter_line(load_run(run)) == f"adapter {stage['adapters']['shared']}: 7.8 MB"
    (adapter / "adapter_model.safetensors").unlink()
    assert adapter_line(load_run(run)) == ""
