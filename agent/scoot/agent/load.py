"""The load process of one attempt: started, listened to, and understood when it ends."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from scoot.agent.core.run import Ending, failure
from scoot.agent.engines.base import base_environment
from scoot.agent.host import logs
from scoot.agent.host.process import ExitStatus, HelperProcess, spawn_helper
from scoot.benchmark.plan import LoadPlan, LoadProgress
from scoot.wire.measurement import LoadAudit
from scoot.wire.reasons import Reason

LOG: Final = logging.getLogger(__name__)

_SILENCE_S: Final = 30.0
"""The load process speaks twice a second; silent for so long, it hangs."""

_STOP_GRACE_S: Final = 3.0
"""SIGTERM makes it spool what is outstanding; that is worth a moment, not more."""

_EXIT_BAD_PLAN: Final = 2
"""See scoot.benchmark.process: the plan or the workload cannot be executed, by any agent."""

_EXIT_GRACE_S: Final = 10.0
"""From the end of its output to its exit."""

_PASSED_ON: Final = ("PYTHONPATH", "PYTHONMALLOC", "SCOOT_FAILPOINT")


class LoadRun:
    """The load process of one attempt, from start to end.

    Attributes:
        audits: what it observed of itself, once it ended well.
    """

    def __init__(self, plan: LoadPlan, folder: Path, heard: Callable[[LoadProgress], None]) -> None:
        """`heard` is called for every sign of life."""
        self.audits: tuple[LoadAudit, ...] = ()
        self._plan = plan
        self._folder = folder
        self._heard = heard

    async def start(self) -> HelperProcess:
        """Write the plan and start; use the result as a context manager.

        Raises:
            OSError: the plan cannot be written.
            SpawnError: it cannot be started.
        """
        path = self._folder / "plan.json"
        await asyncio.to_thread(path.write_bytes, msgspec.json.encode(self._plan))
        return await spawn_helper(
            (sys.executable, "-m", "scoot.benchmark.process", str(path)),
            env=base_environment() | {name: os.environ[name] for name in _PASSED_ON if name in os.environ},
            cwd=self._folder,
            stderr_path=self._folder / "load.log",
        )

    async def follow(self, helper: HelperProcess) -> Ending | None:
        """Listen to its progress; an ending where it falls silent or talks nonsense, None when its output ends."""
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    line = await helper.stdout.readline()
            except TimeoutError:
                return failure(Reason.CLIENT_CRASHED, f"the load process said nothing for {_SILENCE_S:.0f} s")
            if not line:
                return None
            try:
                progress = msgspec.json.decode(line, type=LoadProgress)
            except msgspec.DecodeError as error:
                return failure(Reason.CLIENT_CRASHED, f"the load process said {line[:200]!r}: {error}")
            self._heard(progress)

    async def end(self, helper: HelperProcess, *, at_once: bool) -> None:
        """Have it end: `at_once`, spooling what is outstanding as cancelled; else it is on its way out already."""
        if not at_once:
            await asyncio.wait({helper.exited}, timeout=_EXIT_GRACE_S)
        if not helper.exited.done():
            await helper.stop(_STOP_GRACE_S)

    def understand(self, status: ExitStatus) -> Ending | None:
        """Why it did not end well; None, and `audits` set, if it did. Blocks."""
        if status.code == 0:
            try:
                data = Path(self._plan.audit_path).read_bytes()
                self.audits = msgspec.json.decode(data, type=tuple[LoadAudit, ...])
            except (OSError, msgspec.DecodeError) as error:
                return failure(Reason.CLIENT_CRASHED, f"the load process left no audit: {error}")
            return None
        tail = logs.read_tail(self._folder / "load.log").strip().splitlines()
        last = tail[-1] if tail else "it said nothing"
        if status.code == errno.ENOSPC:
            return failure(Reason.DISK_FULL, f"no space for the timings: {last}")
        if status.code == _EXIT_BAD_PLAN:
            return failure(Reason.SPEC_INVALID, last)
        how = f"exit code {status.code}" if status.code is not None else f"signal {status.signal}"
        return failure(Reason.CLIENT_CRASHED, f"the load process ended with {how}: {last}")
