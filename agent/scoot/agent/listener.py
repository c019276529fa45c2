"""Who listens on a loopback port: a healthy answer on an engine's port proves nothing if another process gives it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN: Final = "0A"
_COLUMNS: Final = 10


def listening_inodes(table: str, port: int) -> frozenset[str]:
    """Inodes of the sockets that listen on `port`, from the text of /proc/net/tcp. Pure."""
    found: set[str] = set()
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) >= _COLUMNS and columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
            found.add(columns[9])
    return frozenset(found)


def is_served_by(port: int, pids: Iterable[int]) -> bool:
    """Whether one of `pids` listens on `port`. Blocks for a look at /proc; a process that has ended does not listen."""
    wanted: set[str] = set()
    for path in _TABLES:
        try:
            wanted |= {f"socket:[{inode}]" for inode in listening_inodes(Path(path).read_text(encoding="ascii"), port)}
        except FileNotFoundError:
            continue  # no IPv6 here
    return any(_holds(pid, wanted) for pid in pids)


def _holds(pid: int, sockets: set[str]) -> bool:
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return any(_target(entry.path) in sockets for entry in entries)
    except OSError:
        return False


def _target(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
