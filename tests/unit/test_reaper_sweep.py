"""Sweeping what crashed agents left: real orphans, other boots, foreign processes, broken files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from scoot.agent.host import reaper
from scoot.agent.host.proctable import TOKEN_VARIABLE, Process, boot_id, read_process
from scoot.agent.host.reaper import Record

WAITING = "import os, signal; os.fork(); print(os.getpid(), flush=True); signal.pause()"
BOOT = "boot-a"
MARK = "c0ffee"


class Orphan:
    """A process group as a dead agent and a dead warden would leave it: two processes, own session."""

    def __init__(self, token: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WAITING],
            stdout=subprocess.PIPE,
            env={TOKEN_VARIABLE: token},
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self.pids = {int(self.process.stdout.readline()) for _ in range(2)}

    def record(self, **changes: object) -> Record:
        leader = read_process(self.process.pid)
        assert leader is not None
        return msgspec.structs.replace(
            Record(
                attempt_id="s/1/0",
                boot_id=boot_id(),
                agent_pid=self.process.pid,
                agent_start_ticks=1,
                pid=leader.pid,
                pgid=leader.pgid,
                start_ticks=leader.start_ticks,
            ),
            **changes,
        )

    def alive(self) -> set[int]:
        return {pid for pid in self.pids if (found := read_process(pid)) is not None and found.state != "Z"}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pid in self.alive():
            os.kill(pid, 9)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def orphan() -> Iterator[Orphan]:
    found = Orphan(MARK)
    yield found
    found.end()


def write(folder: Path, record: Record, name: str = "a") -> Path:
    path = folder / f"{name}{reaper.SUFFIX}"
    path.write_bytes(msgspec.json.encode(record))
    return path


def test_group_of_a_recorded_leader_is_ended(tmp_path: Path, orphan: Orphan) -> None:
    path = write(tmp_path, orphan.record())
    (swept,) = reaper.sweep(tmp_path)
    assert set(swept.killed) == orphan.pids
    assert swept.survivors == ()
    assert orphan.alive() == set()
    assert not path.exists()


def test_reused_pid_is_left_alone(tmp_path: Path, orphan: Orphan) -> None:
    path = write(tmp_path, orphan.record(start_ticks=1))
    (swept,) = reaper.sweep(tmp_path)
    assert swept.killed == ()
    assert orphan.alive() == orphan.pids
    assert not path.exists()


def test_token_is_enough(tmp_path: Path, orphan: Orphan) -> None:
    write(tmp_path, orphan.record(start_ticks=1, pgid=1, token=MARK))
    (swept,) = reaper.sweep(tmp_path)
    assert set(swept.killed) == orphan.pids


def test_orphan_of_a_dead_leader_is_ended_by_a_recorded_member(tmp_path: Path, orphan: Orphan) -> None:
    (child,) = orphan.pids - {orphan.process.pid}
    member = read_process(child)
    assert member is not None
    record = orphan.record(members=((child, member.start_ticks),))
    orphan.process.kill()
    orphan.process.wait()
    write(tmp_path, record)
    (swept,) = reaper.sweep(tmp_path)
    assert swept.killed == (child,)


def test_another_boot_kills_nothing(tmp_path: Path, orphan: Orphan) -> None:
    path = write(tmp_path, orphan.record(boot_id="another"))
    (swept,) = reaper.sweep(tmp_path)
    assert "boot" in swept.detail
    assert orphan.alive() == orphan.pids
    assert not path.exists()


def test_engine_of_a_living_agent_is_left_alone(tmp_path: Path, orphan: Orphan) -> None:
    me = read_process(os.getpid())
    assert me is not None
    path = write(tmp_path, orphan.record(agent_pid=me.pid, agent_start_ticks=me.start_ticks))
    (swept,) = reaper.sweep(tmp_path)
    assert "lives" in swept.detail
    assert orphan.alive() == orphan.pids
    assert path.exists()


@pytest.mark.parametrize("content", [b"", b"\xff\x00", b"[]", b'{"pid": "x"}', b'{"members": [[1]]}'])
def test_broken_state_files_are_removed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / f"broken{reaper.SUFFIX}"
    path.write_bytes(content)
    draft = tmp_path / f"half{reaper.SUFFIX}.tmp"
    draft.write_bytes(b"{")
    (swept,) = reaper.sweep(tmp_path)
    assert swept.attempt_id == "broken"
    assert "unreadable" in swept.detail
    assert not path.exists()
    assert not draft.exists()


def test_empty_folder_sweeps_nothing(tmp_path: Path) -> None:
    assert reaper.sweep(tmp_path) == []


def row(pid: int, *, ppid: int = 1, pgid: int = 0, ticks: int = 100, state: str = "S", mark: str = "") -> Process:
    return Process(pid=pid, ppid=ppid, pgid=pgid or pid, start_ticks=ticks, state=state, token=mark)


RECORD = Record(boot_id=BOOT, token=MARK, pid=10, pgid=10, start_ticks=100, members=((11, 101),))


def kill_list(*processes: Process, record: Record = RECORD, boot: str = BOOT) -> list[int]:
    (found,) = reaper.to_kill([record], processes, boot)
    return [process.pid for process in found]


def test_decision_table() -> None:
    group = (row(10), row(11, ppid=10, pgid=10, ticks=101), row(12, ppid=10, pgid=10, ticks=102))
    assert kill_list(*group) == [10, 11, 12]
    assert kill_list(*group, boot="boot-b") == []
    assert kill_list(row(10, ticks=999), row(12, pgid=10)) == [], "the number is someone else's now"
    assert kill_list(row(11, pgid=10, ticks=101), row(12, pgid=10)) == [11, 12], "a member proves the group"
    assert kill_list(row(11, pgid=11, ticks=101), row(12, pgid=10)) == [11], "a member that left proves nothing of it"
    assert kill_list(row(50, mark=MARK), row(51, ppid=50)) == [50, 51], "token, and its child in another group"
    assert kill_list(row(50, mark="u")) == []
    assert kill_list(row(10, state="Z"), row(12, pgid=10)) == [12], "a zombie leader still holds the number"


def test_living_agent_protects_its_engine() -> None:
    record = msgspec.structs.replace(RECORD, agent_pid=5, agent_start_ticks=50)
    assert kill_list(row(10), row(5, ticks=50), record=record) == []
    assert kill_list(row(10), row(5, ticks=51), record=record) == [10]
    assert kill_list(row(10), row(5, ticks=50, state="Z"), record=record) == [10]
