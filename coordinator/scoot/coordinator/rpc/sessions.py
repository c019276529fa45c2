"""Control streams: one live session per agent, what goes down it, and what comes up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator

import msgspec

from scoot.coordinator.rpc import codec
from scoot.coordinator.rpc.core import Core
from scoot.coordinator.rpc.engines import EngineDesk
from scoot.coordinator.rpc.progress import AttemptProgress, ChangeHub, ProgressTable
from scoot.coordinator.study.effects import AcknowledgeOutcome, SendAssign, SendCancel
from scoot.coordinator.study.events import AgentConnected, AttemptEnded, AttemptStarted
from scoot.coordinator.study.state import AttemptState
from scoot.v1 import agent_service_pb2 as pb
from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError, ScootError
from scoot.wire.protobuf import to_message

_log = logging.getLogger(__name__)

PROTOCOL = 1


class Session:
    """One agent's live control stream. Outgoing messages queue here; there are few of them."""

    def __init__(self, agent_id: str, incarnation: str) -> None:
        self.session_id = uuid.uuid4().hex
        self.agent_id = agent_id
        self.incarnation = incarnation
        self.outgoing: asyncio.Queue[pb.CoordinatorMessage | None] = asyncio.Queue()

    def send(self, message: pb.CoordinatorMessage) -> None:
        """Queue a message."""
        self.outgoing.put_nowait(message)

    def close(self) -> None:
        """End the stream after what is queued."""
        self.outgoing.put_nowait(None)


