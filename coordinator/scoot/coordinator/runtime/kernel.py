"""The single writer: takes events from a queue, steps the machine, commits, and only then lets effects happen.

Events that wait together are committed together. An event's future is done when its change is durable. A commit that
fails leaves the state as it was and fails those futures; whoever submitted decides whether to try again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from scoot.coordinator.runtime.clock import Clock
from scoot.coordinator.runtime.writer import StoreThread
from scoot.coordinator.store.base import Change, Store
from scoot.coordinator.study.draft import CoordinatorState, Delta
from scoot.coordinator.study.effects import Effect
from scoot.coordinator.study.events import Event, JournalEntry
from scoot.coordinator.study.machine import resume, step
from scoot.coordinator.study.state import AgentRecord
from scoot.wire.errors import InvariantViolation, ScootError
from scoot.wire.lease import LeaseState

_GROUP = 64
"""Events committed in one transaction at most."""


class Kernel:
    """Owner of the coordinator's state.

    Args:
        store: where changes go; used from `writer`'s thread only.
        perform: called with each effect after its commit; must not block.
        changed: called with the ids of studies that changed, after the commit.
    """

    def __init__(
        self,
        store: Store,
        writer: StoreThread,
        clock: Clock,
        *,
        perform: Callable[[Effect], None],
        changed: Callable[[set[str]], None],
    ) -> None:
        self._store = store
        self._writer = writer
        self._clock = clock
        self._perform = perform
        self._changed = changed
        self._queue: asyncio.Queue[tuple[Event, asyncio.Future[None]]] = asyncio.Queue()
        self.state = CoordinatorState()

    async def load(self) -> None:
        """Take up the committed state. Agents count as SUSPECT until they are heard of."""
        snapshot = await self._writer.run(self._store.load)
        trials: dict[str, dict[int, object]] = {}
        for trial in snapshot.trials:
            trials.setdefault(trial.study_id, {})[trial.number] = trial
        self.state = CoordinatorState(
            studies={study.study_id: study for study in snapshot.studies},
            trials=trials,  # type: ignore[arg-type]  # filled with TrialRecord just above
            attempts={attempt.attempt_id: attempt for attempt in snapshot.attempts},
            agents={agent.agent_id: _suspect(agent) for agent in snapshot.agents},
            next_fence=snapshot.next_fence,
        )

    def resume(self) -> None:
        """Perform what the loaded state owes. Call once the performers are ready."""
        for effect in resume(self.state):
            self._perform(effect)

    async def submit(self, event: Event) -> None:
        """Queue an event and wait until its change is durable.

        Raises:
            TransientError: the store cannot take it now; nothing changed.
            PermanentInfraError: the store is broken; nothing changed.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait((event, done))
        await done

    async def run(self) -> None:
        """Work until cancelled. An InvariantViolation ends the daemon: contradictory state is not worked on."""
        while True:
            group = [await self._queue.get()]
            while len(group) < _GROUP and not self._queue.empty():
                group.append(self._queue.get_nowait())
            try:
                await self._commit(group)
            except (InvariantViolation, asyncio.CancelledError):
                for _, done in group:
                    done.cancel()
                raise

    async def _commit(self, group: list[tuple[Event, asyncio.Future[None]]]) -> None:
        state = self.state
        effects: list[Effect] = []
        deltas: list[Delta] = []
        journal: list[bytes] = []
        now_s = self._clock.wall_s()
        for event, _ in group:
            state, owed, delta = step(state, event, now_s)
            effects += owed
            if not delta.is_empty:
                deltas.append(delta)
                journal.append(msgspec.json.encode(JournalEntry(now_s=now_s, event=event)))
        if deltas:
            change = _merge(deltas, tuple(journal))
            try:
                await self._writer.run(self._store.commit, change)
            except ScootError as error:
                for _, done in group:
                    if not done.done():
                        done.set_exception(error)
                return
            self.state = state
            self._changed({study.study_id for delta in deltas for study in delta.studies})
        for effect in effects:
            self._perform(effect)
        for _, done in group:
            if not done.done():
                done.set_result(None)


def _suspect(agent: AgentRecord) -> AgentRecord:
    return msgspec.structs.replace(agent, lease=LeaseState.SUSPECT)


def _merge(deltas: list[Delta], journal: tuple[bytes, ...]) -> Change:
    """One transaction of several steps: the last form of every record, in order of first change."""
    fences = [delta.next_fence for delta in deltas if delta.next_fence is not None]
    return Change(
        studies=tuple({r.study_id: r for delta in deltas for r in delta.studies}.values()),
        trials=tuple({(r.study_id, r.number): r for delta in deltas for r in delta.trials}.values()),
        attempts=tuple({r.attempt_id: r for delta in deltas for r in delta.attempts}.values()),
        agents=tuple({r.agent_id: r for delta in deltas for r in delta.agents}.values()),
        journal=journal,
        next_fence=fences[-1] if fences else None,
    )
