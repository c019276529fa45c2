"""A study's records -> Results. Pure, and total: it works at any moment of a study, finished or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

import msgspec
import numpy as np

from scoot.coordinator.objective.best import contending
from scoot.coordinator.objective.confirmation import Lead, lead_of
from scoot.coordinator.objective.hypervolume import single_point_hypervolume
from scoot.coordinator.objective.metric import Direction, objective_values
from scoot.coordinator.objective.outcome import Outcome, outcome_figures, outcomes_of, violation, worst_figures
from scoot.coordinator.objective.pareto import minimise, pareto_front
from scoot.coordinator.report.caveats import find_caveats
from scoot.coordinator.report.command import tuned_flags
from scoot.coordinator.report.redact import Redactor
from scoot.coordinator.report.results import (
    RESULTS_SCHEMA,
    Best,
    Confirmed,
    EngineInfo,
    FrontMember,
    Improvement,
    ObjectiveInfo,
    OrderValues,
    OutcomeOrders,
    PairedRatio,
    Promise,
    Results,
    RunSummary,
    Seeds,
    Slo,
    TrialCounts,
    TrialResult,
)
from scoot.coordinator.report.text import objective_info, outcome_info
from scoot.coordinator.study.history import best_of
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.coordinator.study.vetting import notes, spared
from scoot.wire.reasons import blame_of
from scoot.wire.spec import StudySpec
from scoot.wire.states import TrialKind, TrialState


def build_results(study: StudyRecord, trials: Sequence[TrialRecord], *, scoot_version: str, now_s: float) -> Results:
    """What `study` taught so far.

    Args:
        study: its record.
        trials: its trials, in any order.
        scoot_version: of the program that writes the report.
        now_s: wall time, seconds since the epoch; stamped on the document.
    """
    records = sorted(trials, key=lambda trial: trial.number)
    redactor = Redactor(study.spec)
    objectives = tuple(objective_info(objective.metric) for objective in study.spec.objectives)
    outcomes = outcomes_of(study.spec.outcomes)
    summaries = {record.number: _trial(study, record, redactor) for record in records}
    default = next((trial.values for trial in summaries.values() if trial.kind is TrialKind.DEFAULT), None)
    best_number = best_of(study, records)
    slo = _slo(study, summaries, objectives, outcomes)
    partial = Results(
        schema=RESULTS_SCHEMA,
        scoot_version=scoot_version,
        generated_at_s=now_s,
        study_id=study.study_id,
        name=study.spec.name,
        state=study.state,
        final=study.state.is_terminal,
        message=redactor.text(study.message if study.state.is_terminal else study.waiting or study.message),
        created_at_s=study.created_at_s,
        ended_at_s=study.ended_at_s,
        spec=redactor.spec(),
        engine=EngineInfo(
            name=study.spec.service.engine,
            versions=tuple(dict.fromkeys(record.engine_version for record in records if record.engine_version)),
        ),
        seeds=Seeds(
            optimizer=study.spec.optimizer.seed,
            workload=study.spec.workload.seed,
            confirmation=slo.seeds if slo is not None else _confirmation_seeds(records),
        ),
        objectives=objectives,
        counts=_counts(study, records),
        trials=tuple(summaries.values()),
        default=default,
        best=None if best_number is None else _best(summaries[best_number], default, objectives, redactor.spec()),
        front=_front(summaries, objectives, outcomes, best_number),
        slo=slo,
        caveats=(),
        outcomes=tuple(map(outcome_info, outcomes)),
        notes=tuple(map(redactor.text, (*notes(study), *spared(study)))),
    )
    return msgspec.structs.replace(partial, caveats=find_caveats(partial, redacted=redactor.names))


def _trial(study: StudyRecord, record: TrialRecord, redactor: Redactor) -> TrialResult:
    runs = tuple(
        RunSummary(
            run=run.run,
            seed=run.seed,
            values=objective_values(study.spec.objectives, run.metrics),
            metrics=run.metrics,
            audit=run.audit,
            validity=run.validity,
        )
        for run in record.runs
    )
    believed = [run.values for run in runs if run.validity.valid and run.values is not None]
    succeeded = record.state is TrialState.SUCCEEDED and bool(believed)
    outcomes = outcomes_of(study.spec.outcomes) if succeeded else ()
    figures = worst_figures(outcomes, [run.metrics for run in runs if run.validity.valid and run.values is not None])
    return TrialResult(
        number=record.number,
        kind=record.kind,
        source=record.source,
        state=record.state,
        config=record.config,
        explanation=record.explanation,
        confirms=record.confirms,
        effective_config=record.effective_config,
        reason=record.reason,
        blame=None if record.reason is None else blame_of(record.reason),
        message=redactor.text(record.message),
        log_tail=redactor.text(record.log_tail),
        values=tuple(median(column) for column in zip(*believed, strict=True)) if succeeded else None,
        outcomes=figures,
        kept=violation(outcomes, figures) == 0 if outcomes else None,
        run_seeds=record.run_seeds,
        runs=runs,
        phases=record.phases,
        attempts=record.attempts,
        agent=record.agent_id,
        engine_version=record.engine_version,
        command=redactor.command(record.command),
        started_at_s=record.started_at_s,
        ended_at_s=record.ended_at_s,
    )


def _counts(study: StudyRecord, records: Sequence[TrialRecord]) -> TrialCounts:
    search = [record.state for record in records if record.kind is not TrialKind.CONFIRMATION]
    return TrialCounts(
        budget=study.spec.budget.trials,
        succeeded=search.count(TrialState.SUCCEEDED),
        infeasible=search.count(TrialState.INFEASIBLE),
        failed=search.count(TrialState.FAILED),
        cancelled=search.count(TrialState.CANCELLED),
        running=search.count(TrialState.RUNNING),
        pending=search.count(TrialState.PENDING),
        confirmations=len(records) - len(search),
    )


def _confirmation_seeds(records: Sequence[TrialRecord]) -> tuple[int, ...]:
    return next((record.run_seeds for record in records if record.kind is TrialKind.CONFIRMATION), ())


def _best(
    trial: TrialResult, default: tuple[float, ...] | None, objectives: Sequence[ObjectiveInfo], spec: StudySpec
) -> Best | None:
    if trial.values is None:
        return None
    names = [parameter.name for parameter in spec.parameters]
    return Best(
        trial=trial.number,
        config=trial.config,
        effective_config=trial.effective_config,
        values=trial.values,
        flags=tuned_flags(trial.command, names),
        command=trial.command,
        env=spec.service.env,
        improvement=tuple(
            Improvement(
                metric=objective.metric,
                direction=objective.direction,
                default=before,
                best=after,
                percent=improvement_percent(before, after, objective.direction),
            )
            for objective, before, after in zip(objectives, default or (), trial.values, strict=False)
        ),
        kept=trial.kept,
    )


def improvement_percent(default: float, best: float, direction: Direction) -> float | None:
    """Change relative to the default in the objective's direction, above 0 is better; None if the default is 0."""
    if default == 0:
        return None
    gain = default - best if direction is Direction.MINIMISE else best - default
    return 100.0 * gain / abs(default)


