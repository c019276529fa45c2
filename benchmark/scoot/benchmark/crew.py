"""The sending processes: forked, scheduled as asked, and reaped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
from collections.abc import Callable
from typing import Final

import msgspec

from scoot.benchmark.channel import channel_pair
from scoot.benchmark.plan import Priority

_PR_SET_PDEATHSIG: Final = 1
_HIGH_NICE: Final = -10
_REALTIME_PRIORITY: Final = 1


class Member(msgspec.Struct, frozen=True):
    """A sending process, and our end of the channel to it."""

    pid: int
    sock: socket.socket


def fork_crew(count: int, work: Callable[[int, socket.socket], int]) -> list[Member]:
    """Fork `count` processes that run `work(number, its end of the channel)` and exit with what it returns.

    They die with this process. Call it before any event loop or thread is started.

    Raises:
        OSError: a process cannot be made; those made already are ended.
    """
    members: list[Member] = []
    try:
        for number in range(count):
            members.append(_fork(number, work, members))
    except OSError:
        dismiss(members)
        raise
    return members


def _fork(number: int, work: Callable[[int, socket.socket], int], before: list[Member]) -> Member:
    parent = os.getpid()
    ours, theirs = channel_pair()
    pid = os.fork()
    if pid:
        theirs.close()
        return Member(pid, ours)
    code = 1
    try:
        ours.close()
        for member in before:
            member.sock.close()
        _die_with(parent)
        _let_go_of_standard_streams()
        code = work(number, theirs)
    finally:
        os._exit(code)


def dismiss(members: list[Member]) -> None:
    """Kill what is left of the crew, and reap it."""
    for member in members:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(member.pid, 0)
        member.sock.close()


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _let_go_of_standard_streams() -> None:
    """Stdin and stdout are the conductor's: whoever waits for the end of its output must not wait for ours."""
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def apply_priority(priority: Priority) -> str:
    """Schedule this process as asked; what it came to, "normal" where it is not permitted."""
    try:
        if priority is Priority.REALTIME:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REALTIME_PRIORITY))
        elif priority is Priority.HIGH:
            os.setpriority(os.PRIO_PROCESS, 0, _HIGH_NICE)
    except OSError:
        return Priority.NORMAL.value
    return priority.value


def pin(cpus: tuple[int, ...], number: int) -> int | None:
    """Pin this process to its CPU of `cpus`; which one, None if it is not pinned."""
    if not cpus:
        return None
    cpu = cpus[number % len(cpus)]
    try:
        os.sched_setaffinity(0, {cpu})
    except OSError:
        return None
    return cpu
