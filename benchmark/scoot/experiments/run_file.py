"""Finished runs on disk: a header line, then a line per trial. IO."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from scoot.experiments.run import Run, RunSpec, Step
from scoot.wire.errors import PermanentInfraError

RUNS: Final = "runs"
"""Folder of the runs, below the results' folder; in it one folder per service."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First line of a run's file.

    Attributes:
        spec: of the run.
        fingerprint: of the service and the simulator, see scoot.experiments.memo.
        steps: lines that follow.
        error: as in Run.
    """

    spec: RunSpec
    fingerprint: str
    steps: int
    error: str = ""


def path_of(folder: Path, spec: RunSpec) -> Path:
    """The file of a run."""
    noise = "" if spec.noise else "-exact"
    name = f"{spec.method}-{spec.design}-b{spec.budget}-p{spec.parallelism}{noise}-s{spec.seed}.jsonl"
    return folder / RUNS / spec.service / name


def write_run(folder: Path, run: Run, fingerprint: str) -> None:
    """Write it down; a file that is there is whole.

    Raises:
        PermanentInfraError: it cannot be written.
    """
    path = path_of(folder, run.spec)
    header = Header(spec=run.spec, fingerprint=fingerprint, steps=len(run.steps), error=run.error)
    data = msgspec.json.Encoder(order="deterministic").encode_lines([header, *run.steps])
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(data)
        beside.replace(path)
    except OSError as error:
        raise PermanentInfraError(f"{path} cannot be written: {error.strerror}") from error


def read_run(path: Path) -> tuple[Run, str]:
    """A run and its fingerprint.

    Raises:
        PermanentInfraError: it cannot be read, or is no run.
    """
    try:
        first, *rest = path.read_bytes().splitlines()
        header = msgspec.json.decode(first, type=Header)
        steps = tuple(msgspec.json.decode(line, type=Step) for line in rest)
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise PermanentInfraError(f"{path} is no run: {error}") from error
    if len(steps) != header.steps:
        raise PermanentInfraError(f"{path} is cut off: {len(steps)} trials instead of {header.steps}")
    return Run(spec=header.spec, steps=steps, error=header.error), header.fingerprint


def finished(folder: Path, spec: RunSpec, fingerprint: str) -> bool:
    """Whether a run is there, of the same service and simulator, and did not end with an error."""
    path = path_of(folder, spec)
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            header = msgspec.json.decode(file.readline(), type=Header)
    except (OSError, ValueError):
        return False
    return header.spec == spec and header.fingerprint == fingerprint and not header.error


def read_runs(folder: Path) -> Iterator[Run]:
    """Every run of a results' folder, in a fixed order.

    Raises:
        PermanentInfraError: one of them cannot be read.
    """
    for path in sorted((folder / RUNS).glob("*/*.jsonl")):
        yield read_run(path)[0]
