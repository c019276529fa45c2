"""The folder of an embedded run: what `tune` needs to go on after a crash, and what it leaves for people to read.

study.json           RunRecord: the study as resolved, its idempotency key, how its agent was set up
workload.jsonl.gz    the normalised requests
lock                 held while a scootctl uses the folder
coordinator/ agent/  their data
*.log agent.toml     their logs and the agent's configuration
results.json report.md report.html
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import re
from pathlib import Path
from typing import Final, Self

import msgspec

from scoot.cli.files import write_file
from scoot.wire.errors import UserError
from scoot.wire.spec import StudySpec

_BUSY: Final = "another scootctl is using this folder"


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Everything `--resume` needs. Submitting again with the same key gives the same study.

    Attributes:
        engines: engine name -> interpreter.
        slots: CPU slots the agent offers; None leaves it to the agent.
        allow: flags and variables the agent allows besides the engine adapter's own list.
    """

    idempotency_key: str
    spec: StudySpec
    engines: dict[str, str]
    slots: int | None
    allow: tuple[str, ...] = ()


class RunFolder:
    """An embedded run's folder, locked while it is entered."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._lock = -1

    @property
    def record_path(self) -> Path:
        """Where the record is; it exists from the moment the run can be resumed."""
        return self.path / "study.json"

    @property
    def blob_path(self) -> Path:
        """Where the workload's requests are."""
        return self.path / "workload.jsonl.gz"

    def __enter__(self) -> Self:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise UserError(_BUSY, path=str(self.path), hint="wait for it, or stop it") from error
        except OSError as error:
            self._unlock()
            raise UserError(
                f"cannot be used: {error.strerror}", path=str(self.path), hint="choose --data DIR"
            ) from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._unlock()

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def create(self, record: RunRecord, blob: bytes) -> None:
        """Write a new run's record, last: a folder without it holds nothing to resume.

        Raises:
            UserError: the folder holds a study already, or cannot be written.
        """
        if self.record_path.exists():
            raise UserError(
                "holds a study already",
                path=str(self.path),
                hint=f"scootctl tune --resume {self.path}, or another --data",
            )
        write_file(self.blob_path, blob)
        write_file(self.record_path, msgspec.json.format(msgspec.json.encode(record), indent=2))

    def load(self) -> tuple[RunRecord, bytes]:
        """The record and the workload of a run to resume.

        Raises:
            UserError: there is none, or it is damaged.
        """
        try:
            record = msgspec.json.decode(self.record_path.read_bytes(), type=RunRecord)
            blob = self.blob_path.read_bytes()
        except FileNotFoundError as error:
            raise UserError(
                "holds no study to resume", path=str(self.path), hint="start one: scootctl tune STUDY"
            ) from error
        except (OSError, msgspec.DecodeError) as error:
            raise UserError(f"the run cannot be read: {error}", path=str(self.record_path)) from error
        facts = record.spec.workload_facts
        if facts is None or hashlib.sha256(blob).hexdigest() != facts.sha256:
            raise UserError("the workload is not the one the study was submitted with", path=str(self.blob_path))
        return record, blob


def new_folder(name: str, base: Path) -> Path:
    """`base`/tune-NAME-N with the first N that is free."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    return next(path for n in itertools.count(1) if not (path := base / f"tune-{slug}-{n}").exists())
