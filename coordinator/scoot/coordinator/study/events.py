"""What can happen to the coordinator. Every event that changed something is journalled as JSON, with its wall time."""

from __future__ import annotations

from typing import Any

import msgspec

from scoot.coordinator.study.state import Idle, Rejected
from scoot.wire.assignment import Inventory
from scoot.wire.lease import LeaseState
from scoot.wire.measurement import AttemptOutcome, RunResult
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, StudySpec


class _Event(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of events; the class name is the JSON tag."""


class StudySubmitted(_Event, frozen=True, kw_only=True, tag=True):
    """A user submitted a study. Its spec is validated and its workload blob stored.

    `notes` is what is worth knowing about its options; `implied` are constraints that the engine enforces besides.
    """

    study_id: str
    spec: StudySpec
    idempotency_key: str
    notes: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()


class StudyCancelRequested(_Event, frozen=True, kw_only=True, tag=True):
    """A user wants a study to stop."""

    study_id: str
    reason: str


class SuggestedConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One configuration the optimizer proposes, where it came from, and why.

    `resolved` is a digest of what the engine makes of it, "" where that is not known.
    """

    config: Config
    source: str
    explanation: dict[str, Any] = {}
    resolved: str = ""


class Suggested(_Event, frozen=True, kw_only=True, tag=True):
    """The optimizer answered call number `call`.

    Fewer suggestions than asked end the search: the space is exhausted, or `note` says what else is wrong. With a full
    answer `note` says why Sobol points stand in for the method's own.

    Attributes:
        rejected: suggestions that become no trials.
        idle: parameters that are left out of the search from now on.
        resolved: digests of what the engine makes of earlier trials, by number.
    """

    study_id: str
    call: int
    suggestions: tuple[SuggestedConfig, ...]
    note: str = ""
    rejected: tuple[Rejected, ...] = ()
    idle: tuple[Idle, ...] = ()
    resolved: dict[int, str] = {}


class AttemptRef(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt and its fencing token."""

    attempt_id: str
    fence: int


class AgentConnected(_Event, frozen=True, kw_only=True, tag=True):
    """An agent opened a session and said what it has and what it runs."""

    agent_id: str
    incarnation: str
    boot_id: str
    version: str
    inventory: Inventory
    running: tuple[AttemptRef, ...] = ()
    finished: tuple[AttemptRef, ...] = ()


class AgentLeaseChanged(_Event, frozen=True, kw_only=True, tag=True):
    """An agent has been silent for long enough to change its lease, or was heard of again."""

    agent_id: str
    lease: LeaseState


class AttemptStarted(_Event, frozen=True, kw_only=True, tag=True):
    """The agent took the attempt up."""

    attempt_id: str
    fence: int


class AttemptEnded(_Event, frozen=True, kw_only=True, tag=True):
    """The agent told how the attempt ended; all its timings are stored."""

    outcome: AttemptOutcome


class Measured(_Event, frozen=True, kw_only=True, tag=True):
    """Metrics were computed from the stored timings. `reason` is set where that was impossible."""

    attempt_id: str
    fence: int
    runs: tuple[RunResult, ...] = ()
    reason: Reason | None = None
    message: str = ""


Event = (
    StudySubmitted
    | StudyCancelRequested
    | Suggested
    | AgentConnected
    | AgentLeaseChanged
    | AttemptStarted
    | AttemptEnded
    | Measured
)


class JournalEntry(msgspec.Struct, frozen=True, kw_only=True):
    """An event and the wall time it was taken up at, seconds since the epoch."""

    now_s: float
    event: Event
