"""A measured child process: CPU time and memory of its whole tree, of which nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec
import psutil

_MIB: Final = 2**20
_POLL_MS: Final = 100
_GRACE_S: Final = 5.0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What a process and all its descendants used.

    Attributes:
        started_ns: CLOCK_MONOTONIC just before it was started.
        wall_s: until it ended.
        cpu_s: user and system time of the tree.
        rss_mb: largest sum of resident sizes seen at one time, MiB; pages that are shared count for each process.
        pss_mb: the same with shared pages divided among those that share them; None where it was not sampled.
        processes: most seen at one time.
        code: exit status, negative for a signal.
        timed_out: it was killed for taking too long.
    """

    started_ns: int
    wall_s: float
    cpu_s: float
    rss_mb: float
    pss_mb: float | None
    processes: int
    code: int
    timed_out: bool

    @property
    def failure(self) -> str:
        """Why it did not end well; "" if it did."""
        if self.timed_out:
            return f"killed after {self.wall_s:.0f} s"
        return f"exit status {self.code}" if self.code else ""


@dataclass
class _Tree:
    """What was seen of a process and its descendants."""

    root: psutil.Process
    with_pss: bool
    rss: int = 0
    pss: int = 0
    most: int = 0
    seen: dict[psutil.Process, float] = field(default_factory=dict)

    def look(self) -> None:
        """Take a sample. Processes that end meanwhile count with what they had used before."""
        rss = pss = n = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [self.root, *self.root.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    with process.oneshot():
                        times = process.cpu_times()
                        rss += process.memory_info().rss
                    if self.with_pss:
                        pss += process.memory_full_info().pss
                    self.seen[process] = times.user + times.system
                    n += 1
        self.rss, self.pss, self.most = max(self.rss, rss), max(self.pss, pss), max(self.most, n)

    def kill_rest(self) -> None:
        """End what is left of it, known by process id and start time."""
        for process in self.seen:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def measure(
    argv: Sequence[str],
    *,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    every_s: float = 1.0,
    with_pss: bool = False,
) -> Cost:
    """Run a command in a process group of its own, to its end or its deadline.

    Args:
        argv: the command.
        log: file that its stdout and stderr go to.
        timeout_s: it is killed after so long, its whole group with it.
        env: added to this process's environment.
        every_s: pause between two samples. Each costs about a millisecond per process, more with PSS.
        with_pss: sample PSS too.

    Raises:
        OSError: it cannot be started.
    """
    with log.open("wb") as out:
        started_ns = time.monotonic_ns()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
        )
    tree = _Tree(psutil.Process(process.pid), with_pss)
    try:
        timed_out = not _watch(process.pid, tree, started_ns + int(timeout_s * 1e9), every_s)
        if timed_out:
            _signal_group(process.pid, signal.SIGTERM)
            _watch(process.pid, tree, time.monotonic_ns() + int(_GRACE_S * 1e9), every_s)
    except BaseException:
        _signal_group(process.pid, signal.SIGKILL)
        process.wait()
        raise
    ended_ns = time.monotonic_ns()
    _signal_group(process.pid, signal.SIGKILL)  # before it is reaped, while the group is certainly still its own
    # Reaped here and not by Popen: wait4 tells what the process and those it has reaped used, of this child alone.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    tree.kill_rest()
    return Cost(
        started_ns=started_ns,
        wall_s=(ended_ns - started_ns) / 1e9,
        # Children that were never waited for are in the samples only.
        cpu_s=max(usage.ru_utime + usage.ru_stime, sum(tree.seen.values())),
        rss_mb=tree.rss / _MIB,  # ru_maxrss would count what this process was when it forked
        pss_mb=tree.pss / _MIB if with_pss else None,
        processes=max(1, tree.most),
        code=process.returncode,
        timed_out=timed_out,
    )


def _watch(pid: int, tree: _Tree, deadline_ns: int, every_s: float) -> bool:
    """Sample until the process has ended (True) or the deadline has passed (False). The process is not reaped."""
    pidfd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        next_ns = time.monotonic_ns()
        while (now_ns := time.monotonic_ns()) < deadline_ns:
            if now_ns >= next_ns:
                tree.look()
                next_ns = now_ns + int(every_s * 1e9)
            if poller.poll(min(_POLL_MS, max(1, (deadline_ns - now_ns) // 1_000_000))):
                return True
        return False
    finally:
        os.close(pidfd)


def _signal_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)
