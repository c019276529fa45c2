"""The engine replicas of one attempt: started, asked, watched and stopped together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scoot.agent import canary
from scoot.agent.core.command import EngineCommand
from scoot.agent.core.plan import Prompting
from scoot.agent.engines.base import EngineAdapter, LaunchRequest
from scoot.agent.host import logs
from scoot.agent.host.cgroup import CgroupSupport
from scoot.agent.host.ports import port_is_free
from scoot.agent.host.process import EngineProcess, ExitStatus, StopReport, spawn_engine
from scoot.agent.listener import is_served, is_served_by, users_of
from scoot.wire.spec import Config

_POLL_FIRST_S: Final = 0.05
_POLL_MAX_S: Final = 1.0
_HEALTH_TIMEOUT_S: Final = 5.0
_INFO_TIMEOUT_S: Final = 5.0
_EXIT_WAIT_S: Final = 3.0
_TAKEN: Final = 2


class ReplicaTrouble(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong with which replica.

    Attributes:
        replica: its index.
        exit: how it ended, None while it runs.
        silent: it runs and does not answer at all.
        foreign: another process answers on its port.
        detail: what the last question got for an answer.
    """

    replica: int
    exit: ExitStatus | None
    silent: bool = False
    foreign: bool = False
    detail: str = ""