def _front(
    trials: Mapping[int, TrialResult],
    objectives: Sequence[ObjectiveInfo],
    outcomes: Sequence[Outcome],
    chosen: int | None,
) -> tuple[FrontMember, ...]:
    if len(objectives) == 1:
        return ()
    directions = [objective.direction for objective in objectives]
    known = [
        (trial.number, trial.values)
        for trial in trials.values()
        if trial.kind is not TrialKind.CONFIRMATION and trial.values is not None
    ]
    default = next((values for number, values in known if number == 0), None)
    beyond = {number: violation(outcomes, trials[number].outcomes) for number, _ in known}
    if 0.0 in beyond.values():
        contenders = contending([*beyond], beyond)
        known = [(number, values) for number, values in known if number in contenders]
    points = minimise([values for _, values in known], directions)
    corner = None if default is None else minimise(default, directions)
    rows = np.flatnonzero(pareto_front(points)).tolist()
    return tuple(
        FrontMember(
            trial=known[row][0],
            values=known[row][1],
            hypervolume=None if corner is None else single_point_hypervolume(points[row], corner),
            chosen=known[row][0] == chosen,
        )
        for row in sorted(rows, key=lambda row: (tuple(points[row]), known[row][0]))
    )


def _slo(
    study: StudyRecord,
    trials: Mapping[int, TrialResult],
    objectives: Sequence[ObjectiveInfo],
    outcomes: Sequence[Outcome],
) -> Slo | None:
    """The confirmation, as far as it can be believed; None while the best is not confirmed."""
    confirmations = {trial.source: trial for trial in trials.values() if trial.kind is TrialKind.CONFIRMATION}
    default_trial = confirmations.get("confirm-default")
    best_trial = confirmations.get("confirm-best", default_trial)
    if best_trial is None:
        return None
    seeds = best_trial.run_seeds
    best = _confirmed(best_trial, seeds, objectives)
    if best is None:
        return None
    default = None if default_trial is None else _confirmed(default_trial, seeds, objectives)
    compared = default is not None and default.trial != best.trial
    lead = None
    if default is not None and compared:
        lead = lead_of(
            [objective.direction for objective in objectives],
            [values.median for values in best.objectives],
            [values.median for values in default.objectives],
            violations=(
                violation(outcomes, trials[best.trial].outcomes),
                violation(outcomes, trials[default.trial].outcomes),
            ),
        )
    recommended = default if default is not None and lead is Lead.LOST else best
    return Slo(
        orders=study.spec.confirm.arrival_orders,
        seeds=seeds,
        lead=lead,
        promise=tuple(
            Promise(
                metric=values.metric,
                direction=objective.direction,
                bound=values.worst,
                orders=sum(value is not None for value in values.per_order),
            )
            for objective, values in zip(objectives, recommended.objectives, strict=True)
        ),
        best=best,
        default=default,
        paired=tuple(
            _paired(objective, ours.per_order, theirs.per_order)
            for objective, ours, theirs in zip(objectives, best.objectives, default.objectives, strict=True)
        )
        if default is not None and compared
        else (),
        outcomes=_orders(trials[recommended.trial], seeds, outcomes),
    )


