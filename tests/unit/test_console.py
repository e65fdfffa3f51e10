"""What people read, and what stands in the log."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from evertune.console import Console, duration

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


class Terminal(io.StringIO):
    """A terminal, as far as anyone asks."""

    def isatty(self) -> bool:
        return True


def said(console: Console) -> str:
    assert isinstance(console.out, io.StringIO)
    return console.out.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "[red]markup[/red] and [brackets]",
        "stream.yaml:100:3: wrong",  # `:100:` is the code of an emoji
        "smile :smile: \\[x]",
        "x" * 500,
        "two\nlines",
        "東京 é",
    ],
)
def test_text_is_printed_as_it_is(text: str) -> None:
    console = Console(io.StringIO())
    console.say(text)
    assert said(console) == text + "\n"


def test_a_warning_says_so() -> None:
    console = Console(io.StringIO())
    console.warn("a [b] at run.yaml:100:3")
    assert said(console) == "warning: a [b] at run.yaml:100:3\n"


def test_the_log_has_times_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "log.txt"
    for text in ("one\ntwo", "three"):
        console = Console(io.StringIO())
        console.say("before")
        console.attach_log(path)
        console.say(text)
        console.warn("careful")
        console.detach_log()
        console.say("after")
        console.attach_log(path)
        console.detach_log()
    lines = path.read_text(encoding="utf-8").splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    assert [re.sub(STAMP, "", line) for line in lines] == [
        "before",
        "one",
        "two",
        "warning: careful",
        "before",
        "three",
        "warning: careful",
    ]


def test_tables_reach_the_log_as_plain_text(tmp_path: Path) -> None:
    console = Console(io.StringIO())
    console.attach_log(tmp_path / "log.txt")
    table = Table("task", "score")
    table.add_row(Text("dbpedia", style="bold red"), "0.9")
    console.show(table)
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    for text in (log, said(console)):
        assert "dbpedia" in text
        assert "\x1b" not in text
    assert all(re.match(STAMP, line) for line in log.splitlines())


def test_only_the_main_process_speaks_but_each_has_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    console = Console(io.StringIO(), plain_every_s=0)
    console.attach_log(tmp_path / "rank-1.log")
    console.say("hello")
    console.warn("careful")
    console.show(Table("column"))
    with console.progress("work", 2) as progress:
        progress.update(1, "loss 1")
        progress.update(2)
    assert said(console) == ""
    log = (tmp_path / "rank-1.log").read_text()
    assert "hello" in log
    assert "careful" in log
    assert "column" in log


def test_a_process_can_be_told_to_be_silent() -> None:
    console = Console(io.StringIO(), speaks=False)
    console.say("hello")
    assert said(console) == ""


# Progress


def test_plain_progress_says_how_far_the_fields_and_the_time_left(tmp_path: Path) -> None:
    console = Console(io.StringIO(), plain_every_s=0)
    console.attach_log(tmp_path / "log.txt")
    with console.progress("1/4 dbpedia", 100) as progress:
        progress.update(20)  # where a resumed run begins
        time.sleep(0.05)
        progress.update(30, "loss 1.2")
        progress.update(100, "loss 1.1")
    first, second, last = said(console).splitlines()
    assert first == "1/4 dbpedia 20/100"
    assert re.fullmatch(r"1/4 dbpedia 30/100  loss 1\.2  \d+ s left", second)
    assert last == "1/4 dbpedia 100/100  loss 1.1"
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3


def test_time_left_counts_only_what_this_process_did() -> None:
    """One unit took 0.3 s since the start at 900: the 99 that are left take 30 s, not 0.03 s."""
    console = Console(io.StringIO(), plain_every_s=0)
    with console.progress("work", 1000) as progress:
        progress.update(900)
        time.sleep(0.3)
        progress.update(901)
    left = re.search(r"(\d+) s left", said(console))
    assert left is not None
    assert 29 <= int(left[1]) <= 59


def test_plain_progress_is_rate_limited_but_the_end_is_always_said() -> None:
    console = Console(io.StringIO(), plain_every_s=0.1)
    begin = time.monotonic()
    with console.progress("work", 10_000) as progress:
        step = 0
        while time.monotonic() - begin < 0.35:
            step += 1
            progress.update(step)
            time.sleep(0.001)
        progress.update(10_000)
    lines = said(console).splitlines()
    assert 2 <= len(lines) <= 4  # at 0.1, 0.2 and 0.3 s, and the end
    assert step > 20
    assert lines[-1] == "work 10000/10000"


def test_quick_work_is_one_line() -> None:
    console = Console(io.StringIO())
    with console.progress("work", 3) as progress:
        for step in range(4):
            progress.update(step)
    assert said(console) == "work 3/3\n"


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    console = Console(Terminal())
    with console.progress("1/4 [b]db[/b]", 10) as progress:
        progress.update(5, "loss [1.2]")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said(console))
    assert "1/4 [b]db[/b]" in text
    assert "5/10" in text
    assert "loss [1.2]" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0 s"),
        (7.4, "7 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (125, "2:05"),
        (3599.7, "1:00:00"),
        (3725, "1:02:05"),
        (360_000, "100:00:00"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
