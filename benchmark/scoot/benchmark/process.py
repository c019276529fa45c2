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
import errno
import gc
import os
import resource
import select
import signal
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from scoot.benchmark.clock import monotonic_ns, sharpen_timers
from scoot.benchmark.connection import Target, parse_target
from scoot.benchmark.exchange import Ask
from scoot.benchmark.feed import ClosedFeed, Feed, OpenFeed
from scoot.benchmark.load import Run, RunSettings
from scoot.benchmark.plan import LoadPlan, LoadProgress, PromptMode
from scoot.benchmark.request import RequestBuilder, TokenCounter, head
from scoot.benchmark.schedule import RunSchedule, build_schedule
from scoot.benchmark.spool import SpoolWriter
from scoot.benchmark.trace_row import TraceRow, estimate_tokens
from scoot.benchmark.workload import from_blob
from scoot.wire.assignment import Phase
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import RemoteProtocolError, TransientError, UserError
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import ArrivalProcess

EXIT_OK: Final = 0
EXIT_FAILED: Final = 1
EXIT_BAD_PLAN: Final = 2
EXIT_ORPHANED: Final = 3
EXIT_DISK_FULL: Final = 28

_DISK_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_SLICE_NS: Final = 50_000_000
_SIGN_OF_LIFE_NS: Final = 400_000_000
_CLOSED_TEXTS_MIN: Final = 500
_CLOSED_TEXTS_PER_USER: Final = 8
_USAGE: Final = "usage: python -m scoot.benchmark.process PLAN.json"


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        return _complain(_USAGE, EXIT_BAD_PLAN)
    path = arguments[0]
    try:
        plan = msgspec.json.decode(Path(path).read_bytes(), type=LoadPlan)
        targets = _targets(plan)
        rows = from_blob(Path(plan.rows_path).read_bytes())
    except (OSError, msgspec.DecodeError, RemoteProtocolError, UserError) as error:
        return _complain(f"{path}: {error}", EXIT_BAD_PLAN)
    _exit_with_the_agent()
    _allow_many_connections()
    sharpen_timers()
    try:
        return uvloop.run(LoadProcess(plan, targets, rows).execute())
    except UserError as error:
        return _complain(f"{path}: {error}", EXIT_BAD_PLAN)
    except OSError as error:
        code = EXIT_DISK_FULL if error.errno in _DISK_FULL else EXIT_FAILED
        return _complain(f"{plan.spool_path}: {error}", code)


def _targets(plan: LoadPlan) -> tuple[Target, ...]:
    if not plan.targets:
        raise UserError("there is no target", key="targets")
    return tuple(parse_target(url) for url in plan.targets)


