"""CPU time that others used on this host: what all used, less what the processes below one of them used. From /proc.

What a tree of processes used is its members' time and that of the children they have waited for, so what a process used
is not lost with its end. Time in interrupts is left out on both sides: the kernel does not tell whose it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

_PROC: Final = Path("/proc")
_BUSY: Final = (0, 1, 2)
"""Columns of /proc/stat: user (guests included), nice, system."""

_COLUMNS: Final = 8
"""Up to steal; the guests' columns after it are counted under user already."""

_FIELDS: Final = 20
_SCANS: Final = 4
_COUNTED_SHARE: Final = 0.5
"""A kernel that accounts for less of the time than this does not account for it at all, as some sandboxes'."""


class HostTime(msgspec.Struct, frozen=True):
    """Since boot, all CPUs together, clock ticks: in processes, and whatever a CPU did; and how many CPUs there are."""

    busy: int
    total: int
    cpus: int


class ProcessTime(msgspec.Struct, frozen=True):
    """A process, and the clock ticks that it and the children it has waited for used. `start` makes the pid unique."""

    pid: int
    ppid: int
    start: int
    ticks: int


def parse_host(text: str) -> HostTime | None:
    """The figures in the text of /proc/stat; None where they are not there. Pure."""
    lines = text.splitlines()
    words = lines[0].split() if lines else []
    if words[:1] != ["cpu"] or len(words) <= _COLUMNS:
        return None
    columns = [int(word) for word in words[1 : 1 + _COLUMNS]]
    cpus = sum(line.startswith("cpu") for line in lines[1:])
    return HostTime(busy=sum(columns[at] for at in _BUSY), total=sum(columns), cpus=cpus)


def parse_process(pid: int, text: bytes) -> ProcessTime | None:
    """The figures in /proc/PID/stat; None for a text that is cut off. Pure."""
    fields = text.rpartition(b")")[2].split()
    if len(fields) < _FIELDS:
        return None
    return ProcessTime(pid=pid, ppid=int(fields[1]), start=int(fields[19]), ticks=sum(map(int, fields[11:15])))


def tree(root: int, processes: Iterable[ProcessTime]) -> list[ProcessTime]:
    """`root` and every process below it; [] where `root` is not among them. Pure."""
    by_pid = {process.pid: process for process in processes}
    children: dict[int, list[ProcessTime]] = {}
    for process in by_pid.values():
        children.setdefault(process.ppid, []).append(process)
    found = [by_pid[root]] if root in by_pid else []
    for process in found:  # grows meanwhile
        found += [child for child in children.get(process.pid, ()) if child.pid != root]
    return found


def others_s(own: tuple[int, int], host: tuple[HostTime, HostTime], *, elapsed_s: float, hertz: int) -> float | None:
    """CPU seconds of others between two looks; None where the kernel does not account for CPU time. Pure.

    Args:
        own: clock ticks of one's own processes, before and after.
        host: the same of the host.
        elapsed_s: time between the looks.
        hertz: clock ticks per second.
    """
    before, after = host
    if after.total - before.total < _COUNTED_SHARE * elapsed_s * hertz * after.cpus:
        return None
    return max(0, after.busy - before.busy - (own[1] - own[0])) / hertz


class OthersWatch:
    """CPU time that others used since the watch was made.

    Args:
        root: it and every process below it are not others; 0: it is not known who is, so nothing is.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self._own = _own_ticks(root)
        self._host = _host_time()
        self._began_s = time.monotonic()

    def look(self) -> tuple[float | None, int]:
        """CPU seconds of others, None where they cannot be told; and the host's CPUs, 0 where they cannot."""
        own, host = _own_ticks(self._root), _host_time()
        cpus = host.cpus if host is not None else 0
        if own is None or self._own is None or host is None or self._host is None:
            return None, cpus
        elapsed_s = time.monotonic() - self._began_s
        hertz = os.sysconf("SC_CLK_TCK")
        return others_s((self._own, own), (self._host, host), elapsed_s=elapsed_s, hertz=hertz), cpus


def _own_ticks(root: int) -> int | None:
    """Clock ticks of `root` and all below it; None where they cannot be read.

    A process that ends during a scan may be counted twice or not at all, so it is done again until nobody did.
    """
    if root == 0:
        return None
    seen: set[tuple[int, int]] = set()
    own: list[ProcessTime] = []
    for _ in range(_SCANS):
        own = tree(root, _processes())
        members = {(process.pid, process.start) for process in own}
        if members == seen:
            break
        seen = members
    return sum(process.ticks for process in own) if own else None


def _processes() -> list[ProcessTime]:
    found = []
    for name in os.listdir(_PROC):  # noqa: PTH208 - names only, thousands of them
        if name.isdigit():
            try:
                process = parse_process(int(name), (_PROC / name / "stat").read_bytes())
            except OSError:
                continue
            if process is not None:
                found.append(process)
    return found


def _host_time() -> HostTime | None:
    try:
        return parse_host((_PROC / "stat").read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        return None
