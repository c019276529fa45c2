"""What the SQL stores share: rows, statements, and every operation of `base.Store` over an abstract session.

Statements use `%s` for parameters (psycopg's style; SQLite's store rewrites it). All SQL here is made of constants.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

import msgspec

from scoot.coordinator.store import record_codec, schema
from scoot.coordinator.store.base import Change, Segment, SegmentInfo, Snapshot
from scoot.coordinator.store.lock import DataDirLock
from scoot.coordinator.store.segments import ContentFiles, digest
from scoot.coordinator.store.validate import check_segment, conflict, without_payload
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    StudyRecord,
    TrialRecord,
)
from scoot.wire.errors import LocalProtocolError, PermanentInfraError, RemoteProtocolError, UserError

Row = tuple[Any, ...]
R = TypeVar("R", bound=msgspec.Struct)


class Session(Protocol):
    """Statements inside one transaction."""

    def query(self, sql: str, params: Sequence[object] = ()) -> list[Row]:
        """All rows of a SELECT."""

    def execute(self, sql: str, rows: Iterable[Sequence[object]]) -> None:
        """The statement once per row of parameters."""


class RecordTable(Generic[R]):
    """Where records of one kind live: a few columns for people and indexes, and the body, which is what counts.

    Attributes:
        select: reads columns, body and checksum in order of first insertion.
        upsert: inserts or replaces one; a replaced record keeps its place.
    """

    def __init__(
        self, name: str, kind: type[R], columns: Sequence[str], keys: Sequence[str], values: Callable[[R], Row]
    ) -> None:
        self.name = name
        self.kind = kind
        self._values = values
        listed = ", ".join((*columns, "body", "crc"))
        places = ", ".join(["%s"] * (len(columns) + 2))
        replaced = ", ".join(f"{name} = excluded.{name}" for name in (*columns, "body", "crc") if name not in keys)
        self.select = f"SELECT {listed} FROM {name} ORDER BY ordinal"  # noqa: S608  # constants only
        self.upsert = (
            f"INSERT INTO {name} (ordinal, {listed}) "  # noqa: S608  # constants only
            f"VALUES ((SELECT COALESCE(MAX(ordinal), 0) + 1 FROM {name}), {places}) "
            f"ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {replaced}"
        )

    def row(self, record: R) -> Row:
        """A record's parameters for `upsert`."""
        columns = self._values(record)
        body = record_codec.encode(record)
        return (*columns, body, record_codec.checksum(self.name, *columns, body))

    def record(self, row: Row) -> R:
        """The record in a row of `select`.

        Raises:
            PermanentInfraError: the row is damaged.
        """
        check_row(self.name, row, row[:-2])
        return record_codec.decode(bytes(row[-2]), self.kind)


STUDIES: Final = RecordTable(
    "study", StudyRecord, ("study_id", "state"), ("study_id",), lambda r: (r.study_id, r.state.value)
)
TRIALS: Final = RecordTable(
    "trial",
    TrialRecord,
    ("study_id", "number", "state"),
    ("study_id", "number"),
    lambda r: (r.study_id, r.number, r.state.value),
)
ATTEMPTS: Final = RecordTable(
    "attempt",
    AttemptRecord,
    ("attempt_id", "study_id", "trial", "fence", "state"),
    ("attempt_id",),
    lambda r: (r.attempt_id, r.study_id, r.trial, r.fence, r.state.value),
)
AGENTS: Final = RecordTable("agent", AgentRecord, ("agent_id",), ("agent_id",), lambda r: (r.agent_id,))

_META_GET: Final = "SELECT key, value, crc FROM meta WHERE key = %s"
_META_PUT: Final = (
    "INSERT INTO meta (key, value, crc) VALUES (%s, %s, %s) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, crc = excluded.crc"
)
SCHEMA_VERSION: Final = "schema_version"
NEXT_FENCE: Final = "next_fence"

_JOURNAL_LAST: Final = "SELECT COALESCE(MAX(seq), 0) FROM journal"
_JOURNAL_PUT: Final = "INSERT INTO journal (seq, body, crc) VALUES (%s, %s, %s)"
JOURNAL_GET: Final = "SELECT seq, body, crc FROM journal WHERE seq > %s ORDER BY seq LIMIT %s"