def _orders(trial: TrialResult, seeds: Sequence[int], outcomes: Sequence[Outcome]) -> tuple[OutcomeOrders, ...]:
    """What the outcomes limit, over the arrival orders."""
    by_seed = {
        run.seed: outcome_figures(outcomes, run.metrics)
        for run in trial.runs
        if run.validity.valid and run.values is not None
    }
    return tuple(
        OutcomeOrders(
            metric=outcome.name,
            limit=outcome.limit,
            direction=outcome.direction,
            per_order=tuple(by_seed[seed][place] if seed in by_seed else None for seed in seeds),
            worst=worst,
            kept=violation([outcome], [worst]) == 0,
        )
        for place, (outcome, worst) in enumerate(zip(outcomes, trial.outcomes, strict=True))
    )


def _confirmed(trial: TrialResult, seeds: Sequence[int], objectives: Sequence[ObjectiveInfo]) -> Confirmed | None:
    if trial.state is not TrialState.SUCCEEDED:
        return None
    by_seed = {run.seed: run.values for run in trial.runs if run.validity.valid and run.values is not None}
    if not by_seed:
        return None
    columns = []
    for position, objective in enumerate(objectives):
        per_order = tuple(values[position] if (values := by_seed.get(seed)) is not None else None for seed in seeds)
        there = [value for value in per_order if value is not None]
        if not there:
            return None
        columns.append(
            OrderValues(
                metric=objective.metric,
                per_order=per_order,
                worst=worst_of(there, objective.direction),
                median=median(there),
            )
        )
    return Confirmed(
        trial=trial.number,
        confirms=0 if trial.confirms is None else trial.confirms,
        objectives=tuple(columns),
    )


def worst_of(values: Sequence[float], direction: Direction) -> float:
    """The value least in the objective's favour. `values` is not empty."""
    return max(values) if direction is Direction.MINIMISE else min(values)


def _paired(objective: ObjectiveInfo, best: Sequence[float | None], default: Sequence[float | None]) -> PairedRatio:
    ratios = tuple(
        None if ours is None or theirs is None or theirs == 0 else ours / theirs
        for ours, theirs in zip(best, default, strict=True)
    )
    there = [ratio for ratio in ratios if ratio is not None]
    worst = worst_of(there, objective.direction) if there else None
    return PairedRatio(
        metric=objective.metric,
        ratios=ratios,
        worst=worst,
        median=median(there) if there else None,
        never_worse=worst is not None and (worst <= 1.0 if objective.direction is Direction.MINIMISE else worst >= 1.0),
    )
