"""Trials remembered on disk, so that methods, seeds and processes share those of equal configurations. IO.

One file of JSON lines per service, under a name that changes with the service's definition and with the simulator's
source. Any number of processes may append to it.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from scoot.experiments.evaluation import ARRIVALS, Evaluated, Evaluator
from scoot.experiments.services import TuningService
from scoot.wire.errors import PermanentInfraError
from scoot.wire.spec import Config

_SOURCES: Final = ("simulator", "benchmark")
_BESIDE: Final = frozenset({"standalone", "serving"})
_DIGITS: Final = 12

_VERSION: Final = 1
"""To be raised when `evaluated` says something else about the same trial."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """One line."""

    config: Config
    trial: Evaluated


class Memo:
    """Trials of one service: an Evaluate that simulates only what no process has simulated before.

    Args:
        folder: the cache, made if need be.
        service: which service.
        evaluator: what simulates; by default the service's.
        arrivals: seed of the arrival order.

    Attributes:
        path: the file.
        simulated: trials simulated here, that is not found.

    Raises:
        PermanentInfraError: the cache can be neither made nor read.
    """

    def __init__(
        self, folder: Path, service: TuningService, *, evaluator: Evaluator | None = None, arrivals: int = ARRIVALS
    ) -> None:
        self.service = service
        self.path = folder / f"{service.name}-{fingerprint(service, arrivals)}.jsonl"
        self.simulated = 0
        self._evaluator = evaluator or Evaluator(service, arrivals=arrivals)
        self._known: dict[bytes, Remembered] = {}
        self._read = 0
        self._encoder = msgspec.json.Encoder(order="deterministic")
        self._decoder = msgspec.json.Decoder(Remembered)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PermanentInfraError(f"the cache {folder} cannot be made: {error.strerror}") from error
        self._refresh()

    def __call__(self, config: Config) -> Evaluated:
        """The trial of a full configuration.

        Raises:
            PermanentInfraError: it cannot be written down.
        """
        key = self._encoder.encode(config)
        if key not in self._known:
            self._refresh()  # another process may have been there
        if key not in self._known:
            self._add(key, Remembered(config=config, trial=self._evaluator(config)))
        return self._known[key].trial

    def everything(self) -> tuple[Remembered, ...]:
        """Whatever any process has tried so far, in a fixed order."""
        self._refresh()
        return tuple(self._known[key] for key in sorted(self._known))

    def _add(self, key: bytes, found: Remembered) -> None:
        self.simulated += 1
        self._known[key] = found
        line = b"\n" + self._encoder.encode(found) + b"\n"  # the first ends what a killed process left half written
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, line)  # one write: lines of several processes do not mix
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PermanentInfraError(f"{self.path} cannot be written: {error.strerror}") from error

    def _refresh(self) -> None:
        """Read what was appended since the last time."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise PermanentInfraError(f"{self.path} cannot be read: {error.strerror}") from error
        whole = data.rfind(b"\n") + 1
        self._read += whole
        for line in filter(None, data[:whole].split(b"\n")):
            try:
                found = self._decoder.decode(line)
            except msgspec.DecodeError:
                continue  # half a line: that trial is simulated again
            self._known.setdefault(self._encoder.encode(found.config), found)


def fingerprint(service: TuningService, arrivals: int = ARRIVALS) -> str:
    """Changes with whatever may change a trial: what is served and asked, the arrival order, the simulator's source."""
    parts = (
        *(service.engine, service.workload, service.profile, service.limits),
        *(service.objectives, service.outcomes, arrivals, _VERSION),
    )
    of_service = msgspec.json.encode(parts, order="deterministic")
    return hashlib.sha256(of_service + _source_digest().encode()).hexdigest()[:_DIGITS]


@cache
def _source_digest() -> str:
    """Of the files that make a trial's result."""
    root = Path(__file__).parents[1]
    found = hashlib.sha256()
    for package in _SOURCES:
        for path in sorted((root / package).rglob("*")):
            relative = path.relative_to(root)
            if path.suffix in {".py", ".json"} and not _BESIDE & set(relative.parts):
                found.update(f"{relative}\0".encode() + path.read_bytes())
    return found.hexdigest()
