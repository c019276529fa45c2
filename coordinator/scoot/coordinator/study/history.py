"""What a study's trials taught, as the optimizer and the choice of the best see it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec.structs import replace

from scoot.coordinator.objective.best import best_trial
from scoot.coordinator.objective.metric import directions_of, objective_errors, objective_values
from scoot.coordinator.objective.outcome import Outcome, outcome_figures, outcomes_of, violation
from scoot.coordinator.optimizer.base import Observation
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.coordinator.study.vetting import without_idle
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import Config
from scoot.wire.states import TrialKind, TrialState


def trial_values(study: StudyRecord, trial: TrialRecord) -> tuple[float, ...] | None:
    """Objective values of a succeeded trial's first run; None if it has none."""
    if trial.state is not TrialState.SUCCEEDED or not trial.runs:
        return None
    return objective_values(study.spec.objectives, trial.runs[0].metrics)


def observations(study: StudyRecord, trials: Iterable[TrialRecord]) -> tuple[Observation, ...]:
    """The optimizer's history in order of trial number: confirmations left out, only CONFIG blame is infeasible.

    Suggestions that became no trials are told where they came up, numbers moving up by one for each: as infeasible, or
    with what was measured of the trial they come to the same as.

    Noise is what the latencies of the requests of the first run tell of it (objective.metric.Metric.error). What the
    default leaves to the engine is filled in with what the engine made of it, as far as it told: so the optimizer knows
    where the default lies, and does not propose it again.
    """
    tuned = {parameter.name for parameter in study.spec.parameters}
    outcomes = outcomes_of(study.spec.outcomes)
    told: dict[int, Observation] = {}
    for trial in trials:
        if trial.kind is TrialKind.CONFIRMATION:
            continue
        infeasible = (
            trial.state is TrialState.INFEASIBLE and trial.reason is not None and blame_of(trial.reason) is Blame.CONFIG
        )
        values = trial_values(study, trial)
        told[trial.number] = Observation(
            number=trial.number,
            config=without_idle(study, _config(trial, tuned)),
            values=values,
            infeasible=infeasible,
            pending=not trial.state.is_terminal,
            reason=trial.reason.value if infeasible and trial.reason is not None else "",
            outcomes=None if values is None else _figures(outcomes, trial),
            noise=None if values is None else objective_errors(study.spec.objectives, trial.runs[0].metrics),
        )
    return _with_rejected(study, told)


def _with_rejected(study: StudyRecord, told: dict[int, Observation]) -> tuple[Observation, ...]:
    """Trials and rejected suggestions in the order in which they came up, numbered anew if there are any of these."""
    if not study.rejected:
        return tuple(told.values())
    places = [((number, 1), each) for number, each in told.items()]
    for rejected in study.rejected:
        config = without_idle(study, rejected.config)
        same = None if rejected.same_as is None else told.get(rejected.same_as)
        if same is None:
            same = Observation(number=0, infeasible=True, reason=Reason.ENGINE_REJECTED_ARGS.value)
        places.append(((rejected.before, 0), replace(same, config=config)))
    places.sort(key=lambda place: place[0])
    return tuple(replace(each, number=number) for number, (_, each) in enumerate(places))


def _config(trial: TrialRecord, tuned: Collection[str]) -> Config:
    if trial.kind is not TrialKind.DEFAULT:
        return trial.config
    told = {name: value for name, value in trial.effective_config.items() if name in tuned}
    return {**told, **trial.config}


def _figures(outcomes: tuple[Outcome, ...], trial: TrialRecord) -> tuple[float, ...] | None:
    """What the outcomes limit, from the first run; None if there are none, or any is undefined."""
    figures = outcome_figures(outcomes, trial.runs[0].metrics)
    known = [figure for figure in figures if figure is not None]
    return tuple(known) if known and len(known) == len(figures) else None


def best_of(study: StudyRecord, trials: Iterable[TrialRecord]) -> int | None:
    """Number of the best trial so far (objective.best), among those that keep the outcomes where any does."""
    outcomes = outcomes_of(study.spec.outcomes)
    values: list[tuple[int, tuple[float, ...]]] = []
    violations: dict[int, float] = {}
    reference: tuple[float, ...] | None = None
    for trial in trials:
        if trial.kind is TrialKind.CONFIRMATION:
            continue
        found = trial_values(study, trial)
        if found is not None:
            values.append((trial.number, found))
            violations[trial.number] = violation(outcomes, outcome_figures(outcomes, trial.runs[0].metrics))
            if trial.kind is TrialKind.DEFAULT:
                reference = found
    return best_trial(values, reference, directions_of(study.spec.objectives), violations)
