"""The only module that spawns: engines, each held by a warden, and helpers such as the load process.

Nothing started here outlives the agent: an engine's warden and a well-behaved helper see end of file on their socket
when the agent dies. While the agent lives, every child is watched through a pidfd and reaped.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from scoot.agent.core.command import EngineCommand
from scoot.agent.host import cgroup, reaper, warden
from scoot.agent.host.proctable import TOKEN_VARIABLE, Process, below, boot_id, read_process, read_processes
from scoot.wire.errors import LocalProtocolError, PermanentInfraError

EOF_GRACE_S: Final = 2.0
"""How long an engine has between SIGTERM and SIGKILL when its agent has died."""

_WARDEN: Final = warden.__file__
_LINE_BYTES: Final = 1024 * 1024
_MARGIN_S: Final = 2.0
"""A warden that has not answered so long after its deadlines is itself stuck."""
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class ExitStatus(msgspec.Struct, frozen=True, kw_only=True):
    """How a process ended: by itself with `code`, or by `signal`; both None when nobody could tell.

    `by_us` is True when it ended after a stop was asked for.
    """

    code: int | None = None
    signal: int | None = None
    by_us: bool = False


class StopReport(msgspec.Struct, frozen=True, kw_only=True):
    """How a stop went.

    Attributes:
        exit: of the engine's first process, None if it never ended.
        killed: SIGTERM was not enough.
        clean: nothing of the engine is left, as seen by its reaper.
        seconds: from the call to the answer.
        survivors: what is left when not clean.
    """

    exit: ExitStatus | None
    killed: bool
    clean: bool
    seconds: float
    survivors: tuple[Process, ...] = ()


class HelperResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a short-lived helper did. `timed_out`: it was killed at its deadline."""

    exit: ExitStatus
    stdout: bytes
    stderr: bytes
    timed_out: bool


class SpawnError(PermanentInfraError):
    """A program could not be executed (missing, not executable, disk full): report it against the host, do not retry.

    `errno` is the system's, 0 if there was none.
    """

    def __init__(self, message: str, *, errno: int = 0) -> None:
        super().__init__(message)
        self.errno = errno


