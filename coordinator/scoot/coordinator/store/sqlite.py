"""The default store: one SQLite file in WAL mode, synced before every acknowledgement, and files beside it.

data_dir/scoot.db      records, journal, rows of segments
data_dir/segments/     timing batches        data_dir/blobs/    workload blobs
data_dir/lock          held while a store is open
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scoot.coordinator.store import schema, wal
from scoot.coordinator.store.segments import fsync_dir, storage_error
from scoot.coordinator.store.sql import SCHEMA_VERSION, Row, Session, SqlStore, get_meta
from scoot.wire.errors import PermanentInfraError, ScootError, TransientError, UserError

DATABASE_NAME: Final = "scoot.db"
DAMAGED_SUFFIX: Final = ".damaged"
TORN_SUFFIX: Final = ".torn"
_APPLICATION_ID: Final = 0x53434F54
"""Marks the file as SCOOT's, for `file` and for us."""

DATABASE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What Python's sqlite3 raises; the latter when a damaged file's text shows up in a value or in an error message."""

_BUSY_MS: Final = 5000
_PROBE_BYTES: Final = 64 * 1024
_LOG: Final = logging.getLogger(__name__)


class SqliteSession:
    """`sql.Session` over a connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """See `sql.Session`."""
        return self._connection.execute(sql.replace("%s", "?"), params).fetchall()

    def execute(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """See `sql.Session`."""
        for row in rows:
            self._connection.execute(sql.replace("%s", "?"), row)


class SqliteStore(SqlStore):
    """See `base.Store`. May be made in one thread and used in another; never in two at once.

    Opening checks the whole file (SQLite's integrity check and the log), so that damage is named at once.

    Raises:
        UserError: the folder cannot be used, another coordinator holds it, or a newer SCOOT wrote it.
        PermanentInfraError: the database is damaged; the file is named.
    """

    def __init__(self, data_dir: str | Path, *, migrations: Sequence[schema.Migration] | None = None) -> None:
        self._data_dir = Path(data_dir)
        self._path = self._data_dir / DATABASE_NAME
        self._connection: sqlite3.Connection | None = None
        super().__init__(self._data_dir)
        try:
            self._open(schema.released() if migrations is None else migrations)
        except BaseException:
            self.close()
            raise

    @property
    def _where(self) -> str:
        return str(self._path)

    def _open(self, migrations: Sequence[schema.Migration]) -> None:
        log = self._path.with_name(DATABASE_NAME + "-wal")
        kept = log.with_name(log.name + DAMAGED_SUFFIX)
        if kept.exists():
            raise PermanentInfraError(
                f"{kept}: committed transactions were lost with this damaged log; restore the folder from a backup, or "
                f"delete this file to go on without them"
            )
        try:
            size = self._path.stat().st_size if self._path.exists() else 0
            claimed = wal.scan(log.read_bytes(), _page_bytes(self._path)) if log.exists() else wal.WalScan()
            # Autocommit mode: transactions begin and end where this module says so, nowhere else.
            self._connection = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000
            )
            self._check_log(self._connection, claimed, log)
            found = self._configure(self._connection, size)
            self._start(found, migrations, blob="BLOB")
            if found == 0:
                self._connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
            fsync_dir(self._data_dir)
        except DATABASE_ERRORS as exc:
            raise self._translate(exc, write=False) from exc
        except OSError as exc:
            raise storage_error(exc, self._data_dir) from exc

    def _check_log(self, connection: sqlite3.Connection, claimed: wal.WalScan, log: Path) -> None:
        """Recover the log and compare; the evidence is copied, because SQLite deletes the log when it closes."""
        if not claimed.commits and not claimed.header_damaged:
            return
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # makes SQLite recover the log
        frames = wal.recovered_frames(log.with_name(DATABASE_NAME + "-shm").read_bytes())
        verdict = wal.judge(claimed, frames)
        if verdict is wal.WalVerdict.DAMAGED:
            kept = log.with_name(log.name + DAMAGED_SUFFIX)
            shutil.copyfile(log, kept)
            fsync_dir(self._data_dir)
            raise PermanentInfraError(
                f"{log}: damaged after frame {frames}, committed transactions lie behind it; a copy is kept as "
                f"{kept.name}: restore the folder from a backup, or delete that copy to go on without them"
            )
        if verdict is wal.WalVerdict.TORN:
            torn = log.with_name(log.name + TORN_SUFFIX)
            shutil.copyfile(log, torn)
            _LOG.warning(
                "%s: its end is torn (a power cut while the last transaction was written, or damage) and was dropped; "
                "a copy of the log is kept as %s",
                log,
                torn.name,
            )

    def _configure(self, connection: sqlite3.Connection, size: int) -> int:
        """Set the connection up, check the file, and return its schema version, 0 for a new file."""
        mode = connection.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        if mode != "wal":
            raise UserError(
                f"the file system does not support SQLite's write-ahead log (journal mode {mode!r})",
                path=str(self._data_dir),
                hint="put the data folder on a local disk",
            )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        check_integrity(connection, self._path)
        return schema_version(connection, self._path, size)

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Session]:
        with self._mutex:
            self._check_usable()
            connection = self._connection
            assert connection is not None  # noqa: S101  # usable means open
            try:
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                yield SqliteSession(connection)
                connection.execute("COMMIT")
            except DATABASE_ERRORS as exc:
                self._roll_back(connection)
                error = self._translate(exc, write=write)
                if write and isinstance(error, PermanentInfraError):
                    self._broken = f"{error} (the store stopped; restart the coordinator)"
                raise error from exc
            except BaseException:
                self._roll_back(connection)
                raise

    @staticmethod
    def _roll_back(connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:
                _LOG.exception("a transaction could not be rolled back")

    def _translate(self, exc: sqlite3.Error | UnicodeDecodeError, *, write: bool) -> ScootError:
        """The store's error for one of SQLite's."""
        code = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return TransientError(f"{self._path}: locked by another process; nothing was written", retry_after_s=1)
        if code == sqlite3.SQLITE_FULL or (write and code == sqlite3.SQLITE_IOERR and self._no_space()):
            return TransientError(f"{self._path}: no space left; nothing was written: free some space", retry_after_s=5)
        if isinstance(exc, UnicodeDecodeError) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return PermanentInfraError(f"{self._path}: damaged ({exc}); restore it from a backup")
        return PermanentInfraError(f"{self._path}: {exc}; check the disk, the permissions and the file")

    def _no_space(self) -> bool:
        """Whether a write fails for want of space (a quota shows as a plain I/O error in SQLite)."""
        probe = self._data_dir / "probe"
        try:
            fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                return os.write(fd, bytes(_PROBE_BYTES)) < _PROBE_BYTES
            finally:
                os.close(fd)
                probe.unlink()
        except OSError as exc:
            return exc.errno in (errno.ENOSPC, errno.EDQUOT)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def check_integrity(connection: sqlite3.Connection, path: Path) -> None:
    """SQLite's own check of structure and indexes (about 1 s per GB of database).

    Raises:
        PermanentInfraError: it found something.
    """
    found = [str(row[0]) for row in connection.execute("PRAGMA integrity_check(5)")]
    if found != ["ok"]:
        raise PermanentInfraError(f"{path}: damaged: {'; '.join(found)}; restore it from a backup")


def schema_version(connection: sqlite3.Connection, path: Path, size: int) -> int:
    """The schema of the database at `path`, which had `size` bytes before it was opened; 0 if it is new.

    Raises:
        PermanentInfraError: it is something else.
    """
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    tables = {str(row[0]) for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and size <= _page_bytes(path):
        return 0
    version = get_meta(SqliteSession(connection), SCHEMA_VERSION) if "meta" in tables else None
    if version is None or application not in (0, _APPLICATION_ID):
        raise PermanentInfraError(f"{path}: not a SCOOT database, or its schema is damaged")
    return int(version)


def _page_bytes(path: Path) -> int:
    """The page size in a database's header; 0 if there is none. 1 stands for 65536."""
    if not path.exists():
        return 0
    with path.open("rb") as file:
        size = int.from_bytes(file.read(18)[16:18], "big")
    return 65536 if size == 1 else size
