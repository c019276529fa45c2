"""Between SCOOT's values and the messages of scoot.v1's AgentService. Limits are checked before meaning."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

import msgspec

from scoot.v1 import agent_service_pb2 as pb
from scoot.v1 import measurement_pb2
from scoot.wire import limits
from scoot.wire.assignment import Assignment, Inventory, Progress
from scoot.wire.catalogue.verdict import Checked
from scoot.wire.errors import RemoteProtocolError, UserError
from scoot.wire.lease import LeasePolicy
from scoot.wire.measurement import AttemptOutcome
from scoot.wire.protobuf import from_message, to_message
from scoot.wire.spec import Config, Service

PROTOCOL: Final = 1
"""Version of this protocol, told in Hello."""

_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class AttemptRef(msgspec.Struct, frozen=True, order=True):
    """An attempt and its fencing token."""

    attempt_id: str
    fence: int


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """Who this agent is; the first message of a session."""

    agent_id: str
    incarnation: str
    boot_id: str
    version: str
    inventory: Inventory
    running: tuple[AttemptRef, ...] = ()
    finished: tuple[AttemptRef, ...] = ()


class Welcome(msgspec.Struct, frozen=True, kw_only=True):
    """The session was accepted."""

    session_id: str
    lease: LeasePolicy


class HeartbeatAck(msgspec.Struct, frozen=True):
    """A heartbeat arrived."""

    seq: int


class Assign(msgspec.Struct, frozen=True):
    """Execute this attempt, unless it is known already."""

    assignment: Assignment


class Cancel(msgspec.Struct, frozen=True):
    """Stop this attempt."""

    ref: AttemptRef


class OutcomeAck(msgspec.Struct, frozen=True):
    """The outcome is durable or void."""

    ref: AttemptRef


class Refusal(msgspec.Struct, frozen=True):
    """The session was refused; `retry` says whether trying again can help."""

    message: str
    retry: bool


class CheckQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """What would the engine make of these configurations? `names`: the parameters whose values are wanted."""

    check_id: int
    service: Service
    configs: tuple[Config, ...]
    names: tuple[str, ...] = ()


class CheckReply(msgspec.Struct, frozen=True, kw_only=True):
    """Answers in the order of the question's configurations."""

    check_id: int
    checked: tuple[Checked, ...]


Incoming = Welcome | HeartbeatAck | Assign | Cancel | OutcomeAck | Refusal | CheckQuestion


class _Configuration(msgspec.Struct, frozen=True):
    values: Config = {}


class Verdict(StrEnum):
    """What became of a batch."""

    STORED = "STORED"
    FENCED = "FENCED"
    CORRUPT = "CORRUPT"
    RETRY = "RETRY"


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """Answer to a batch, and how many may be unacknowledged from now on."""

    attempt_id: str
    seq: int
    verdict: Verdict
    credits: int


def hello(value: Hello) -> pb.AgentMessage:
    """The first message of a session."""
    message = pb.AgentMessage()
    to_message(value, message.hello)
    message.hello.protocol = PROTOCOL
    return message


def heartbeat(seq: int) -> pb.AgentMessage:
    """A heartbeat."""
    return pb.AgentMessage(heartbeat=pb.Heartbeat(seq=seq))


def update(ref: AttemptRef, progress: Progress) -> pb.AgentMessage:
    """A running attempt's progress."""
    message = pb.AgentMessage(update=pb.AttemptUpdate(attempt_id=ref.attempt_id, fence=ref.fence))
    to_message(progress, message.update)
    return message


def outcome(value: AttemptOutcome) -> pb.AgentMessage:
    """A finished attempt's outcome."""
    message = pb.AgentMessage()
    to_message(value, message.outcome)
    return message


def check_reply(value: CheckReply) -> pb.AgentMessage:
    """Answers to a question about configurations."""
    message = pb.AgentMessage()
    to_message(value, message.check_reply)
    return message


def catalogue(engine: str, json: bytes) -> pb.AgentMessage:
    """The options of an engine, as JSON of scoot.wire.catalogue.option.Catalogue."""
    return pb.AgentMessage(catalogue=pb.EngineCatalogue(engine=engine, json=json))


