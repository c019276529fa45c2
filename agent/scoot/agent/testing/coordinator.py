"""A coordinator that does as it is told: a real gRPC server of AgentService for tests, demos and agent developers.

It records everything it hears and decides nothing. What it assigns is sent again after a reconnect until an outcome
came, as the real one does.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Final, Self

import grpc.aio
import zstandard

from scoot.agent.link.codec import AttemptRef, Verdict
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import measurement_pb2
from scoot.v1.agent_service_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from scoot.wire import limits
from scoot.wire.assignment import Assignment
from scoot.wire.endpoint import Endpoint
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.protobuf import from_message, to_message

_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
)

_VERDICTS: Final = {
    Verdict.STORED: pb.BATCH_VERDICT_STORED,
    Verdict.FENCED: pb.BATCH_VERDICT_FENCED,
    Verdict.CORRUPT: pb.BATCH_VERDICT_CORRUPT,
    Verdict.RETRY: pb.BATCH_VERDICT_RETRY,
}

_Outbox = asyncio.Queue["pb.CoordinatorMessage | None"]
"""Messages to send; None ends the session."""


class FakeCoordinator(AgentServiceServicer):
    """A scriptable coordinator: `async with FakeCoordinator() as coordinator`.

    Attributes:
        lease: sent with each welcome.
        silent: nothing is answered: no welcome, no acknowledgement of heartbeats, outcomes or batches.
        withhold_outcome_acks: outcomes are recorded and not acknowledged.
        refusal: refuse sessions with this (message, retry).
        judge: answers a batch; None stores it.
        hellos, updates, outcomes, check_replies, catalogues: everything heard, in order, repetitions included.
        received: (attempt, seq, verdict) of every batch, in order, repetitions included.
        stored: (attempt, seq) -> inflated payload of batches answered STORED.
        violations: what a real coordinator would complain about, such as two payloads for one batch.
        heartbeats: heartbeats heard.
    """

    def __init__(self, lease: LeasePolicy | None = None) -> None:
        """`lease` defaults to the product's own."""
        self.lease = lease or LeasePolicy()
        self.silent = False
        self.withhold_outcome_acks = False
        self.refusal: tuple[str, bool] | None = None
        self.judge: Callable[[measurement_pb2.MeasurementBatch], Verdict | None] = lambda _: None
        self.hellos: list[pb.Hello] = []
        self.updates: list[pb.AttemptUpdate] = []
        self.outcomes: list[AttemptOutcome] = []
        self.check_replies: list[pb.CheckReply] = []
        self.catalogues: list[pb.EngineCatalogue] = []
        self.received: list[tuple[AttemptRef, int, Verdict]] = []
        self.stored: dict[tuple[AttemptRef, int], bytes] = {}
        self.violations: list[str] = []
        self.heartbeats = 0
        self._blobs: dict[str, bytes] = {}
        self._assigned: dict[AttemptRef, Assignment] = {}
        self._outboxes: set[_Outbox] = set()
        self._changed = asyncio.Condition()
        self._server: grpc.aio.Server | None = None
        self._port = 0

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one."""
        self._server = grpc.aio.server(options=_OPTIONS)
        add_AgentServiceServicer_to_server(self, self._server)
        self._port = self._server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop listening and end every session. What was recorded stays."""
        if self._server is not None:
            self.drop_sessions()
            await self._server.stop(0.1)
            self._server = None

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint("127.0.0.1", self._port)

    def put_blob(self, data: bytes) -> str:
        """Offer a blob; returns its digest (hex)."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._blobs[sha256] = data
        return sha256

    def assign(self, assignment: Assignment) -> AttemptRef:
        """Assign an attempt now, and again in every new session until its outcome is heard."""
        ref = AttemptRef(assignment.attempt_id, assignment.fence)
        self._assigned[ref] = assignment
        self.send(_assign(assignment))
        return ref

    def cancel(self, ref: AttemptRef) -> None:
        """Ask for an attempt to be cancelled."""
        self.send(pb.CoordinatorMessage(cancel=pb.CancelAttempt(attempt_id=ref.attempt_id, fence=ref.fence)))

    def send(self, message: pb.CoordinatorMessage) -> None:
        """Say anything on every open session."""
        for outbox in self._outboxes:
            outbox.put_nowait(message)

    def drop_sessions(self) -> None:
        """Break every open session."""
        for outbox in self._outboxes:
            outbox.put_nowait(None)

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Wait until something heard makes `condition` true.

        Raises:
            TimeoutError: it does not within `timeout_s`.
        """
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(condition)

    async def heard_hellos(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait for so many hellos in all, that is, for reconnects."""
        await self.until(lambda: len(self.hellos) >= count, timeout_s)

    async def outcome_of(self, ref: AttemptRef, timeout_s: float = 15.0) -> AttemptOutcome:
        """The outcome of an attempt, once it came."""

        def found() -> list[AttemptOutcome]:
            return [each for each in self.outcomes if (each.attempt_id, each.fence) == (ref.attempt_id, ref.fence)]

        await self.until(lambda: bool(found()), timeout_s)
        return found()[0]

    def batches_of(self, ref: AttemptRef) -> dict[int, bytes]:
        """Inflated batches stored for an attempt, by seq."""
        return {seq: payload for (owner, seq), payload in sorted(self.stored.items()) if owner == ref}

    async def Session(  # noqa: N802 - the name of the RPC
        self,
        request_iterator: AsyncIterator[pb.AgentMessage],
        context: object,  # noqa: ARG002 - the signature of the RPC
    ) -> AsyncIterator[pb.CoordinatorMessage]:
        """The control stream."""
        outbox: _Outbox = asyncio.Queue()
        self._outboxes.add(outbox)
        listener = asyncio.create_task(self._listen(request_iterator, outbox))
        try:
            while (message := await outbox.get()) is not None:
                yield message
        finally:
            self._outboxes.discard(outbox)
            listener.cancel()
            await asyncio.wait([listener])

    async def _listen(self, messages: AsyncIterator[pb.AgentMessage], outbox: _Outbox) -> None:
        async for message in messages:
            for answer in self._answers(message):
                if not self.silent:
                    outbox.put_nowait(answer)
            await self._notify()
        outbox.put_nowait(None)

    def _answers(self, message: pb.AgentMessage) -> list[pb.CoordinatorMessage]:
        match message.WhichOneof("body"):
            case "hello":
                self.hellos.append(message.hello)
                if self.refusal is not None:
                    text, retry = self.refusal
                    return [pb.CoordinatorMessage(refusal=pb.Refusal(message=text, retry=retry))]
                welcome = pb.CoordinatorMessage()
                welcome.welcome.session_id = f"session-{len(self.hellos)}"
                to_message(self.lease, welcome.welcome.lease)
                return [welcome, *(_assign(assignment) for assignment in self._assigned.values())]
            case "heartbeat":
                self.heartbeats += 1
                return [pb.CoordinatorMessage(heartbeat_ack=pb.HeartbeatAck(seq=message.heartbeat.seq))]
            case "update":
                self.updates.append(message.update)
            case "check_reply":
                self.check_replies.append(message.check_reply)
            case "catalogue":
                self.catalogues.append(message.catalogue)
            case "outcome":
                outcome = from_message(message.outcome, AttemptOutcome)
                self.outcomes.append(outcome)
                self._assigned.pop(AttemptRef(outcome.attempt_id, outcome.fence), None)
                if not self.withhold_outcome_acks:
                    ack = pb.OutcomeAck(attempt_id=outcome.attempt_id, fence=outcome.fence)
                    return [pb.CoordinatorMessage(outcome_ack=ack)]
            case unknown:
                self.violations.append(f"a message with body {unknown}")
        return []

    async def Upload(  # noqa: N802 - the name of the RPC
        self,
        request_iterator: AsyncIterator[measurement_pb2.MeasurementBatch],
        context: object,  # noqa: ARG002 - the signature
    ) -> AsyncIterator[pb.UploadReply]:
        """The bulk stream."""
        async for batch in request_iterator:
            verdict = self.judge(batch) or self._store(batch)
            self.received.append((AttemptRef(batch.attempt_id, batch.fence), batch.seq, verdict))
            await self._notify()
            if not self.silent:
                yield pb.UploadReply(
                    attempt_id=batch.attempt_id,
                    seq=batch.seq,
                    verdict=_VERDICTS[verdict],
                    credits=limits.UPLOAD_CREDITS,
                )

    def _store(self, batch: measurement_pb2.MeasurementBatch) -> Verdict:
        ref = AttemptRef(batch.attempt_id, batch.fence)
        payload = batch.payload
        if hashlib.sha256(payload).digest() != batch.sha256 or batch.raw_bytes > limits.BATCH_BYTES:
            self.violations.append(f"batch {batch.seq} of {ref}: wrong digest or size")
            return Verdict.CORRUPT
        if batch.encoding == measurement_pb2.ENCODING_ZSTD:
            payload = zstandard.ZstdDecompressor().decompress(payload, max_output_size=batch.raw_bytes)
        if len(payload) != batch.raw_bytes or self.stored.setdefault((ref, batch.seq), payload) != payload:
            self.violations.append(f"batch {batch.seq} of {ref}: other content than before, or a wrong size")
            return Verdict.CORRUPT
        return Verdict.STORED

    async def GetBlob(  # noqa: N802 - the name of the RPC
        self,
        request: pb.GetBlobRequest,
        context: grpc.aio.ServicerContext[pb.GetBlobRequest, AsyncIterator[pb.BlobChunk]],
    ) -> AsyncIterator[pb.BlobChunk]:
        """A workload blob in pieces."""
        data = self._blobs.get(request.sha256)
        if data is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no blob {request.sha256}")
        for start in range(0, len(data), limits.BLOB_CHUNK_BYTES):
            yield pb.BlobChunk(data=data[start : start + limits.BLOB_CHUNK_BYTES])

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _assign(assignment: Assignment) -> pb.CoordinatorMessage:
    message = pb.CoordinatorMessage()
    to_message(assignment, message.assign)
    return message
