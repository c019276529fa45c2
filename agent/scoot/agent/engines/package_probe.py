"""Asks a Python engine's installation who it is. Run by path with *its* interpreter; imports nothing of SCOOT.

    INTERPRETER package_probe.py PACKAGE ENTRY [MODULE ...]

Imports PACKAGE, and looks whether ENTRY (the module the adapter starts) and every MODULE are there, without importing
these. Prints one line, `SCOOT-PROBE {...}`, whatever else the packages print: `version` (PACKAGE.__version__), `device`
("cuda", "cpu", "" where torch is missing), `entry`, and `error`, why it cannot be used, "" if it can.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

MARK = "SCOOT-PROBE "


def present(name: str) -> bool:
    """Whether a module can be found; its parents are imported to look."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def device() -> str:
    """What torch would compute on, "" where there is no torch."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return ""
    return "cuda" if torch.cuda.is_available() else "cpu"


def look(package: str, entry: str, modules: list[str]) -> dict[str, Any]:
    """The answer, as the module's docstring tells."""
    out: dict[str, Any] = {"version": "", "device": "", "entry": False, "error": ""}
    try:
        out["version"] = str(importlib.import_module(package).__version__)
        out["entry"] = present(entry)
        missing = [name for name in modules if not present(name)]
        if missing:
            out["error"] = f"{package} cannot serve without: {', '.join(missing)}"
        out["device"] = device()
    except Exception as error:  # noqa: BLE001 - anything an installation can raise is the answer
        out["error"] = f"{type(error).__name__}: {error}".splitlines()[0]
    return out


def main(arguments: list[str]) -> None:
    """Probe and print; the exit status is 0 even when the engine is broken."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [item for item in sys.path if Path(item).resolve() != here]  # it has modules named like engines
    package, entry, *modules = arguments
    out = look(package, entry, modules)
    sys.stdout.write("\n" + MARK + json.dumps(out, allow_nan=False) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
