"""The process of a run of a sweep is told to stop when the sweep is."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from evertune.sweeping.campaign import start_process

CHILD = """#!/bin/sh
trap 'echo stopped > {folder}/stopped; exit {code}' TERM
echo started > {folder}/started
for number in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 0.2; done
exit 0
"""


@pytest.mark.parametrize("code", [130, 0])
def test_sigterm_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    child = tmp_path / "child"
    child.write_text(CHILD.format(folder=tmp_path, code=code))
    child.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(child))

    def stop() -> None:
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    mine = signal.getsignal(signal.SIGTERM)
    stopper = threading.Thread(target=stop)
    try:
        stopper.start()
        assert start_process(["run", "demo"]) == 130
        assert (tmp_path / "stopped").exists()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        stopper.join()
        signal.signal(signal.SIGTERM, before)
    assert received == []
