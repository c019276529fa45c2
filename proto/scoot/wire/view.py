"""Studies, trials and agents as users see them: what the coordinator tells and scootctl shows. They mirror scoot.v1.

Times ending in `_at_s` are seconds since the epoch, for display only.
"""

from __future__ import annotations

import msgspec

from scoot.wire.assignment import Inventory
from scoot.wire.lease import LeaseState
from scoot.wire.measurement import RunResult
from scoot.wire.reasons import Reason
from scoot.wire.spec import Config, StudySpec
from scoot.wire.states import StudyState, TrialKind, TrialState


class _View(msgspec.Struct, frozen=True, kw_only=True):
    """Base of immutable views."""


class Study(_View, frozen=True, kw_only=True):
    """A study.

    Attributes:
        ended_at_s: 0 while it runs.
        waiting: why nothing can be placed now, "" if something can.
        message: why it failed or was cancelled, or why its search ended before the budget did.
        trials_finished, trials_running: of the budget.
        best_trial: number of the best trial so far.
        notes: what is worth knowing about its options and its space, a sentence each.
        spared: what the engine's own argument check has spared it so far, a sentence each.
    """

    study_id: str
    spec: StudySpec
    state: StudyState
    created_at_s: float = 0.0
    ended_at_s: float = 0.0
    waiting: str = ""
    message: str = ""
    trials_finished: int = 0
    trials_running: int = 0
    best_trial: int | None = None
    notes: tuple[str, ...] = ()
    spared: tuple[str, ...] = ()


class Trial(_View, frozen=True, kw_only=True):
    """A trial.

    Attributes:
        runs: one per arrival order measured.
        agent, phase, requests_completed: of the running attempt.
        source: "default", "sobol", "confirm-best", ...
        confirms: the trial whose configuration a confirmation repeats.
    """

    number: int
    kind: TrialKind
    state: TrialState
    config: Config = {}
    effective_config: Config = {}
    reason: Reason | None = None
    message: str = ""
    runs: tuple[RunResult, ...] = ()
    attempts: int = 0
    agent: str = ""
    phase: str = ""
    source: str = ""
    confirms: int | None = None
    requests_completed: int = 0
    started_at_s: float = 0.0
    ended_at_s: float = 0.0


class StudyDetail(_View, frozen=True, kw_only=True):
    """A study with its trials; `revision` increases with every change."""

    study: Study
    trials: tuple[Trial, ...] = ()
    revision: int = 0

    def trial(self, number: int | None) -> Trial | None:
        """The trial of that number, None if there is none."""
        return next((trial for trial in self.trials if trial.number == number), None)


class Agent(_View, frozen=True, kw_only=True):
    """An agent: what it has, its lease, device id -> attempt in use, seconds since it was heard of."""

    agent_id: str
    version: str = ""
    inventory: Inventory = Inventory()
    lease: LeaseState = LeaseState.SUSPECT
    in_use: dict[str, str] = {}
    silent_s: float = 0.0


class Report(_View, frozen=True, kw_only=True):
    """A report: results.json, Markdown, and one self-contained HTML page."""

    json: str
    markdown: str
    html: str
