"""The folder of one run or sweep: names in it, and writing them whole or not at all. IO."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Final

from scoot.benchmark.spool import SpoolReader
from scoot.wire.columns import TimingBatch, concatenate, decode
from scoot.wire.errors import PermanentInfraError, UserError

PLAN: Final = "plan.json"
ROWS: Final = "rows.jsonl.gz"
SPOOL: Final = "spool"
AUDIT: Final = "audit.json"
LOG: Final = "load.log"
SUMMARY: Final = "summary.json"
REQUESTS: Final = "requests.parquet"
TOKENS: Final = "tokens.parquet"
RATE: Final = "rate-"
"""Start of the names of a sweep's folders of runs."""

SWEEP: Final = "sweep.json"
SWEEP_TABLE: Final = "sweep.csv"

_RESULTS: Final = (PLAN, ROWS, SPOOL, AUDIT, LOG, SUMMARY, REQUESTS, TOKENS, SWEEP, SWEEP_TABLE)
_PARENT: Final = ".scoot"
_LAST_BYTES: Final = 8192


def make_folder(out: str | None, *, kind: str) -> Path:
    """The folder for results, absolute, made if it is not there. Without `out`: the next .scoot/KIND-N.

    Raises:
        UserError: it holds results already, or cannot be made.
    """
    try:
        if out is not None:
            folder = Path(out).absolute()
            folder.mkdir(parents=True, exist_ok=True)
        else:
            folder = _next_folder(kind)
    except OSError as error:
        raise UserError(
            f"the folder cannot be made: {error.strerror}", path=str(out or _PARENT), key="--out", hint="choose another"
        ) from error
    there = [name for name in _RESULTS if (folder / name).exists()] + [path.name for path in folder.glob(f"{RATE}*")]
    if there:
        raise UserError(
            f"the folder has results already ({there[0]})", path=str(folder), key="--out", hint="choose another folder"
        )
    return folder


def _next_folder(kind: str) -> Path:
    parent = Path(_PARENT).absolute()
    parent.mkdir(exist_ok=True)
    for number in itertools.count(1):
        folder = parent / f"{kind}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError  # count() does not end


def write_whole(path: Path, data: bytes) -> None:
    """Write a new file that is there whole or not at all, readable by its owner: headers may hold secrets.

    Raises:
        PermanentInfraError: it cannot be written.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        partial.touch(mode=0o600)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PermanentInfraError(f"{path} cannot be written: {error.strerror}") from error


def read_spool(path: Path) -> TimingBatch:
    """Everything in a spool.

    Raises:
        SpoolCorruptError: it is damaged.
        RemoteProtocolError: a batch in it is none.
    """
    batches: list[TimingBatch] = []
    with SpoolReader(path) as reader:
        while frames := reader.read():
            batches += [decode(frame.payload) for frame in frames]
        reader.check_end()
    return concatenate(batches)


def last_line(path: Path) -> str:
    """The last line of a log that says something; "" if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
