"""How finished runs of ds-lora answer with both adapters, with each alone, and with the latest fast one for every task.

    python benchmarks/answered_by.py runs/campaign/five_tasks/ds-lora-1 runs/campaign/five_tasks/slsd-1

The last stage is scored again under every `at_test`; nothing is trained. Scores in percent, losses in nats per token.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

import torch

from evertune.cli.scoring import items, score
from evertune.config.load import load_config
from evertune.console import Console
from evertune.restore import restore_stage


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--at-test", default="sum,slow,fast,last")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console(speaks=False)
    print("| run | answered by | average score | average loss | loss of each task |")
    print("|---|---|---|---|---|")
    for run in arguments.runs:
        for answer in arguments.at_test.split(","):
            change = [f"method.ds-lora.at_test={answer}"]
            settings = load_config(run / "config.yaml", overrides=change, output_dir=run)
            restored = restore_stage(settings, run, None, console)
            cells = [score(restored, item, None, console) for item in items(restored, None, None, console)]
            losses = [cell.loss for cell in cells if cell.loss is not None]
            average = 100 * fmean(cell.score for cell in cells if cell.score is not None)
            each = ", ".join(f"{loss:.2f}" for loss in losses)
            print(f"| `{run.name}` | {answer} | {average:.1f} | {fmean(losses):.3f} | {each} |", flush=True)


if __name__ == "__main__":
    main()