class _Child:
    """A child process of the agent on a socket (its stdin and stdout), reaped as soon as it ends."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(popen.pid)
        self.pid = popen.pid
        self.asked = False
        self.exited: asyncio.Future[ExitStatus] = self._loop.create_future()
        self._loop.add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.signal_group(signal.SIGKILL)  # the zombie still holds the number: this cannot hit another group
        code = self._popen.wait()
        os.close(self._pidfd)
        self._pidfd = -1
        if not self.exited.done():
            status = ExitStatus(code=code, by_us=self.asked)
            self.exited.set_result(status if code >= 0 else ExitStatus(signal=-code, by_us=self.asked))

    def signal_group(self, number: int) -> None:
        """Signal the child and what shares its group, unless it has been reaped."""
        if self._pidfd >= 0:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return


async def _spawn(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr: int | None
) -> tuple[_Child, asyncio.StreamReader, asyncio.StreamWriter]:
    """Start a child in its own session, with one socket as stdin and stdout."""
    ours, theirs = socket.socketpair()
    try:
        popen = subprocess.Popen(  # noqa: ASYNC220 - fork and exec take a millisecond; its pidfd is watched below
            list(argv),
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=stderr,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        ours.close()
        number = getattr(error, "errno", 0) or 0
        raise SpawnError(f"cannot start {argv[0]}: {error}", errno=number) from error
    finally:
        theirs.close()
    child = _Child(popen)
    ours.setblocking(False)
    try:
        reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)
    except BaseException:
        ours.close()
        child.signal_group(signal.SIGKILL)
        await asyncio.shield(child.exited)
        raise
    return child, reader, writer


class EngineProcess:
    """One running engine, held by its warden.

    Attributes:
        pid, pgid, start_ticks: the engine's first process (session and group leader).
        exited: resolves when that process ends, whoever ended it; never cancelled, never an exception.
        log_path: its stdout and stderr.
        cgroup: its cgroup's folder, "" if it has none.
    """

    def __init__(
        self,
        child: _Child,
        writer: asyncio.StreamWriter,
        *,
        record: reaper.Record,
        state_path: Path | None,
        log_path: Path,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.pid = 0
        self.pgid = 0
        self.start_ticks = 0
        self.log_path = log_path
        self.cgroup = record.cgroup
        self.exited: asyncio.Future[ExitStatus] = loop.create_future()
        self._started: asyncio.Future[None] = loop.create_future()
        self._gone: asyncio.Future[bool] = loop.create_future()
        self._killed = False
        self._clean = False
        self._child = child
        self._writer = writer
        self._record = record
        self._state_path = state_path
        self._listener: asyncio.Task[None] | None = None

    async def _start(self, reader: asyncio.StreamReader, spawn: dict[str, Any]) -> None:
        self._listener = asyncio.create_task(self._listen(reader), name=f"warden-{self._child.pid}")
        self._send({"spawn": spawn})
        try:
            await asyncio.shield(self._started)
        except asyncio.CancelledError:
            await asyncio.shield(self.stop(0.0, EOF_GRACE_S))
            raise
        except SpawnError:
            await asyncio.shield(self._gone)
            await self._listener
            raise

    async def stop(self, stop_grace_s: float, kill_grace_s: float) -> StopReport:
        """End the engine and all it started: SIGTERM, after `stop_grace_s` SIGKILL, after `kill_grace_s` more give up.

        What outlives an engine's first process that ended before is given a grace of `warden.REST_GRACE_S` at most.
        May be called any number of times and at once; deadlines only move closer. A cancelled call leaves the stop
        going on. When the report is not clean the warden goes on killing; `survivors()` tells what is left.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        if not self._clean:
            self._send({"stop": {"stop_grace_s": stop_grace_s, "kill_grace_s": kill_grace_s}})
        try:
            async with asyncio.timeout(stop_grace_s + kill_grace_s + _MARGIN_S):
                await asyncio.shield(self._gone)
                if self._clean and self._listener is not None:
                    await asyncio.shield(self._listener)
        except TimeoutError:
            await asyncio.shield(self._end_warden())
        return StopReport(
            exit=self.exited.result() if self.exited.done() else None,
            killed=self._killed,
            clean=self._clean,
            seconds=loop.time() - began_s,
            survivors=self.survivors(),
        )

    def refresh(self) -> None:
        """Have the state file name every process of the engine as of now; worth it once the engine is ready."""
        self._send({"refresh": {}})

    def members(self) -> tuple[Process, ...]:
        """Every process of the engine now, zombies left out."""
        if self._clean:
            return ()
        if not self._child.exited.done():
            return tuple(item for item in below(self._child.pid, read_processes()) if item.state != "Z")
        return tuple(
            item for item in reaper.belonging(self._record, read_processes(details=True)) if item.pid != os.getpid()
        )

    def survivors(self) -> tuple[Process, ...]:
        """What is left of the engine; () is what VERIFY_CLEAN wants to see after a stop."""
        return self.members()

    def marked(self) -> tuple[Process, ...]:
        """The processes that carry the engine's marks (token, cgroup, group; see reaper), whoever started them."""
        return reaper.belonging(self._record, read_processes(details=True))

    def rss_bytes(self) -> int:
        """Resident memory of all its processes; pages they share are counted once for each."""
        return sum(item.rss_bytes for item in self.members())

    def _send(self, command: dict[str, Any]) -> None:
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(command) + b"\n")

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        """Follow the warden's reports to its end; a warden that ends without "clean" is replaced by a sweep."""
        try:
            while line := await reader.readline():
                self._take(msgspec.json.decode(line, type=dict[str, dict[str, Any]]))
        except (OSError, ValueError, msgspec.DecodeError, msgspec.ValidationError):
            self._child.signal_group(signal.SIGKILL)  # it talks nonsense, or the socket broke: handled as its loss
        finally:
            self._writer.close()
        await self._child.exited
        if not self._clean:
            await self._sweep()
        self._settle()

    def _take(self, report: dict[str, dict[str, Any]]) -> None:
        for kind, body in report.items():
            if kind == "started":
                self.pid, self.pgid, self.start_ticks = body["pid"], body["pgid"], body["start_ticks"]
                self._record = msgspec.structs.replace(
                    self._record, pid=self.pid, pgid=self.pgid, start_ticks=self.start_ticks
                )
                if not self._started.done():
                    self._started.set_result(None)
            elif kind == "failed":
                self._started.set_exception(SpawnError(f"cannot start: {body['message']}", errno=body["errno"]))
            elif kind == "exited" and not self.exited.done():
                self.exited.set_result(msgspec.convert(body, ExitStatus))
            elif kind == "gone":
                self._killed |= body["killed"]
                self._clean = body["clean"]
                if not self._gone.done():
                    self._gone.set_result(self._clean)

    async def _sweep(self) -> None:
        """The warden is gone and cannot have cleaned up: do it from here, by what was recorded."""
        saved = reaper.read_record(self._state_path) if self._state_path else None
        if saved is not None and saved.token == self._record.token:
            self._record = saved
        if self._record.pid:
            self._killed = True
            _, left = await asyncio.to_thread(reaper.kill_record, self._record, grace_s=5.0)
            self._clean = not left
        else:
            self._clean = True
        if self._clean and self._state_path is not None:
            self._state_path.unlink(missing_ok=True)

    def _settle(self) -> None:
        """Nothing more will be heard: no waiter may be left waiting."""
        if not self._started.done():
            self._started.set_exception(SpawnError("the warden ended before the engine was started"))
            self._started.exception()  # retrieved: the starter may have been cancelled
        if not self.exited.done():
            self.exited.set_result(ExitStatus())
        if not self._gone.done():
            self._gone.set_result(self._clean)

    async def _end_warden(self) -> None:
        """The warden does not answer: note what it holds, end it, and clean up by the record."""
        if self._child.exited.done():
            return
        held = tuple((item.pid, item.start_ticks) for item in below(self._child.pid, read_processes()))
        self._record = msgspec.structs.replace(self._record, members=held)
        if self._state_path is not None:
            self._state_path.unlink(missing_ok=True)
        self._child.signal_group(signal.SIGKILL)
        if self._listener is not None:
            await self._listener


