"""The coordinator's durable state: studies, trials, attempts, agents. Values only; `machine` is what changes them.

Wall times (`*_s` ending in `at_s`) are seconds since the epoch and only displayed; nothing is decided by them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from scoot.wire.assignment import Inventory
from scoot.wire.lease import LeaseState
from scoot.wire.measurement import AttemptOutcome, PhaseTime, RunResult
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, StudySpec
from scoot.wire.states import StudyState, TrialKind, TrialState


class AttemptState(StrEnum):
    """Where an attempt is, as far as decisions depend on it; the phases in between are display only.

    COLLECTING: the agent's outcome is durable, metrics are being computed from the stored timings.
    """

    OFFERED = "OFFERED"
    RUNNING = "RUNNING"
    COLLECTING = "COLLECTING"
    COMPLETED = "COMPLETED"
    INFEASIBLE = "INFEASIBLE"
    ABORTED = "ABORTED"
    REFUSED = "REFUSED"
    LOST = "LOST"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether the attempt is over; later messages about it are void."""
        return self not in (AttemptState.OFFERED, AttemptState.RUNNING, AttemptState.COLLECTING)


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable records."""


class Rejected(_Record, frozen=True, kw_only=True):
    """A suggestion that became no trial, as the engine's own check told what would come of it.

    Attributes:
        before: the number the next trial had then.
        same_as: the trial whose configuration comes to the same; None: the engine would refuse this one.
        message: the engine's words.
    """

    config: Config
    before: int
    same_as: int | None = None
    message: str = ""


class Idle(_Record, frozen=True, kw_only=True):
    """A parameter that is left out of the search, and why."""

    name: str
    why: str


class StudyRecord(_Record, frozen=True, kw_only=True):
    """A study.

    Attributes:
        asked: suggestions requested so far; numbers the optimizer's calls.
        asking: suggestions requested and not yet received.
        revision: increases with every change of the study or its trials.
        exhausted: the space has no configuration left that was not suggested.
        enough: the search ended before its budget did, as too little further gain is expected (study.stopping).
        cancelling: cancellation is durable; the study ends when its last attempt has stopped.
        message: why it failed or was cancelled, or why its search ended early.
        waiting: why its next trial cannot be placed now, "" if it can.
        notes: what was worth knowing about its options when it was submitted.
        implied: constraints that the engine enforces and the spec does not state; they hold in the search.
        rejected: suggestions that became no trials.
        idle: parameters that are left out of the search.
    """

    study_id: str
    spec: StudySpec
    idempotency_key: str
    created_at_s: float
    state: StudyState = StudyState.SEARCHING
    ended_at_s: float = 0.0
    message: str = ""
    asked: int = 0
    asking: int = 0
    exhausted: bool = False
    enough: bool = False
    cancelling: bool = False
    revision: int = 0
    waiting: str = ""
    notes: tuple[str, ...] = ()
    implied: tuple[str, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    idle: tuple[Idle, ...] = ()


class TrialRecord(_Record, frozen=True, kw_only=True):
    """A trial: its configuration, recorded before it is used, and its one outcome.

    Attributes:
        source: "default", "sobol", "sobol-fallback", "confirm-default", "confirm-best".
        explanation: why the optimizer suggested it, free-form, for display.
        confirms: the trial whose configuration a confirmation repeats.
        run_seeds: one stress test per seed.
        attempts: executions begun.
        passed_over: later trials placed while this one waited for a larger gap.
        resolved: digest of what the engine makes of its configuration; "" is not known.
        runs, effective_config, phases, ...: from the attempt that decided it.
    """

    study_id: str
    number: int
    kind: TrialKind
    config: Config
    source: str
    run_seeds: tuple[int, ...]
    created_at_s: float
    explanation: dict[str, Any] = {}
    confirms: int | None = None
    state: TrialState = TrialState.PENDING
    attempts: int = 0
    passed_over: int = 0
    resolved: str = ""
    reason: Reason | None = None
    message: str = ""
    log_tail: str = ""
    effective_config: Config = {}
    runs: tuple[RunResult, ...] = ()
    phases: tuple[PhaseTime, ...] = ()
    engine_version: str = ""
    command: tuple[str, ...] = ()
    agent_id: str = ""
    started_at_s: float = 0.0
    ended_at_s: float = 0.0


class AttemptRecord(_Record, frozen=True, kw_only=True):
    """One execution of a trial on one agent. `attempt_id` is "STUDY/TRIAL/N" with N = 1, 2, ...

    `outcome` is what the agent told, from COLLECTING on.
    """

    attempt_id: str
    study_id: str
    trial: int
    n: int
    agent_id: str
    incarnation: str
    fence: int
    devices: tuple[str, ...]
    state: AttemptState = AttemptState.OFFERED
    reason: Reason | None = None
    message: str = ""
    outcome: AttemptOutcome | None = None
    offered_at_s: float = 0.0
    ended_at_s: float = 0.0


class AgentRecord(_Record, frozen=True, kw_only=True):
    """An agent that has said hello.

    Attributes:
        lease: how it was last seen; SUSPECT after a restart of the coordinator until it is heard of.
        cordoned: why nothing is placed on it, "" if it may be used.
        stopping: attempts that are over for us while the agent still runs them; their devices are not free yet.
    """

    agent_id: str
    incarnation: str
    boot_id: str
    version: str
    inventory: Inventory
    lease: LeaseState = LeaseState.SUSPECT
    cordoned: str = ""
    stopping: tuple[str, ...] = ()
