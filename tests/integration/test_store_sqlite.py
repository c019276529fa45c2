"""The SQLite store on a real disk: one opener, schemas, damage, leftovers, and the doctor."""

from __future__ import annotations

import logging
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from scoot.coordinator.store import schema
from scoot.coordinator.store.base import Change, Segment, Snapshot
from scoot.coordinator.store.doctor import Severity, check_store
from scoot.coordinator.store.sqlite import DATABASE_NAME, SqliteStore
from scoot.wire.errors import PermanentInfraError, ScootError, TransientError, UserError

T = TypeVar("T")

GOLDEN = Path(__file__).parents[1] / "golden" / "store"
SAMPLE = msgspec.json.decode((GOLDEN / "v1.json").read_bytes(), type=Snapshot)
WHOLE = Change(
    studies=SAMPLE.studies,
    trials=SAMPLE.trials,
    attempts=SAMPLE.attempts,
    agents=SAMPLE.agents,
    journal=(b'{"event":"first"}', b'{"event":"second"}'),
    next_fence=SAMPLE.next_fence,
)
ATTEMPT = SAMPLE.attempts[1].attempt_id


def segment(seq: int, payload: bytes) -> Segment:
    return Segment(
        attempt_id=ATTEMPT,
        seq=seq,
        sha256=sha256(payload).hexdigest(),
        encoding="raw",
        raw_bytes=len(payload),
        n_requests=1,
        n_chunks=1,
        payload=payload,
    )


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def filled(data_dir: Path) -> Path:
    """A closed store with the sample and three segments."""
    store = SqliteStore(data_dir)
    store.commit(WHOLE)
    store.add_segments([segment(seq, bytes([seq]) * 500) for seq in range(3)])
    store.close()
    return data_dir


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def attempt(call: Callable[[], T]) -> tuple[T | None, str]:
    """What a call returned, or the text of the store's error."""
    try:
        return call(), ""
    except ScootError as exc:
        return None, str(exc)


def contents(data_dir: Path) -> object:
    """Everything in the store, read the way the coordinator reads it."""
    store = SqliteStore(data_dir)
    try:
        infos = store.segments(ATTEMPT)
        return msgspec.json.encode(
            (store.load(), list(store.journal()), infos, [store.read_segment(info) for info in infos])
        )
    finally:
        store.close()


