"""Runs configurations one after another in this process; started by ``accelerate launch`` with several processes.

python two_processes.py CONFIG OUTPUT_DIR [CONFIG OUTPUT_DIR ...]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch.distributed as dist

from evertune import load_config, run
from evertune.console import Console


def main() -> None:
    pairs = iter(sys.argv[1:])
    with open(os.devnull, "w") as silence:
        for config in pairs:
            run(load_config(config, output_dir=Path(next(pairs))), console=Console(silence))
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