class Fleet:
    """The replicas of one attempt, in the order of their ports.

    Attributes:
        launches: what each replica was asked to be.
        commands: how each is started.
    """

    def __init__(
        self, adapter: EngineAdapter, launches: Sequence[LaunchRequest], folder: Path, *, generation: int = 0
    ) -> None:
        """`generation` numbers the starts within an attempt, so that each has its own logs.

        Raises:
            UserError: a flag, value or variable that this agent does not allow; nothing was started.
        """
        self.launches = tuple(launches)
        self.commands: tuple[EngineCommand, ...] = tuple(adapter.command(launch) for launch in launches)
        self._adapter = adapter
        self._folder = folder
        self._logs = [folder / f"engine-{index}-{generation}.log" for index in range(len(self.launches))]
        self._engines: dict[int, EngineProcess] = {}

    async def start(self, *, attempt_id: str, state_dir: Path, cgroups: CgroupSupport | None) -> None:
        """Start every replica, one after the other (a fork each).

        Raises:
            SpawnError: one could not be executed; those before it run until `stop`.
        """
        for index, (launch, command) in enumerate(zip(self.launches, self.commands, strict=True)):
            cwd = self._folder / f"engine-{index}"
            cwd.mkdir(exist_ok=True)
            self._engines[index] = await spawn_engine(
                command,
                log_path=self._logs[index],
                cwd=cwd,
                state_dir=state_dir,
                attempt_id=attempt_id,
                port=launch.port,
                cgroups=cgroups,
            )

    def exits(self) -> list[asyncio.Future[ExitStatus]]:
        """One future per running replica; each resolves when its engine ends."""
        return [engine.exited for engine in self._engines.values()]

    def dead(self) -> ReplicaTrouble | None:
        """The first replica that has ended."""
        for index, engine in self._engines.items():
            if engine.exited.done():
                return ReplicaTrouble(replica=index, exit=engine.exited.result())
        return None

    async def ready(self, prompting: Callable[[LaunchRequest], Prompting], deadline_s: float) -> ReplicaTrouble | None:
        """Wait until every replica is healthy and has answered one completion; None when all have.

        `deadline_s` is a time of the event loop's clock; trouble without an exit means that it has passed, or that
        another process serves the port: some engines find that out and do not end.
        """
        tasks = [
            asyncio.create_task(self._ready(index, prompting(launch), deadline_s))
            for index, launch in enumerate(self.launches)
        ]
        try:
            for task in asyncio.as_completed(tasks):
                trouble = await task
                if trouble is not None:
                    return trouble
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for index, engine in self._engines.items():
            engine.refresh()
            if not await asyncio.to_thread(self._is_served, index):
                return self._foreign(index)
        return None

    async def _ready(self, index: int, prompting: Prompting, deadline_s: float) -> ReplicaTrouble | None:
        loop = asyncio.get_running_loop()
        exited = self._engines[index].exited
        pause_s = _POLL_FIRST_S
        detail = "was not asked"
        taken = 0
        while (left_s := deadline_s - loop.time()) > 0:
            answer = await self._ask(
                index, prompting, [exited], timeout_s=left_s, health_timeout_s=min(left_s, _HEALTH_TIMEOUT_S)
            )
            if answer is not None:
                if answer.ok and not exited.done():
                    return None
                detail = answer.shown
                # Twice in a row: a process that the engine starts may listen before it is known as the engine's.
                taken = taken + 1 if await asyncio.to_thread(self._is_taken, index) else 0
                if taken >= _TAKEN and not exited.done():
                    return self._foreign(index)
                await asyncio.wait({exited}, timeout=min(pause_s, max(0.0, deadline_s - loop.time())))
                pause_s = min(2 * pause_s, _POLL_MAX_S)
            if exited.done():
                return ReplicaTrouble(replica=index, exit=exited.result(), detail=detail)
        return ReplicaTrouble(replica=index, exit=None, detail=detail)

    def _is_served(self, index: int) -> bool:
        """Whether a replica's own processes listen on its port. Blocks."""
        return is_served_by(self.launches[index].port, [process.pid for process in self._engines[index].members()])

    def _is_taken(self, index: int) -> bool:
        """Whether others do instead. Blocks."""
        return is_served(self.launches[index].port) and not self._is_served(index)

    def _foreign(self, index: int) -> ReplicaTrouble:
        detail = f"port {self.launches[index].port} is served by another process"
        return ReplicaTrouble(replica=index, exit=None, foreign=True, detail=detail)

    async def check(
        self,
        prompting: Callable[[LaunchRequest], Prompting],
        *,
        timeout_s: float,
        exit_wait_s: float = _EXIT_WAIT_S,
    ) -> ReplicaTrouble | None:
        """Ask every replica for its health and one completion; None when all answer and none has ended.

        An exit status says more than silence: a replica that ends meanwhile, whichever is asked, is not waited for any
        longer, and one that does not answer is given `exit_wait_s` to end.
        """
        for index, launch in enumerate(self.launches):
            answer = await self._ask(
                index, prompting(launch), self.exits(), timeout_s=timeout_s, health_timeout_s=timeout_s
            )
            if answer is None:
                break
            if not answer.ok:
                exited = self._engines[index].exited
                await asyncio.wait({exited}, timeout=exit_wait_s)
                status = exited.result() if exited.done() else None
                return ReplicaTrouble(replica=index, exit=status, silent=answer.timed_out, detail=answer.shown)
        return self.dead()

    async def _ask(
        self,
        index: int,
        prompting: Prompting,
        exits: Sequence[asyncio.Future[ExitStatus]],
        *,
        timeout_s: float,
        health_timeout_s: float,
    ) -> canary.Answer | None:
        """What a replica answers; None if one of `exits` came first, which a question never answered must not hide."""
        question = asyncio.create_task(
            canary.check(
                self.launches[index].port,
                self._adapter.health_path,
                prompting,
                timeout_s=timeout_s,
                health_timeout_s=health_timeout_s,
            )
        )
        either: set[asyncio.Future[Any]] = {question, *exits}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            return question.result() if question.done() else None
        finally:
            question.cancel()
            await asyncio.wait({question})

    async def effective_config(self, *, running: bool) -> Config:
        """The tuned parameters as the first replica resolved them; `running`: it can be asked."""
        bodies: dict[str, str] | None = {} if running else None
        for path in self._adapter.info_paths if bodies is not None else ():
            answer = await canary.ask(self.launches[0].port, path, timeout_s=_INFO_TIMEOUT_S)
            if answer.ok and bodies is not None:
                bodies[path] = answer.body
        head = await asyncio.to_thread(logs.read_head, self._logs[0])
        return self._adapter.effective_config(head, self.launches[0], bodies)

    def log_text(self, replica: int) -> str:
        """A replica's log for classification. Blocks."""
        return logs.read_text(self._logs[replica])

    def log_tail(self, replica: int) -> str:
        """A replica's log as reports show it. Blocks."""
        return logs.read_tail(self._logs[replica])

    def rss_bytes(self) -> int:
        """Resident memory of the largest replica. Blocks."""
        return max((engine.rss_bytes() for engine in self._engines.values()), default=0)

    async def stop(self, stop_grace_s: float, kill_grace_s: float) -> list[StopReport]:
        """Stop every replica at once. Any number of calls, at once too; deadlines only move closer."""
        return list(
            await asyncio.gather(*(engine.stop(stop_grace_s, kill_grace_s) for engine in self._engines.values()))
        )

    def unclean(self, *, ports: bool = True) -> str:
        """What is left of the stopped replicas: processes or, if asked, ports; "" when nothing is. Blocks.

        A port counts unless it is others alone that use it: they may have taken it before the engine could, or since.
        """
        for index, engine in self._engines.items():
            left = engine.survivors()
            if left:
                return f"{len(left)} process(es) of replica {index} could not be ended: {[item.pid for item in left]}"
        for launch in self.launches if ports else ():
            used = "" if port_is_free(launch.port) else self._using(launch.port)
            if used:
                return f"port {launch.port} is still in use {used}"
        return ""

    def _using(self, port: int) -> str:
        """Who of this fleet may use a port that cannot be had, "" if nobody."""
        users = users_of(port)
        if users is None:
            return "" if port_is_free(port) else "(by whom cannot be told)"
        marked = {process.pid for engine in self._engines.values() for process in engine.marked()} if users else set()
        return f"by process(es) {sorted(users & marked)} of the engine" if users & marked else ""