class TestOneOpener:
    def test_a_second_store_in_this_process_is_refused(self, data_dir: Path) -> None:
        first = SqliteStore(data_dir)
        with pytest.raises(UserError, match="in use by another coordinator") as caught:
            SqliteStore(data_dir)
        assert caught.value.path == str(data_dir)
        assert "own data folder" in caught.value.hint
        first.commit(Change(next_fence=3))
        first.close()
        second = SqliteStore(data_dir)
        assert second.load().next_fence == 3
        second.close()

    def test_another_process_holds_it_until_it_is_killed(self, data_dir: Path) -> None:
        code = (
            "import sys\nfrom scoot.coordinator.store.sqlite import SqliteStore\n"
            "store = SqliteStore(sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "open\n"
            with pytest.raises(UserError, match=f"process {child.pid}"):
                SqliteStore(data_dir)
            child.send_signal(signal.SIGKILL)
        SqliteStore(data_dir).close()

    def test_a_file_where_the_folder_should_be(self, data_dir: Path) -> None:
        data_dir.write_text("")
        with pytest.raises(UserError, match="cannot be used") as caught:
            SqliteStore(data_dir)
        assert caught.value.path == str(data_dir)

    def test_a_failed_opening_lets_go(self, filled: Path) -> None:
        database = filled / DATABASE_NAME
        whole = database.read_bytes()
        database.write_bytes(b"no database at all" * 1000)
        with pytest.raises(PermanentInfraError, match=r"scoot\.db"):
            SqliteStore(filled)
        database.write_bytes(whole)
        SqliteStore(filled).close()


class TestConnection:
    def test_every_commit_is_synced_in_wal_mode(self, data_dir: Path) -> None:
        store = SqliteStore(data_dir)
        assert store._connection is not None
        assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        store.close()

    def test_made_in_one_thread_and_used_in_another(self, data_dir: Path) -> None:
        store = SqliteStore(data_dir)
        found: list[Snapshot] = []

        def write() -> None:
            store.commit(WHOLE)
            found.append(store.load())

        writer = threading.Thread(target=write)
        writer.start()
        writer.join(30)
        store.close()
        assert found == [SAMPLE]

    def test_a_lock_of_another_process_is_transient(self, filled: Path) -> None:
        store = SqliteStore(filled)
        assert store._connection is not None
        store._connection.execute("PRAGMA busy_timeout=1")
        other = sqlite3.connect(filled / DATABASE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match="locked by another process"):
            store.commit(Change(next_fence=99, journal=(b"{}",)))
        other.execute("ROLLBACK")
        other.close()
        assert store.load() == SAMPLE
        store.commit(Change(next_fence=100, journal=(b"{}",)))
        assert [seq for seq, _ in store.journal()] == [1, 2, 3]
        store.close()


class TestSchemas:
    @pytest.mark.parametrize("version", [migration.version for migration in schema.released()])
    def test_every_released_database_opens_with_all_it_held(self, data_dir: Path, version: int) -> None:
        data_dir.mkdir()
        shutil.copyfile(GOLDEN / f"v{version}.db", data_dir / DATABASE_NAME)
        expected = msgspec.json.decode((GOLDEN / f"v{version}.json").read_bytes(), type=Snapshot)
        store = SqliteStore(data_dir)
        assert msgspec.json.encode(store.load()) == msgspec.json.encode(expected)
        assert list(store.journal()) == [(1, b'{"event":"first"}'), (2, b'{"event":"second"}')]
        store.commit(Change(journal=(b"{}",), next_fence=50))
        store.close()
        assert check_store(data_dir) == []

    def test_a_new_migration_keeps_what_was_there(self, filled: Path) -> None:
        step = schema.Migration(version=2, sql="CREATE TABLE token (token_hash TEXT PRIMARY KEY, body BLOB NOT NULL);")
        store = SqliteStore(filled, migrations=(*schema.released(), step))
        assert store.load() == SAMPLE
        store.close()
        with sqlite3.connect(filled / DATABASE_NAME) as database:
            assert database.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone() == ("2",)
            assert database.execute("SELECT count(*) FROM token").fetchone() == (0,)
        database.close()

    def test_a_newer_schema_is_refused_and_left_alone(self, filled: Path) -> None:
        step = schema.Migration(version=2, sql="CREATE TABLE token (token_hash TEXT PRIMARY KEY);")
        SqliteStore(filled, migrations=(*schema.released(), step)).close()
        before = (filled / DATABASE_NAME).read_bytes()
        with pytest.raises(UserError, match="schema 2, this version of SCOOT knows schemas up to 1") as caught:
            SqliteStore(filled)
        assert caught.value.path.endswith(DATABASE_NAME)
        assert (filled / DATABASE_NAME).read_bytes() == before
        assert [finding.severity for finding in check_store(filled)] == [Severity.WARNING]

    def test_a_migration_that_fails_changes_nothing(self, filled: Path) -> None:
        step = schema.Migration(version=2, sql="CREATE TABLE token (a TEXT);\nINSERT INTO nowhere VALUES (1);")
        with pytest.raises(PermanentInfraError, match="nowhere"):
            SqliteStore(filled, migrations=(*schema.released(), step))
        with sqlite3.connect(filled / DATABASE_NAME) as database:
            assert database.execute("SELECT name FROM sqlite_master WHERE name = 'token'").fetchall() == []
        database.close()
        store = SqliteStore(filled)
        assert store.load() == SAMPLE
        store.close()

    def test_another_programs_database_is_refused(self, data_dir: Path) -> None:
        data_dir.mkdir()
        with sqlite3.connect(data_dir / DATABASE_NAME) as database:
            database.execute("CREATE TABLE bookmarks (url TEXT)")
        database.close()
        with pytest.raises(PermanentInfraError, match="not a SCOOT database"):
            SqliteStore(data_dir)

    def test_segments_without_their_database_are_not_collected(self, filled: Path) -> None:
        (filled / DATABASE_NAME).unlink()
        with pytest.raises(UserError, match="database that belongs to them is empty or gone"):
            SqliteStore(filled)
        assert len(list((filled / "segments").glob("*/*"))) == 3


class TestLeftovers:
    def test_files_without_rows_go_at_the_next_opening_and_others_stay(self, filled: Path) -> None:
        orphan = filled / "segments" / "ab" / ("ab" + "0" * 62)
        orphan.parent.mkdir(exist_ok=True)
        orphan.write_bytes(b"renamed, but its row was never committed")
        kept = sorted((filled / "segments").glob("*/*"))
        kept.remove(orphan)
        unfinished = kept[0].with_name("tmp-" + "1" * 64)
        unfinished.write_bytes(b"half")
        foreign = orphan.with_name("notes.txt")
        foreign.write_text("an operator's")
        assert [finding.severity for finding in check_store(filled)] == [Severity.INFO]
        SqliteStore(filled).close()
        assert sorted((filled / "segments").glob("*/*")) == sorted([*kept, foreign])

    def test_blobs_stay_although_no_row_names_them(self, filled: Path) -> None:
        store = SqliteStore(filled)
        sha = store.put_blob(b"requests")
        store.close()
        (filled / "blobs" / sha[:2] / ("tmp-" + sha)).write_bytes(b"half")
        store = SqliteStore(filled)
        assert store.get_blob(sha) == b"requests"
        assert [path.name for path in (filled / "blobs").glob("*/*")] == [sha]
        store.close()


class TestDamage:
    """Fault R10: a flipped bit is named or harmless, never believed."""

    def test_a_bit_anywhere_in_a_segment(self, filled: Path) -> None:
        rng = random.Random(1)
        for _ in range(100):
            store = SqliteStore(filled)
            info = rng.choice(store.segments(ATTEMPT))
            path = filled / "segments" / info.sha256[:2] / info.sha256
            bit = rng.randrange(path.stat().st_size * 8)
            flip(path, bit)
            with pytest.raises(PermanentInfraError, match=info.sha256):
                store.read_segment(info)
            store.close()
            flip(path, bit)
        assert check_store(filled) == []

    def test_a_bit_anywhere_in_a_blob(self, filled: Path) -> None:
        store = SqliteStore(filled)
        sha = store.put_blob(b"requests")
        flip(filled / "blobs" / sha[:2] / sha, 13)
        with pytest.raises(PermanentInfraError, match=sha):
            store.get_blob(sha)
        # The same content put again heals it.
        store.put_blob(b"requests")
        assert store.get_blob(sha) == b"requests"
        store.close()

    def test_a_segment_cut_short_or_gone(self, filled: Path) -> None:
        store = SqliteStore(filled)
        first, second, _ = store.segments(ATTEMPT)
        (filled / "segments" / first.sha256[:2] / first.sha256).write_bytes(b"")
        (filled / "segments" / second.sha256[:2] / second.sha256).unlink()
        with pytest.raises(PermanentInfraError, match=f"{first.sha256}: damaged"):
            store.read_segment(first)
        with pytest.raises(PermanentInfraError, match=f"{second.sha256}: missing: it held batch 1 of"):
            store.read_segment(second)
        store.close()
        found = check_store(filled)
        assert [finding.severity for finding in found] == [Severity.ERROR] * 2
        assert {first.sha256, second.sha256} == {Path(finding.where).name for finding in found}

    def test_a_bit_anywhere_in_the_database(self, filled: Path) -> None:
        rng = random.Random(2)
        database = filled / DATABASE_NAME
        whole, expected = database.read_bytes(), contents(filled)
        # Every row lies in a used part of some page; half of the flips aim at bytes that are not zero.
        used = [at for at, byte in enumerate(whole) if byte]
        named = 0
        for turn in range(600):
            at = rng.choice(used) if turn % 2 else rng.randrange(len(whole))
            bit = at * 8 + rng.randrange(8)
            flip(database, bit)
            found, error = attempt(lambda: contents(filled))
            if error:
                named += 1
                assert DATABASE_NAME in error or "table " in error
            else:
                assert found == expected, f"bit {bit} changed the content unnoticed"
            for leftover in filled.glob(DATABASE_NAME + "-*"):
                leftover.unlink()
            database.write_bytes(whole)
        assert named > 200
        assert contents(filled) == expected

    def test_a_bit_anywhere_in_the_log(self, data_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        rng = random.Random(3)
        crashed, work = tmp_path / "crashed", tmp_path / "work"
        crashed.mkdir()
        store = SqliteStore(data_dir)
        store.commit(WHOLE)
        states = [SAMPLE]
        for fence in range(10, 14):
            store.commit(Change(next_fence=fence))
            states.append(store.load())
        for name in (DATABASE_NAME, DATABASE_NAME + "-wal"):
            shutil.copyfile(data_dir / name, crashed / name)
        store.close()
        size = (crashed / (DATABASE_NAME + "-wal")).stat().st_size
        outcomes = {"refused": 0, "torn": 0, "whole": 0}
        for turn in range(300):
            shutil.copytree(crashed, work)
            log = work / (DATABASE_NAME + "-wal")
            # The last transaction is a small part of the log: every fourth flip aims at it.
            flip(log, rng.randrange(size - 4096, size) * 8 if turn % 4 == 0 else rng.randrange(size * 8))
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                opened, error = attempt(lambda: SqliteStore(work))
            if opened is None:
                outcomes["refused"] += 1
                assert "scoot.db-wal" in error
                # Named once is not enough: it stays refused until an operator decides.
                with pytest.raises(PermanentInfraError, match="damaged"):
                    SqliteStore(work)
                assert Severity.ERROR in {finding.severity for finding in check_store(work)}
            else:
                found = opened.load()
                opened.close()
                torn = "torn" in caplog.text
                outcomes["torn" if torn else "whole"] += 1
                assert found == states[-2 if torn else -1]
                assert [finding.severity for finding in check_store(work)] == [Severity.WARNING] * torn
            shutil.rmtree(work)
        assert outcomes["refused"] > 150
        assert outcomes["torn"] > 30

    def test_an_operator_may_go_on_without_the_lost_transactions(self, data_dir: Path, tmp_path: Path) -> None:
        store = SqliteStore(data_dir)
        store.commit(WHOLE)
        for fence in range(10, 14):
            store.commit(Change(next_fence=fence))
        crashed = tmp_path / "crashed"
        shutil.copytree(data_dir, crashed)
        store.close()
        log = crashed / (DATABASE_NAME + "-wal")
        flip(log, (log.stat().st_size - 2 * 4096) * 8)
        with pytest.raises(PermanentInfraError, match=r"transactions lie behind it; .*scoot\.db-wal\.damaged"):
            SqliteStore(crashed)
        (crashed / "scoot.db-wal.damaged").unlink()
        store = SqliteStore(crashed)
        assert SAMPLE.next_fence <= store.load().next_fence < 13
        store.close()


class TestDoctor:
    def test_a_sound_store(self, filled: Path) -> None:
        assert check_store(filled) == []

    def test_beside_a_running_coordinator(self, filled: Path) -> None:
        store = SqliteStore(filled)
        store.commit(Change(journal=(b"{}",)))
        assert check_store(filled) == []
        store.commit(Change(journal=(b"{}",)))
        store.close()

    def test_nothing_there(self, data_dir: Path) -> None:
        (finding,) = check_store(data_dir)
        assert (finding.severity, finding.message) == (Severity.ERROR, "there is no store here")
        assert not data_dir.exists()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            ("UPDATE trial SET body = replace(CAST(body AS TEXT), 'sobol', 'sobel')", "table trial, row"),
            ("UPDATE trial SET state = 'FAILED' WHERE number = 1", "table trial, row ('st-0001', 1, 'FAILED')"),
            ("UPDATE meta SET value = '2' WHERE key = 'next_fence'", "table meta, row ('next_fence')"),
            ("DELETE FROM journal WHERE seq = 1", "the journal jumps from event 0 to 2"),
            ("UPDATE journal SET body = x'00' WHERE seq = 2", "table journal, row (2)"),
            ("DELETE FROM study WHERE study_id = 'st-0001'", "belong to study st-0001, which is not there"),
            ("DELETE FROM attempt WHERE fence = 2", f"3 batches belong to attempt {ATTEMPT}, which is not there"),
            ("UPDATE segment SET n_chunks = 2 WHERE seq = 1", f"table segment, row ('{ATTEMPT}', 1)"),
            ("DROP TABLE meta", "not a SCOOT database"),
            ("PRAGMA application_id = 7", "not a SCOOT database"),
        ],
    )
    def test_every_kind_of_damage_is_named(self, filled: Path, damage: str, message: str) -> None:
        with sqlite3.connect(filled / DATABASE_NAME) as database:
            database.execute(damage)
        database.close()
        found = [finding for finding in check_store(filled) if finding.severity is Severity.ERROR]
        assert any(message in finding.message for finding in found), found
        assert all(finding.remedy for finding in found)

    def test_no_database_at_all(self, filled: Path) -> None:
        (filled / DATABASE_NAME).write_bytes(b"x" * 8192)
        assert any("not a database" in finding.message for finding in check_store(filled))