def batch(
    ref: AttemptRef, seq: int, payload: bytes, *, sha256: bytes, raw_bytes: int, zstd: bool
) -> measurement_pb2.MeasurementBatch:
    """A timing batch; `sha256` (32 bytes) is of `payload` as sent."""
    return measurement_pb2.MeasurementBatch(
        attempt_id=ref.attempt_id,
        fence=ref.fence,
        seq=seq,
        sha256=sha256,
        encoding=measurement_pb2.ENCODING_ZSTD if zstd else measurement_pb2.ENCODING_RAW,
        raw_bytes=raw_bytes,
        payload=payload,
    )


def incoming(message: pb.CoordinatorMessage) -> Incoming:
    """What the coordinator said.

    Raises:
        RemoteProtocolError: an empty or unknown body, or values out of their limits.
    """
    found: Incoming
    match message.WhichOneof("body"):
        case "welcome":
            found = Welcome(session_id=_text(message.welcome.session_id), lease=_lease(message.welcome.lease))
        case "heartbeat_ack":
            found = HeartbeatAck(message.heartbeat_ack.seq)
        case "assign":
            found = Assign(_assignment(message.assign))
        case "cancel":
            found = Cancel(AttemptRef(_text(message.cancel.attempt_id), message.cancel.fence))
        case "outcome_ack":
            found = OutcomeAck(AttemptRef(_text(message.outcome_ack.attempt_id), message.outcome_ack.fence))
        case "refusal":
            found = Refusal(_text(message.refusal.message), message.refusal.retry)
        case "check":
            found = _question(message.check)
        case _:
            raise RemoteProtocolError("the coordinator sent a message without a known body")
    return found


def reply(message: pb.UploadReply) -> Reply:
    """What became of a batch.

    Raises:
        RemoteProtocolError: an unknown verdict, or no credit at all.
    """
    names = {
        pb.BATCH_VERDICT_STORED: Verdict.STORED,
        pb.BATCH_VERDICT_FENCED: Verdict.FENCED,
        pb.BATCH_VERDICT_CORRUPT: Verdict.CORRUPT,
        pb.BATCH_VERDICT_RETRY: Verdict.RETRY,
    }
    verdict = names.get(message.verdict)
    if verdict is None:
        raise RemoteProtocolError(f"unknown batch verdict {message.verdict}")
    if message.credits < 1:
        raise RemoteProtocolError("the coordinator granted no upload credit")
    return Reply(attempt_id=message.attempt_id, seq=message.seq, verdict=verdict, credits=message.credits)


def _text(value: str) -> str:
    if len(value) > limits.STRING_CHARS:
        raise RemoteProtocolError(f"a text of {len(value)} characters is over the limit of {limits.STRING_CHARS}")
    return value


def _lease(message: pb.LeasePolicy) -> LeasePolicy:
    try:
        return from_message(message, LeasePolicy)
    except UserError as error:
        raise RemoteProtocolError(f"unusable lease policy: {error}") from error


def _question(message: pb.CheckConfigs) -> CheckQuestion:
    if len(message.configs) > limits.CHECKS or len(message.names) > limits.PARAMETERS:
        raise RemoteProtocolError(f"check {message.check_id}: too many configurations or names")
    if any(len(each.values) > limits.PARAMETERS for each in message.configs):
        raise RemoteProtocolError(f"check {message.check_id}: too many parameters")
    return CheckQuestion(
        check_id=message.check_id,
        service=from_message(message.service, Service),
        configs=tuple(from_message(each, _Configuration).values for each in message.configs),
        names=tuple(message.names),
    )


def _assignment(message: pb.Assignment) -> Assignment:
    if not message.attempt_id or message.fence < 1 or not message.run_seeds:
        raise RemoteProtocolError("an assignment without an attempt, a fencing token or a run")
    _text(message.attempt_id)
    if not _SHA256.fullmatch(message.workload_sha256):
        raise RemoteProtocolError(f"assignment {message.attempt_id}: the workload's digest is not a SHA-256")
    if len(message.config) > limits.PARAMETERS or len(message.devices) > limits.DEVICES_PER_AGENT:
        raise RemoteProtocolError(f"assignment {message.attempt_id}: too many parameters or devices")
    return from_message(message, Assignment)