async def spawn_engine(
    command: EngineCommand,
    *,
    log_path: Path,
    cwd: Path,
    state_dir: Path | None = None,
    attempt_id: str = "",
    port: int = 0,
    cgroups: cgroup.CgroupSupport | None = None,
) -> EngineProcess:
    """Start an engine below a warden, in its own session, process group and (given `cgroups`) cgroup.

    Args:
        command: what to run; its files are written into `cwd` first.
        log_path: gets stdout and stderr, appended; must not be a link.
        cwd: the engine's working directory, existing.
        state_dir: where the state file for the sweep goes; None keeps none.
        attempt_id, port: for the state file.
        cgroups: result of `cgroup.probe`.

    Raises:
        SpawnError: the engine (or the warden, or the state file) could not be made; nothing is left running.
    """
    token = secrets.token_hex(16)
    agent = read_process(os.getpid())
    folder, relative = cgroup.make(cgroups, token) if cgroups is not None else ("", "")
    record = reaper.Record(
        attempt_id=attempt_id,
        port=port,
        boot_id=boot_id(),
        token=token,
        cgroup=folder,
        cgroup_path=relative,
        agent_pid=os.getpid(),
        agent_start_ticks=agent.start_ticks if agent is not None else 0,
    )
    state_path = state_dir / f"{token}{reaper.SUFFIX}" if state_dir is not None else None
    try:
        _write_files(command.files, cwd)
        child, reader, writer = await _spawn(
            (sys.executable, "-I", "-S", _WARDEN), env={"LANG": "C.UTF-8"}, cwd=Path("/"), stderr=None
        )
    except BaseException:
        if folder:
            cgroup.kill_and_remove(folder)
        raise
    engine = EngineProcess(child, writer, record=record, state_path=state_path, log_path=log_path)
    await engine._start(  # noqa: SLF001 - the constructor's asynchronous half
        reader,
        {
            "argv": list(command.argv),
            "env": {**command.env, TOKEN_VARIABLE: token},
            "cwd": str(cwd),
            "log": str(log_path),
            "state": str(state_path) if state_path is not None else "",
            "record": msgspec.to_builtins(record),
            "cgroup": folder,
            "eof_grace_s": EOF_GRACE_S,
        },
    )
    return engine


