"""Looks a store over without changing it: is everything there, undamaged, and consistent?"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from scoot.coordinator.store import schema
from scoot.coordinator.store.base import SegmentInfo
from scoot.coordinator.store.lock import is_held
from scoot.coordinator.store.segments import ContentFiles
from scoot.coordinator.store.sql import (
    AGENTS,
    ATTEMPTS,
    JOURNAL_GET,
    NEXT_FENCE,
    SEGMENTS_ALL,
    STUDIES,
    TRIALS,
    RecordTable,
    check_row,
    get_meta,
    segment_info,
)
from scoot.coordinator.store.sqlite import (
    DAMAGED_SUFFIX,
    DATABASE_ERRORS,
    DATABASE_NAME,
    TORN_SUFFIX,
    SqliteSession,
    check_integrity,
    schema_version,
)
from scoot.coordinator.study.state import AttemptRecord, StudyRecord, TrialRecord
from scoot.wire.errors import PermanentInfraError, ScootError

R = TypeVar("R", bound=msgspec.Struct)

_PAGE: Final = 1000
_CONFIRMATIONS: Final = 2
"""Trials beyond the budget: the default and the best, tested again."""

_RESTORE: Final = "restore the data folder from a backup"
_REPORT: Final = "this is a bug in SCOOT: please report it with this output"


class Severity(StrEnum):
    """ERROR: data is lost or wrong. WARNING: look at it. INFO: harmless."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing found: where, what, and what to do about it."""

    severity: Severity
    where: str
    message: str
    remedy: str


def check_store(data_dir: str | Path) -> list[Finding]:
    """Everything found in the store in `data_dir`; empty when all is well. Reads all of it, writes nothing.

    May be used beside a running coordinator; files whose rows are not committed yet then show as INFO.
    """
    folder = Path(data_dir)
    path = folder / DATABASE_NAME
    findings = list(_check_leftovers(folder))
    if not path.is_file():
        found = Finding(
            severity=Severity.ERROR, where=str(path), message="there is no store here", remedy="check the path"
        )
        return [*findings, found]
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as database:
            database.execute("BEGIN")
            findings += _check_database(database, folder)
    except DATABASE_ERRORS as exc:
        findings.append(_error(path, f"cannot be read: {exc}", _RESTORE))
    return findings


def _error(where: object, message: str, remedy: str) -> Finding:
    return Finding(severity=Severity.ERROR, where=str(where), message=message, remedy=remedy)


def _check_leftovers(folder: Path) -> Iterator[Finding]:
    for suffix, severity, message in (
        (DAMAGED_SUFFIX, Severity.ERROR, "committed transactions were lost with this damaged log"),
        (TORN_SUFFIX, Severity.WARNING, "the last transaction in this log was torn and dropped"),
    ):
        path = folder / f"{DATABASE_NAME}-wal{suffix}"
        if path.exists():
            remedy = f"{_RESTORE}, or delete the file to go on without them"
            yield Finding(severity=severity, where=str(path), message=message, remedy=remedy)


def _check_database(database: sqlite3.Connection, folder: Path) -> Iterator[Finding]:
    path = folder / DATABASE_NAME
    session = SqliteSession(database)
    try:
        check_integrity(database, path)
    except PermanentInfraError as exc:
        yield _error(path, str(exc), _RESTORE)
    try:
        version = schema_version(database, path, path.stat().st_size)
        next_fence = int(get_meta(session, NEXT_FENCE) or 1)
    except ScootError as exc:
        yield _error(path, str(exc), _RESTORE)
        return
    newest = schema.released()[-1].version
    if version != newest:
        yield Finding(
            severity=Severity.WARNING,
            where=str(path),
            message=f"the store has schema {version}, this version of SCOOT uses {newest}; nothing else was checked",
            remedy="start this version's coordinator once to bring it up to date"
            if version < newest
            else "use the newer version of SCOOT that wrote it",
        )
        return
    damaged: list[Finding] = []
    studies = _records(session, STUDIES, path, damaged)
    trials = _records(session, TRIALS, path, damaged)
    attempts = _records(session, ATTEMPTS, path, damaged)
    _records(session, AGENTS, path, damaged)
    yield from damaged
    yield from _check_journal(session, path)
    yield from check_records(studies, trials, attempts, next_fence, str(path))
    yield from _check_segments(session, folder, {attempt.attempt_id for attempt in attempts})


def _records(session: SqliteSession, table: RecordTable[R], path: Path, damaged: list[Finding]) -> list[R]:
    """A table's sound records; what is wrong with the others goes to `damaged`."""
    records: list[R] = []
    for row in session.query(table.select):
        try:
            records.append(table.record(row))
        except PermanentInfraError as exc:
            damaged.append(_error(path, str(exc), _RESTORE))
    return records


