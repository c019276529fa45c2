"""What was acknowledged survives: killed processes, full disks, failing calls, and a crash at every operation."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest

from scoot.coordinator.store.base import Change, Segment, Snapshot, Store
from scoot.coordinator.store.doctor import Severity, check_store
from scoot.coordinator.store.faulty import Action, Fault, FaultPlan, FaultyStore, StoreCrash, When
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.store.sqlite import DATABASE_NAME, SqliteStore
from scoot.wire.errors import PermanentInfraError, ScootError, TransientError

SAMPLE_PATH = Path(__file__).parents[1] / "golden" / "store" / "v1.json"
SAMPLE = msgspec.json.decode(SAMPLE_PATH.read_bytes(), type=Snapshot)

WRITER = """
import itertools, sys
from hashlib import sha256
import msgspec
from scoot.coordinator.store.base import Change, Segment, Snapshot
from scoot.coordinator.store.sqlite import SqliteStore

sample = msgspec.json.decode(open(sys.argv[2], "rb").read(), type=Snapshot)
replace = msgspec.structs.replace
store = SqliteStore(sys.argv[1])
start = store.load().next_fence
for n in itertools.count(start):
    store.commit(Change(
        studies=(replace(sample.studies[0], revision=n),),
        trials=(replace(sample.trials[0], number=n - 1),),
        journal=(b"%d" % n,),
        next_fence=n + 1,
    ))
    print("c", n, flush=True)
    payload = b"%d " % n * 20_000
    store.add_segments([Segment(attempt_id="s/0/1", seq=n, sha256=sha256(payload).hexdigest(), encoding="raw",
                                raw_bytes=len(payload), n_requests=1, n_chunks=1, payload=payload)])
    print("s", n, flush=True)
