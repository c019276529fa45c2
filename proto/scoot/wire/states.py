"""States that users see, and the coordinator decides on."""

from __future__ import annotations

from enum import StrEnum


class StudyState(StrEnum):
    """Where a study is."""

    SEARCHING = "SEARCHING"
    CONFIRMING = "CONFIRMING"
    COMPLETED = "COMPLETED"
    CANCELLED = "CANCELLED"
    FAILED = "FAILED"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing will happen to the study any more."""
        return self in (StudyState.COMPLETED, StudyState.CANCELLED, StudyState.FAILED)


class TrialState(StrEnum):
    """Where a trial is."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    INFEASIBLE = "INFEASIBLE"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def is_terminal(self) -> bool:
        """Whether the trial's outcome is final."""
        return self not in (TrialState.PENDING, TrialState.RUNNING)


class TrialKind(StrEnum):
    """Why a trial exists."""

    DEFAULT = "DEFAULT"
    SUGGESTED = "SUGGESTED"
    CONFIRMATION = "CONFIRMATION"
