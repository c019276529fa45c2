"""Write down an engine's options as it lists them: a snapshot that comes with SCOOT, or a file to look at.

    .venv/bin/python -m tools.catalogue_snapshot vllm /path/to/bin/python    into proto/scoot/wire/catalogue/snapshots
    .venv/bin/python -m tools.catalogue_snapshot KIND PYTHON --live FILE     as it is on this host

KIND is vllm, sglang, trtllm, transformers or llamacpp. A snapshot has nothing of the host it was made on: an engine
that tells effective defaults is asked twice, with all cores and with one, and those on which the two do not agree are
left out, as is whatever holds a path. `--live` keeps everything; `scootctl catalogue show KIND --file FILE` shows it.
An engine is imported, not started; each time takes 10 s and more.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from pathlib import Path

from scoot.agent.engines.base import EngineSettings
from scoot.agent.engines.checker import make_checker
from scoot.agent.engines.lister import make_lister
from scoot.wire.catalogue.option import Catalogue, encode_catalogue, without_host
from scoot.wire.catalogue.verdict import Unknown

SNAPSHOTS = Path(__file__).parents[1] / "proto" / "scoot" / "wire" / "catalogue" / "snapshots"

BY_MEMORY = {"sglang": frozenset({"mem_fraction_static"})}
"""Effective defaults that follow from the host's memory."""


async def asked(kind: str, python: str) -> Catalogue:
    """The live catalogue of the installation with this interpreter."""
    settings = EngineSettings(kind=kind, python=python)
    checker = make_checker(settings)
    teller = checker or make_lister(settings)
    if teller is None:
        sys.exit(f"{kind} does not list its options")
    found = await teller.catalogue()
    if checker is not None:
        await checker.aclose()
    if isinstance(found, Unknown):
        sys.exit(found.why)
    return found


def one_core(kind: str, python: str) -> Catalogue | None:
    """Asked with a single core; children inherit the restriction. None where there is no other core to leave out."""
    cores = os.sched_getaffinity(0)
    if len(cores) == 1:
        return None
    os.sched_setaffinity(0, {min(cores)})
    try:
        return asyncio.run(asked(kind, python))
    finally:
        os.sched_setaffinity(0, cores)


def main(kind: str, python: str, live: str | None) -> None:
    """Ask, clean, write, and say what was written."""
    catalogue = asyncio.run(asked(kind, python))
    if live:
        path = Path(live)
    else:
        path = SNAPSHOTS / f"{catalogue.engine}-{catalogue.version}.json"
        catalogue = without_host(catalogue, one_core(kind, python), forget=BY_MEMORY.get(kind, frozenset()))
    path.write_bytes(encode_catalogue(catalogue))
    print(f"{path}: {catalogue.title}, {len(catalogue.options)} options, {path.stat().st_size} bytes")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", help="of engine, as agents' configurations call it")
    parser.add_argument("python", help="absolute path of the interpreter of its environment")
    parser.add_argument("--live", metavar="FILE", help="write the catalogue of this host there instead")
    main(**vars(parser.parse_args()))
