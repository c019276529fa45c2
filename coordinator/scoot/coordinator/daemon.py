"""The coordinator put together: store, kernel, solver, services; and what performs the machine's effects."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from scoot.coordinator.config import CoordinatorConfig
from scoot.coordinator.report.build import build_results
from scoot.coordinator.report.results import Results
from scoot.coordinator.rpc.agents import AgentServicer
from scoot.coordinator.rpc.progress import ChangeHub, ProgressTable
from scoot.coordinator.rpc.server import start_server
from scoot.coordinator.rpc.sessions import Sessions
from scoot.coordinator.rpc.studies import StudyServicer
from scoot.coordinator.rpc.uploads import Uploads
from scoot.coordinator.runtime.clock import Clock, SystemClock
from scoot.coordinator.runtime.kernel import Kernel
from scoot.coordinator.runtime.leases import LeaseTable
from scoot.coordinator.runtime.measure import measure
from scoot.coordinator.runtime.suggesting import Suggester
from scoot.coordinator.runtime.writer import StoreThread
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.store.base import Segment, Store
from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.effects import Effect, Measure, RequestSuggestions
from scoot.coordinator.study.events import Event, Measured
from scoot.coordinator.study.options import Advice, advise
from scoot.wire.catalogue.option import Catalogue
from scoot.wire.endpoint import Endpoint, parse_endpoint
from scoot.wire.errors import LocalProtocolError, TransientError
from scoot.wire.spec import StudySpec

_log = logging.getLogger(__name__)

_LEASE_CHECK_S = 0.5


def open_store(config: CoordinatorConfig) -> Store:
    """The store the configuration names.

    Raises:
        UserError: another coordinator holds it, or its schema is newer than this version.
    """
    if config.store == "sqlite":
        from scoot.coordinator.store.sqlite import SqliteStore

        return SqliteStore(config.data_dir)
    from scoot.coordinator.store.postgres import PostgresStore

    return PostgresStore(config.store, config.data_dir)


class Coordinator:
    """A running coordinator; implements rpc.core.Core."""

    def __init__(self, config: CoordinatorConfig, store: Store, solver: Solver, clock: Clock | None = None) -> None:
        self.lease = config.lease
        self._config = config
        self._store = store
        self._solver = solver
        self._clock = clock or SystemClock()
        self._writer = StoreThread()
        self._leases = LeaseTable(config.lease, self._clock.monotonic_s())
        self._progress = ProgressTable()
        self._changes = ChangeHub()
        self._sessions = Sessions(self, self._progress, self._changes)
        self._suggester = Suggester(solver, self._sessions.engines)
        self._kernel = Kernel(store, self._writer, self._clock, perform=self._perform, changed=self._changes.notify)
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def state(self) -> CoordinatorState:
        """The committed state."""
        return self._kernel.state

    async def submit(self, event: Event) -> None:
        """Take up an event (rpc.core.Core)."""
        await self._kernel.submit(event)

    def heard(self, agent_id: str) -> None:
        """An agent gave a sign of life now."""
        self._leases.heard(agent_id, self._clock.monotonic_s())

    def silent_s(self, agent_id: str) -> float:
        """Seconds since its last sign of life."""
        return self._leases.silent_s(agent_id, self._clock.monotonic_s())

    async def put_blob(self, data: bytes) -> str:
        """Keep a blob."""
        return await self._writer.run(self._store.put_blob, data)

    async def get_blob(self, sha256: str) -> bytes:
        """A blob; KeyError if it is not stored."""
        return await self._writer.run(self._store.get_blob, sha256)

    async def add_segments(self, segments: Sequence[Segment]) -> None:
        """Keep timing batches durably."""
        await self._writer.run(self._store.add_segments, segments)

    def advice(self, spec: StudySpec) -> Advice:
        """What a study is told at its submission; UserError where its engine would refuse an option."""
        engine = spec.service.engine
        return advise(spec, self._sessions.engines.authority(engine), self._sessions.engines.version(engine))

    def catalogue(self, engine: str, agent_id: str) -> Catalogue | None:
        """The options of an engine as a connected agent has it; None where none has told."""
        return self._sessions.engines.catalogue(engine, agent_id)

    def results(self, study_id: str) -> Results:
        """The study's results as they stand."""
        return build_results(
            self.state.studies[study_id],
            tuple(self.state.trials[study_id].values()),
            scoot_version=importlib.metadata.version("scoot-tuner"),
            now_s=self._clock.wall_s(),
        )

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        """Run; yields the bound address. Leaving the context stops the services and closes the store."""
        studies = StudyServicer(self, self._progress, self._changes)
        agents = AgentServicer(self, self._sessions, Uploads(self))
        try:
            await self._kernel.load()
            endpoint = parse_endpoint(self._config.listen, key="listen")
            server, bound = await start_server(endpoint, self._config.tls, studies, agents)
            async with asyncio.TaskGroup() as tasks:
                self._group = tasks
                self._spawn(self._kernel.run(), "kernel")
                self._kernel.resume()
                self._spawn(self._watch_leases(), "leases")
                try:
                    yield bound
                finally:
                    self._sessions.close()
                    await server.stop(grace=1.0)
                    for task in self._tasks:
                        task.cancel()
        finally:
            await self._solver.aclose()
            self._writer.close()
            self._store.close()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Run work beside the services. Its failure ends the daemon loudly; its end is forgotten."""
        if self._group is None:
            raise LocalProtocolError("work is spawned only while serving")
        task = self._group.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _perform(self, effect: Effect) -> None:
        """Do what a committed step owes."""
        match effect:
            case RequestSuggestions():
                self._spawn(self._suggest(effect), f"suggest {effect.study_id}")
            case Measure():
                self._spawn(self._measure(effect), f"measure {effect.attempt_id}")
            case _:
                self._sessions.perform(effect)

    async def _watch_leases(self) -> None:
        """Turn silence into events."""
        while True:
            await self._clock.sleep(_LEASE_CHECK_S)
            for event in self._leases.due(self.state.agents, self._clock.monotonic_s()):
                _log.info("agent %s is %s", event.agent_id, event.lease)
                await self._until_taken(event)

    async def _until_taken(self, event: Event) -> None:
        """Submit an event of our own; while the store has no room, wait and try again."""
        while True:
            try:
                await self._kernel.submit(event)
            except TransientError as error:
                _log.warning("the store refuses (%s); trying again in %.1f s", error, error.retry_after_s)
                await self._clock.sleep(error.retry_after_s)
            else:
                return

    async def _suggest(self, effect: RequestSuggestions) -> None:
        study = self.state.studies[effect.study_id]
        await self._until_taken(await self._suggester.suggest(effect, study, self.state.trials[effect.study_id]))

    async def _measure(self, effect: Measure) -> None:
        attempt = self.state.attempts[effect.attempt_id]
        study = self.state.studies[attempt.study_id]
        trial = self.state.trials[attempt.study_id][attempt.trial]
        measured: Measured = await self._writer.run(measure, self._store, study, trial, attempt)
        await self._until_taken(measured)
