"""Asks a Python engine's installation who it is. Runs in its interpreter: the standard library only.

    run.py package_probe PACKAGE ENTRY [MODULE ...]

Imports PACKAGE, and looks whether ENTRY (the module the adapter starts) and every MODULE are there, without importing
these. Prints one line, `SCOOT-PROBE {...}`, whatever else the packages print: `version` (PACKAGE.__version__), `device`
("cuda", "cpu", "" where torch is missing), `entry`, and `error`, why it cannot be used, "" if it can.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from typing import Any

from scoot.agent.engines.helpers.plain import MARK, line


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
        out["error"] = line(f"{type(error).__name__}: {error}")
    return out


def main(arguments: list[str]) -> None:
    """Probe and print; the exit status is 0 even when the engine is broken."""
    package, entry, *modules = arguments
    sys.stdout.write("\n" + MARK + json.dumps(look(package, entry, modules), allow_nan=False) + "\n")
    sys.stdout.flush()