"""


def segment(seq: int, payload: bytes) -> Segment:
    return Segment(
        attempt_id="s/0/1",
        seq=seq,
        sha256=sha256(payload).hexdigest(),
        encoding="raw",
        raw_bytes=len(payload),
        n_requests=1,
        n_chunks=1,
        payload=payload,
    )


def errors_in(data_dir: Path) -> list[str]:
    """What the doctor calls an error, apart from segments of an attempt that these tests never make."""
    found = [finding for finding in check_store(data_dir) if finding.severity is Severity.ERROR]
    ignored = ("batches belong to attempt s/0/1", "its budget is")
    return [finding.message for finding in found if not any(text in finding.message for text in ignored)]


def test_a_killed_writer_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """Six kills at seeded random points; each run goes on where the store says the last one ended."""
    data_dir = tmp_path / "data"
    rng = random.Random(20)
    committed = kept = 0
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(data_dir), str(SAMPLE_PATH)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = list(itertools.islice(child.stdout, rng.randrange(1, 120)))
            child.kill()
            lines += child.stdout.readlines()
        for kind, number in (line.split() for line in lines):
            if kind == "c":
                committed = int(number)
            else:
                kept = int(number)
        store = SqliteStore(data_dir)
        found = store.load()
        # All of the last change or nothing of it; at most one more than was acknowledged.
        assert found.next_fence - 1 in (committed, committed + 1)
        committed = found.next_fence - 1
        assert found.studies[0].revision == committed
        assert [trial.number for trial in found.trials] == list(range(committed))
        assert list(store.journal(limit=10_000)) == [(n, b"%d" % n) for n in range(1, committed + 1)]
        infos = store.segments("s/0/1")
        assert kept in {info.seq for info in infos}
        assert all(store.read_segment(info) == b"%d " % info.seq * 20_000 for info in infos)
        store.close()
        assert errors_in(data_dir) == []
    assert committed > 6


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount a small tmpfs here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["/bin/umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as exc:
                assert exc.errno == errno.ENOSPC  # noqa: PT017  # the loop ends by it, every time
    return ballast


def until_full(work: Callable[[int], None]) -> int:
    """Call `work` with 1, 2, ... until it raises TransientError; returns the last number that passed."""
    for n in itertools.count(1):
        try:
            work(n)
        except TransientError:
            return n - 1
    raise AssertionError


class TestFullDisk:
    def test_commits_stop_whole_and_go_on_when_there_is_space(self, small_disk: Path) -> None:
        data_dir = small_disk / "data"
        store = SqliteStore(data_dir)
        big = b"e" * 3000

        def work(n: int) -> None:
            store.commit(
                Change(
                    studies=SAMPLE.studies,
                    trials=tuple(msgspec.structs.replace(SAMPLE.trials[0], number=n * 5 + i) for i in range(5)),
                    journal=(big, big),
                    next_fence=n + 1,
                )
            )

        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(300_000))
        done = until_full(work)
        assert done > 1
        for _ in range(3):
            with pytest.raises(TransientError, match="no space left"):
                work(done + 1)
        found = store.load()
        assert (found.next_fence, len(found.trials)) == (done + 1, done * 5)
        assert len(store.journal(limit=10_000)) == done * 2
        ballast.unlink()
        work(done + 1)
        store.close()
        store = SqliteStore(data_dir)
        found = store.load()
        assert (found.next_fence, len(found.trials)) == (done + 2, done * 5 + 5)
        assert [seq for seq, _ in store.journal(limit=10_000)] == list(range(1, done * 2 + 3))
        store.close()
        assert errors_in(data_dir) == []

    def test_segments_and_blobs_too(self, small_disk: Path) -> None:
        data_dir = small_disk / "data"
        store = SqliteStore(data_dir)
        payloads = {n: bytes([n]) * 60_000 for n in range(1, 30)}
        done = until_full(lambda n: store.add_segments([segment(n, payloads[n])]))
        assert done > 1
        with pytest.raises(TransientError):
            store.put_blob(b"b" * 200_000)
        assert list(data_dir.glob("*/*/tmp-*")) == []
        infos = store.segments("s/0/1")
        assert [info.seq for info in infos] == list(range(1, done + 1))
        assert all(store.read_segment(info) == payloads[info.seq] for info in infos)
        shared = data_dir / "segments" / infos[0].sha256[:2] / infos[0].sha256
        assert shared.stat().st_size == 60_000
        store.close()
        assert errors_in(data_dir) == []

    def test_a_disk_without_a_byte_left_can_still_be_read(self, small_disk: Path) -> None:
        data_dir = small_disk / "data"
        store = SqliteStore(data_dir)
        store.commit(Change(next_fence=5))
        ballast = fill(small_disk)
        with pytest.raises(TransientError):
            until_raised(lambda: store.commit(Change(journal=(b"e" * 5000,))))
        assert store.load().next_fence == 5
        ballast.unlink()
        store.commit(Change(next_fence=6))
        assert store.load().next_fence == 6
        store.close()


def until_raised(call: Callable[[], None]) -> None:
    """Repeat a call; space already set aside in the log may let a few pass."""
    for _ in range(1000):
        call()


def test_a_database_at_its_size_limit_is_transient(tmp_path: Path) -> None:
    """The same as a full disk, where none can be mounted: SQLite reports SQLITE_FULL at max_page_count."""
    store = SqliteStore(tmp_path)
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(TransientError, match="no space left"):
        store.commit(Change(trials=SAMPLE.trials, journal=(b"e" * 40_000,), next_fence=9))
    assert store.load() == Snapshot()
    store._connection.execute("PRAGMA max_page_count=100000")
    store.commit(Change(trials=SAMPLE.trials, journal=(b"e" * 40_000,), next_fence=9))
    assert store.load().trials == SAMPLE.trials
    assert [seq for seq, _ in store.journal()] == [1]
    store.close()


class FailingCalls:
    """Lets the n-th call of a function of `os` (or Path) fail with an errno."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.fail_at = 0
        self.errno = 0
        for owner, name in ((os, "open"), (os, "write"), (os, "fsync"), (Path, "rename"), (Path, "mkdir")):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            if self.calls == self.fail_at:
                raise OSError(self.errno, os.strerror(self.errno))
            return real(*args, **options)

        return call


