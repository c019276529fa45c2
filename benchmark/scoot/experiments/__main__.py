"""The experiments: `python -m scoot.experiments compare|table|reference|services ...` (docs/experiments.md)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point; does not return."""
    # Runs are what is parallel; before numpy and torch are imported, here and in the processes that inherit it.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    from scoot.experiments.command import cli

    sys.exit(cli(prog_name="python -m scoot.experiments", standalone_mode=True))


if __name__ == "__main__":
    main()
