"""Forked children: the load process of a run, and the runs of a sweep. IO.

A child is forked before this process imports anything that starts threads or fills memory, so that it starts at once
and stays small. It is in a process group of its own: a terminal's Ctrl-C reaches this process only, which passes it on.
Its standard input is a pipe held here: when this process dies, however, the child sees it end and stops.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

EXIT_FAILED: Final = 1

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Child:
    """A forked child.

    Attributes:
        pid: its process, and the number of its process group.
        output: what it writes to standard output can be read here; -1 if it goes where this process's goes.
    """

    def __init__(self, pid: int, lifeline: int, output: int) -> None:
        self.pid = pid
        self.output = output
        self._lifeline = lifeline
        self._status: int | None = None

    def terminate(self) -> None:
        """Ask it to stop."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and all below it at once."""
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Its exit code, negative for a signal. Blocks until it has ended."""
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
            for fd in (self._lifeline, self.output):
                if fd >= 0:
                    os.close(fd)
        return self._status

    def _signal(self, number: signal.Signals) -> None:
        if self._status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def fork(work: Callable[[], int], *, log: Path | None = None) -> Child:
    """Start `work` in a child; its result is the exit code.

    Args:
        work: called in the child.
        log: where its standard error goes; its standard output can then be read. None: both go where ours go.

    Raises:
        OSError: there are no more processes or file descriptors, or the log cannot be made.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        stdin, lifeline = os.pipe()
        theirs.append(stdin)
        ours.append(lifeline)
        output = stdout = stderr = -1
        if log is not None:
            output, stdout = os.pipe()
            theirs.append(stdout)
            ours.append(output)
            stderr = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            theirs.append(stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            _become(work, stdin=stdin, stdout=stdout, stderr=stderr, close=ours)
    except OSError:
        for fd in ours:
            os.close(fd)
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    # Both sides say it, so that it holds before either goes on.
    with contextlib.suppress(PermissionError, ProcessLookupError):
        os.setpgid(pid, pid)
    return Child(pid, lifeline, output)


def _become(work: Callable[[], int], *, stdin: int, stdout: int, stderr: int, close: list[int]) -> NoReturn:
    """Be the child. Never returns into the code that forked."""
    code = EXIT_FAILED
    try:
        os.setpgid(0, 0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        for fd in close:
            os.close(fd)
        for fd, standard in ((stdin, 0), (stdout, 1), (stderr, 2)):
            if fd >= 0:
                os.dup2(fd, standard)
        code = work()
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - whatever it is ends here, and is told
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


class Interrupts:
    """Ctrl-C, counted: the first asks the child to stop, the second kills it. SIGTERM and SIGHUP count as well.

    Attributes:
        count: signals so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._child: Child | None = None

    def watch(self, child: Child) -> None:
        """From now on interrupts are passed on to `child`, those before it as well."""
        self._child = child
        if self.count:
            self._pass_on()

    @contextlib.contextmanager
    def counted(self) -> Iterator[Interrupts]:
        """Count while entered."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def ask(self) -> None:
        """Count one."""
        self.count += 1
        self._pass_on()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.ask()

    def _pass_on(self) -> None:
        if self._child is None:
            return
        if self.count == 1:
            self._child.terminate()
        else:
            self._child.kill()
