"""The agent: one process that keeps a session, runs attempts, and never leaves anything behind."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import importlib.metadata
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from scoot.agent.advisor import Advisor
from scoot.agent.config import AgentConfig
from scoot.agent.core import guard
from scoot.agent.core.run import failure
from scoot.agent.engines.base import EngineAdapter
from scoot.agent.engines.checker import make_checker
from scoot.agent.engines.lister import make_lister
from scoot.agent.engines.registry import make_adapter
from scoot.agent.folders import AttemptFolders
from scoot.agent.host import cgroup, memory, reaper
from scoot.agent.host.gpu import GpuSource, NvmlGpus
from scoot.agent.host.proctable import boot_id
from scoot.agent.link import codec
from scoot.agent.link.blobs import BlobCache
from scoot.agent.link.channel import Channel, open_channel
from scoot.agent.link.codec import AttemptRef
from scoot.agent.link.session import Session
from scoot.agent.link.upload import Uploader
from scoot.agent.notify import Notifier
from scoot.agent.roster import Roster
from scoot.agent.workplace import Workplace
from scoot.wire.assignment import CPU, Assignment, Device, EngineOffer, Inventory, Progress
from scoot.wire.errors import UserError
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.reasons import Reason

LOG: Final = logging.getLogger(__name__)

_PROBE_TIMEOUT_S: Final = 180.0
"""Importing an engine from a cold disk takes its time; it must not keep the agent from serving the others."""

_TICK_S: Final = 1.0
_FLUSH_S: Final = 10.0
"""How long a draining agent waits for its outcomes to be acknowledged; they are on disk anyway."""

_FLUSH_ALONE_S: Final = 1.0
"""The same while there is no session."""


def boot_clock() -> float:
    """Seconds that go on while the host is suspended: a lease ends for a sleeping agent too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def scoot_version() -> str:
    """Version of the installed distribution, "0" where it is not installed."""
    try:
        return importlib.metadata.version("scoot-tuner")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class Daemon:
    """One agent process. `await run()` once; `drain()` and `hurry()` end it."""

    def __init__(
        self,
        config: AgentConfig,
        *,
        gpus: GpuSource | None = None,
        clock: Callable[[], float] = boot_clock,
        notifier: Notifier | None = None,
        ready_file: Path | None = None,
        own_root: int = 0,
    ) -> None:
        """`ready_file` is written once the coordinator has welcomed this agent; `gpus` defaults to NVML's.

        `own_root`: process whose tree is not counted as others' work on this host, 0 for this one.
        """
        self._config = config
        self._gpus = gpus or NvmlGpus()
        self._clock = clock
        self._notifier = notifier or Notifier(os.environ)
        self._ready_file = ready_file
        self._own_root = own_root or os.getpid()
        self._incarnation = uuid.uuid4().hex
        self._draining = asyncio.Event()
        self._hurry = asyncio.Event()
        self._offers: dict[str, EngineOffer] = {}
        self._roster: Roster | None = None
        self._advisor: Advisor | None = None
        self._session: Session | None = None

    def drain(self) -> None:
        """Stop cleanly: attempts are stopped and verified, outcomes told; a second call hurries."""
        if self._draining.is_set():
            self.hurry()
        self._draining.set()

    def hurry(self) -> None:
        """Kill what runs, and do not wait for the coordinator."""
        self._draining.set()
        self._hurry.set()
        if self._roster is not None:
            self._roster.stop_all(failure(Reason.HOST_LOST, "the agent was killed"), hurry=True)

    async def run(self) -> None:
        """Serve until drained.

        Raises:
            UserError: the configuration cannot be used, or the coordinator refuses this agent for good.
            OSError: the data folder cannot be used.
        """
        config = self._config
        with _lock(config.data_dir):
            state_dir = config.data_dir / "engines"
            await asyncio.to_thread(state_dir.mkdir, exist_ok=True)
            await self._sweep(state_dir)
            support = await asyncio.to_thread(cgroup.probe)
            await asyncio.to_thread(cgroup.remove_empty, support)
            cache = config.data_dir / "cache"
            adapters = {name: make_adapter(item, cache_dir=cache) for name, item in config.engines.items()}
            if not await self._probe(adapters):
                return
            made = {name: make_checker(item, self._gpus) for name, item in config.engines.items()}
            checkers = {name: checker for name, checker in made.items() if checker is not None}
            listed = {name: make_lister(item) for name, item in config.engines.items()}
            listers = {**{name: lister for name, lister in listed.items() if lister is not None}, **checkers}
            self._offers = {
                name: msgspec.structs.replace(offer, checks=name in checkers, lists=name in listers)
                if not offer.error
                else offer
                for name, offer in self._offers.items()
            }
            devices = await asyncio.to_thread(self._find_devices)
            connect = self._connect
            connect_once = connect()  # unusable certificates are told now, not on the tenth reconnect
            await connect_once.close(None)
            uploader = Uploader(connect, self._clock)
            blobs = BlobCache(connect, config.data_dir / "blobs")
            workplace = Workplace(
                adapters=adapters,
                offers=self._offers,
                model_roots=config.model_roots,
                devices={device.id: device for device in devices},
                gpus=self._gpus,
                folders=AttemptFolders(config.data_dir / "attempts", boot_id()),
                state_dir=state_dir,
                fetch=blobs.get,
                uploader=uploader,
                reserve_memory_bytes=config.reserve_memory_bytes,
                room_wait_s=config.room_wait_s,
                clock=self._clock,
                cgroups=support,
                own_root=self._own_root,
                checkers=checkers,
                listers=listers,
            )
            roster = self._roster = Roster(workplace, devices)
            await roster.recover()
            session = self._session = Session(connect, self, self._clock)
            advisor = self._advisor = Advisor(workplace, session.wake)
            roster.changed = session.wake
            advisor.look_up()
            try:
                await self._serve(roster, session, uploader)
            finally:
                await advisor.aclose()
                for checker in checkers.values():
                    await checker.aclose()
                self._gpus.close()

    async def _serve(self, roster: Roster, session: Session, uploader: Uploader) -> None:
        """Everything side by side until drained, or until one of it ends that should not."""
        tasks = [
            asyncio.create_task(session.run(), name="session"),
            asyncio.create_task(uploader.run(), name="upload"),
            asyncio.create_task(self._watch(roster, session), name="watch"),
        ]
        greeting = asyncio.create_task(self._tell_ready(session), name="ready")
        draining = asyncio.create_task(self._draining.wait(), name="draining")
        self._notifier.tell("READY=1", f"STATUS=connecting to {self._config.coordinator}")
        try:
            done, _ = await asyncio.wait([*tasks, draining], return_when=asyncio.FIRST_COMPLETED)
            failed = [task for task in tasks if task in done]
            self._notifier.tell("STOPPING=1")
            roster.drain()
            await roster.stopped()
            if not failed:
                await self._flush(roster, session)
            for ended in failed:
                ended.result()
        finally:
            for task in (greeting, draining, *tasks):
                task.cancel()
            await asyncio.wait([greeting, draining, *tasks])
            await roster.close()

    async def _flush(self, roster: Roster, session: Session) -> None:
        """Give the coordinator a chance to hear the last outcomes."""
        if not session.welcomed.is_set():
            return
        patience_s = _FLUSH_S if session.connected else _FLUSH_ALONE_S
        waits = [asyncio.create_task(roster.idle()), asyncio.create_task(self._hurry.wait())]
        await asyncio.wait(waits, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        await asyncio.wait(waits)
        if roster.finished():
            LOG.warning("%d outcome(s) were not acknowledged and stay on disk", len(roster.finished()))

    async def _watch(self, roster: Roster, session: Session) -> None:
        """The heart of the loop: feeds the service manager's watchdog and guards the lease."""
        tick_s = min(_TICK_S, (self._notifier.watchdog_s or 2 * _TICK_S) / 2)
        while True:
            self._notifier.tell("WATCHDOG=1")
            now_s = self._clock()
            if roster.running() and guard.is_fenced(session.guard, now_s):
                LOG.error("no heartbeat was acknowledged for %.1f s: fencing", now_s - session.guard.proven_at_s)
                text = "the lease ran out: no heartbeat was acknowledged in time"
                roster.stop_all(failure(Reason.SELF_FENCED, text))
            at_s = guard.fences_at_s(session.guard)
            left_s = tick_s if at_s is None or at_s <= now_s else at_s - now_s
            await asyncio.sleep(min(tick_s, left_s))  # noqa: TID251 - the tick of the guard itself

    async def _probe(self, adapters: Mapping[str, EngineAdapter]) -> bool:
        """Probe the engines; False when the agent was told to stop meanwhile."""
        probing = asyncio.create_task(probe_all(adapters))
        draining = asyncio.create_task(self._draining.wait())
        both: set[asyncio.Task[Any]] = {probing, draining}
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if self._draining.is_set():
                return False
            self._offers = probing.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
        return True

    async def _tell_ready(self, session: Session) -> None:
        await session.welcomed.wait()
        self._notifier.tell(f"STATUS=connected to {self._config.coordinator}")
        if self._ready_file is not None:
            await asyncio.to_thread(self._ready_file.write_text, f"{os.getpid()}\n")

    async def _sweep(self, state_dir: Path) -> None:
        """End what an earlier agent left behind, before anything is offered."""
        for orphan in await asyncio.to_thread(reaper.sweep, state_dir):
            LOG.warning("left behind by an earlier agent: %s: %s", orphan.attempt_id or "an engine", orphan.detail)
            if orphan.survivors:
                raise UserError(
                    f"processes {list(orphan.survivors)} of an earlier engine cannot be ended",
                    path=str(state_dir),
                    hint="they may be stuck in the driver: reboot the host",
                )

    def _connect(self) -> Channel:
        return open_channel(self._config.coordinator, self._config.tls)

    def _find_devices(self) -> tuple[Device, ...]:
        gpus = self._gpus.devices()
        slots = self._config.cpu_slots if self._config.cpu_slots is not None else int(not gpus)
        LOG.info("%s; %d CPU slot(s)", self._gpus.detail, slots)
        return (*gpus, *(Device(id=f"cpu-{index}", kind=CPU) for index in range(slots)))

    # What the session asks (scoot.agent.link.session.SessionHandler).

    def hello(self) -> codec.Hello:
        """Who we are and what we run, now."""
        roster = self._the_roster
        return codec.Hello(
            agent_id=self._config.agent_id,
            incarnation=self._incarnation,
            boot_id=boot_id(),
            version=scoot_version(),
            inventory=Inventory(
                devices=roster.devices,
                engines=tuple(self._offers.values()),
                model_roots=self._config.model_roots,
                hostname=socket.gethostname(),
                cpus=len(os.sched_getaffinity(0)),
                memory_bytes=memory.read_memory().total_bytes,
            ),
            running=roster.running(),
            finished=roster.finished(),
        )

    def assign(self, assignment: Assignment) -> None:
        """Execute an attempt, unless it is known."""
        if self._session is not None and self._session.guard.policy is not None:
            self._the_roster.assign(assignment, self._session.guard.policy)

    def cancel(self, ref: AttemptRef) -> None:
        """Stop an attempt."""
        self._the_roster.cancel(ref)

    def outcome_acknowledged(self, ref: AttemptRef) -> None:
        """An outcome need not be kept any longer."""
        self._the_roster.acknowledged(ref)

    def updates(self) -> Mapping[AttemptRef, Progress]:
        """Where every running attempt is."""
        return self._the_roster.updates()

    def outcomes(self) -> Sequence[AttemptOutcome]:
        """Outcomes ready to be reported."""
        return self._the_roster.outcomes()

    def check(self, question: codec.CheckQuestion) -> None:
        """Find out what an engine would make of configurations."""
        self._the_advisor.ask(question)

    def check_replies(self) -> Sequence[codec.CheckReply]:
        """Answers that were not given out before."""
        return self._the_advisor.take_replies()

    def catalogues(self) -> Mapping[str, bytes]:
        """JSON of the options of engines, by their names."""
        return self._the_advisor.catalogues

    @property
    def _the_advisor(self) -> Advisor:
        if self._advisor is None:
            raise AssertionError("no session before the advisor")
        return self._advisor

    @property
    def _the_roster(self) -> Roster:
        if self._roster is None:
            raise AssertionError("no session before the roster")
        return self._roster


async def probe_all(adapters: Mapping[str, EngineAdapter]) -> dict[str, EngineOffer]:
    """What each engine's probe says, all at once; one that takes too long cannot run."""

    async def probe(name: str, adapter: EngineAdapter) -> EngineOffer:
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                offer = await adapter.probe()
        except TimeoutError:
            offer = EngineOffer(name=name, error=f"its probe did not end within {_PROBE_TIMEOUT_S:.0f} s")
        LOG.info("engine %s: %s", name, offer.version or offer.error)
        return EngineOffer(name=name, version=offer.version, error=offer.error)

    offers = await asyncio.gather(*(probe(name, adapter) for name, adapter in adapters.items()))
    return {offer.name: offer for offer in offers}


@contextlib.contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    """One agent per data folder: two would sweep each other's engines."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        file = (data_dir / "lock").open("w")
    except OSError as error:
        raise UserError(
            f"cannot be used: {error.strerror}", path=str(data_dir), key="agent.data_dir", hint="make it writable"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(
                "another agent uses it", path=str(data_dir), key="agent.data_dir", hint="give each agent its own"
            ) from error
        yield
