"""One suite over every store: what `base.Store` promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scoot.coordinator.store.base import Change, Segment, SegmentInfo, Snapshot, Store
from scoot.coordinator.store.faulty import FaultPlan, FaultyStore
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.store.sqlite import SqliteStore
from scoot.wire.errors import (
    LocalProtocolError,
    PermanentInfraError,
    RemoteProtocolError,
    ScootError,
    TransientError,
    UserError,
)
from scoot.wire.states import StudyState, TrialState

GOLDEN = Path(__file__).parents[1] / "golden" / "store"
SAMPLE = msgspec.json.decode((GOLDEN / "v1.json").read_bytes(), type=Snapshot)
WHOLE = Change(
    studies=SAMPLE.studies,
    trials=SAMPLE.trials,
    attempts=SAMPLE.attempts,
    agents=SAMPLE.agents,
    journal=(b'{"event":1}', b'{"event":2}'),
    next_fence=SAMPLE.next_fence,
)
NOBODY = 65534
Open = Callable[[], Store]
"""Opens the same store again: what was acknowledged before is there."""


def segment(seq: int, payload: bytes = b"timings", attempt_id: str = "s/0/1", digest: str | None = None) -> Segment:
    return Segment(
        attempt_id=attempt_id,
        seq=seq,
        sha256=sha256(payload).hexdigest() if digest is None else digest,
        encoding="raw",
        raw_bytes=len(payload),
        n_requests=3,
        n_chunks=40,
        payload=payload,
    )


def binaries() -> Path | None:
    """The folder with PostgreSQL's server programs; the link on PATH is followed, its neighbours are needed."""
    found = shutil.which("initdb")
    folder = Path(found).resolve().parent if found else Path("/usr/lib/postgresql/15/bin")
    return folder if all((folder / name).is_file() for name in ("initdb", "pg_ctl", "postgres")) else None


