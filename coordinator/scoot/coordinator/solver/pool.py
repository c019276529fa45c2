"""The coordinator's side of the optimizer: one worker process, a deadline, a memory cap, and Sobol when all else fails.

Neither torch nor scipy is imported into the coordinator's own process, except by the very last fallback.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Final, Self

import msgspec

from scoot.coordinator.optimizer.base import Ask, Suggestion
from scoot.coordinator.solver import protocol
from scoot.coordinator.solver.call import check_known, suggest
from scoot.coordinator.solver.result import SolverResult
from scoot.wire.errors import SolverError, UserError

MEMORY_BYTES: Final = 4 * 1024**3
FALLBACK_METHOD: Final = "sobol"
FALLBACK_SOURCE: Final = "sobol-fallback"
FALLBACK_DEADLINE_S: Final = 20.0
"""Enough to start Python and import scipy on a machine that is busy with something else."""

_STDERR_CHARS: Final = 2000
_REAP_S: Final = 5.0
_ONE_THREAD: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_log = logging.getLogger(__name__)


class Solver:
    """Asks the optimizer in its worker process. Use from one event loop; calls are served one after the other.

    The worker starts with the first call and again after a failure. Close with `aclose`, or use as a context manager.

    Args:
        memory_bytes: private memory the worker may have.
        environ: the worker's environment, os.environ by default.
        fallback_deadline_s: time for Sobol in a fresh worker after the method failed.
    """

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        environ: Mapping[str, str] | None = None,
        fallback_deadline_s: float = FALLBACK_DEADLINE_S,
    ) -> None:
        self._memory_bytes = memory_bytes
        self._environ = dict(os.environ if environ is None else environ)
        self._fallback_deadline_s = fallback_deadline_s
        self._turn = asyncio.Lock()
        self._worker: _Worker | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    @property
    def worker_pid(self) -> int | None:
        """Process id of the running worker, for display and tests."""
        return None if self._worker is None else self._worker.pid

    async def suggest(self, method: str, ask: Ask, deadline_s: float) -> SolverResult:
        """Suggestions of `method`, or of Sobol with the reason in `fallback`.

        Args:
            method: a name of optimizer.registry.METHODS.
            ask: the call.
            deadline_s: for the method, from the moment the worker is free. The fallback takes at most
                `fallback_deadline_s` more, and no worker survives an overrun.

        Raises:
            UserError: unknown method, or the study itself is wrong. Never what a method raised: that is its failure.
            SolverError: even Sobol failed; nothing was suggested.
        """
        check_known(method, self._environ, objectives=len(ask.spec.objectives))
        async with self._turn:
            try:
                return SolverResult(suggestions=await self._ask_worker(method, ask, deadline_s))
            except SolverError as error:
                if self._closed:
                    raise
                reason = f"{method}: {error}"
            _log.warning("optimizer failed, using Sobol instead: %s", reason)
            return await self._fall_back(ask, reason)

    async def aclose(self) -> None:
        """Stop the worker, a computation in progress included; idempotent. The call it served falls to SolverError."""
        self._closed = True
        await self._stop_worker()
        async with self._turn:  # the call that was in progress, perhaps starting a worker, has to notice
            await self._stop_worker()

    async def _fall_back(self, ask: Ask, reason: str) -> SolverResult:
        try:
            suggestions = await self._ask_worker(FALLBACK_METHOD, ask, self._fallback_deadline_s)
        except SolverError as error:
            if self._closed:
                raise
            reason = f"{reason}; Sobol in a worker: {error}"
            _log.warning("no worker can be used, suggesting in the coordinator's own process: %s", reason)
            suggestions = await _in_process(ask, reason)
        relabelled = tuple(msgspec.structs.replace(item, source=FALLBACK_SOURCE) for item in suggestions)
        return SolverResult(suggestions=relabelled, fallback=reason)

    async def _ask_worker(self, method: str, ask: Ask, deadline_s: float) -> tuple[Suggestion, ...]:
        """One call to the worker. It is stopped unless it answered as it should."""
        healthy = False
        try:
            async with asyncio.timeout(deadline_s):
                response = await (await self._ready_worker()).call(method, ask)
            healthy = response.failure is None or response.failure.user
        except TimeoutError:
            raise SolverError(f"no answer within {deadline_s:g} s") from None
        except OSError as error:
            raise SolverError(f"the worker process cannot be used: {error}") from error
        finally:
            if not healthy:
                await self._stop_worker()
        if response.failure is not None:
            raise response.failure.user_error() if response.failure.user else SolverError(response.failure.message)
        if len(response.suggestions) > ask.n:
            raise SolverError(f"the worker answered {len(response.suggestions)} suggestions instead of {ask.n}")
        return response.suggestions

    async def _ready_worker(self) -> _Worker:
        """The worker, started if there is none alive."""
        if self._worker is None or not self._worker.alive:
            await self._stop_worker()
            if not self._closed:
                self._worker = await _Worker.start(self._memory_bytes, self._environ)
        if self._closed or self._worker is None:
            raise SolverError("the solver is closed")
        return self._worker

    async def _stop_worker(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()


async def _in_process(ask: Ask, reason: str) -> tuple[Suggestion, ...]:
    """Sobol in a thread of this process; imports scipy for good."""
    try:
        return await asyncio.to_thread(suggest, FALLBACK_METHOD, ask, {})
    except UserError:
        raise
    except Exception as error:
        raise SolverError(f"{reason}; Sobol in the coordinator: {type(error).__name__}: {error}") from error


class _Worker:
    """One worker process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stderr = ""
        self._drain = asyncio.create_task(self._keep_stderr(), name="solver-stderr")
        self._calls = 0

    @classmethod
    async def start(cls, memory_bytes: int, environ: Mapping[str, str]) -> _Worker:
        """Start a process. -P: no module of the current folder can take the place of a library's."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "scoot.coordinator.solver.worker",
            "--memory-bytes",
            str(memory_bytes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**dict.fromkeys(_ONE_THREAD, "1"), **environ},
            limit=protocol.LINE_BYTES,
            start_new_session=True,
        )
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def call(self, method: str, ask: Ask) -> protocol.Response:
        """One request and its response.

        Raises:
            SolverError: the process ended, or answered something else.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise SolverError("the worker process has no pipes")
        self._calls += 1
        request = protocol.Request(id=self._calls, method=method, ask=ask)
        line = b""
        if stdin.is_closing():  # it ended before it was asked; uvloop would raise a bare RuntimeError
            raise SolverError(await self._obituary())
        with contextlib.suppress(ConnectionError):  # it ended: what it said is read below
            stdin.write(msgspec.json.encode(request) + b"\n")
            await stdin.drain()
        try:
            line = await stdout.readline()
        except ValueError:  # a line beyond the limit
            raise SolverError(f"the worker answered more than {protocol.LINE_BYTES} bytes") from None
        if not line.endswith(b"\n"):
            raise SolverError(await self._obituary())
        try:
            response = msgspec.json.decode(line, type=protocol.Response)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SolverError(f"the worker answered garbage: {line[:80]!r}") from None
        if response.id != request.id:
            raise SolverError(f"the worker answered call {response.id} instead of {request.id}")
        return response

    async def stop(self) -> None:
        """Kill the process and whatever it started, and reap it; idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # its own session, so its own group
        try:
            async with asyncio.timeout(_REAP_S):
                await self._process.wait()
                await self._drain
        except TimeoutError:
            _log.warning("worker process %d has been killed but is still there", self._process.pid)
            self._drain.cancel()

    async def _obituary(self) -> str:
        """How the process ended, with the last line it wrote."""
        code = await self._process.wait()
        await self._drain
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with status {code}"
        last = self._stderr.strip().rpartition("\n")[2]
        return f"the worker process {how}" + (f": {last}" if last else "")

    async def _keep_stderr(self) -> None:
        """Keep the end of what the process writes to standard error, and log it all at debug level."""
        stderr = self._process.stderr
        if stderr is None:
            return
        while chunk := await stderr.read(4096):
            text = chunk.decode(errors="replace")
            _log.debug("worker %d: %s", self._process.pid, text.rstrip())
            self._stderr = (self._stderr + text)[-_STDERR_CHARS:]
