"""Whose CPU time it was: the host's, less that of a tree of processes and of its children that have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark import host_cpu
from scoot.benchmark.host_cpu import HostTime, OthersWatch, ProcessTime, others_s, parse_host, parse_process, tree

STAT = """\
cpu  1000 200 300 9000 50 7 8 40 100 0
cpu0 500 100 150 4500 25 3 4 20 50 0
cpu1 500 100 150 4500 25 4 4 20 50 0
intr 1 2 3
ctxt 99
"""


def test_the_hosts_figures() -> None:
    host = parse_host(STAT)
    assert host == HostTime(busy=1500, total=10605, cpus=2), "idle, interrupts and what was stolen are nobody's work"


@pytest.mark.parametrize("text", ["", "\n", "intr 1 2\n", "cpu  1 2 3\n"])
def test_a_host_that_does_not_tell(text: str) -> None:
    assert parse_host(text) is None


def test_a_process_counts_the_children_it_has_waited_for() -> None:
    fields = ["S", "7", *["0"] * 9, "10", "20", "300", "4000", *["0"] * 4, "555", "1", "2"]
    text = f"42 (a) b ({' '.join(['x'] * 3)}) {' '.join(fields)}".encode()
    assert parse_process(42, text) == ProcessTime(pid=42, ppid=7, start=555, ticks=4330)
    assert parse_process(42, b"42 (cut off) S 7 0") is None


@given(parents=st.lists(st.integers(0, 12), min_size=1, max_size=12), root=st.integers(1, 12))
def test_a_tree_is_what_hangs_below_its_root(parents: list[int], root: int) -> None:
    processes = [ProcessTime(pid, ppid, 0, 1) for pid, ppid in enumerate(parents, 1)]

    def is_below(pid: int) -> bool:
        seen = set()
        while pid != root and pid not in seen and 1 <= pid <= len(parents):
            seen.add(pid)
            pid = parents[pid - 1]
        return pid == root

    found = [process.pid for process in tree(root, processes)]
    assert len(set(found)) == len(found)
    expected = {pid for pid in range(1, len(parents) + 1) if is_below(pid)} if root <= len(parents) else set()
    assert set(found) == expected


@pytest.mark.parametrize(
    ("own", "busy", "total", "seconds"),
    [
        ((100, 350), 600, 2000, 3.5),
        ((100, 900), 600, 2000, 0.0),  # ticks of the host are samples, those of processes are not
        ((0, 0), 0, 999, None),
        ((0, 0), 0, 1000, 0.0),
    ],
)
def test_others_are_the_rest(own: tuple[int, int], busy: int, total: int, seconds: float | None) -> None:
    host = (HostTime(50, 70, 2), HostTime(50 + busy, 70 + total, 2))
    assert others_s(own, host, elapsed_s=10.0, hertz=100) == seconds


class Proc:
    """A /proc of our own making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def host(self, busy: int, idle: int) -> None:
        (self.folder / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")

    def process(self, pid: int, ppid: int, own: int, waited: int = 0, start: int = 1) -> None:
        (self.folder / str(pid)).mkdir(exist_ok=True)
        times = f"{own} 0 {waited} 0"
        (self.folder / str(pid) / "stat").write_text(f"{pid} (p) S {ppid} {'0 ' * 9}{times} 0 0 0 0 {start} 0 0\n")

    def end(self, pid: int) -> None:
        (self.folder / str(pid) / "stat").unlink()


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    monkeypatch.setattr(host_cpu, "_PROC", tmp_path)
    return Proc(tmp_path)


def test_a_watch_tells_what_neither_the_root_nor_its_children_did(proc: Proc, monkeypatch: pytest.MonkeyPatch) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr("scoot.benchmark.host_cpu.time.monotonic", iter([0.0, 10.0]).__next__)
    proc.host(0, 0)
    proc.process(10, 1, own=5)  # the root
    proc.process(11, 10, own=100 * hertz)  # ends meanwhile
    proc.process(12, 11, own=7)  # its child: the kernel gives it another parent of ours
    proc.process(99, 1, own=77)  # another's
    watch = OthersWatch(10)
    proc.end(11)
    proc.process(10, 1, own=5 + hertz, waited=101 * hertz)
    proc.process(12, 10, own=7 + hertz)
    proc.process(13, 12, own=hertz)
    proc.process(99, 1, own=77 + 2 * hertz)
    proc.host(6 * hertz, 4 * hertz)
    assert watch.look() == (2.0, 1), "of 6 seconds, 1 is the root's, 1 of each of its three children"


def test_what_cannot_be_told_is_not_said(proc: Proc) -> None:
    assert OthersWatch(10).look() == (None, 0), "no host"
    proc.host(0, 0)
    assert OthersWatch(10).look() == (None, 1), "no root"
    proc.process(10, 1, own=0)
    assert OthersWatch(0).look() == (None, 1), "no root asked for"
    (proc.folder / "stat").write_text("cpu  a b c d e f g h i j\n")
    assert OthersWatch(10).look() == (None, 0)


def test_the_time_of_a_real_child_is_ours_while_it_runs_and_after() -> None:
    used_s = 0.3
    hertz = os.sysconf("SC_CLK_TCK")
    before = host_cpu._own_ticks(os.getpid())
    spin = f"import time\nwhile time.process_time() < {used_s}: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        running = host_cpu._own_ticks(os.getpid())
        child.communicate(b"\n")
    ended = host_cpu._own_ticks(os.getpid())
    assert before is not None
    assert running is not None
    assert ended is not None
    assert running - before >= 0.9 * used_s * hertz
    assert ended >= running