@pytest.mark.parametrize(
    ("number", "error"),
    [(errno.ENOSPC, TransientError), (errno.EDQUOT, TransientError), (errno.EIO, PermanentInfraError)],
)
def test_every_file_operation_may_fail_while_segments_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[ScootError]
) -> None:
    """Fail the n-th call for n = 1, 2, ... until one round needs fewer: nothing is half there, and the retry works."""
    failing = FailingCalls(monkeypatch)
    failing.errno = number
    rounds = 0
    for n in itertools.count(1):
        store = SqliteStore(tmp_path / str(n))
        first, second = segment(0, b"a" * 5000), segment(1, b"b" * 5000)
        failing.calls, failing.fail_at = 0, n
        try:
            store.add_segments([first, second])
        except error:
            rounds += 1
            failing.fail_at = 0
            assert list(store.segments("s/0/1")) == []
            assert list((tmp_path / str(n)).glob("segments/*/tmp-*")) == []
            store.add_segments([first, second])
        else:
            failing.fail_at = 0
        assert [store.read_segment(info) for info in store.segments("s/0/1")] == [b"a" * 5000, b"b" * 5000]
        store.close()
        if rounds < n:
            break
    assert rounds > 10


def history(store: Store, begun: int) -> Iterator[None]:
    """Work that knows from the store how far it got, like the coordinator: one step per `next`."""
    for n in range(begun, 6):
        store.add_segments([segment(n, b"%d" % n * 100)])
        yield
        store.commit(
            Change(
                trials=(msgspec.structs.replace(SAMPLE.trials[0], number=n),), journal=(b"%d" % n,), next_fence=n + 1
            )
        )
        yield


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
@pytest.mark.parametrize("when", When)
def test_a_crash_at_every_operation_ends_in_the_same_state(tmp_path: Path, kind: str, when: When) -> None:
    """Fault R1 on the store: crash at operation n = 1, 2, ... until a run has fewer; restart, finish, compare."""

    def make(n: int) -> Store:
        return MemoryStore() if kind == "memory" else SqliteStore(tmp_path / str(n))

    def run(store: Store) -> None:
        for _ in history(store, store.load().next_fence):
            pass

    def everything(store: Store) -> object:
        infos = store.segments("s/0/1")
        return store.load(), list(store.journal()), infos, [store.read_segment(info) for info in infos]

    clean = MemoryStore()
    run(clean)
    expected = everything(clean)
    for n in itertools.count(1):
        inner = make(n)
        faulty = FaultyStore(inner, FaultPlan(faults=(Fault(at=n, when=when, action=Action.CRASH),)))
        with contextlib.suppress(StoreCrash):
            run(faulty)
        if kind == "sqlite":
            # The lock is all a dead process would have let go of; the connection is left as it is until then.
            inner.close()
            inner = make(n)
        run(inner)
        assert everything(inner) == expected
        inner.close()
        if not faulty.fired:
            break
    assert n == 12  # one load and ten operations crash, the twelfth never comes


def test_a_broken_database_stops_the_store(tmp_path: Path) -> None:
    """After a write that failed for good its outcome is open: no later call may pretend otherwise."""
    store = SqliteStore(tmp_path)
    store.commit(Change(next_fence=4))
    assert store._connection is not None
    store._connection.execute("DROP TABLE journal")
    with pytest.raises(PermanentInfraError, match="journal"):
        store.commit(Change(journal=(b"{}",), next_fence=5))
    with pytest.raises(PermanentInfraError, match="restart the coordinator"):
        store.commit(Change(next_fence=6))
    with pytest.raises(PermanentInfraError, match="restart the coordinator"):
        store.load()
    store.close()
    assert any(DATABASE_NAME in finding.where for finding in check_store(tmp_path))


def test_a_kill_fault_kills_the_process_after_the_commit(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from scoot.coordinator.store.base import Change\n"
        "from scoot.coordinator.store.faulty import FaultyStore, parse_plan\n"
        "from scoot.coordinator.store.sqlite import SqliteStore\n"
        "store = FaultyStore(SqliteStore(sys.argv[1]), parse_plan('commit:3:after:kill'))\n"
        "for n in range(2, 10):\n"
        "    store.commit(Change(next_fence=n))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    store = SqliteStore(tmp_path)
    assert store.load().next_fence == 4
    store.close()
