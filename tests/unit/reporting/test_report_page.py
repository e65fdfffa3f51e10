from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from run_folder import FIFTEEN, FOUR, HOSTILE, write_json, write_run

from evertune.errors import CheckpointError
from evertune.reporting.html import write_report
from evertune.reporting.palette import contrast


class Page(HTMLParser):
    """What a browser would see: tags with their attributes, and the text of every element by its tag."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.append((self.open[-1], data))

    @property
    def text(self) -> str:
        return " ".join(data for tag, data in self.texts if tag != "style")

    def of(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def page_of(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    assert page.open == [], "every element is closed"
    return page


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


@pytest.mark.parametrize("name", ["four", "fifteen"])
def test_the_page_shows_the_matrix_to_the_last_digit(name: str, request, tmp_path: Path) -> None:
    folder = copied(request.getfixturevalue(name), tmp_path)
    matrix = json.loads((folder / "matrix.json").read_text())
    page = page_of(folder)
    cells = [cell for tag, cell in page.tags if tag == "td" and "data-value" in cell]
    measured = [score for row in (matrix["zero_shot"], *matrix["values"]) for score in row if score is not None]
    assert [float(cell["data-value"] or "") for cell in cells] == measured
    html = (folder / "report.html").read_text()
    shown = re.findall(r'data-value="([^"]+)"[^>]*>([^<]+)</td>', html)
    assert [text for _, text in shown] == [f"{100 * score:.1f}" for score in measured]
    size = len(matrix["tasks"])
    assert len(page.of("td", class_="empty")) == size * (size - 1) // 2
    assert len(page.of("td", class_="score learnt")) == size


def test_cells_tell_error_rows_and_loss(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    matrix = json.loads((folder / "matrix.json").read_text())
    titles = [cell["title"] for cell in page_of(folder).of("td", class_="score")]
    score, error, loss = (matrix[key][3][0] for key in ("values", "standard_error", "loss"))
    expected = (
        f"dbpedia after agnews: {100 * score:.2f} % ± {100 * error:.1f} (standard error), 40 rows, loss {loss:.3f}"
    )
    assert expected in titles


def test_text_on_cells_is_readable(fifteen: Path, tmp_path: Path) -> None:
    styles = [cell["style"] or "" for cell in page_of(copied(fifteen, tmp_path)).of("td", class_="score")]
    assert len(styles) > 100
    for style in styles:
        background, colour = re.findall(r"#[0-9a-f]{6}", style)
        assert contrast(background, colour) >= 4.5


def test_nothing_from_data_becomes_markup(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stamps"].append(f"stamp {HOSTILE}")
    manifest["backbone"]["path"] = f"model {HOSTILE}"
    manifest["stream"]["tasks"][0]["splits"]["train"]["rule"] = f"rule {HOSTILE}"
    write_json(folder / "manifest.json", manifest)
    write_json(folder / "environment.json", {"device": f"device {HOSTILE}"})
    (folder / "config.yaml").write_text(f"stream: config {HOSTILE}\n")
    for path in folder.glob("stages/*/metrics.json"):
        metrics = json.loads(path.read_text())
        metrics["training"]["trains"] = {f"part {HOSTILE}": 1}
        write_json(path, metrics)
    page = page_of(folder)
    assert not page.of("script")
    for what in ("stamp", "model", "rule", "config", "part", "a warning with", "is not read"):
        assert f"{what} {HOSTILE}" in page.text, what
    # The environment is shown as JSON, with its own quotes escaped.
    assert f"device {HOSTILE}".replace('"', '\\"') in page.text
    assert "alert" not in "".join(str(attributes) for _, attributes in page.tags)


def test_the_page_needs_nothing_else(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    page = page_of(folder)
    html = (folder / "report.html").read_text()
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not re.search(r"(https?:)?//(?!\s)[a-z0-9]", re.sub(r"<pre>.*?</pre>", "", html, flags=re.S))
    assert "@import" not in html
    assert "url(" not in html
    policy = page.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy[0]["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_what_a_reader_looks_for_is_there(four: Path, tmp_path: Path) -> None:
    text = page_of(copied(four, tmp_path)).text
    for expected in (
        "t5-small (hub, revision df1b051c4962)",
        "dbpedia → amazon → yahoo → agnews",
        "Tuned per task: amazon has its own `train.num_train_epochs`.",
        "Prompts name the task.",
        "attention query",
        "147,456",
        "242 MB",
        "31 of 4,000 inputs cut to fit",
        "2 test rows with a label that the task does not have, scored wrong: amazon/test/0, amazon/test/1",
        "carved from train: 10 % by sha256(seed, row)",
        "duplicates: train: 3, test in train: 1",
        "lost most",
        "1.2 GB",
        '"torch": "2.13.0"',
    ):
        assert expected in text, expected


def test_stamps_are_said_once_and_never_forgotten(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stamps"] = ["The dev rows are the test rows."]
    write_json(folder / "manifest.json", manifest)
    text = page_of(folder).text
    assert "The dev rows are the test rows." in text
    assert text.count("Tuned per task.") == 1
    assert text.count("Prompts name the task: the model knows at test which task it is.") == 1


def test_a_built_in_model_goes_by_its_name(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["backbone"].update(path="/somewhere/site-packages/evertune/builtin/tiny-llama", source="built in")
    manifest["backbone"]["revision"] = None
    write_json(folder / "manifest.json", manifest)
    text = page_of(folder).text
    assert "tiny-llama (built in)" in text
    assert "site-packages" not in text


def test_answers_show_what_was_lost(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    matrix = json.loads((folder / "matrix.json").read_text())
    page = page_of(folder)
    # In the fixture the first rows are the right ones, so what was lost is the difference of the two scores.
    lost = round(40 * (matrix["values"][0][0] - matrix["values"][3][0]))
    kept, wrong = round(40 * matrix["values"][3][0]), round(40 * (1 - matrix["values"][0][0]))
    assert lost > 0
    assert f"{lost} lost · 0 gained · {kept} kept · {wrong} wrong, between dbpedia and agnews" in page.text
    assert len(page.of("td", class_="fate lost")) == 9
    assert "dbpedia/test/" in page.text


def test_charts_have_every_point(fifteen: Path, tmp_path: Path) -> None:
    page = page_of(copied(fifteen, tmp_path))
    assert len(page.of("svg", class_="chart small")) == 30
    assert len(page.of("svg", class_="chart wide")) == 1
    titles = [data for tag, data in page.texts if tag == "title"]
    # 120 cells of the triangle and 15 zero-shot scores; 120 losses; 5 dev losses a stage; the page's own title.
    assert len(titles) == 135 + 120 + 75 + 1
    names = [data for tag, data in page.texts if tag == "text"]
    assert set(FIFTEEN) <= set(names)


@pytest.mark.parametrize(
    ("options", "expected", "absent"),
    [
        ({"finished": 2}, "2 of 4 stages complete", "Learning accuracy"),
        ({"finished": 0, "zero_shot": False}, "Nothing is scored yet.", "Answers, then and now"),
        ({"multi_task": True}, "all tasks", "Learning accuracy"),
        ({"dev": False}, "Line: smoothed.", "Grey dots"),
        ({"dev": True}, "Grey dots", "Nothing is scored yet."),
        ({"multi_task": True}, "38 right", "Each task over the run"),
        ({"finished": 1}, "Each task over the run", "Evaluation loss"),
        ({"tasks": ("dbpedia",)}, "complete", "Backward transfer"),
        ({"upper_triangle": True}, "Forward transfer", "Nothing is scored yet."),
        ({"zero_shot": False}, "Average accuracy", "Untouched model"),
    ],
)
def test_every_kind_of_run(options: dict, expected: str, absent: str, tmp_path: Path) -> None:
    page = page_of(write_run(tmp_path / "run", **options))
    assert expected in page.text
    assert absent not in page.text
    assert "nan" not in page.text.lower().split()


def test_the_same_run_gives_the_same_page(four: Path, tmp_path: Path) -> None:
    folder = copied(four, tmp_path)
    first = write_report(folder).read_bytes()
    assert write_report(folder).read_bytes() == first


def test_no_run_no_report(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no run here"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_learning_and_last_answers_are_of_the_right_stages(four: Path) -> None:
    from evertune.reporting.answers import task_answers
    from evertune.reporting.load import load_run

    run = load_run(four)
    found = {each.task: each for each in task_answers(run, per_fate=2)}
    assert list(found) == list(FOUR)
    assert [found[task].compared for task in FOUR] == [True, True, True, False]
    for task in FOUR:
        last = {answer.id: answer for answer in run.answers(run.stages[3].path, task)}
        assert sum(found[task].counts.values()) == 40
        for example in found[task].examples:
            assert example.last == last[example.id].prediction
            assert (example.fate in ("kept", "gained")) == (last[example.id].value == 1)
        assert all(sum(example.fate == fate for example in found[task].examples) <= 2 for fate in ("lost", "kept"))
