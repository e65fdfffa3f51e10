"""Where the command line writes: results to standard output, everything else to standard error."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TextIO, cast

from evertune.console import Console
from evertune.errors import EvertuneError, Problem

if TYPE_CHECKING:
    from evertune.settings import RunSettings


class _Lasting:
    """A text stream whose reader may leave (``evertune run demo | head``): what comes later goes nowhere."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes, or swallows the text when nobody reads it any more."""
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flushes, if anybody reads."""
        try:
            self._stream.flush()
        except BrokenPipeError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(stream: TextIO) -> None:
    """Points a stream at nothing, so that neither later writes nor the interpreter's last flush fail."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def console_for(*, json_output: bool) -> Console:
    """Where a verb speaks: standard error while standard output belongs to JSON."""
    return Console(cast("TextIO", _Lasting(sys.stderr if json_output else sys.stdout)))


def notes_console() -> Console:
    """A console for remarks beside a result on standard output."""
    return Console(cast("TextIO", _Lasting(sys.stderr)))


def write(text: str) -> None:
    """A result on standard output, as it is."""
    sys.stdout.write(text if text.endswith("\n") else f"{text}\n")
    sys.stdout.flush()


def write_json(value: Any) -> None:
    """A result on standard output, as JSON."""
    write(json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False, default=str))


@contextlib.contextmanager
def result(*, json_output: bool) -> Iterator[None]:
    """While JSON is made, whatever libraries print goes to standard error."""
    if not json_output:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


@contextlib.contextmanager
def located(settings: RunSettings) -> Iterator[None]:
    """Names the place in the user's file for problems that name only a key of the configuration."""
    try:
        yield
    except EvertuneError as error:
        problems = [_located(problem, settings) for problem in error.problems]
        if problems == list(error.problems):
            raise
        raise type(error)(problems) from error


def _located(problem: Problem, settings: RunSettings) -> Problem:
    place = settings.where(problem.where)
    if place == problem.where or not _is_key(problem.where, settings):
        return problem
    where = place if place.endswith(f" {problem.where}") else f"{place}: {problem.where}"
    return Problem(where, problem.what, problem.instead)


def _is_key(where: str, settings: RunSettings) -> bool:
    """Whether it is a dotted key: a file called ``train.jsonl`` only looks like one."""
    section, _, rest = where.partition(".")
    options = settings.resolved.get(section)
    known = not rest or (isinstance(options, dict) and rest.partition(".")[0] in options)
    return where in settings.locations or (section in settings.locations and known)
