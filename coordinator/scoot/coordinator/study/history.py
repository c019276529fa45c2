"""What a study's trials taught, as the optimizer and the choice of the best see it."""

from __future__ import annotations

from collections.abc import Iterable

from scoot.coordinator.objective.best import best_trial
from scoot.coordinator.objective.metric import directions_of, objective_values
from scoot.coordinator.optimizer.base import Observation
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.wire.reasons import Blame, blame_of
from scoot.wire.states import TrialKind, TrialState


def trial_values(study: StudyRecord, trial: TrialRecord) -> tuple[float, ...] | None:
    """Objective values of a succeeded trial's first run; None if it has none."""
    if trial.state is not TrialState.SUCCEEDED or not trial.runs:
        return None
    return objective_values(study.spec.objectives, trial.runs[0].metrics)


def observations(study: StudyRecord, trials: Iterable[TrialRecord]) -> tuple[Observation, ...]:
    """The optimizer's history in order of trial number: confirmations left out, only CONFIG blame is infeasible."""
    out = []
    for trial in trials:
        if trial.kind is TrialKind.CONFIRMATION:
            continue
        infeasible = (
            trial.state is TrialState.INFEASIBLE and trial.reason is not None and blame_of(trial.reason) is Blame.CONFIG
        )
        out.append(
            Observation(
                number=trial.number,
                config=trial.config,
                values=trial_values(study, trial),
                infeasible=infeasible,
                pending=not trial.state.is_terminal,
            )
        )
    return tuple(out)


def best_of(study: StudyRecord, trials: Iterable[TrialRecord]) -> int | None:
    """Number of the best trial so far; two objectives: largest single-point hypervolume against the default."""
    values: list[tuple[int, tuple[float, ...]]] = []
    reference: tuple[float, ...] | None = None
    for trial in trials:
        if trial.kind is TrialKind.CONFIRMATION:
            continue
        found = trial_values(study, trial)
        if found is not None:
            values.append((trial.number, found))
            if trial.kind is TrialKind.DEFAULT:
                reference = found
    return best_trial(values, reference, directions_of(study.spec.objectives))