_SEGMENT_COLUMNS: Final = "attempt_id, seq, sha256, encoding, raw_bytes, n_requests, n_chunks, stored_bytes"
_SEGMENT_PUT: Final = f"INSERT INTO segment ({_SEGMENT_COLUMNS}, crc) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)"  # noqa: S608  # constants only
_SEGMENT_ONE: Final = f"SELECT {_SEGMENT_COLUMNS}, crc FROM segment WHERE attempt_id = %s AND seq = %s"  # noqa: S608  # constants only
_SEGMENTS_OF: Final = f"SELECT {_SEGMENT_COLUMNS}, crc FROM segment WHERE attempt_id = %s ORDER BY seq"  # noqa: S608  # constants only
SEGMENTS_ALL: Final = f"SELECT {_SEGMENT_COLUMNS}, crc FROM segment ORDER BY sha256 LIMIT %s OFFSET %s"  # noqa: S608  # constants only
_SEGMENTS_KEPT: Final = "SELECT sha256 FROM segment WHERE sha256 >= %s AND sha256 <= %s"


def check_row(table: str, row: Row, columns: Row) -> None:
    """Refuse a damaged row; `row` ends in its checksum, `columns` name it in the message."""
    if record_codec.checksum(table, *row[:-1]) != row[-1]:
        named = ", ".join(repr(column) for column in columns)
        raise PermanentInfraError(f"table {table}, row ({named}): damaged: its checksum does not match its content")


def segment_info(row: Row) -> SegmentInfo:
    """The segment in a row with `_SEGMENT_COLUMNS` and its checksum.

    Raises:
        PermanentInfraError: the row is damaged.
    """
    check_row("segment", row, row[:2])
    attempt_id, seq, sha, encoding, raw_bytes, n_requests, n_chunks, stored_bytes = row[:-1]
    return SegmentInfo(
        attempt_id=attempt_id,
        seq=seq,
        sha256=sha,
        encoding=encoding,
        raw_bytes=raw_bytes,
        n_requests=n_requests,
        n_chunks=n_chunks,
        stored_bytes=stored_bytes,
    )


def segment_row(info: SegmentInfo) -> Row:
    """A segment's parameters for the INSERT."""
    columns = msgspec.structs.astuple(info)
    return (*columns, record_codec.checksum("segment", *columns))


def get_meta(session: Session, key: str) -> str | None:
    """A value of the table meta, None if it was never set."""
    rows = session.query(_META_GET, (key,))
    if not rows:
        return None
    check_row("meta", rows[0], (key,))
    return str(rows[0][1])


def put_meta(session: Session, key: str, value: str) -> None:
    """Set a value of the table meta."""
    session.execute(_META_PUT, [(key, value, record_codec.checksum("meta", key, value))])


def load_records(session: Session, table: RecordTable[R]) -> tuple[R, ...]:
    """All records of a table in order of first insertion."""
    return tuple(table.record(row) for row in session.query(table.select))


