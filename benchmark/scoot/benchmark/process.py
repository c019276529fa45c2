"""The load process: `python -m scoot.benchmark.process PLAN.json` (the contract is in scoot.benchmark.plan).

Whatever an engine does is data. The process fails only by its own fault, and says so in one line on stderr:

| exit code | meaning |
|---|---|
| 0 | done, or told to stop by SIGTERM: spool and audit are complete |
| 1 | a bug, or a file that cannot be written |
| 2 | the plan or the workload blob is wrong; nothing was sent |
| 3 | stdin was closed: the agent has died |
| 28 | no space left for the spool or the audit |
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import math
import os
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from scoot.benchmark.clock import ReceiveClock
from scoot.benchmark.conductor import Conductor, SenderFailedError
from scoot.benchmark.connection import Route
from scoot.benchmark.crew import Member, dismiss, fork_crew
from scoot.benchmark.plan import LoadPlan, LoadProgress
from scoot.benchmark.proxy import proxy_for
from scoot.benchmark.sending import Sending
from scoot.benchmark.spool import SpoolWriter
from scoot.benchmark.target import parse_target
from scoot.benchmark.tls import make_context
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.workload import from_blob
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.measurement import LoadAudit

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_BAD_PLAN: Final = 2
EXIT_ORPHANED: Final = 3
EXIT_DISK_FULL: Final = 28

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PARSER_NICE: Final = 10

SENDER_TOKENS_S: Final = 25_000
SENDER_REQUESTS_S: Final = 4_000
SENDER_USERS: Final = 1_500
"""What one sending process is trusted with."""

_USAGE: Final = "usage: python -m scoot.benchmark.process PLAN.json"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        return _complain(_USAGE, EXIT_BAD_PLAN)
    path = arguments[0]
    try:
        plan = msgspec.json.decode(Path(path).read_bytes(), type=LoadPlan)
        routes = _routes(plan)
        rows = from_blob(Path(plan.rows_path).read_bytes())
    except (OSError, msgspec.DecodeError, RemoteProtocolError, UserError) as error:
        return _complain(f"{path}: {error}", EXIT_BAD_PLAN)
    _allow_many_connections()
    try:
        return _load(plan, routes, rows)
    except SenderFailedError as error:
        return _complain(f"{path}: {error}", error.code)
    except OSError as error:
        code = EXIT_DISK_FULL if error.errno in _DISK_FULL else EXIT_FAILED
        return _complain(f"{plan.spool_path}: {error}", code)


def _routes(plan: LoadPlan) -> tuple[Route, ...]:
    """How the targets are reached.

    Raises:
        UserError: there is none, or one is wrong.
    """
    if not plan.targets:
        raise UserError("there is no target", key="targets")
    if plan.api_key_env and not os.environ.get(plan.api_key_env):
        raise UserError(f"the environment variable {plan.api_key_env} is not set", key="api_key_env", hint="export it")
    targets = [parse_target(url) for url in plan.targets]
    tls = make_context(plan.ca_path, plan.verify_tls) if any(target.tls for target in targets) else None
    return tuple(
        Route(
            target=target,
            proxy=proxy_for(target, os.environ) if plan.proxies else None,
            tls=tls if target.tls else None,
        )
        for target in targets
    )


def senders_wanted(plan: LoadPlan, rows: Sequence[TraceRow], cpus: int) -> int:
    """How many sending processes a load takes; no more than leave one CPU for the rest.

    One per SENDER_TOKENS_S tokens, SENDER_REQUESTS_S requests and SENDER_USERS users. Each has a share of the requests
    that may be in flight, so there are no more than those.
    """
    arrivals = plan.workload.arrivals
    most = arrivals.max_in_flight or math.inf
    if plan.senders:
        return int(min(plan.senders, most))
    rate = arrivals.rate or 0.0
    tokens = sum(row.output_tokens for row in rows) / len(rows)
    load = max(rate * tokens / SENDER_TOKENS_S, rate / SENDER_REQUESTS_S, (arrivals.users or 0) / SENDER_USERS)
    return int(max(1, min(math.ceil(load), cpus - 1, most)))


class LoadProcess:
    """All runs of a plan, one after the other."""

    def __init__(self, plan: LoadPlan, members: list[Member], spool: SpoolWriter) -> None:
        self._plan = plan
        self._members = members
        self._spool = spool
        self._reporter = Reporter()

    async def execute(self) -> list[LoadAudit]:
        """Run and spool.

        Raises:
            OSError: the spool cannot be written.
            SenderFailedError: a sender cannot go on.
        """
        loop = asyncio.get_running_loop()
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        _exit_with_the_agent(loop, self._members)
        conductor = Conductor(
            self._members,
            runs=len(self._plan.run_seeds),
            warm_up=self._plan.workload.warm_up_s > 0,
            spool=self._spool.append,
            report=self._reporter.send,
            own_root=self._plan.own_root,
        )
        return await conductor.execute(stop)


def _load(plan: LoadPlan, routes: tuple[Route, ...], rows: tuple[TraceRow, ...]) -> int:
    """Everything after the plan was understood; the exit code."""
    # Nothing read so far is ever garbage; frozen, its pages stay shared with the senders.
    gc.collect()
    gc.freeze()
    # A load makes no cycles worth collecting, in no process of it; looking for them takes a tenth of the parser's time.
    gc.disable()
    cpus = len(os.sched_getaffinity(0))
    senders = senders_wanted(plan, rows, cpus)
    with SpoolWriter(plan.spool_path) as spool, socket.socket() as first:
        # The kernel switches stamps on some time after the first socket has asked for them: the sooner one does, the
        # better.
        ReceiveClock.enable(first)
        members = fork_crew(senders, lambda number, sock: Sending(plan, routes, rows, number, senders).work(sock))
        try:
            _yield_to_senders()
            audits = uvloop.run(LoadProcess(plan, members, spool).execute())
        finally:
            dismiss(members)
    _write_whole(Path(plan.audit_path), msgspec.json.encode(audits))
    return EXIT_OK


def _yield_to_senders() -> None:
    """What is parsed can wait; what is sent and received cannot."""
    with contextlib.suppress(OSError):
        os.nice(_PARSER_NICE)


class Reporter:
    """Progress as JSON lines on stdout. Never waits: what a slow reader leaves no room for is not said."""

    def __init__(self, fd: int = 1) -> None:
        self._write = _writer_without_waiting(fd)
        self._rest = b""

    def send(self, progress: LoadProgress) -> None:
        """Print a line, if there is room for it."""
        if not self._rest:
            self._rest = msgspec.json.encode(progress) + b"\n"
        try:
            self._rest = self._rest[self._write(self._rest) :]
        except BlockingIOError:
            if self._rest.startswith(b"{"):
                self._rest = b""
        except (BrokenPipeError, ConnectionResetError):
            self._rest = b""


def _writer_without_waiting(fd: int) -> Callable[[bytes], int]:
    """A write to `fd` that raises BlockingIOError instead of waiting.

    Stdin may be the same socket, so the file description is not made non-blocking where that can be avoided.
    """
    mode = os.fstat(fd).st_mode
    if stat.S_ISSOCK(mode):
        sock = socket.socket(fileno=os.dup(fd))
        return lambda data: sock.send(data, socket.MSG_DONTWAIT)
    if stat.S_ISFIFO(mode):
        os.set_blocking(fd, False)
    return lambda data: os.write(fd, data)


def _exit_with_the_agent(loop: asyncio.AbstractEventLoop, members: list[Member]) -> None:
    """End this process and the senders at once when stdin, if a pipe or socket, reaches its end."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        loop.add_reader(0, _look_at_stdin, members)


def _look_at_stdin(members: list[Member]) -> None:
    try:
        data = os.read(0, 4096)
    except BlockingIOError:
        return
    except OSError:
        data = b""
    if not data:
        dismiss(members)
        os._exit(EXIT_ORPHANED)


def _allow_many_connections() -> None:
    """Raise the soft limit on open files to the hard one: every concurrent stream is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def _complain(message: str, code: int) -> int:
    sys.stderr.write(message.replace("\n", " ") + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
