"""Attempt folders: `attempts/FENCE/` holds everything of one attempt, its outcome until the coordinator has it.

An outcome is on disk before it is reported and goes only when it was acknowledged, so that neither a crash of the agent
nor one of the coordinator loses it. A folder of an attempt without an outcome is what a crash left behind.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from scoot.agent.link.codec import AttemptRef
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason

LOG: Final = logging.getLogger(__name__)

_KEPT_LOGS: Final = 50
"""Folders of finished attempts whose logs stay for the curious."""

T = TypeVar("T", bound=msgspec.Struct)

_STARTED: Final = "attempt.json"
_OUTCOME: Final = "outcome.json"


class KeptOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """An outcome, and whether every timing batch it counts has been stored by the coordinator."""

    outcome: AttemptOutcome
    uploaded: bool

    @property
    def ref(self) -> AttemptRef:
        """Which attempt."""
        return AttemptRef(self.outcome.attempt_id, self.outcome.fence)


class _Started(msgspec.Struct, frozen=True, kw_only=True):
    """Written when an attempt begins."""

    attempt_id: str
    fence: int
    boot_id: str


class AttemptFolders:
    """The folder of all attempts. Every method may raise OSError."""

    def __init__(self, root: Path, boot_id: str) -> None:
        """`boot_id` tells a reboot from a restart of the agent."""
        self._root = root
        self._boot_id = boot_id

    def path(self, ref: AttemptRef) -> Path:
        """Folder of an attempt. Fencing tokens are unique over all attempts, and safe as names."""
        return self._root / str(ref.fence)

    def spool(self, ref: AttemptRef) -> Path:
        """Where the load process of an attempt spools its timings."""
        return self.path(ref) / "spool"

    def create(self, ref: AttemptRef) -> Path:
        """An empty folder for an attempt that begins."""
        folder = self.path(ref)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        started = _Started(attempt_id=ref.attempt_id, fence=ref.fence, boot_id=self._boot_id)
        write_durably(folder / _STARTED, msgspec.json.encode(started))
        return folder

    def keep(self, kept: KeptOutcome) -> None:
        """Make an outcome durable; replaces an earlier one at one stroke."""
        folder = self.path(kept.ref)
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(folder / _OUTCOME, msgspec.json.encode(kept))

    def drop(self, ref: AttemptRef) -> None:
        """Forget an acknowledged attempt: everything but its logs goes, and the oldest logs too."""
        folder = self.path(ref)
        # The outcome first: a crash in between must not report it again without its timings.
        for name in (_OUTCOME, _STARTED):
            (folder / name).unlink(missing_ok=True)
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path.suffix != ".log":
                path.unlink(missing_ok=True)
        done = sorted((path for path in self._folders() if not (path / _STARTED).exists()), key=lambda p: int(p.name))
        for path in done[:-_KEPT_LOGS]:
            shutil.rmtree(path, ignore_errors=True)

    def recover(self) -> list[KeptOutcome]:
        """Outcomes not yet acknowledged, by fence; an attempt that a crash cut off gets its outcome here.

        A damaged file is named in the log, put aside, and nothing is guessed from it.
        """
        found: list[KeptOutcome] = []
        for folder in sorted(self._folders(), key=lambda path: int(path.name)):
            kept = _decode(folder / _OUTCOME, KeptOutcome)
            if kept is None and (started := _decode(folder / _STARTED, _Started)) is not None:
                kept = KeptOutcome(outcome=self._interrupted(started), uploaded=True)
                self.keep(kept)
            if kept is not None:
                found.append(kept)
        return found

    def _interrupted(self, started: _Started) -> AttemptOutcome:
        rebooted = started.boot_id != self._boot_id
        return AttemptOutcome(
            attempt_id=started.attempt_id,
            fence=started.fence,
            state="ABORTED",
            reason=Reason.HOST_REBOOTED if rebooted else Reason.HOST_LOST,
            message=f"the {'host rebooted' if rebooted else 'agent process ended'} while the attempt was running",
        )

    def _folders(self) -> list[Path]:
        if not self._root.is_dir():
            return []
        return [path for path in self._root.iterdir() if path.name.isascii() and path.name.isdigit()]


def write_durably(path: Path, data: bytes) -> None:
    """Replace `path` by `data`: whole and on disk when this returns, untouched when it raises OSError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decode(path: Path, type_: type[T]) -> T | None:
    """What a file holds; None where there is none, or where it is damaged and had to be put aside."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=type_)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        LOG.error("%s is damaged and put aside: %s", path, error)  # noqa: TRY400 - the file's fault, not the code's
        path.replace(path.with_name(path.name + ".damaged"))
        return None
