"""One coordinator per data folder: an advisory lock that the kernel drops when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from scoot.wire.errors import UserError

LOCK_NAME = "lock"


class DataDirLock:
    """Holds `data_dir/lock` exclusively from construction to `release`.

    Raises:
        UserError: another process (or another store in this one) holds it, or the folder cannot be used.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as exc:
            raise UserError(
                f"the data folder cannot be used: {exc.strerror}",
                path=str(data_dir),
                hint="name a folder that the coordinator may create and write to",
            ) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise UserError(
                f"the data folder is in use by another coordinator{f' (process {holder})' if holder else ''}",
                path=str(data_dir),
                hint="stop that coordinator, or give this one its own data folder",
            ) from exc
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go; idempotent. The file stays: removing it would race with the next holder."""
        if self._fd >= 0:
            # Unlocked explicitly, because a forked child that shares the descriptor would keep the lock alive.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = -1


def is_held(data_dir: Path) -> bool:
    """Whether some store has `data_dir` open now. For display: it may change at once."""
    try:
        fd = os.open(data_dir / LOCK_NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(fd)
