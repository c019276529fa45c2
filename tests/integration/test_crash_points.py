"""The coordinator dies before and after every store operation of a study, and the study ends as if it had not.

Real services, real gRPC, a scripted agent that stays up; the store's content survives, everything else is gone.
"""

from __future__ import annotations

import asyncio
import itertools
import pathlib
from collections import Counter
from typing import Any

import grpc.aio
import msgspec
import pytest
from coordinator_desk import Agent, Desk, batch, desk, requests, spec, submit

from scoot.coordinator.store.faulty import Action, Fault, FaultPlan, FaultyStore, Operation, StoreCrash, When
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.state import TrialRecord
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.wire import columns
from scoot.wire.assignment import Assignment
from scoot.wire.measurement import AttemptOutcome, LoadAudit
from scoot.wire.protobuf import from_message
from scoot.wire.states import StudyState

DEADLINE_S = 30.0


class Host:
    """An agent's durable side: what it executed, and what it keeps until it is acknowledged."""

    def __init__(self) -> None:
        self.executed: Counter[str] = Counter()
        self.kept: dict[str, Assignment] = {}

    async def work(self, d: Desk) -> None:
        """Serve assignments until the session ends or the study does."""
        agent = Agent(d)
        for work in self.kept.values():
            agent.hello.finished.add(attempt_id=work.attempt_id, fence=work.fence)
        await agent.connect()
        for work in list(self.kept.values()):
            await self.report(agent, work)
        try:
            while True:
                message = await agent.hear()
                match message.WhichOneof("body"):
                    case "assign":
                        work = from_message(message.assign, Assignment)
                        if work.attempt_id not in self.kept:
                            self.executed[work.attempt_id] += 1
                            self.kept[work.attempt_id] = work
                            await self.report(agent, work)
                    case "outcome_ack":
                        self.kept.pop(message.outcome_ack.attempt_id, None)
        finally:
            agent.hang_up()

    async def report(self, agent: Agent, work: Assignment) -> None:
        timings = columns.concatenate([requests(run, 1000 + work.fence) for run in range(len(work.run_seeds))])
        replies = await agent.upload(batch(work.attempt_id, work.fence, 0, columns.encode(timings)))
        if [reply.verdict for reply in replies] != [agent_pb.BATCH_VERDICT_STORED]:
            return
        audits = tuple(
            LoadAudit(run=run, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
            for run in range(len(work.run_seeds))
        )
        await agent.outcome(
            AttemptOutcome(attempt_id=work.attempt_id, fence=work.fence, state="COMPLETED", audits=audits, batches=1)
        )


async def live(store: Life, host: Host, tmp_path: pathlib.Path) -> bool:
    """One life of a coordinator; True if the study ended in it. It ends early when the store crashes."""
    ended = False
    try:
        async with asyncio.timeout(DEADLINE_S), desk(tmp_path, store=store) as d:
            await submit(d, spec(trials=3, orders=1))
            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(host.work(d)),
                asyncio.create_task(store.crashed.wait()),
                asyncio.create_task(d.until(lambda s: all(study.state.is_terminal for study in s.studies.values()))),
            ]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                ended = tasks[2] in done
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
    except* StoreCrash:
        ended = False
    except* grpc.aio.AioRpcError:
        ended = False
    return ended


async def study_of(inner: MemoryStore, faults: FaultPlan, tmp_path: pathlib.Path) -> tuple[Host, bool]:
    """A whole study over a store that crashes once: (the agent, whether the crash was reached)."""
    host = Host()
    faulty = FaultyStore(inner, faults)
    ended = await live(Life(faulty), host, tmp_path)
    for _ in range(2):
        if not ended:
            ended = await live(Life(inner), host, tmp_path)
    assert ended
    return host, bool(faulty.fired)


class Life:
    """A store for one life of a coordinator: tells when it crashes, and its `close` does not end the next life."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._loop = asyncio.get_running_loop()
        self.crashed = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*args: Any) -> Any:
            try:
                return method(*args)
            except StoreCrash:
                self._loop.call_soon_threadsafe(self.crashed.set)
                raise

        return call

    def close(self) -> None:
        """Nothing to release."""


def story(inner: MemoryStore) -> list[tuple[Any, ...]]:
    """What must not depend on a crash."""
    trials: tuple[TrialRecord, ...] = inner.load().trials
    return sorted(
        (t.number, t.state, t.source, t.attempts, msgspec.json.encode(t.config, order="sorted")) for t in trials
    )


@pytest.mark.timeout(300)
@pytest.mark.parametrize("operation", [Operation.COMMIT, Operation.ADD_SEGMENTS, Operation.SEGMENTS])
@pytest.mark.parametrize("when", list(When))
async def test_a_crash_at_any_store_operation_changes_nothing(
    tmp_path: pathlib.Path, operation: Operation, when: When
) -> None:
    calm = MemoryStore()
    await study_of(calm, FaultPlan(), tmp_path)
    points = 0
    for at in itertools.count(1):
        inner = MemoryStore()
        plan = FaultPlan(faults=(Fault(operation=operation, at=at, when=when, action=Action.CRASH),))
        host, fired = await study_of(inner, plan, tmp_path)
        snapshot = inner.load()
        assert snapshot.studies[0].state is StudyState.COMPLETED
        assert len(snapshot.studies) == 1
        assert story(inner) == story(calm)
        assert max(host.executed.values()) == 1
        if not fired:
            break
        points += 1
    assert points >= 4
