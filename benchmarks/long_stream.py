"""What a step costs, and how much memory, as the tasks of a long stream go by: a table, and one picture.

python benchmarks/campaign.py benchmarks/cl_long.yaml
python benchmarks/long_stream.py runs/campaign/cl_long
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="holds one finished run per method")
    options = parser.parse_args()
    figure, (time, memory) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    print("| method | ms a 1000 tokens, tasks 2-4 | tasks 13-15 | ratio | peak memory, task 2 | task 15 |")
    print("|---|---|---|---|---|---|")
    for path in sorted(options.folder.glob("*/summary.json")):
        stages = [
            json.loads(file.read_text())["training"] for file in sorted(path.parent.glob("stages/*/metrics.json"))
        ]
        if len(stages) < 15:
            continue
        name = path.parent.name.rpartition("-")[0]
        cost = [1e6 / stage["tokens_per_second"] for stage in stages]
        held = [stage["peak_memory_bytes"] / 1e6 for stage in stages]
        early, late = median(cost[1:4]), median(cost[12:15])
        print(
            f"| `{name}` | {early:.0f} | {late:.0f} | {late / early:.2f} | {held[1]:.0f} MB | {held[-1]:.0f} MB |",
        )
        time.plot(range(1, 16), cost, label=name)
        memory.plot(range(1, 16), held, label=name)
    time.set(xlabel="task", ylabel="ms a 1000 tokens", ylim=(0, None), title="time of training")
    memory.set(xlabel="task", ylabel="MB", ylim=(0, None), title="peak memory of the process")
    memory.legend(fontsize=7, ncols=2)
    picture = options.folder / "long_stream.png"
    figure.savefig(picture, dpi=120)
    print(f"\n{picture}")


if __name__ == "__main__":
    main()