class Sessions:
    """All live sessions, and the Session RPC itself.

    Attributes:
        engines: what agents tell of their engines.
    """

    def __init__(self, core: Core, progress: ProgressTable, changes: ChangeHub) -> None:
        self._core = core
        self._progress = progress
        self._changes = changes
        self._live: dict[str, Session] = {}
        self.engines = EngineDesk(lambda: core.state.agents)

    def perform(self, effect: SendAssign | SendCancel | AcknowledgeOutcome) -> None:
        """Send what an effect says, if the agent has a session; its next hello makes up for it otherwise."""
        session = self._live.get(effect.agent_id)
        if session is None:
            return
        match effect:
            case SendAssign():
                message = codec.assign_message(self._core.state, effect.attempt_id)
                if message is not None:
                    session.send(message)
            case SendCancel():
                session.send(
                    pb.CoordinatorMessage(cancel=pb.CancelAttempt(attempt_id=effect.attempt_id, fence=effect.fence))
                )
            case AcknowledgeOutcome():
                self._progress.drop(effect.attempt_id)
                session.send(
                    pb.CoordinatorMessage(outcome_ack=pb.OutcomeAck(attempt_id=effect.attempt_id, fence=effect.fence))
                )

    def close(self) -> None:
        """End every session; agents reconnect to whoever comes next."""
        for session in self._live.values():
            session.close()

    async def serve(self, requests: AsyncIterator[pb.AgentMessage]) -> AsyncIterator[pb.CoordinatorMessage]:
        """The Session RPC: hello, welcome, then both directions until one side ends."""
        hello = await anext(aiter(requests), None)
        refusal = self._refusal(hello)
        if hello is None or refusal is not None:
            yield pb.CoordinatorMessage(refusal=refusal)
            return
        event = codec.connected_from(hello.hello)
        session = Session(event.agent_id, event.incarnation)
        old = self._live.get(event.agent_id)
        if old is not None:
            old.close()
        # Registered before the event is taken up: its effects (assignments, cancels) go down this stream.
        self._live[event.agent_id] = session
        session.send(
            pb.CoordinatorMessage(
                welcome=pb.Welcome(session_id=session.session_id, lease=to_message(self._core.lease, pb.LeasePolicy()))
            )
        )
        reader = asyncio.create_task(self._read(session, event, requests))
        try:
            while True:
                message = await session.outgoing.get()
                if message is None:
                    break
                yield message
        finally:
            if self._live.get(event.agent_id) is session:
                del self._live[event.agent_id]
                self.engines.gone(event.agent_id)
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reader

    def _refusal(self, first: pb.AgentMessage | None) -> pb.Refusal | None:
        """Why a session cannot be opened, None if it can."""
        if first is None or first.WhichOneof("body") != "hello":
            return pb.Refusal(message="the first message of a session must be a hello", retry=False)
        hello = first.hello
        agents = self._core.state.agents
        other = self._live.get(hello.agent_id)
        fresh = self._core.silent_s(hello.agent_id) < 2 * self._core.lease.heartbeat_s
        checks = (
            (
                hello.protocol != PROTOCOL,
                False,
                f"this coordinator speaks protocol {PROTOCOL}, the agent {hello.protocol}: upgrade the older",
            ),
            (
                not 0 < len(hello.agent_id) <= limits.STRING_CHARS or not hello.incarnation,
                False,
                "a hello needs an agent_id and an incarnation",
            ),
            (
                len(hello.inventory.devices) > limits.DEVICES_PER_AGENT,
                False,
                f"more than {limits.DEVICES_PER_AGENT} devices",
            ),
            (
                hello.agent_id not in agents and len(agents) >= limits.AGENTS,
                True,
                f"{limits.AGENTS} agents are registered, no more are taken",
            ),
            (
                other is not None and other.incarnation != hello.incarnation and fresh,
                True,
                f"another agent with the id {hello.agent_id!r} is connected",
            ),
        )
        return next((pb.Refusal(message=text, retry=retry) for refused, retry, text in checks if refused), None)

    async def _read(
        self, session: Session, connected: AgentConnected, requests: AsyncIterator[pb.AgentMessage]
    ) -> None:
        """Take up what the agent says. Any trouble with it ends this session only; the agent comes back."""
        try:
            self._core.heard(session.agent_id)
            await self._core.submit(connected)
            self.engines.connected(session.agent_id, session.send)
            async for message in requests:
                self._core.heard(session.agent_id)
                await self._take(session, message)
        except RemoteProtocolError as error:
            _log.warning("agent %s broke the protocol: %s", session.agent_id, error)
            session.send(pb.CoordinatorMessage(refusal=pb.Refusal(message=str(error), retry=True)))
        except (ScootError, msgspec.MsgspecError) as error:
            _log.warning("session of agent %s ends: %s", session.agent_id, error)
        finally:
            session.close()

    async def _take(self, session: Session, message: pb.AgentMessage) -> None:
        match message.WhichOneof("body"):
            case "heartbeat":
                session.send(pb.CoordinatorMessage(heartbeat_ack=pb.HeartbeatAck(seq=message.heartbeat.seq)))
            case "update":
                await self._update(session, message.update)
            case "outcome":
                outcome = codec.outcome_from(message.outcome)
                self._own(session, outcome.attempt_id)
                await self._core.submit(AttemptEnded(outcome=outcome))
            case "check_reply":
                self.engines.take_reply(session.agent_id, message.check_reply)
            case "catalogue":
                self.engines.take_catalogue(session.agent_id, message.catalogue)
            case "hello":
                raise RemoteProtocolError("a second hello in one session")
            case _:
                raise RemoteProtocolError("an empty or unknown message")

    async def _update(self, session: Session, update: pb.AttemptUpdate) -> None:
        self._own(session, update.attempt_id)
        attempt = self._core.state.attempts.get(update.attempt_id)
        if attempt is None or attempt.fence != update.fence or attempt.state.is_terminal:
            return
        if attempt.state is AttemptState.OFFERED:
            await self._core.submit(AttemptStarted(attempt_id=update.attempt_id, fence=update.fence))
        self._progress.put(
            update.attempt_id,
            AttemptProgress(phase=update.phase[:64], run=update.run, completed=update.completed),
        )
        self._changes.notify([attempt.study_id])

    def _own(self, session: Session, attempt_id: str) -> None:
        """An agent speaks for its own attempts only."""
        attempt = self._core.state.attempts.get(attempt_id)
        if attempt is not None and attempt.agent_id != session.agent_id:
            raise RemoteProtocolError(f"{session.agent_id} speaks for {attempt_id}, which runs on {attempt.agent_id}")
