"""``python -m evertune`` and the command ``evertune``."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line and exits with its code."""
    from evertune.cli.app import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
