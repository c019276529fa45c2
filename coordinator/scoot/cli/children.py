"""Processes that `tune` starts: they end with scootctl, and what they leave behind can be proved to be nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from scoot.wire import limits
from scoot.wire.errors import UserError

_KILL_S: Final = 5.0
_SWEEPS: Final = 200
"""A killed process is listed until the kernel has taken it down; one in an uninterruptible wait, for longer."""
_TAIL_BYTES: Final = 64 * 1024


class Child:
    """A daemon started by scootctl in its own session, so that a terminal's Ctrl-C reaches scootctl only.

    Its standard input is a pipe that scootctl holds: when scootctl dies, however, the child sees it end and stops.

    Attributes:
        name: for messages.
        log_path: standard output and error.
        pid: its process, and the number of its process group.
    """

    def __init__(self, name: str, log_path: Path, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.log_path = log_path
        self.pid = process.pid
        self._process = process
        self._exited = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(cls, name: str, argv: Sequence[str], log_path: Path) -> Child:
        """Start `argv`, its output appended to `log_path`.

        Raises:
            UserError: the log cannot be opened or the program not started.
        """
        try:
            with log_path.open("ab") as log:
                process = await asyncio.create_subprocess_exec(
                    *argv, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise UserError(f"the {name} cannot be started: {error}", path=str(log_path)) from error
        return cls(name, log_path, process)

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        return self._process.returncode

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for its end, at most `timeout_s`; whether it has ended."""
        await asyncio.wait((self._exited,), timeout=timeout_s)
        return self._exited.done()

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, and after `grace_s` SIGKILL to it and all below it; whether it ended by itself."""
        if self.returncode is None:
            self._process.terminate()
        orderly = await self.wait(grace_s)
        if not orderly:
            self.kill()
            await self.wait(_KILL_S)
        self._close_stdin()
        return orderly

    def kill(self) -> None:
        """SIGKILL it and every process below it, the deepest first, so that none is left without a parent to ask."""
        if self.returncode is not None:
            return
        _signal(self.pid, signal.SIGSTOP)  # or it would replace what is killed
        for _ in range(_SWEEPS):
            below = descendants(self.pid, parents())
            if not below:
                break
            for pid in reversed(below):
                _signal(pid, signal.SIGKILL)
        _signal_group(self.pid)

    def log_tail(self, lines: int = limits.LOG_TAIL_LINES) -> str:
        """The last lines of its log."""
        try:
            with self.log_path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def _close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()


def parents() -> dict[int, int]:
    """Pid -> parent's pid, of every process that is not a zombie."""
    table = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            state, ppid = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
        except (OSError, ValueError):  # it ended meanwhile
            continue
        if state not in "ZX":
            table[int(entry.name)] = int(ppid)
    return table


def descendants(root: int, table: Mapping[int, int]) -> list[int]:
    """Every process below `root`, parents before children. Pure."""
    found = [root]
    for pid in found:
        found += [child for child, parent in table.items() if parent == pid and child not in found]
    return found[1:]


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(pgid: int) -> None:
    try:
        os.killpg(pgid, signal.SIGKILL)
    except ProcessLookupError:
        return
