"""Processes of this host as values, read from /proc."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

TOKEN_VARIABLE: Final = "SCOOT_ENGINE_TOKEN"  # noqa: S105 - the name of a variable, not a secret
"""Environment variable that marks every process of an engine with a random token; see scoot.agent.host.reaper."""

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PROC: Final = Path("/proc")
_START_FIELD: Final = 19
_RSS_FIELD: Final = 21


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process.

    Attributes:
        pid, ppid, pgid: as the kernel has them.
        start_ticks: clock ticks from boot to its start; with the pid it names a process for as long as the host runs.
        state: one letter; Z is a zombie.
        name: as the process calls itself; for display only, never for decisions.
        rss_bytes: resident memory, shared pages counted in full.
        token: value of SCOOT_ENGINE_TOKEN in its environment, "" if unreadable, absent or not asked for.
        cgroup: its cgroup v2 path, "" if unknown or not asked for.
    """

    pid: int
    ppid: int
    pgid: int
    start_ticks: int
    state: str = "S"
    name: str = ""
    rss_bytes: int = 0
    token: str = ""
    cgroup: str = ""


def boot_id() -> str:
    """This boot's identity; pids and start times of another boot mean nothing."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_process(pid: int, *, details: bool = False) -> Process | None:
    """One process, None if there is none; `details` also reads token and cgroup."""
    folder = _PROC / str(pid)
    try:
        head, _, tail = (folder / "stat").read_bytes().rpartition(b")")
    except OSError:
        return None
    fields = tail.split()
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        start_ticks=int(fields[_START_FIELD]),
        state=fields[0].decode("ascii"),
        name=head.partition(b"(")[2].decode(errors="replace"),
        rss_bytes=int(fields[_RSS_FIELD]) * _PAGE_BYTES,
        token=_token(folder) if details else "",
        cgroup=_cgroup(folder) if details else "",
    )


def read_processes(*, details: bool = False) -> tuple[Process, ...]:
    """Every process that can be seen, in no particular order."""
    pids = (int(name) for name in os.listdir(_PROC) if name.isdigit())  # noqa: PTH208 - names only, thousands of them
    return tuple(found for pid in pids if (found := read_process(pid, details=details)) is not None)


def below(root: int, processes: tuple[Process, ...]) -> tuple[Process, ...]:
    """Every descendant of `root` in the table, `root` itself left out. Pure."""
    children: dict[int, list[Process]] = {}
    for process in processes:
        children.setdefault(process.ppid, []).append(process)
    found: dict[int, Process] = {}
    queue = [root]
    while queue:
        for child in children.get(queue.pop(), ()):
            if child.pid not in found and child.pid != root:
                found[child.pid] = child
                queue.append(child.pid)
    return tuple(found.values())


def _token(folder: Path) -> str:
    try:
        raw = (folder / "environ").read_bytes()
    except OSError:
        return ""
    start = f"{TOKEN_VARIABLE}=".encode()
    for item in raw.split(b"\0"):
        if item.startswith(start):
            return item[len(start) :].decode(errors="replace")
    return ""


def _cgroup(folder: Path) -> str:
    try:
        text = (folder / "cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    for line in text.splitlines():
        if line.startswith("0::"):
            return line[3:]
    return ""