def _check_journal(session: SqliteSession, path: Path) -> Iterator[Finding]:
    last = 0
    while rows := session.query(JOURNAL_GET, (last, _PAGE)):
        for row in rows:
            try:
                check_row("journal", row, row[:1])
            except PermanentInfraError as exc:
                yield _error(path, str(exc), _RESTORE)
            if not isinstance(row[0], int):  # SQLite's columns hold anything, damaged ones too
                return
            if row[0] != last + 1:
                yield _error(path, f"the journal jumps from event {last} to {row[0]}", _RESTORE)
            last = row[0]


def check_records(
    studies: Sequence[StudyRecord],
    trials: Sequence[TrialRecord],
    attempts: Sequence[AttemptRecord],
    next_fence: int,
    where: str,
) -> Iterator[Finding]:
    """The invariants between records, whatever they were read from."""
    yield from _check_trials(studies, trials, where)
    yield from _check_attempts(trials, attempts, where)
    highest = 0
    for attempt in attempts:
        if attempt.fence <= highest:
            message = f"attempt {attempt.attempt_id} has fence {attempt.fence}, an earlier one had {highest}"
            yield _error(where, message, _REPORT)
        highest = max(highest, attempt.fence)
    if next_fence <= highest:
        yield _error(where, f"the next fence would be {next_fence}, {highest} is already given", _REPORT)


def _check_trials(studies: Sequence[StudyRecord], trials: Sequence[TrialRecord], where: str) -> Iterator[Finding]:
    by_study = {study.study_id: study for study in studies}
    for key, count in Counter((trial.study_id, trial.number) for trial in trials).items():
        if count > 1:
            yield _error(where, f"study {key[0]} has {count} trials with number {key[1]}", _REPORT)
    for study_id, count in Counter(trial.study_id for trial in trials).items():
        study = by_study.get(study_id)
        if study is None:
            yield _error(where, f"{count} trials belong to study {study_id}, which is not there", _RESTORE)
        elif count > study.spec.budget.trials + _CONFIRMATIONS:
            budget = study.spec.budget.trials
            yield _error(where, f"study {study_id} has {count} trials, its budget is {budget} + 2 re-tests", _REPORT)


def _check_attempts(trials: Sequence[TrialRecord], attempts: Sequence[AttemptRecord], where: str) -> Iterator[Finding]:
    by_trial = {(trial.study_id, trial.number): trial for trial in trials}
    for attempt in attempts:
        named = f"attempt {attempt.attempt_id}"
        trial = by_trial.get((attempt.study_id, attempt.trial))
        if trial is None:
            yield _error(where, f"{named} belongs to a trial that is not there", _RESTORE)
        elif trial.state.is_terminal and not attempt.state.is_terminal:
            yield _error(where, f"{named} is {attempt.state}, its trial is over ({trial.state})", _REPORT)


def _check_segments(session: SqliteSession, folder: Path, attempts: set[str]) -> Iterator[Finding]:
    files = ContentFiles(folder / "segments")
    path = folder / DATABASE_NAME
    strangers: Counter[str] = Counter()
    referenced: set[str] = set()
    offset = 0
    while rows := session.query(SEGMENTS_ALL, (_PAGE, offset)):
        offset += len(rows)
        for row in rows:
            try:
                info = segment_info(row)
            except PermanentInfraError as exc:
                yield _error(path, str(exc), _RESTORE)
                continue
            if info.attempt_id not in attempts:
                strangers[info.attempt_id] += 1
            if info.sha256 not in referenced:
                referenced.add(info.sha256)
                yield from _check_file(files, info, path)
    for attempt_id, count in strangers.items():
        yield _error(path, f"{count} batches belong to attempt {attempt_id}, which is not there", _RESTORE)
    orphans = sum(1 for shard in files.shards() for name in files.names(shard) if name not in referenced)
    if orphans:
        yield Finding(
            severity=Severity.INFO,
            where=str(folder / "segments"),
            message=f"{orphans} files belong to no row",
            remedy="a coordinator is running and may be about to record them"
            if is_held(folder)
            else "nothing to do: the next start of the coordinator removes them",
        )


def _check_file(files: ContentFiles, info: SegmentInfo, database: Path) -> Iterator[Finding]:
    path = files.path(info.sha256)
    held = f"batch {info.seq} of attempt {info.attempt_id}"
    try:
        size = len(files.get(info.sha256))
    except KeyError:
        yield _error(path, f"missing: it held {held}", _RESTORE)
    except ScootError as exc:
        yield _error(path, f"{held}: {exc}", _RESTORE)
    else:
        if size != info.stored_bytes:
            yield _error(database, f"{held} has {size} bytes, its row says {info.stored_bytes}", _RESTORE)
