"""What a crashed agent left behind, and how it is ended without ever touching anything else.

Every running engine has a state file in the agent's state directory, written by its warden before the engine's first
instruction and removed when nothing of it is left. A file that is there when an agent starts tells of an engine whose
agent *and* warden died. Nothing is decided by name: a process belongs to a record when it has the recorded pid and
start time, or the record's random token in its environment, or lives in the record's own cgroup; or when it is in the
recorded process group *together with* such a process (a group's number cannot be reused while the group lives); or
when it descends from one of these. All of it within the same boot.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.host import cgroup
from scoot.agent.host.proctable import Process, below, boot_id, read_process, read_processes

SUFFIX: Final = ".engine.json"
_POLL_S: Final = 0.2


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as its state file has it.

    Attributes:
        attempt_id, port: for display.
        boot_id: the boot it was started in.
        token: random, in the environment of every process of the engine.
        cgroup: the engine's cgroup folder, "" if it has none.
        cgroup_path: the same as /proc/PID/cgroup shows it.
        agent_pid, agent_start_ticks: the agent that watches it; while that lives, the engine is not an orphan.
        pid, pgid, start_ticks: the engine's first process.
        members: (pid, start_ticks) of its processes when last seen.
    """

    attempt_id: str = ""
    port: int = 0
    boot_id: str = ""
    token: str = ""
    cgroup: str = ""
    cgroup_path: str = ""
    agent_pid: int = 0
    agent_start_ticks: int = 0
    pid: int = 0
    pgid: int = 0
    start_ticks: int = 0
    members: tuple[tuple[int, int], ...] = ()


class SweptOrphan(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one state file.

    Attributes:
        attempt_id: whose engine it was.
        killed: pids that were ended.
        survivors: pids that could not be; the state file is kept.
        detail: one sentence.
    """

    attempt_id: str
    killed: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    detail: str = ""


def belonging(record: Record, processes: Iterable[Process]) -> tuple[Process, ...]:
    """The processes that are certainly of `record`'s engine, zombies left out, in order of pid. Pure.

    Says nothing about boots: the caller has compared them.
    """
    table = tuple(processes)
    known = {(record.pid, record.start_ticks), *record.members}
    certain = {
        process.pid: process
        for process in table
        if (process.pid, process.start_ticks) in known
        or (record.token and process.token == record.token)
        or (record.cgroup_path and process.cgroup == record.cgroup_path)
    }
    if any(process.pgid == record.pgid for process in certain.values()):
        certain.update({process.pid: process for process in table if process.pgid == record.pgid})
    for root in tuple(certain):
        certain.update({process.pid: process for process in below(root, table)})
    return tuple(certain[pid] for pid in sorted(certain) if pid > 1 and certain[pid].state != "Z")


def to_kill(records: Iterable[Record], processes: Iterable[Process], this_boot: str) -> tuple[tuple[Process, ...], ...]:
    """What a sweep may kill, one tuple per record: nothing of another boot, nothing whose agent still lives. Pure."""
    table = tuple(processes)
    alive = {(process.pid, process.start_ticks) for process in table if process.state != "Z"}
    return tuple(
        ()
        if record.boot_id != this_boot or (record.agent_pid, record.agent_start_ticks) in alive
        else belonging(record, table)
        for record in records
    )


def read_record(path: Path) -> Record | None:
    """The record in a state file; None if it cannot be read or is not one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def kill_record(record: Record, *, grace_s: float, spare: frozenset[int] = frozenset()) -> tuple[set[int], set[int]]:
    """SIGKILL what belongs to `record` until nothing is left or `grace_s` have passed: (killed, survivors) as pids.

    Blocks; the caller has compared boots. `spare` is never touched.
    """
    deadline_s = time.monotonic() + grace_s
    killed: set[int] = set()
    while True:
        if record.cgroup:
            cgroup.kill_and_remove(record.cgroup)
        found = [item for item in belonging(record, read_processes(details=True)) if item.pid not in spare]
        found = [item for item in found if item.pid != os.getpid()]
        left_s = deadline_s - time.monotonic()
        if not found or (left_s <= 0 and killed):
            return killed, {item.pid for item in found}
        killed |= {item.pid for item in found}
        _kill_and_wait(found, min(_POLL_S, max(left_s, 0)))


def sweep(state_dir: Path, *, grace_s: float = 5.0) -> list[SweptOrphan]:
    """End what earlier agents left behind. Blocks for at most `grace_s` per state file; call it before taking work.

    State files are removed when nothing of their engine is left, or when they are of another boot. Unreadable ones are
    removed too: they name nothing that may be killed.
    """
    this_boot = boot_id()
    swept: list[SweptOrphan] = []
    for path in sorted(state_dir.glob(f"*{SUFFIX}")):
        record = read_record(path)
        if record is None:
            swept.append(SweptOrphan(attempt_id=path.name.removesuffix(SUFFIX), detail="unreadable state file removed"))
            path.unlink(missing_ok=True)
            continue
        if record.boot_id != this_boot:
            swept.append(SweptOrphan(attempt_id=record.attempt_id, detail="of another boot: nothing of it can be left"))
            path.unlink(missing_ok=True)
            continue
        agent = read_process(record.agent_pid)
        if agent is not None and agent.start_ticks == record.agent_start_ticks and agent.state != "Z":
            swept.append(SweptOrphan(attempt_id=record.attempt_id, detail=f"left alone: its agent {agent.pid} lives"))
            continue
        killed, survivors = kill_record(record, grace_s=grace_s)
        if not survivors:
            path.unlink(missing_ok=True)
        swept.append(
            SweptOrphan(
                attempt_id=record.attempt_id,
                killed=tuple(sorted(killed - survivors)),
                survivors=tuple(sorted(survivors)),
                detail="could not be ended" if survivors else "ended" if killed else "nothing of it was left",
            )
        )
    for draft in state_dir.glob(f"*{SUFFIX}.tmp"):
        draft.unlink(missing_ok=True)
    return swept


def signal_exactly(process: Process, number: int) -> int | None:
    """Signal `process` unless its pid has been reused; an open pidfd of it, None if it is gone. Close the pidfd."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return None
    now = read_process(process.pid)
    if now is None or now.start_ticks != process.start_ticks:
        os.close(fd)
        return None
    try:
        signal.pidfd_send_signal(fd, number)
    except OSError:
        os.close(fd)
        return None
    return fd


def _kill_and_wait(processes: Iterable[Process], timeout_s: float) -> None:
    fds = [fd for process in processes if (fd := signal_exactly(process, signal.SIGKILL)) is not None]
    deadline_s = time.monotonic() + timeout_s
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    waiting = set(fds)
    while waiting and (left_s := deadline_s - time.monotonic()) > 0:
        for fd, _ in poll.poll(int(1000 * left_s) + 1):
            poll.unregister(fd)
            waiting.discard(fd)
    for fd in fds:
        os.close(fd)