class HelperProcess:
    """A child that serves the agent: `async with await spawn_helper(...) as helper:`. Leaving kills and reaps it.

    Attributes:
        pid: leader of its own session and group.
        stdout: its standard output; lines of at most 1 MiB.
        exited: resolves when it ends; its group is killed and it is reaped by then.
    """

    def __init__(self, child: _Child, stdout: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = child.pid
        self.stdout = stdout
        self.exited = child.exited
        self._child = child
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send a part of its standard input, which stays open."""
        self._writer.write(data)
        await self._writer.drain()

    async def feed(self, data: bytes) -> None:
        """Send all of its standard input, and close that."""
        await self.send(data)
        self._writer.write_eof()

    def terminate(self) -> None:
        """Ask its group to end (SIGTERM)."""
        self._child.asked = True
        self._child.signal_group(signal.SIGTERM)

    async def stop(self, grace_s: float) -> ExitStatus:
        """SIGTERM, and SIGKILL after `grace_s`; returns when it has been reaped."""
        self.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await asyncio.shield(self.exited)
        except TimeoutError:
            self._child.signal_group(signal.SIGKILL)
            return await asyncio.shield(self.exited)

    async def aclose(self) -> None:
        """Kill it if it still runs, reap it, and close its socket."""
        self._child.asked = True
        self._child.signal_group(signal.SIGKILL)
        self._writer.close()
        await asyncio.shield(self.exited)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def spawn_helper(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, stderr_path: Path | None = None
) -> HelperProcess:
    """Start a helper in its own session; stdin and stdout are one socket, which it sees closed when the agent dies.

    Args:
        argv: the program (absolute path) and its arguments.
        env: its complete environment.
        cwd: its working directory.
        stderr_path: file its stderr is appended to; None discards it.

    Raises:
        SpawnError: it could not be executed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(stderr_path or os.devnull, flags if stderr_path is not None else os.O_WRONLY, 0o600)
    except OSError as error:
        raise SpawnError(f"cannot write {stderr_path}: {error}", errno=error.errno or 0) from error
    try:
        return HelperProcess(*await _spawn(argv, env=env, cwd=cwd, stderr=fd))
    finally:
        os.close(fd)


async def run_helper(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    timeout_s: float,
    stdin: bytes = b"",
    max_bytes: int = _LINE_BYTES,
) -> HelperResult:
    """Run a short program to its end, or kill it after `timeout_s`; at most `max_bytes` of each output are kept.

    Raises:
        SpawnError: it could not be executed.
    """
    with tempfile.TemporaryDirectory(prefix="scoot-helper-") as folder:
        errors = Path(folder) / "stderr"
        output = bytearray()
        timed_out = False
        async with await spawn_helper(argv, env=env, cwd=cwd, stderr_path=errors) as helper:
            try:
                async with asyncio.timeout(timeout_s):
                    await helper.feed(stdin)
                    while chunk := await helper.stdout.read(65536):
                        output += chunk[: max_bytes - len(output)]
                    await asyncio.shield(helper.exited)
            except TimeoutError:
                timed_out = True
            except ConnectionError:
                await asyncio.shield(helper.exited)
        with errors.open("rb") as file:
            return HelperResult(
                exit=helper.exited.result(),
                stdout=bytes(output),
                stderr=file.read(max_bytes),
                timed_out=timed_out,
            )


def _write_files(files: Mapping[str, str], cwd: Path) -> None:
    for name, text in files.items():
        if not _FILE_NAME.fullmatch(name):
            raise LocalProtocolError(f"an adapter named a file {name!r}")
        try:
            (cwd / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise SpawnError(f"cannot write {cwd / name}: {error}", errno=error.errno or 0) from error
