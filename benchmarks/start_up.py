"""How long ``evertune --help`` takes, beside the bare interpreter and a peer that imports torch, interleaved.

python benchmarks/start_up.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "evertune --help": [sys.executable, "-m", "evertune", "--help"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import peft": [sys.executable, "-c", "import peft"],
}
ROUNDS = 7


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for command in COMMANDS.values():
        seconds(command)  # the file cache, for everyone
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    for name, values in times.items():
        print(f"{name:18s} median {statistics.median(values):.2f} s  least {min(values):.2f} s")


if __name__ == "__main__":
    main()