class SqlStore(ABC):
    """`base.Store` over a transactional SQL session and content-addressed files.

    Calls are serialised by a mutex; the database keeps to one connection. A subclass opens the connection, then calls
    `_start`. `_broken` holds why writing had to stop for good: after a failed write to the database's own files its
    outcome is open, and only opening the store anew settles it.
    """

    def __init__(self, data_dir: Path) -> None:
        self._lock = DataDirLock(data_dir)
        self._files = ContentFiles(data_dir / "segments")
        self._blobs = ContentFiles(data_dir / "blobs")
        self._mutex = threading.RLock()
        self._last_seq = 0
        self._closed = False
        self._broken = ""

    @property
    @abstractmethod
    def _where(self) -> str:
        """The database, for messages."""

    @abstractmethod
    def _transaction(self, *, write: bool) -> AbstractContextManager[Session]:
        """A transaction: committed durably when the block ends, undone when it raises.

        Raises the store's errors only; a database's own exceptions are translated.
        """

    @abstractmethod
    def _disconnect(self) -> None:
        """Close the connection; idempotent."""

    def _start(self, found: int, migrations: Sequence[schema.Migration], *, blob: str) -> None:
        """Bring the schema (at version `found`, 0: none) up to date, read counters, collect leftovers."""
        if found == 0 and any(True for shard in self._files.shards() for _ in self._files.names(shard)):
            raise UserError(
                "the folder holds timing segments, but the database that belongs to them is empty or gone",
                path=self._where,
                hint="restore the database, or move the folder's content away to start anew",
            )
        for migration in schema.pending(migrations, found, self._where):
            with self._transaction(write=True) as session:
                for statement in migration.statements(blob=blob):
                    session.execute(statement, [()])
                put_meta(session, SCHEMA_VERSION, str(migration.version))
        with self._transaction(write=False) as session:
            self._last_seq = int(session.query(_JOURNAL_LAST)[0][0])
            self._files.collect(lambda shard: self._kept(session, shard))
        self._blobs.collect(lambda shard: set(self._blobs.names(shard)))

    @staticmethod
    def _kept(session: Session, shard: str) -> set[str]:
        rows = session.query(_SEGMENTS_KEPT, (shard.ljust(64, "0"), shard.ljust(64, "f")))
        return {str(row[0]) for row in rows}

    def _check_usable(self) -> None:
        if self._closed:
            raise LocalProtocolError(f"{self._where}: the store is closed")
        if self._broken:
            raise PermanentInfraError(self._broken)

    def load(self) -> Snapshot:
        """See `base.Store`."""
        with self._transaction(write=False) as session:
            return Snapshot(
                studies=load_records(session, STUDIES),
                trials=load_records(session, TRIALS),
                attempts=load_records(session, ATTEMPTS),
                agents=load_records(session, AGENTS),
                next_fence=int(get_meta(session, NEXT_FENCE) or 1),
            )

    def commit(self, change: Change) -> None:
        """See `base.Store`.

        Raises:
            LocalProtocolError: a record cannot be stored (see `record_codec.encode`).
        """
        writes: list[tuple[str, list[Row]]] = [
            (STUDIES.upsert, [STUDIES.row(record) for record in change.studies]),
            (TRIALS.upsert, [TRIALS.row(record) for record in change.trials]),
            (ATTEMPTS.upsert, [ATTEMPTS.row(record) for record in change.attempts]),
            (AGENTS.upsert, [AGENTS.row(record) for record in change.agents]),
        ]
        with self._transaction(write=True) as session:
            for sql, rows in writes:
                if rows:
                    session.execute(sql, rows)
            events = [
                (seq, body, record_codec.checksum("journal", seq, body))
                for seq, body in enumerate(change.journal, self._last_seq + 1)
            ]
            if events:
                session.execute(_JOURNAL_PUT, events)
            if change.next_fence is not None:
                put_meta(session, NEXT_FENCE, str(change.next_fence))
        self._last_seq += len(change.journal)

    def journal(self, after: int = 0, limit: int = 1000) -> Sequence[tuple[int, bytes]]:
        """See `base.Store`."""
        with self._transaction(write=False) as session:
            rows = session.query(JOURNAL_GET, (after, max(limit, 0)))
        for row in rows:
            check_row("journal", row, row[:1])
        return tuple((int(row[0]), bytes(row[1])) for row in rows)

    def add_segments(self, segments: Sequence[Segment]) -> None:
        """See `base.Store`. One transaction and one round of fsyncs for all of them."""
        refused: list[str] = []
        fresh: dict[tuple[str, int], Segment] = {}
        with self._transaction(write=True) as session:
            for segment in segments:
                if problem := check_segment(segment):
                    refused.append(problem)
                    continue
                key = (segment.attempt_id, segment.seq)
                kept = fresh[key].sha256 if key in fresh else self._kept_digest(session, key)
                if kept is None:
                    fresh[key] = segment
                elif kept != segment.sha256:
                    refused.append(conflict(segment, kept))
            self._files.put({segment.sha256: segment.payload for segment in fresh.values()})
            if fresh:
                session.execute(_SEGMENT_PUT, [segment_row(without_payload(each)) for each in fresh.values()])
        if refused:
            raise RemoteProtocolError("; ".join(refused))

    @staticmethod
    def _kept_digest(session: Session, key: tuple[str, int]) -> str | None:
        rows = session.query(_SEGMENT_ONE, key)
        return segment_info(rows[0]).sha256 if rows else None

    def segments(self, attempt_id: str) -> Sequence[SegmentInfo]:
        """See `base.Store`."""
        with self._transaction(write=False) as session:
            return tuple(segment_info(row) for row in session.query(_SEGMENTS_OF, (attempt_id,)))

    def read_segment(self, info: SegmentInfo) -> bytes:
        """See `base.Store`."""
        self._check_usable()
        try:
            return self._files.get(info.sha256)
        except KeyError:
            missing_segment(info, self._files.path(info.sha256))

    def put_blob(self, data: bytes) -> str:
        """See `base.Store`."""
        self._check_usable()
        sha = digest(data)
        self._blobs.put({sha: data})
        return sha

    def get_blob(self, sha256: str) -> bytes:
        """See `base.Store`."""
        self._check_usable()
        return self._blobs.get(sha256)

    def close(self) -> None:
        """See `base.Store`."""
        with self._mutex:
            self._closed = True
            self._disconnect()
            self._lock.release()


def missing_segment(info: SegmentInfo, path: Path) -> NoReturn:
    """Say that a segment's file is gone."""
    raise PermanentInfraError(
        f"{path}: missing: it held batch {info.seq} of attempt {info.attempt_id}; restore it from a backup"
    )
