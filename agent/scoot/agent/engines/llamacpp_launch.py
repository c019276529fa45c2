"""Starts `llama_cpp.server`. Run by path with the interpreter that has it; imports nothing of SCOOT.

That server answers 400 to every request whose X-Request-Id is no UUID. The load generator's are the keys of the rows it
writes, so this check is left out; all else is the server's own, its arguments too.
"""

from __future__ import annotations

import importlib
import runpy
import sys
from pathlib import Path

SERVER = "llama_cpp.server"


def main() -> None:
    """Serve until told to stop."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [item for item in sys.path if Path(item).resolve() != here]  # it has modules named like engines
    plugins = importlib.import_module("starlette_context.plugins.base")
    plugins.PluginUUIDBase.validate_uuid = lambda *_: None
    runpy.run_module(SERVER, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
