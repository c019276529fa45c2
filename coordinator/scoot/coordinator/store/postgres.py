"""The store on PostgreSQL, for those who run it anyway: records there, segments and blobs on the coordinator's disk.

One coordinator per schema: an advisory lock is held as long as the session lives. The tables go into the connection's
current schema, so give SCOOT a database or a schema of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import errors as pg_errors

from scoot.coordinator.store import schema
from scoot.coordinator.store.sql import SCHEMA_VERSION, Row, Session, SqlStore, get_meta
from scoot.wire.errors import LocalProtocolError, PermanentInfraError, ScootError, TransientError, UserError

Connection = psycopg.Connection[tuple[Any, ...]]

_LOCK: Final = "hashtext('scoot-store'), hashtext(current_schema())"
_CONNECT_S: Final = 10
_SETTLE_MS: Final = 10_000
_PASSING: Final = ("08", "40", "53", "55", "57")
"""SQLSTATE classes that pass: connection, serialisation, resources (disk full too), lock, operator intervention."""


class PostgresSession:
    """`sql.Session` over a cursor."""

    def __init__(self, cursor: psycopg.Cursor[tuple[Any, ...]]) -> None:
        self._cursor = cursor

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """See `sql.Session`."""
        return self._cursor.execute(sql.encode(), params).fetchall()

    def execute(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """See `sql.Session`."""
        self._cursor.executemany(sql.encode(), rows)


class PostgresStore(SqlStore):
    """See `base.Store`. `dsn` is a libpq connection string; passwords belong into a pgpass file, not into it.

    A lost connection is a TransientError, and the next call connects again. If it is lost while a commit is under way,
    the outcome is asked of the server before anything is said.

    Raises:
        UserError: no connection, another coordinator holds the schema or the folder, or a newer SCOOT wrote it.
    """

    def __init__(self, dsn: str, data_dir: str | Path, *, migrations: Sequence[schema.Migration] | None = None) -> None:
        self._dsn = dsn
        self._name = "PostgreSQL"
        self._connection: Connection | None = None
        super().__init__(Path(data_dir))
        try:
            self._open(schema.released() if migrations is None else migrations)
        except BaseException:
            self.close()
            raise

    @property
    def _where(self) -> str:
        return self._name

    def _open(self, migrations: Sequence[schema.Migration]) -> None:
        try:
            connection = self._connect()
        except psycopg.Error as exc:
            raise UserError(
                f"no connection to PostgreSQL: {exc}".strip(),
                key="store.dsn",
                hint="check that the server runs and that the connection string is right",
            ) from exc
        with self._transaction(write=False) as session:
            known = session.query(
                "SELECT 1 FROM information_schema.tables WHERE table_schema = current_schema() AND table_name = 'meta'"
            )
            found = int(get_meta(session, SCHEMA_VERSION) or 0) if known else 0
        self._name = f"PostgreSQL database {connection.info.dbname!r} on {connection.info.host or 'the local socket'}"
        self._start(found, migrations, blob="BYTEA")

    def _connect(self) -> Connection:
        """Connect and take the schema's lock.

        Raises:
            UserError: another coordinator holds it.
        """
        connection: Connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=_CONNECT_S)
        try:
            connection.execute("SET synchronous_commit = on")
            # A server process whose client is gone may live on for a moment, hence some patience.
            connection.execute(f"SET lock_timeout = {_SETTLE_MS}".encode())
            self._take_lock(connection, wait=self._connection is not None)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    @staticmethod
    def _take_lock(connection: Connection, *, wait: bool) -> None:
        """At the start nobody else may hold it; on a reconnection it is our own former session that still may."""
        if wait:
            connection.execute(f"SELECT pg_advisory_lock({_LOCK})".encode())
            return
        row = connection.execute(f"SELECT pg_try_advisory_lock({_LOCK})".encode()).fetchone()
        if row is None or not row[0]:
            raise UserError(
                "the database schema is in use by another coordinator",
                key="store.dsn",
                hint="stop that coordinator, or give this one its own schema",
            )

    def _usable(self) -> Connection:
        self._check_usable()
        if self._connection is None or self._connection.closed:
            return self._connect()
        return self._connection

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Session]:
        with self._mutex:
            xid = ""
            committing = False
            try:
                connection = self._usable()
                with connection.cursor() as cursor:
                    cursor.execute("BEGIN")
                    if write:
                        row = cursor.execute("SELECT pg_current_xact_id()::text").fetchone()
                        xid = row[0] if row else ""
                    yield PostgresSession(cursor)
                    committing = True
                    cursor.execute("COMMIT")
            except psycopg.Error as exc:
                self._roll_back()
                lost = self._connection is None or self._connection.closed
                if committing and write and lost and self._was_committed(xid, exc):
                    return
                raise self._translate(exc) from exc
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._connection is not None and not self._connection.closed:
            try:
                self._connection.execute("ROLLBACK")
            except psycopg.Error:
                self._connection.close()

    def _was_committed(self, xid: str, cause: psycopg.Error) -> bool:
        """Whether the transaction whose COMMIT got no answer took effect.

        The advisory lock is free only when the old server process has ended, so the answer is final.

        Raises:
            PermanentInfraError: it cannot be found out now; the store stops.
        """
        try:
            row = self._connect().execute("SELECT pg_xact_status(%s::text::xid8)", (xid,)).fetchone()
        except psycopg.Error as exc:
            self._broken = (
                f"{self._where}: the connection was lost during a commit ({cause}) and its outcome is unknown ({exc}); "
                f"restart the coordinator when the database is back"
            )
            raise PermanentInfraError(self._broken) from exc
        return row is not None and row[0] == "committed"

    def _translate(self, exc: psycopg.Error) -> ScootError:
        """The store's error for one of PostgreSQL's."""
        text = f"{self._where}: {str(exc).strip()}"
        if isinstance(exc, pg_errors.DataError):
            return LocalProtocolError(text)
        state = exc.sqlstate or ""
        if state.startswith(_PASSING) or (not state and isinstance(exc, psycopg.OperationalError)):
            return TransientError(f"{text}; nothing was written", retry_after_s=2)
        return PermanentInfraError(f"{text}; check the database")

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
