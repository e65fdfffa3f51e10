"""Ctrl-C and SIGTERM, in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading

import pytest

from evertune.training.interrupt import StopRequest

_START = """
import os, signal
from evertune.training.interrupt import StopRequest
me = os.getpid()
with StopRequest() as stop:
    assert not stop.requested
"""


def ended(body: str) -> subprocess.CompletedProcess[str]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    return subprocess.run(
        [sys.executable, "-c", _START + lines], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_the_first_signal_only_asks(number: str) -> None:
    outcome = ended(f"os.kill(me, signal.{number})\nprint('goes on', stop.requested)")
    assert (outcome.returncode, outcome.stdout) == (0, "goes on True\n")


def test_a_second_ctrl_c_stops_at_once() -> None:
    outcome = ended("os.kill(me, signal.SIGINT)\nprint('once', flush=True)\nos.kill(me, signal.SIGINT)\nprint('twice')")
    assert outcome.stdout == "once\n"
    assert outcome.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in outcome.stderr


def test_a_second_sigterm_changes_nothing_but_ctrl_c_behind_it_stops() -> None:
    outcome = ended(
        "os.kill(me, signal.SIGTERM)\nos.kill(me, signal.SIGTERM)\nprint('on', flush=True)\nos.kill(me, signal.SIGINT)"
    )
    assert outcome.stdout == "on\n"
    assert "KeyboardInterrupt" in outcome.stderr


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_it_does_nothing() -> None:
    found: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with StopRequest() as stop:
            found.append(stop.requested)
            found.append(signal.getsignal(signal.SIGINT) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, True]
