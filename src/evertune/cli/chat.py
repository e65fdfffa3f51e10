"""A conversation on the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evertune.cli.output import write

if TYPE_CHECKING:
    from evertune.cli.answering import Answerer

_LEAVE = ("/exit", "/quit")


def chat(answerer: Answerer, *, json_output: bool) -> None:
    """Answers what is typed, line after line, until the input ends or ``/exit``.

    With a chat template and no task named, the whole conversation is kept; otherwise every line is answered by itself.

    Args:
        answerer: Who answers.
        json_output: Whether answers are JSON, one line each.
    """
    remembers = answerer.chats and answerer.frame is None
    turns: list[dict[str, str]] = []
    kind = "The conversation is kept" if remembers else "Every line is answered by itself"
    _say(f"{kind}; {' or '.join(_LEAVE)} ends.")
    for line in _lines():
        if remembers:
            turns.append({"role": "user", "content": line})
            answer = answerer.reply(turns)
            turns.append({"role": "assistant", "content": answer["answer"]})
        else:
            (answer,) = answerer.answer([line])
        if json_output:
            write(json.dumps(answer, ensure_ascii=False))
        else:
            write(answer["answer"])
            if "base" in answer:
                write(f"base: {answer['base']}")


def _lines() -> Iterator[str]:
    """What is typed; empty lines are passed over."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        if prompt:
            sys.stderr.write(prompt)
            sys.stderr.flush()
        line = sys.stdin.readline()
        if not line or line.strip() in _LEAVE:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
