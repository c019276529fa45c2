"""The stand-alone load generator: `python -m scoot.benchmark run|sweep ...` (docs/benchmark.md)."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Entry point; does not return."""
    # numpy's algebra is not used, and its threads would be there when the load is forked.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from scoot.benchmark.standalone.command import cli

    sys.exit(cli(prog_name="python -m scoot.benchmark", standalone_mode=True))


if __name__ == "__main__":
    main()
