"""A coordinator served in the test's own process, and an agent driven by hand over real gRPC."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import pathlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np

from scoot.coordinator.config import CoordinatorConfig
from scoot.coordinator.daemon import Coordinator
from scoot.coordinator.solver.pool import Solver
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.invariants import violations
from scoot.v1 import agent_service_pb2 as agent_pb
from scoot.v1 import measurement_pb2 as measurement_pb
from scoot.v1 import study_pb2 as study_pb
from scoot.v1 import study_service_pb2 as pb
from scoot.v1.agent_service_pb2_grpc import AgentServiceStub
from scoot.v1.study_service_pb2_grpc import StudyServiceStub
from scoot.wire import columns
from scoot.wire.assignment import Assignment, Device, EngineOffer, Inventory
from scoot.wire.columns import RequestPhase, TimingBatch
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome, LoadAudit
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import (
    Arrivals,
    Budget,
    Confirm,
    Limits,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)

FAST = LeasePolicy(heartbeat_s=0.2, self_fence_s=0.6, lost_s=0.8, reassign_s=1.2, stop_grace_s=0.2, kill_grace_s=0.2)
DEFAULT = LeasePolicy()
BLOB = b"the workload's requests"
DEADLINE_S = 20.0


@dataclass
class Desk:
    """A served coordinator and a channel to it."""

    coordinator: Coordinator
    studies: StudyServiceStub
    agents: AgentServiceStub

    async def until(self, condition: Any) -> None:
        """Wait until the committed state satisfies `condition`."""
        async with asyncio.timeout(DEADLINE_S):
            for study_id in list(self.coordinator.state.studies):
                version = self.coordinator._changes.version(study_id)
                while not condition(self.coordinator.state):
                    version = await self.coordinator._changes.wait(study_id, version)
        assert violations(self.coordinator.state) == []


@contextlib.asynccontextmanager
async def desk(
    tmp_path: pathlib.Path, lease: LeasePolicy = DEFAULT, store: Any = None, solver: Solver | None = None
) -> AsyncIterator[Desk]:
    config = CoordinatorConfig(data_dir=str(tmp_path), listen="127.0.0.1:0", lease=lease)
    coordinator = Coordinator(config, store or MemoryStore(), solver or Solver())
    async with (
        coordinator.serving() as bound,
        grpc.aio.insecure_channel(str(bound)) as channel,
    ):
        yield Desk(coordinator, StudyServiceStub(channel), AgentServiceStub(channel))


class Agent:
    """A hand-driven agent: says what the test says."""

    def __init__(self, desk: Desk, name: str = "a", incarnation: str = "1", devices: int = 1) -> None:
        self._call: Any = desk.agents.Session()
        self._desk = desk
        self.hello = agent_pb.Hello(
            agent_id=name,
            incarnation=incarnation,
            boot_id="boot",
            version="test",
            protocol=1,
            inventory=to_message(
                Inventory(
                    devices=tuple(Device(id=f"cpu-{n}", kind="cpu") for n in range(devices)),
                    engines=(EngineOffer(name="mock", version="1"),),
                ),
                agent_pb.Inventory(),
            ),
        )

    async def connect(self) -> agent_pb.CoordinatorMessage:
        await self.say(hello=self.hello)
        return await self.hear()

    async def say(self, **body: Any) -> None:
        await self._call.write(agent_pb.AgentMessage(**body))

    async def hear(self) -> agent_pb.CoordinatorMessage:
        async with asyncio.timeout(DEADLINE_S):
            message = await self._call.read()
        assert isinstance(message, agent_pb.CoordinatorMessage), message
        return message

    async def assignment(self) -> Assignment:
        return from_message((await self.hear()).assign, Assignment)

    async def upload(self, *batches: measurement_pb.MeasurementBatch) -> list[agent_pb.UploadReply]:
        call: Any = self._desk.agents.Upload()
        for batch in batches:
            await call.write(batch)
        await call.done_writing()
        async with asyncio.timeout(DEADLINE_S):
            return [reply async for reply in call]

    async def complete(self, work: Assignment, ttft_us: int = 1000) -> None:
        """Upload good timings for every run and report success."""
        timings = columns.concatenate([requests(run, ttft_us) for run in range(len(work.run_seeds))])
        replies = await self.upload(batch(work.attempt_id, work.fence, 0, columns.encode(timings)))
        assert [reply.verdict for reply in replies] == [agent_pb.BATCH_VERDICT_STORED]
        audits = tuple(
            LoadAudit(run=run, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
            for run in range(len(work.run_seeds))
        )
        await self.outcome(
            AttemptOutcome(attempt_id=work.attempt_id, fence=work.fence, state="COMPLETED", audits=audits, batches=1)
        )

    async def outcome(self, outcome: AttemptOutcome) -> None:
        await self.say(outcome=to_message(outcome, measurement_pb.AttemptOutcome()))

    def hang_up(self) -> None:
        self._call.cancel()


def requests(run: int, ttft_us: int, n: int = 30) -> TimingBatch:
    """n completed requests of three tokens each, 10 ms apart."""

    def full(value: int) -> columns.Array:
        return np.full(n, value, np.uint32)

    return TimingBatch(
        index=np.arange(n, dtype=np.uint32),
        intended_us=np.arange(n, dtype=np.uint64) * 10_000,
        sent_us=full(10),
        first_us=full(ttft_us),
        end_us=full(ttft_us + 20_000),
        input_tokens=full(5),
        output_tokens=full(3),
        wanted_tokens=full(3),
        chunks=full(3),
        run=np.full(n, run, np.uint16),
        http_status=np.full(n, 200, np.uint16),
        replica=np.zeros(n, np.uint16),
        phase=np.full(n, RequestPhase.MEASURED, np.uint8),
        status=np.zeros(n, np.uint8),
        gap_us=np.tile(np.array([0, 10_000, 10_000], np.uint32), n),
    )


def batch(attempt_id: str, fence: int, seq: int, payload: bytes, **wrong: Any) -> measurement_pb.MeasurementBatch:
    fields: dict[str, Any] = {
        "attempt_id": attempt_id,
        "fence": fence,
        "seq": seq,
        "sha256": hashlib.sha256(payload).digest(),
        "encoding": measurement_pb.ENCODING_RAW,
        "raw_bytes": len(payload),
        "payload": payload,
    }
    return measurement_pb.MeasurementBatch(**(fields | wrong))


def spec(trials: int = 2, orders: int = 0, parallelism: int = 1) -> StudySpec:
    return StudySpec(
        name="chat-by-hand",
        service=Service(engine="mock", model="m", device="cpu"),
        workload=Workload(profile="BOT", arrivals=Arrivals(rate=5.0)),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(trials=trials, parallelism=parallelism),
        confirm=Confirm(arrival_orders=orders),
        limits=Limits(),
        workload_facts=WorkloadFacts(
            sha256=hashlib.sha256(BLOB).hexdigest(), requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1
        ),
    )


async def submit(desk: Desk, study: StudySpec, key: str = "key") -> study_pb.Study:
    await desk.studies.PutBlob(iter([agent_pb.BlobChunk(data=BLOB)]))
    request = pb.CreateStudyRequest(spec=to_message(study, study_pb.StudySpec()), idempotency_key=key)
    created: study_pb.Study = await desk.studies.CreateStudy(request)
    return created
