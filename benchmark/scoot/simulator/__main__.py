"""The simulator: `python -m scoot.simulator run|serve|fit|profiles ...` (docs/simulator.md)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point; does not return."""
    # numpy's algebra is hardly used, and starting its threads takes longer than a run.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from scoot.simulator.command import cli

    sys.exit(cli(prog_name="python -m scoot.simulator", standalone_mode=True))


if __name__ == "__main__":
    main()
