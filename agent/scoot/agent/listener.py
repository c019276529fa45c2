"""Who uses a loopback port.

A healthy answer on an engine's port proves nothing if another process gives it, and a port that is in use after an
engine's stop says nothing against the engine if another process uses it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_TABLES: Final = ("/proc/net/tcp", "/proc/net/tcp6")
_LISTEN: Final = "0A"
_COLUMNS: Final = 10
_NO_INODE: Final = "0"
"""Of what no process holds any more: a connection that the kernel ends by itself."""


class PortSocket(NamedTuple):
    """A socket as /proc/net/tcp has it: one that listens, or an end of a connection."""

    inode: str
    uid: int
    listens: bool


def sockets_on(table: str, port: int) -> Iterator[PortSocket]:
    """The sockets whose own port is `port`, from the text of /proc/net/tcp. Pure."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        if len(columns) >= _COLUMNS and int(columns[1].rpartition(":")[2], 16) == port:
            yield PortSocket(columns[9], int(columns[7]), columns[3] == _LISTEN)


def is_served_by(port: int, pids: Iterable[int]) -> bool:
    """Whether one of `pids` listens on `port`. Blocks for a look at /proc; a process that has ended does not listen."""
    wanted = {_link(each) for each in _sockets_now(port) if each.listens}
    return any(_held(pid, wanted) for pid in pids)


def is_served(port: int) -> bool:
    """Whether anybody listens on `port`. Blocks for a look at the kernel's table."""
    return any(each.listens for each in _sockets_now(port))


def users_of(port: int) -> frozenset[int] | None:
    """The processes that may be this user's and have a socket on `port`; None where they cannot be told.

    Engines run as their agent's user: sockets of other users are strangers', and only root could see who holds them.
    Not to be told are a socket of this user that no visible process holds, and one that is in no table of the kernel's
    although the port cannot be had (it is bound and does not listen). Blocks for a look at all of /proc.
    """
    found = _sockets_now(port)
    if not found:
        return None
    wanted = {_link(each) for each in found if each.uid == os.geteuid() and each.inode != _NO_INODE}
    if not wanted:
        return frozenset()
    held = {int(name): _held(int(name), wanted) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - names only, thousands of them
    if wanted.difference(*held.values()):
        return None
    return frozenset(pid for pid, links in held.items() if links)


def _sockets_now(port: int) -> list[PortSocket]:
    found: list[PortSocket] = []
    for path in _TABLES:
        try:
            found += sockets_on(Path(path).read_text(encoding="ascii"), port)
        except FileNotFoundError:
            continue  # no IPv6 here
    return found


def _link(each: PortSocket) -> str:
    return f"socket:[{each.inode}]"


def _held(pid: int, links: set[str]) -> set[str]:
    """Those of `links` that lead to something a process has open."""
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            return {link for entry in entries if (link := _target(entry.path)) in links}
    except OSError:
        return set()


def _target(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
