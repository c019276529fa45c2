"""The control stream: hello, heartbeats, assignments and outcomes, over any number of reconnects.

Losing the session stops nothing: attempts go on until the guard (scoot.agent.core.guard) says that the lease may be
over. Everything the agent has to say is state, not a queue: after a reconnect the current state is said again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol, TypeAlias

import grpc.aio

from scoot.agent.core import guard
from scoot.agent.link import codec
from scoot.agent.link.codec import AttemptRef
from scoot.v1 import agent_service_pb2 as pb
from scoot.v1.agent_service_pb2_grpc import AgentServiceStub
from scoot.wire.assignment import Assignment, Progress
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.measurement import AttemptOutcome

LOG: Final = logging.getLogger(__name__)

_BACKOFF_MIN_S: Final = 0.2
_BACKOFF_MAX_S: Final = 5.0
_WELCOME_TIMEOUT_S: Final = 10.0
_PROGRESS_EVERY_S: Final = 0.5
_CLOSE_TIMEOUT_S: Final = 1.0

_Call: TypeAlias = "grpc.aio.StreamStreamCall[pb.AgentMessage, pb.CoordinatorMessage]"


class SessionHandler(Protocol):
    """What the session speaks for. Calls are made from the event loop and must not block."""

    def hello(self) -> codec.Hello:
        """Who we are and what we run, now."""

    def assign(self, assignment: Assignment) -> None:
        """Execute an attempt, unless it is known. Idempotent."""

    def cancel(self, ref: AttemptRef) -> None:
        """Stop an attempt; unknown ones are ignored."""

    def outcome_acknowledged(self, ref: AttemptRef) -> None:
        """The outcome need not be kept any longer."""

    def check(self, question: codec.CheckQuestion) -> None:
        """Find out what an engine would make of configurations; the answer comes up among `check_replies`."""

    def check_replies(self) -> Sequence[codec.CheckReply]:
        """Answers that were not given out before."""

    def catalogues(self) -> Mapping[str, bytes]:
        """JSON of the options of engines, by their names."""

    def updates(self) -> Mapping[AttemptRef, Progress]:
        """Where every running attempt is."""

    def outcomes(self) -> Sequence[AttemptOutcome]:
        """Outcomes ready to be reported and not acknowledged."""


class SessionEnded(Exception):
    """The session is over; connect again."""


class _Said:
    """What this session has told already, so that only news is sent."""

    def __init__(self) -> None:
        self.outcomes: set[AttemptRef] = set()
        self.catalogues: set[str] = set()
        self.updates: dict[AttemptRef, tuple[Progress, float]] = {}

    def due(self, ref: AttemptRef, progress: Progress, now_s: float) -> float:
        """Seconds until `progress` should be told: 0 now, inf when it is not news."""
        last, at_s = self.updates.get(ref, (None, 0.0))
        if last is None or (last.phase, last.run) != (progress.phase, progress.run):
            return 0.0
        return float("inf") if last == progress else max(0.0, at_s + _PROGRESS_EVERY_S - now_s)


class Session:
    """Keeps one session with the coordinator alive, forever.

    Attributes:
        guard: what is known of the lease; the daemon asks it whether to self-fence.
        welcomed: set once the first welcome came.
        connected: whether there is a session now.
    """

    def __init__(
        self, connect: Callable[[], grpc.aio.Channel], handler: SessionHandler, clock: Callable[[], float]
    ) -> None:
        """`connect` opens a fresh channel; `clock` gives monotonic seconds that go on while the host is suspended."""
        self._connect = connect
        self._handler = handler
        self._clock = clock
        self._wake = asyncio.Event()
        self.guard = guard.Guard()
        self.welcomed = asyncio.Event()
        self.connected = False

    def wake(self) -> None:
        """There is news: an update or an outcome to send."""
        self._wake.set()

    async def run(self) -> None:
        """Connect, talk, reconnect with jittered back-off. Ends only by cancellation or a final refusal.

        Raises:
            UserError: the coordinator refuses this agent and says that trying again cannot help.
        """
        failures = 0
        while True:
            before = self.guard.proven_at_s
            try:
                await self._one_session()
            except (SessionEnded, RemoteProtocolError, grpc.aio.AioRpcError) as error:
                failures = 0 if self.guard.proven_at_s > before else failures + 1
                # The first failure is news; the same one again and again is not.
                LOG.log(logging.WARNING if failures <= 1 else logging.DEBUG, "session lost: %s", _in_short(error))
            delay_s = min(_BACKOFF_MAX_S, _BACKOFF_MIN_S * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
            await asyncio.sleep(delay_s)  # noqa: TID251 - the back-off itself

    async def _one_session(self) -> None:
        channel = self._connect()
        call = None
        try:
            call = AgentServiceStub(channel).Session()
            await self._greet(call)
            self.connected = True
            await self._talk(call)
        finally:
            self.connected = False
            if call is not None:
                call.cancel()
            await channel.close(_CLOSE_TIMEOUT_S)

    async def _greet(self, call: _Call) -> None:
        sent_at_s = self._clock()
        await _write(call, codec.hello(self._handler.hello()))
        policy = self.guard.policy
        patience_s = _WELCOME_TIMEOUT_S if policy is None else min(_WELCOME_TIMEOUT_S, guard.session_patience_s(policy))
        try:
            async with asyncio.timeout(patience_s):
                answer = await _read(call)
        except TimeoutError as error:
            raise SessionEnded(f"no welcome within {patience_s:.1f} s") from error
        if isinstance(answer, codec.Refusal):
            if not answer.retry:
                raise UserError(f"the coordinator refuses this agent: {answer.message}", key="agent.coordinator")
            raise SessionEnded(f"refused for now: {answer.message}")
        if not isinstance(answer, codec.Welcome):
            raise RemoteProtocolError(f"the coordinator's first message was {type(answer).__name__}, not a welcome")
        self.guard = guard.welcomed(self.guard, answer.lease, sent_at_s)
        LOG.info("connected, session %s", answer.session_id)
        self.welcomed.set()

    async def _talk(self, call: _Call) -> None:
        """Read and write side by side until either ends; the other is cancelled, its error not lost."""
        tasks = [asyncio.create_task(self._read_all(call)), asyncio.create_task(self._write_all(call))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for task in tasks:
            if task in done:
                task.result()

    async def _read_all(self, call: _Call) -> None:
        policy = self.guard.policy
        if policy is None:
            raise SessionEnded("no lease")
        heard_at_s = self._clock()
        patience_s = guard.session_patience_s(policy)
        while True:
            try:
                async with asyncio.timeout(patience_s):
                    message = await _read(call)
            except TimeoutError as error:
                raise SessionEnded(f"nothing heard for {self._clock() - heard_at_s:.1f} s") from error
            heard_at_s = self._clock()
            self._take(message)

    def _take(self, message: codec.Incoming) -> None:
        match message:
            case codec.HeartbeatAck(seq):
                self.guard = guard.heartbeat_acknowledged(self.guard, seq)
            case codec.Assign(assignment):
                self._handler.assign(assignment)
            case codec.Cancel(ref):
                self._handler.cancel(ref)
            case codec.OutcomeAck(ref):
                self._handler.outcome_acknowledged(ref)
            case codec.CheckQuestion():
                self._handler.check(message)
            case codec.Refusal(text, retry):
                raise SessionEnded(f"refused ({'for now' if retry else 'for good'}): {text}")
            case codec.Welcome():
                raise RemoteProtocolError("a second welcome in one session")

    async def _write_all(self, call: _Call) -> None:
        policy = self.guard.policy
        if policy is None:
            raise SessionEnded("no lease")
        said = _Said()
        seq = 0
        next_heartbeat_s = self._clock() + policy.heartbeat_s
        while True:
            self._wake.clear()
            now_s = self._clock()
            if now_s >= next_heartbeat_s:
                seq += 1
                next_heartbeat_s = now_s + policy.heartbeat_s
                # Noted before it is written: the acknowledgement may come while write() is still on its way back.
                self.guard = guard.heartbeat_sent(self.guard, seq, now_s)
                await _write(call, codec.heartbeat(seq))
            pause_s = min(next_heartbeat_s - self._clock(), await self._say_news(call, said))
            try:
                # Not wait_for: before Python 3.12 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(max(0.0, pause_s)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _say_news(self, call: _Call, said: _Said) -> float:
        """Send what is new; returns seconds until held-back progress may be told."""
        for outcome in self._handler.outcomes():
            ref = AttemptRef(outcome.attempt_id, outcome.fence)
            if ref not in said.outcomes:
                said.outcomes.add(ref)
                await _write(call, codec.outcome(outcome))
        for reply in self._handler.check_replies():
            await _write(call, codec.check_reply(reply))
        for engine, json in self._handler.catalogues().items():
            if engine not in said.catalogues:
                said.catalogues.add(engine)
                await _write(call, codec.catalogue(engine, json))
        wait_s = float("inf")
        updates = self._handler.updates()
        for ref, progress in updates.items():
            now_s = self._clock()
            due_s = said.due(ref, progress, now_s)
            if due_s == 0.0:
                said.updates[ref] = (progress, now_s)
                await _write(call, codec.update(ref, progress))
            wait_s = min(wait_s, due_s or float("inf"))
        for ref in said.updates.keys() - updates.keys():
            del said.updates[ref]
        return wait_s


async def _read(call: _Call) -> codec.Incoming:
    message = await call.read()
    if not isinstance(message, pb.CoordinatorMessage):  # grpc.aio.EOF
        code = await call.code()
        raise SessionEnded(f"the coordinator closed it: {code.name} {await call.details() or ''}".rstrip())
    return codec.incoming(message)


async def _write(call: _Call, message: pb.AgentMessage) -> None:
    try:
        await call.write(message)
    except asyncio.InvalidStateError as error:  # the RPC ended; `read` says why
        raise SessionEnded("it closed while writing") from error


def _in_short(error: Exception) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
