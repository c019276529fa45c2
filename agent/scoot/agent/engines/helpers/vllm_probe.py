"""Asks a vLLM installation who it is. Runs in its interpreter: the standard library only.

Prints one line, `SCOOT-PROBE {...}`, whatever else the engine's modules print:

    version    vllm.__version__ (package metadata is missing in some builds)
    device     "cpu", "cuda", ... as vLLM chose
    entry      whether there is a module that the adapter can start
    module     which: the first of ENTRIES that exists
    defaults   scheduler and cache parameters as an OpenAI server resolves them on this host when nothing is set: most
               are None in the argument parser and depend on the hardware; a tiny reference model stands in for the
               model, as these do not depend on it at tensor-parallel degree 1
    error      why it cannot be used, "" if it can
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from scoot.agent.engines.helpers.package_probe import present
from scoot.agent.engines.helpers.plain import MARK, line
from scoot.agent.engines.helpers.resident import reference_model

SERVE = "vllm.entrypoints.cli.main"
"""Behind the console script: `vllm serve`."""
ENTRIES = ("vllm.entrypoints.openai.api_server", SERVE)
"""What starts its server, the best first: the script looks up package metadata, which some builds lack."""
_PARTS = ("scheduler_config", "cache_config", "parallel_config")


def defaults() -> dict[str, Any]:
    """Plain-valued fields of the resolved configuration, by the names of their flags."""
    engine = importlib.import_module("vllm.engine.arg_utils")
    usage = importlib.import_module("vllm.usage.usage_lib")
    with tempfile.TemporaryDirectory(prefix="scoot-probe-") as folder:
        model = str(reference_model(Path(folder)))
        args = engine.AsyncEngineArgs(model=model, skip_tokenizer_init=True, load_format="dummy")
        config = args.create_engine_config(usage_context=usage.UsageContext.OPENAI_API_SERVER)
    found: dict[str, Any] = {}
    for part in _PARTS:
        for name, value in vars(getattr(config, part, object)).items():
            if isinstance(value, (bool, int, float, str)) and not name.startswith("_"):
                found.setdefault(name, value)
    return found


def main(_: list[str]) -> None:
    """Probe and print; the exit status is 0 even when the engine is broken."""
    out: dict[str, Any] = {"version": "", "device": "", "entry": False, "error": "", "notes": ""}
    try:
        vllm = importlib.import_module("vllm")
        out["version"] = str(vllm.__version__)
        out["module"] = next((name for name in ENTRIES if present(name)), "")
        out["entry"] = bool(out["module"])
        out["device"] = str(importlib.import_module("vllm.platforms").current_platform.device_type)
    except Exception as error:  # noqa: BLE001 - anything an installation can raise is the answer
        out["error"] = line(f"{type(error).__name__}: {error}")
    if not out["error"]:
        try:
            out["defaults"] = defaults()
        except Exception as error:  # noqa: BLE001 - as above; only the defaults stay unknown
            out["notes"] = line(f"{type(error).__name__}: {error}")
    sys.stdout.write("\n" + MARK + json.dumps(out, allow_nan=False) + "\n")
    sys.stdout.flush()
