"""Every command and every file in the README and the docs is real: it runs here, page by page, in an empty folder."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from evertune.cli.app import main

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- exit: (?P<exit>\d+) -->\n)?^```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<body>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass
class Block:
    language: str
    title: str | None
    body: str
    exit_code: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found["language"], found["title"], found["body"], int(found["exit"] or 0))
        for found in BLOCK.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for block in blocks(page):
        if block.title:
            (tmp_path / block.title).write_text(block.body, encoding="utf-8")
        if block.language != "console":
            continue
        for line in block.body.splitlines():
            if line.startswith("$ evertune "):
                arguments = shlex.split(line.removeprefix("$ evertune "), comments=True)
                assert main(arguments) == block.exit_code, line
                ran += 1
    assert ran > 0 or page.name == "concepts.md", "no command was found: is the pattern still right?"
