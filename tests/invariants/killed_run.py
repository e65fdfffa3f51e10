"""Runs a configuration in child processes that are killed with SIGKILL at given moments, until one ends by itself.

    python killed_run.py CONFIG OUTPUT_DIR MOMENT...

A moment is ``step:STAGE:N`` (after N steps of a stage, counted from 0) or ``cell:STAGE:N`` (after N scored tasks of a
stage, that is inside an evaluation). The parent imports everything once; every child is a fork of it and a run of its
own. Prints one line a kill.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from evertune import load_config, run
from evertune.console import Console


def events(path: Path) -> list[dict]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    parsed = []
    for line in lines:
        try:
            parsed.append(json.loads(line))
        except json.JSONDecodeError:  # the child is writing it
            continue
    return parsed


def reached(moment: str, seen: list[dict]) -> bool:
    kind, stage, number = moment.split(":")
    of_stage = [event for event in seen if event["event"] == kind and event["stage"] == int(stage)]
    if kind == "step":
        return any(event["step"] >= int(number) for event in of_stage)
    return len(of_stage) >= int(number)


def child(config: str, output: str) -> None:
    settings = load_config(config, output_dir=Path(output))
    with open(os.devnull, "w") as silence:
        run(settings, console=Console(silence))


def main() -> None:
    config, output, *moments = sys.argv[1:]
    log = Path(output) / "events.jsonl"
    while True:
        moment = moments[0] if moments else None
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(config, output)
                code = 0
            finally:
                os._exit(code)
        while True:
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                if moments:
                    raise SystemExit(f"the run ended before {moment} (status {status})")
                raise SystemExit(os.waitstatus_to_exitcode(status))
            if moment and reached(moment, events(log)):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                print(f"killed at {moment}", flush=True)
                moments.pop(0)
                break
            time.sleep(0.002)


if __name__ == "__main__":
    main()
