"""A coordinator state being changed by one event: copy on write, and a list of what was touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from scoot.coordinator.study.effects import Effect
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    StudyRecord,
    TrialRecord,
)
from scoot.coordinator.study.transitions import ATTEMPT_TRANSITIONS, STUDY_TRANSITIONS, TRIAL_TRANSITIONS
from scoot.wire.errors import InvariantViolation

R = TypeVar("R", StudyRecord, TrialRecord, AttemptRecord)


class CoordinatorState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the coordinator decides on. Treat the mappings as immutable.

    Attributes:
        studies: by study id, in order of submission.
        trials: by study id and trial number, in order.
        attempts: by attempt id.
        agents: by agent id.
        next_fence: fencing token of the next attempt.
    """

    studies: Mapping[str, StudyRecord] = {}
    trials: Mapping[str, Mapping[int, TrialRecord]] = {}
    attempts: Mapping[str, AttemptRecord] = {}
    agents: Mapping[str, AgentRecord] = {}
    next_fence: int = 1


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The records an event changed, in their new form; `next_fence` where it moved."""

    studies: tuple[StudyRecord, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    attempts: tuple[AttemptRecord, ...] = ()
    agents: tuple[AgentRecord, ...] = ()
    next_fence: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing changed."""
        return not (self.studies or self.trials or self.attempts or self.agents)


class Draft:
    """A mutable view of a state during one step. Transitions are checked against the tables."""

    def __init__(self, state: CoordinatorState) -> None:
        self._before = state
        self.studies: dict[str, StudyRecord] = dict(state.studies)
        self.attempts: dict[str, AttemptRecord] = dict(state.attempts)
        self.agents: dict[str, AgentRecord] = dict(state.agents)
        self._trials: dict[str, Mapping[int, TrialRecord]] = dict(state.trials)
        self._own_trials: set[str] = set()
        self._next_fence = state.next_fence
        self._touched: dict[str, dict[Any, None]] = {"studies": {}, "trials": {}, "attempts": {}, "agents": {}}
        self.effects: list[Effect] = []

    def trials(self, study_id: str) -> Mapping[int, TrialRecord]:
        """The trials of a study by number."""
        return self._trials.get(study_id, {})

    def put_study(self, record: StudyRecord) -> None:
        """Insert or replace a study."""
        old = self.studies.get(record.study_id)
        if old is not None and old.state is not record.state and record.state not in STUDY_TRANSITIONS[old.state]:
            raise InvariantViolation(f"study {record.study_id}: {old.state} -> {record.state}", story=(old, record))
        if old != record:
            self.studies[record.study_id] = record
            self._touched["studies"][record.study_id] = None

    def put_trial(self, record: TrialRecord) -> None:
        """Insert or replace a trial."""
        key = (record.study_id, record.number)
        old = self.trials(record.study_id).get(record.number)
        if old is not None and old.state is not record.state and record.state not in TRIAL_TRANSITIONS[old.state]:
            raise InvariantViolation(f"trial {key}: {old.state} -> {record.state}", story=(old, record))
        if old != record:
            if record.study_id not in self._own_trials:
                self._trials[record.study_id] = dict(self.trials(record.study_id))
                self._own_trials.add(record.study_id)
            self._trials[record.study_id][record.number] = record  # type: ignore[index]  # our own dict, copied above
            self._touched["trials"][key] = None

    def put_attempt(self, record: AttemptRecord) -> None:
        """Insert or replace an attempt."""
        old = self.attempts.get(record.attempt_id)
        if old is not None and old.state is not record.state and record.state not in ATTEMPT_TRANSITIONS[old.state]:
            raise InvariantViolation(f"attempt {record.attempt_id}: {old.state} -> {record.state}", story=(old, record))
        if old != record:
            self.attempts[record.attempt_id] = record
            self._touched["attempts"][record.attempt_id] = None

    def put_agent(self, record: AgentRecord) -> None:
        """Insert or replace an agent."""
        if self.agents.get(record.agent_id) != record:
            self.agents[record.agent_id] = record
            self._touched["agents"][record.agent_id] = None

    def take_fence(self) -> int:
        """A fencing token larger than any before."""
        fence = self._next_fence
        self._next_fence += 1
        return fence

    def finish(self) -> tuple[CoordinatorState, tuple[Effect, ...], Delta]:
        """The new state, the effects, and what changed. Bumps the revision of every study that was touched."""
        trial_keys: dict[tuple[str, int], None] = self._touched["trials"]
        attempt_ids: dict[str, None] = self._touched["attempts"]
        studies = dict.fromkeys(self._touched["studies"])
        studies.update(dict.fromkeys(study_id for study_id, _ in trial_keys))
        for study_id in studies:
            study = self.studies[study_id]
            self.studies[study_id] = msgspec.structs.replace(study, revision=study.revision + 1)
        delta = Delta(
            studies=tuple(self.studies[study_id] for study_id in studies),
            trials=tuple(self._trials[study_id][number] for study_id, number in trial_keys),
            attempts=tuple(self.attempts[attempt_id] for attempt_id in attempt_ids),
            agents=tuple(self.agents[agent_id] for agent_id in self._touched["agents"]),
            next_fence=self._next_fence if self._next_fence != self._before.next_fence else None,
        )
        if delta.is_empty:
            return self._before, tuple(self.effects), delta
        state = CoordinatorState(
            studies=self.studies,
            trials=self._trials,
            attempts=self.attempts,
            agents=self.agents,
            next_fence=self._next_fence,
        )
        return state, tuple(self.effects), delta


def live_attempts(attempts: Mapping[str, AttemptRecord]) -> list[AttemptRecord]:
    """Attempts that are not over, in order of their fences."""
    return sorted((record for record in attempts.values() if not record.state.is_terminal), key=lambda r: r.fence)
