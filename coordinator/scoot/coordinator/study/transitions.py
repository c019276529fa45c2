"""Which states may follow which: the tables that docs/state-machines.md is drawn from."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from scoot.coordinator.study.state import AttemptState
from scoot.wire.states import StudyState, TrialState

_A = AttemptState
_T = TrialState
_S = StudyState

_ATTEMPT_ENDS: Final = frozenset({_A.INFEASIBLE, _A.ABORTED, _A.REFUSED, _A.LOST, _A.CANCELLED})

ATTEMPT_TRANSITIONS: Final = MappingProxyType(
    {
        _A.OFFERED: frozenset({_A.RUNNING, _A.COLLECTING}) | _ATTEMPT_ENDS,
        _A.RUNNING: frozenset({_A.COLLECTING}) | _ATTEMPT_ENDS,
        _A.COLLECTING: frozenset({_A.COMPLETED, _A.INFEASIBLE, _A.ABORTED, _A.CANCELLED}),
        _A.COMPLETED: frozenset(),
        _A.INFEASIBLE: frozenset(),
        _A.ABORTED: frozenset(),
        _A.REFUSED: frozenset(),
        _A.LOST: frozenset(),
        _A.CANCELLED: frozenset(),
    }
)

TRIAL_TRANSITIONS: Final = MappingProxyType(
    {
        _T.PENDING: frozenset({_T.RUNNING, _T.FAILED, _T.CANCELLED}),
        _T.RUNNING: frozenset({_T.PENDING, _T.SUCCEEDED, _T.INFEASIBLE, _T.FAILED, _T.CANCELLED}),
        _T.SUCCEEDED: frozenset(),
        _T.INFEASIBLE: frozenset(),
        _T.FAILED: frozenset(),
        _T.CANCELLED: frozenset(),
    }
)

STUDY_TRANSITIONS: Final = MappingProxyType(
    {
        _S.SEARCHING: frozenset({_S.CONFIRMING, _S.COMPLETED, _S.CANCELLED, _S.FAILED}),
        _S.CONFIRMING: frozenset({_S.COMPLETED, _S.CANCELLED, _S.FAILED}),
        _S.COMPLETED: frozenset(),
        _S.CANCELLED: frozenset(),
        _S.FAILED: frozenset(),
    }
)
