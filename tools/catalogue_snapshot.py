"""Write down an engine's options, from its own parser: a snapshot that comes with SCOOT, or a file to look at.

    .venv/bin/python -m tools.catalogue_snapshot /path/to/vllm/bin/python      into proto/scoot/wire/catalogue/snapshots
    .venv/bin/python -m tools.catalogue_snapshot PYTHON --live catalogue.json  as it is on this host

A snapshot has nothing of the host it was made on: the engine is asked twice, with all cores and with one, and effective
defaults on which the two do not agree are left out, as is whatever holds a path. `--live` keeps everything; `scootctl
catalogue show vllm --file catalogue.json` shows it. An engine is imported, not started; each time takes 10 s and more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.oracle import Oracle
from scoot.wire.catalogue.option import Catalogue, encode_catalogue, without_host
from scoot.wire.catalogue.verdict import Unknown

SNAPSHOTS = Path(__file__).parents[1] / "proto" / "scoot" / "wire" / "catalogue" / "snapshots"


async def asked(python: str) -> Catalogue:
    """The live catalogue of the vLLM installation with this interpreter."""
    async with Oracle(EngineSettings(kind="vllm", python=python)) as oracle:
        found = await oracle.catalogue()
    if isinstance(found, Unknown):
        sys.exit(found.why)
    return found


def one_core() -> Catalogue | None:
    """Asked with a single core; children inherit the restriction. None where there is no other core to leave out."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        return None
    os.sched_setaffinity(0, {min(cores)})
    try:
        return asyncio.run(asked(ARGUMENTS.python))
    finally:
        os.sched_setaffinity(0, cores)


def main() -> None:
    """Ask, clean, write, and say what was written."""
    catalogue = asyncio.run(asked(ARGUMENTS.python))
    if ARGUMENTS.live:
        path = Path(ARGUMENTS.live)
    else:
        path = SNAPSHOTS / f"{catalogue.engine}-{catalogue.version}.json"
        catalogue = without_host(catalogue, one_core())
    path.write_bytes(encode_catalogue(catalogue))
    print(f"{path}: {catalogue.title}, {len(catalogue.options)} options, {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="absolute path of the interpreter of vLLM's environment")
    parser.add_argument("--live", metavar="FILE", help="write the catalogue of this host there instead")
    ARGUMENTS = parser.parse_args()
    main()
