"""Runs a program of this folder in an engine's interpreter: `INTERPRETER run.py NAME [ARGUMENT ...]`.

The programs share modules, and import nothing else of SCOOT. They are found for as long as they are imported only: the
engine must see its own packages, and none of SCOOT's.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

_PACKAGE = "scoot.agent.engines.helpers"


def main() -> None:
    """Run it; its `main` gets the arguments after its name."""
    here = Path(__file__).resolve().parent
    name, *arguments = sys.argv[1:]
    kept = [item for item in sys.path if Path(item).resolve() != here]
    sys.path[:] = [str(here.parents[_PACKAGE.count(".")]), *kept]
    program = importlib.import_module(f"{_PACKAGE}.{name}")
    sys.path[:] = kept
    program.main(arguments)


if __name__ == "__main__":
    main()