class LoadProcess:
    """All runs of a plan, one after the other."""

    def __init__(self, plan: LoadPlan, targets: tuple[Target, ...], rows: tuple[TraceRow, ...]) -> None:
        self._plan = plan
        self._targets = targets
        self._rows = rows
        self._reporter = Reporter()
        self._stop = asyncio.Event()

    async def execute(self) -> int:
        """Run, spool, audit. Returns the exit code.

        Raises:
            OSError: spool or audit cannot be written.
            UserError: arrivals that cannot be drawn.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        audits: list[LoadAudit] = []
        with SpoolWriter(self._plan.spool_path) as spool:
            for run, seed in enumerate(self._plan.run_seeds):
                feed = await self._feed(run, seed)
                if self._stop.is_set():
                    break
                load = Run(self._settings(run), feed, spool=spool.append, report=self._reporter.send)
                with _no_garbage_collection():
                    audits.append(await load.execute(self._stop))
                if self._stop.is_set():
                    break
        _write_whole(Path(self._plan.audit_path), msgspec.json.encode(audits))
        return EXIT_OK

    def _settings(self, run: int) -> RunSettings:
        workload = self._plan.workload
        return RunSettings(
            run=run,
            targets=self._targets,
            heads=tuple(head(target) for target in self._targets),
            warm_up_us=round(workload.warm_up_s * 1e6),
            timeout_us=round(workload.request_timeout_s * 1e6),
            drain_us=round(workload.drain_s * 1e6),
        )

    async def _feed(self, run: int, seed: int) -> Feed:
        """The run's requests, made before its clock starts; cut short when told to stop."""
        plan = self._plan
        schedule = build_schedule(plan.workload, self._rows, seed, warm_up=plan.workload.warm_up_s > 0)
        counter = _Counter(self._targets[0], plan.model)
        builder = RequestBuilder(plan, self._rows, seed, count_tokens=counter)
        try:
            if plan.workload.arrivals.process is ArrivalProcess.CLOSED:
                return await self._closed_feed(run, schedule, builder)
            return OpenFeed(await self._build(run, schedule, builder, len(schedule)))
        finally:
            counter.close()

    async def _closed_feed(self, run: int, schedule: RunSchedule, builder: RequestBuilder) -> Feed:
        workload = self._plan.workload
        users = workload.arrivals.users or 1

        def make(index: int) -> Ask:
            return builder.build(index, int(schedule.row[index % len(schedule)]), phase=RequestPhase.MEASURED)

        if self._plan.prompt_mode is PromptMode.TEXT:
            # Fitting a text asks the engine and blocks, so these are made now, and used again when they run out.
            count = min(len(schedule), max(_CLOSED_TEXTS_MIN, _CLOSED_TEXTS_PER_USER * users))
            asks = await self._build(run, schedule, builder, count)

            def make(index: int) -> Ask:
                return msgspec.structs.replace(asks[index % len(asks)], index=index)

        return ClosedFeed(
            users=users,
            warm_up_us=round(workload.warm_up_s * 1e6),
            end_us=round((workload.warm_up_s + workload.duration_s) * 1e6),
            make=make,
            ahead=users,
        )

    async def _build(self, run: int, schedule: RunSchedule, builder: RequestBuilder, count: int) -> list[Ask]:
        """The first `count` requests. Now and then the loop gets a turn, and the agent a sign of life."""
        asks: list[Ask] = []
        yielded_ns = told_ns = monotonic_ns()
        for index in range(count):
            asks.append(
                builder.build(
                    index,
                    int(schedule.row[index]),
                    intended_us=int(schedule.intended_us[index]),
                    phase=RequestPhase(int(schedule.phase[index])),
                )
            )
            now_ns = monotonic_ns()
            if now_ns - yielded_ns >= _SLICE_NS:
                await asyncio.sleep(0)  # noqa: TID251 - no waiting: lets signal handlers run
                yielded_ns = monotonic_ns()
                if self._stop.is_set():
                    break
            if now_ns - told_ns >= _SIGN_OF_LIFE_NS:
                self._reporter.send(self._preparing(run))
                told_ns = now_ns
        return asks

    def _preparing(self, run: int) -> LoadProgress:
        phase = Phase.WARM_UP if self._plan.workload.warm_up_s > 0 else Phase.MEASURE
        return LoadProgress(phase=phase, run=run, sent=0, completed=0, failed=0, tokens=0, outstanding=0, silent_s=0.0)


class _Counter:
    """Token counts from the engine; estimates once it does not answer: its requests will then fail, and tell why."""

    def __init__(self, target: Target, model: str) -> None:
        self._counter = TokenCounter(target, model)
        self._broken = False

    def __call__(self, text: str) -> int:
        if not self._broken:
            try:
                return self._counter(text)
            except TransientError as error:
                self._broken = True
                _complain(f"prompts have estimated lengths: {error}", EXIT_OK)
        return estimate_tokens(text)

    def close(self) -> None:
        self._counter.close()


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


def _exit_with_the_agent() -> None:
    """End this process at once when stdin, if a pipe or socket, reaches its end."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        threading.Thread(target=_watch_stdin, name="stdin", daemon=True).start()


def _watch_stdin() -> None:
    poll = select.poll()
    poll.register(0, select.POLLIN)
    while True:
        poll.poll()
        try:
            data = os.read(0, 4096)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if not data:
            os._exit(EXIT_ORPHANED)


def _allow_many_connections() -> None:
    """Raise the soft limit on open files to the hard one: every concurrent stream is a socket."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the collector from pausing the loop; a run makes no cycles worth collecting."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


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