def run_as_server(command: Sequence[str | Path], folder: Path) -> None:
    user = NOBODY if os.geteuid() == 0 else None
    done = subprocess.run(
        command,
        cwd=folder,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # a pipe would be kept open by the server
        stderr=subprocess.PIPE,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


class Cluster:
    """A private PostgreSQL server on a unix socket."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self.folder = folder
        self.data = folder / "data"
        self.made = 0

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c shared_buffers=16MB"
        log = self.folder / "log"
        run_as_server(
            [self._programs / "pg_ctl", "-D", self.data, "-w", "-l", log, "-o", options, "start"], self.folder
        )

    def stop(self) -> None:
        run_as_server([self._programs / "pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop"], self.folder)

    def initialise(self) -> None:
        run_as_server(
            [self._programs / "initdb", "-D", self.data, "-U", "scoot", "-A", "trust", "-E", "UTF8", "--no-sync"],
            self.folder,
        )

    @property
    def base_dsn(self) -> str:
        return f"host={self.folder} user=scoot dbname=postgres"

    def new_schema(self) -> str:
        """A connection string whose current schema is fresh and empty."""
        psycopg = pytest.importorskip("psycopg")
        self.made += 1
        with psycopg.connect(self.base_dsn, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA t{self.made}")
        return f"{self.base_dsn} options='-c search_path=t{self.made}'"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("psycopg", reason="psycopg is not installed (extra [postgres])")
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL server binaries are not installed")
    # Not under pytest's own folder: that one is closed to the unprivileged user the server runs as.
    folder = Path(tempfile.mkdtemp(prefix="scoot-pg-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        server = Cluster(programs, folder)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@pytest.fixture(params=["memory", "faulty", "sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the store, closing the one opened before."""
    kind = request.param
    kept = MemoryStore() if kind in ("memory", "faulty") else None
    dsn = request.getfixturevalue("cluster").new_schema() if kind == "postgres" else ""
    with ExitStack() as stack:
        opened: list[Store] = []

        def open_it() -> Store:
            if kind == "memory" and kept is not None:
                return kept
            for former in opened:
                former.close()
            store: Store
            if kept is not None:
                kept._closed = False
                store = FaultyStore(kept, FaultPlan())
            elif kind == "sqlite":
                store = SqliteStore(tmp_path / "data")
            else:
                from scoot.coordinator.store.postgres import PostgresStore

                store = PostgresStore(dsn, tmp_path / "data")
            opened.append(store)
            stack.callback(store.close)
            return store

        yield open_it


@pytest.fixture
def store(reopen: Open) -> Store:
    return reopen()


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.load() == Snapshot()
    assert list(store.journal()) == []
    assert list(store.segments("s/0/1")) == []


def test_a_commit_is_there_after_reopening_down_to_types_and_order(reopen: Open) -> None:
    reopen().commit(WHOLE)
    found = reopen().load()
    assert found == SAMPLE
    # == does not tell True from 1 or 1 from 1.0; a configuration does.
    assert msgspec.json.encode(found) == msgspec.json.encode(SAMPLE)


def test_a_replaced_record_keeps_its_place(reopen: Open) -> None:
    store = reopen()
    store.commit(WHOLE)
    first, second = SAMPLE.studies
    changed = msgspec.structs.replace(first, state=StudyState.COMPLETED, revision=10)
    third = msgspec.structs.replace(first, study_id="a-third")
    store.commit(Change(studies=(third, changed)))
    assert reopen().load().studies == (changed, second, third)


def test_within_one_change_the_later_record_wins(store: Store) -> None:
    first = SAMPLE.trials[0]
    later = msgspec.structs.replace(first, state=TrialState.FAILED)
    store.commit(Change(trials=(first, later)))
    assert store.load().trials == (later,)


def test_the_same_change_twice_changes_nothing_but_the_journal(store: Store) -> None:
    store.commit(WHOLE)
    store.commit(WHOLE)
    assert store.load() == SAMPLE
    assert len(store.journal()) == 4


def test_an_empty_change_is_fine(reopen: Open) -> None:
    reopen().commit(Change())
    assert reopen().load() == Snapshot()


def test_next_fence_stays_unless_set(reopen: Open) -> None:
    store = reopen()
    store.commit(Change(next_fence=7))
    store.commit(Change(journal=(b"{}",)))
    assert reopen().load().next_fence == 7


def test_what_is_returned_is_not_shared(store: Store) -> None:
    config = {"max_num_seqs": 1}
    trial = msgspec.structs.replace(SAMPLE.trials[0], config=config)
    store.commit(Change(trials=(trial,)))
    config["max_num_seqs"] = 2
    store.load().trials[0].config["max_num_seqs"] = 3
    assert store.load().trials[0].config == {"max_num_seqs": 1}


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_record_that_could_not_be_read_again_is_refused_whole(reopen: Open, bad: float) -> None:
    store = reopen()
    broken = msgspec.structs.replace(SAMPLE.trials[0], started_at_s=bad)
    with pytest.raises(LocalProtocolError, match="TrialRecord"):
        store.commit(Change(studies=SAMPLE.studies, trials=(broken,), journal=(b"{}",), next_fence=9))
    store = reopen()
    assert store.load() == Snapshot()
    assert list(store.journal()) == []


def test_text_of_any_kind_comes_back(store: Store) -> None:
    odd = msgspec.structs.replace(
        SAMPLE.trials[0], log_tail="\0 NUL, \x1b[31m, 'quotes\" %s ? \\, \u2028 \U0001f525", number=5
    )
    store.commit(Change(trials=(odd,)))
    assert store.load().trials == (odd,)


def test_the_journal_is_numbered_from_one_and_paged(reopen: Open) -> None:
    store = reopen()
    events = [f'{{"n":{n}}}'.encode() for n in range(25)]
    store.commit(Change(journal=tuple(events[:10])))
    store = reopen()
    store.commit(Change(journal=tuple(events[10:])))
    assert list(store.journal()) == list(enumerate(events, 1))
    assert list(store.journal(after=20, limit=3)) == list(enumerate(events, 1))[20:23]
    assert list(store.journal(after=25)) == []
    assert list(store.journal(after=0, limit=0)) == []


def test_segments_come_back_in_order_with_their_payloads(reopen: Open) -> None:
    store = reopen()
    payloads = {seq: bytes([seq]) * 1000 for seq in (2, 0, 1)}
    store.add_segments([segment(seq, payload) for seq, payload in payloads.items()])
    store.add_segments([segment(0, b"another attempt", "s/1/1")])
    store = reopen()
    infos = store.segments("s/0/1")
    assert [info.seq for info in infos] == [0, 1, 2]
    assert [store.read_segment(info) for info in infos] == [payloads[seq] for seq in (0, 1, 2)]
    assert infos[0] == SegmentInfo(
        attempt_id="s/0/1",
        seq=0,
        sha256=sha256(payloads[0]).hexdigest(),
        encoding="raw",
        raw_bytes=1000,
        n_requests=3,
        n_chunks=40,
        stored_bytes=1000,
    )
    assert [info.raw_bytes for info in store.segments("s/1/1")] == [15]


def test_a_segment_sent_again_is_kept_once(store: Store) -> None:
    store.add_segments([segment(0)])
    store.add_segments([segment(0), segment(1, b"next"), segment(1, b"next")])
    assert [info.seq for info in store.segments("s/0/1")] == [0, 1]


def test_equal_payloads_of_different_batches_are_all_there(store: Store) -> None:
    store.add_segments([segment(0), segment(1), segment(0, attempt_id="s/0/2")])
    infos = [*store.segments("s/0/1"), *store.segments("s/0/2")]
    assert [store.read_segment(info) for info in infos] == [b"timings"] * 3


@pytest.mark.parametrize("together", [False, True])
def test_a_segment_with_another_content_is_refused_and_the_rest_kept(store: Store, together: bool) -> None:
    batches = [segment(0), segment(0, b"forged"), segment(1, b"good")]
    if not together:
        store.add_segments(batches[:1])
        del batches[:1]
    with pytest.raises(RemoteProtocolError, match="batch 0 of attempt 's/0/1'"):
        store.add_segments(batches)
    assert [store.read_segment(info) for info in store.segments("s/0/1")] == [b"timings", b"good"]


@pytest.mark.parametrize(
    "bad",
    [
        segment(0, digest="0" * 64),
        segment(0, digest="../../etc/passwd"),
        segment(2**64 - 1),
        segment(0, attempt_id=""),
        segment(0, attempt_id="nul\0"),
        msgspec.structs.replace(segment(0), encoding="gzip"),
        msgspec.structs.replace(segment(0), n_chunks=-1),
    ],
    ids=["digest", "path", "seq", "empty", "nul", "encoding", "count"],
)
def test_a_segment_that_is_not_what_it_says_is_refused_and_the_rest_kept(store: Store, bad: Segment) -> None:
    with pytest.raises(RemoteProtocolError, match="batch"):
        store.add_segments([bad, segment(9, b"good")])
    assert [info.seq for info in store.segments("s/0/1")] == [9]


def test_a_segment_never_stored_cannot_be_read(store: Store) -> None:
    store.add_segments([segment(0)])
    ghost = msgspec.structs.replace(store.segments("s/0/1")[0], seq=4, sha256="12" * 32)
    with pytest.raises(PermanentInfraError, match=r"batch 4 of attempt s/0/1.*missing|missing.*batch 4"):
        store.read_segment(ghost)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_blobs_are_addressed_by_content(reopen: Open, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    store = reopen()
    sha = store.put_blob(data)
    assert sha == store.put_blob(data) == sha256(data).hexdigest()
    assert reopen().get_blob(sha) == data


@pytest.mark.parametrize("sha", ["0" * 64, "", "../scoot.db", "A" * 64])
def test_an_unknown_blob_is_a_key_error(store: Store, sha: str) -> None:
    with pytest.raises(KeyError):
        store.get_blob(sha)


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    calls: list[Callable[[], object]] = [
        store.load,
        store.journal,
        lambda: store.commit(Change()),
        lambda: store.add_segments([segment(0)]),
        lambda: store.put_blob(b""),
    ]
    for call in calls:
        with pytest.raises(LocalProtocolError, match="closed"):
            call()


@pytest.mark.postgres
class TestPostgresOnly:
    def test_a_schema_has_one_coordinator(self, cluster: Cluster, tmp_path: Path) -> None:
        from scoot.coordinator.store.postgres import PostgresStore

        dsn = cluster.new_schema()
        first = PostgresStore(dsn, tmp_path / "a")
        with pytest.raises(UserError, match="in use by another coordinator"):
            PostgresStore(dsn, tmp_path / "b")
        first.close()
        PostgresStore(dsn, tmp_path / "b").close()

    def test_no_server_is_the_users_error(self, tmp_path: Path) -> None:
        from scoot.coordinator.store.postgres import PostgresStore

        with pytest.raises(UserError, match="no connection to PostgreSQL"):
            PostgresStore(f"host={tmp_path} user=nobody", tmp_path / "data")
        # The folder is free again.
        SqliteStore(tmp_path / "data").close()

    def test_a_server_that_went_away_is_transient_and_comes_back(self, cluster: Cluster, tmp_path: Path) -> None:
        from scoot.coordinator.store.postgres import PostgresStore

        store = PostgresStore(cluster.new_schema(), tmp_path / "data")
        store.commit(WHOLE)
        cluster.stop()
        try:
            with pytest.raises(TransientError):
                store.commit(Change(next_fence=100))
            with pytest.raises(TransientError):
                store.load()
        finally:
            cluster.start()
        assert store.load() == SAMPLE
        store.commit(Change(next_fence=101, journal=(b"{}",)))
        assert store.load().next_fence == 101
        assert [seq for seq, _ in store.journal()] == [1, 2, 3]
        store.close()

    def test_a_damaged_row_is_named(self, cluster: Cluster, tmp_path: Path) -> None:
        psycopg = pytest.importorskip("psycopg")
        from scoot.coordinator.store.postgres import PostgresStore

        dsn = cluster.new_schema()
        store = PostgresStore(dsn, tmp_path / "data")
        store.commit(WHOLE)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("UPDATE trial SET body = set_byte(body, 10, get_byte(body, 10) # 1) WHERE number = 1")
        with pytest.raises(ScootError, match=r"table trial, row .*1.*damaged"):
            store.load()
        store.close()

    @pytest.mark.parametrize("applied", [False, True])
    def test_a_commit_whose_answer_is_lost_is_settled_with_the_server(
        self, cluster: Cluster, tmp_path: Path, applied: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        psycopg = pytest.importorskip("psycopg")
        from scoot.coordinator.store.postgres import PostgresStore

        store = PostgresStore(cluster.new_schema(), tmp_path / "data")
        real = psycopg.Cursor.execute
        lost: list[str] = []

        def execute(cursor: Any, query: object, *args: Any, **options: Any) -> object:
            if query != "COMMIT" or lost:
                return real(cursor, query, *args, **options)
            lost.append("once")
            if applied:
                real(cursor, query)
            cursor.connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        monkeypatch.setattr(psycopg.Cursor, "execute", execute)
        if applied:
            store.commit(Change(next_fence=5, journal=(b"{}",)))
        else:
            with pytest.raises(TransientError):
                store.commit(Change(next_fence=5, journal=(b"{}",)))
        assert lost == ["once"]
        assert store.load().next_fence == (5 if applied else 1)
        store.commit(Change(journal=(b"{}",)))
        assert len(store.journal()) == 1 + applied
        store.close()
