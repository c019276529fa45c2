"""The study machine: what the coordinator decides. `step(state, event, now)` is pure; shells do what it says.

The path of a trial (docs/architecture.md): StudySubmitted -> trial 0 -> RequestSuggestions -> Suggested -> placement ->
SendAssign -> AttemptStarted -> AttemptEnded -> Measure -> Measured -> next. Whatever the event, afterwards every study
asks for what it may ask for and every trial that fits is placed: a freed slot is refilled by the event that freed it.
"""

from __future__ import annotations

from typing import Final

import msgspec

from scoot.benchmark.validity import noise
from scoot.coordinator.space.study_space import space_of
from scoot.coordinator.study.draft import CoordinatorState, Delta, Draft, live_attempts
from scoot.coordinator.study.effects import (
    AcknowledgeOutcome,
    Effect,
    Measure,
    RequestSuggestions,
    SendAssign,
    SendCancel,
)
from scoot.coordinator.study.events import (
    AgentConnected,
    AgentLeaseChanged,
    AttemptEnded,
    AttemptStarted,
    Event,
    Measured,
    StudyCancelRequested,
    StudySubmitted,
    Suggested,
)
from scoot.coordinator.study.history import best_of
from scoot.coordinator.study.placement import place
from scoot.coordinator.study.state import (
    AgentRecord,
    AttemptRecord,
    AttemptState,
    StudyRecord,
    TrialRecord,
)
from scoot.coordinator.study.stopping import why_enough
from scoot.coordinator.study.transitions import ATTEMPT_TRANSITIONS, STUDY_TRANSITIONS, TRIAL_TRANSITIONS
from scoot.coordinator.study.vetting import extended
from scoot.wire.columns import TIME_OUTS, RequestStatus
from scoot.wire.errors import InvariantViolation
from scoot.wire.lease import LeaseState
from scoot.wire.measurement import RunResult
from scoot.wire.reasons import Blame, Reason, blame_of
from scoot.wire.spec import Limits
from scoot.wire.states import StudyState, TrialKind, TrialState

__all__ = ["ATTEMPT_TRANSITIONS", "STUDY_TRANSITIONS", "TRIAL_TRANSITIONS", "resume", "step"]

_SEED_STRIDE: Final = 1_000_003
"""Spreads the seeds of confirmation runs; any odd number that keeps them apart from `workload.seed` would do."""

_ENDS: Final = {
    "INFEASIBLE": AttemptState.INFEASIBLE,
    "ABORTED": AttemptState.ABORTED,
    "REFUSED": AttemptState.REFUSED,
    "CANCELLED": AttemptState.CANCELLED,
}

_replace = msgspec.structs.replace


def step(state: CoordinatorState, event: Event, now_s: float) -> tuple[CoordinatorState, tuple[Effect, ...], Delta]:
    """Apply an event.

    Args:
        state: not modified.
        event: what happened.
        now_s: wall time, seconds since the epoch; recorded for display, never decided by.

    Returns:
        The new state, what to do about it once it is committed, and what changed (empty: nothing to commit).

    Raises:
        InvariantViolation: the event contradicts the state in a way only a bug explains.
    """
    draft = Draft(state)
    match event:
        case StudySubmitted():
            _submit(draft, event, now_s)
        case StudyCancelRequested():
            _cancel(draft, event, now_s)
        case Suggested():
            _take_suggestions(draft, event, now_s)
        case AgentConnected():
            _connect(draft, event, now_s)
        case AgentLeaseChanged():
            _change_lease(draft, event, now_s)
        case AttemptStarted():
            _start(draft, event, now_s)
        case AttemptEnded():
            _end(draft, event, now_s)
        case Measured():
            _take_measurement(draft, event, now_s)
    for study_id in list(draft.studies):
        _advance(draft, study_id, now_s)
    _place(draft, now_s)
    return draft.finish()


def resume(state: CoordinatorState) -> tuple[Effect, ...]:
    """What is owed by a committed state: performed at start, when nobody knows which effects were done before."""
    effects: list[Effect] = [
        RequestSuggestions(study_id=study.study_id, call=study.asked, n=study.asking)
        for study in state.studies.values()
        if study.asking and not study.state.is_terminal
    ]
    effects += [
        Measure(attempt_id=attempt.attempt_id, fence=attempt.fence)
        for attempt in live_attempts(state.attempts)
        if attempt.state is AttemptState.COLLECTING
    ]
    return tuple(effects)


def _submit(draft: Draft, event: StudySubmitted, now_s: float) -> None:
    """Record the study and its trial 0, the default configuration. The same id or key again changes nothing."""
    if event.study_id in draft.studies:
        return
    if any(study.idempotency_key == event.idempotency_key for study in draft.studies.values()):
        return
    spec = event.spec
    draft.put_study(
        StudyRecord(
            study_id=event.study_id,
            spec=spec,
            idempotency_key=event.idempotency_key,
            created_at_s=now_s,
            notes=event.notes,
            implied=event.implied,
        )
    )
    draft.put_trial(
        TrialRecord(
            study_id=event.study_id,
            number=0,
            kind=TrialKind.DEFAULT,
            config=space_of(spec).default_config(),
            source="default",
            run_seeds=(spec.workload.seed,),
            created_at_s=now_s,
        )
    )


def _cancel(draft: Draft, event: StudyCancelRequested, now_s: float) -> None:
    """Make the wish durable, drop what has not begun, and tell the agents that run the rest."""
    study = draft.studies.get(event.study_id)
    if study is None or study.state.is_terminal or study.cancelling:
        return
    draft.put_study(_replace(study, cancelling=True, asking=0, message=event.reason, waiting=""))
    for trial in list(draft.trials(study.study_id).values()):
        if trial.state is TrialState.PENDING:
            draft.put_trial(
                _replace(trial, state=TrialState.CANCELLED, reason=Reason.CANCELLED_BY_USER, ended_at_s=now_s)
            )
    for attempt in live_attempts(draft.attempts):
        if attempt.study_id == study.study_id and attempt.state is not AttemptState.COLLECTING:
            draft.effects.append(
                SendCancel(agent_id=attempt.agent_id, attempt_id=attempt.attempt_id, fence=attempt.fence)
            )


def _take_suggestions(draft: Draft, event: Suggested, now_s: float) -> None:
    """Record suggestions as trials, before they are used. An answer to another call than the open one is void."""
    study = draft.studies.get(event.study_id)
    if study is None or study.state.is_terminal or study.cancelling or not study.asking or event.call != study.asked:
        return
    for known, digest in event.resolved.items():
        if known in draft.trials(study.study_id):
            draft.put_trial(_replace(draft.trials(study.study_id)[known], resolved=digest))
    number = len(draft.trials(study.study_id))
    for suggestion in event.suggestions[: study.asking]:
        draft.put_trial(
            TrialRecord(
                study_id=study.study_id,
                number=number,
                kind=TrialKind.SUGGESTED,
                config=suggestion.config,
                source=suggestion.source,
                explanation=suggestion.explanation,
                resolved=suggestion.resolved,
                run_seeds=(study.spec.workload.seed,),
                created_at_s=now_s,
            )
        )
        number += 1
    exhausted = len(event.suggestions) < study.asking
    message = (event.note or "the space holds no further configuration") if exhausted else study.message
    study = extended(study, idle=event.idle, rejected=event.rejected)
    draft.put_study(_replace(study, asking=0, exhausted=exhausted, message=message))


def _connect(draft: Draft, event: AgentConnected, now_s: float) -> None:
    """Agree with an agent on which attempts it still has; the rest is lost here or cancelled there."""
    old = draft.agents.get(event.agent_id)
    rebooted = old is not None and old.boot_id != event.boot_id
    running = {ref.attempt_id: ref.fence for ref in event.running}
    finished = {ref.attempt_id: ref.fence for ref in event.finished}
    for attempt in live_attempts(draft.attempts):
        if attempt.agent_id != event.agent_id or attempt.state is AttemptState.COLLECTING:
            continue
        if attempt.fence in (running.get(attempt.attempt_id), finished.get(attempt.attempt_id)):
            continue
        if attempt.state is AttemptState.OFFERED and attempt.incarnation == event.incarnation:
            draft.effects.append(SendAssign(agent_id=event.agent_id, attempt_id=attempt.attempt_id))
            continue
        reason = Reason.HOST_REBOOTED if rebooted else Reason.HOST_LOST
        _end_attempt(draft, attempt, AttemptState.LOST, reason, "the agent restarted without it", now_s)
    stopping = []
    for attempt_id, fence in running.items():
        known = draft.attempts.get(attempt_id)
        over = known is None or known.fence != fence or known.state.is_terminal
        if over or draft.studies[draft.attempts[attempt_id].study_id].cancelling:
            draft.effects.append(SendCancel(agent_id=event.agent_id, attempt_id=attempt_id, fence=fence))
        if over:
            stopping.append(attempt_id)
    for attempt_id, fence in finished.items():
        known = draft.attempts.get(attempt_id)
        if known is None or known.fence != fence or known.state.is_terminal or known.state is AttemptState.COLLECTING:
            draft.effects.append(AcknowledgeOutcome(agent_id=event.agent_id, attempt_id=attempt_id, fence=fence))
    draft.put_agent(
        AgentRecord(
            agent_id=event.agent_id,
            incarnation=event.incarnation,
            boot_id=event.boot_id,
            version=event.version,
            inventory=event.inventory,
            lease=LeaseState.ACTIVE,
            cordoned=old.cordoned if old is not None else "",
            stopping=tuple(stopping),
        )
    )


def _change_lease(draft: Draft, event: AgentLeaseChanged, now_s: float) -> None:
    """A lost agent's attempts are lost: it has fenced itself before (lease policy)."""
    agent = draft.agents.get(event.agent_id)
    if agent is None:
        return
    draft.put_agent(_replace(agent, lease=event.lease))
    if event.lease in (LeaseState.LOST, LeaseState.RELEASED):
        for attempt in live_attempts(draft.attempts):
            if attempt.agent_id == event.agent_id and attempt.state is not AttemptState.COLLECTING:
                _end_attempt(
                    draft, attempt, AttemptState.LOST, Reason.HOST_LOST, f"{event.agent_id} went silent", now_s
                )


def _start(draft: Draft, event: AttemptStarted, now_s: float) -> None:
    attempt = draft.attempts.get(event.attempt_id)
    if attempt is None or attempt.fence != event.fence or attempt.state is not AttemptState.OFFERED:
        return
    draft.put_attempt(_replace(attempt, state=AttemptState.RUNNING))
    trial = draft.trials(attempt.study_id)[attempt.trial]
    draft.put_trial(_replace(trial, started_at_s=now_s))


def _end(draft: Draft, event: AttemptEnded, now_s: float) -> None:
    """Take an outcome, or discard a fenced one; either way the agent may forget it."""
    outcome = event.outcome
    attempt = draft.attempts.get(outcome.attempt_id)
    if attempt is None or attempt.fence != outcome.fence:
        return
    draft.effects.append(
        AcknowledgeOutcome(agent_id=attempt.agent_id, attempt_id=attempt.attempt_id, fence=attempt.fence)
    )
    agent = draft.agents.get(attempt.agent_id)
    if agent is not None and attempt.attempt_id in agent.stopping:
        draft.put_agent(_replace(agent, stopping=tuple(a for a in agent.stopping if a != attempt.attempt_id)))
    if attempt.state.is_terminal or attempt.state is AttemptState.COLLECTING:
        return
    if outcome.state == "COMPLETED" and not draft.studies[attempt.study_id].cancelling:
        draft.put_attempt(_replace(attempt, state=AttemptState.COLLECTING, outcome=outcome))
        draft.effects.append(Measure(attempt_id=attempt.attempt_id, fence=attempt.fence))
        return
    end = _ENDS.get(outcome.state, AttemptState.CANCELLED)
    attempt = _replace(attempt, outcome=outcome)
    draft.put_attempt(attempt)
    _end_attempt(draft, attempt, end, outcome.reason or Reason.CANCELLED_BY_USER, outcome.message, now_s)


def _take_measurement(draft: Draft, event: Measured, now_s: float) -> None:
    """Decide the trial from its metrics and their validity."""
    attempt = draft.attempts.get(event.attempt_id)
    if attempt is None or attempt.fence != event.fence or attempt.state is not AttemptState.COLLECTING:
        return
    if draft.studies[attempt.study_id].cancelling:
        _end_attempt(draft, attempt, AttemptState.CANCELLED, Reason.CANCELLED_BY_USER, "", now_s)
        return
    if event.reason is not None:
        _end_attempt(draft, attempt, AttemptState.ABORTED, event.reason, event.message, now_s)
        return
    spec = draft.studies[attempt.study_id].spec
    trial = draft.trials(attempt.study_id)[attempt.trial]
    last = trial.attempts >= spec.budget.max_attempts
    runs = _noisy_ones_taken(event.runs) if last else event.runs
    failing = [run for run in runs if _failed_share(run) > spec.limits.max_failed_share]
    blamed = next((run for run in failing if last or not _noise_behind(run, spec.limits)), None)
    invalid = next((run for run in runs if not run.validity.valid), None)
    draft.put_trial(_replace(trial, runs=runs))
    if blamed is not None:
        message = _failures(blamed, spec.limits)
        _end_attempt(draft, attempt, AttemptState.INFEASIBLE, Reason.ENGINE_REQUESTS_FAILED, message, now_s)
    elif failing:
        message = _failures(failing[0], spec.limits)
        _end_attempt(draft, attempt, AttemptState.ABORTED, Reason.HOST_NOISY, message, now_s)
    elif invalid is not None and invalid.validity.reason is not None:
        _end_attempt(draft, attempt, AttemptState.ABORTED, invalid.validity.reason, invalid.validity.detail, now_s)
    else:
        draft.put_attempt(_replace(attempt, state=AttemptState.COMPLETED, ended_at_s=now_s))
        _settle(draft, attempt, TrialState.SUCCEEDED, None, "", now_s)


def _noisy_ones_taken(runs: tuple[RunResult, ...]) -> tuple[RunResult, ...]:
    """The last attempt's runs: those with no fault but others' noise on the host are taken as they are, and marked.

    A host that is never quiet must not make a study fail; the report tells which trials it was noisy for.
    """
    return tuple(
        _replace(run, validity=_replace(run.validity, valid=True)) if run.validity.reason is Reason.HOST_NOISY else run
        for run in runs
    )


def _failed_share(run: RunResult, *, besides: frozenset[RequestStatus] = frozenset()) -> float:
    """Share of the requests that the engine failed: those that the load generator could not send are its own fault."""
    metrics = run.metrics
    spared = {RequestStatus.NOT_SENT, *besides}
    failed = metrics.failed - sum(metrics.failures.get(kind.name, 0) for kind in spared)
    return failed / metrics.sent if metrics.sent else 0.0


def _noise_behind(run: RunResult, limits: Limits) -> str:
    """What others did on the host, if requests that ran out of time are what made too many fail; else ""."""
    noisy = noise(run.audit, limits)
    errors = _failed_share(run, besides=TIME_OUTS)
    return noisy.detail if noisy is not None and errors <= limits.max_failed_share else ""


def _failures(run: RunResult, limits: Limits) -> str:
    """One sentence on the requests that failed, and on the noise that may be behind it."""
    metrics = run.metrics
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(metrics.failures.items()))
    message = f"{metrics.failed} of {metrics.sent} requests failed ({kinds})"
    noisy = _noise_behind(run, limits)
    return f"{message}; {noisy}" if noisy else message


def _end_attempt(
    draft: Draft, attempt: AttemptRecord, end: AttemptState, reason: Reason, message: str, now_s: float
) -> None:
    """End an attempt that did not succeed, and its trial with it unless another host may do better."""
    draft.put_attempt(_replace(attempt, state=end, reason=reason, message=message, ended_at_s=now_s))
    study = draft.studies[attempt.study_id]
    trial = draft.trials(attempt.study_id)[attempt.trial]
    if trial.state.is_terminal:
        return
    if study.cancelling:
        _settle(draft, attempt, TrialState.CANCELLED, Reason.CANCELLED_BY_USER, message, now_s)
    elif end is AttemptState.INFEASIBLE and blame_of(reason) is Blame.CONFIG:
        _settle(draft, attempt, TrialState.INFEASIBLE, reason, message, now_s)
    elif blame_of(reason) is Blame.USER or trial.attempts >= study.spec.budget.max_attempts:
        _settle(draft, attempt, TrialState.FAILED, reason, message, now_s)
    else:
        draft.put_trial(_replace(trial, state=TrialState.PENDING, agent_id="", runs=(), reason=reason, message=message))


def _settle(
    draft: Draft, attempt: AttemptRecord, end: TrialState, reason: Reason | None, message: str, now_s: float
) -> None:
    """Give a trial its one outcome, with the evidence of the attempt that decided it."""
    trial = draft.trials(attempt.study_id)[attempt.trial]
    if end is not TrialState.SUCCEEDED and end is not TrialState.INFEASIBLE:
        trial = _replace(trial, runs=())
    trial = _replace(trial, state=end, reason=reason, message=message, agent_id=attempt.agent_id, ended_at_s=now_s)
    outcome = attempt.outcome
    if outcome is not None:
        trial = _replace(
            trial,
            log_tail=outcome.log_tail,
            effective_config=outcome.effective_config,
            phases=outcome.phases,
            engine_version=outcome.engine_version,
            command=outcome.command,
        )
    draft.put_trial(trial)


def _advance(draft: Draft, study_id: str, now_s: float) -> None:
    """Ask for more, start the confirmation, or end the study, whichever its trials call for."""
    study = draft.studies[study_id]
    if study.state.is_terminal:
        return
    trials = draft.trials(study_id)
    unfinished = [trial for trial in trials.values() if not trial.state.is_terminal]
    if study.cancelling:
        if not unfinished:
            draft.put_study(_replace(study, state=StudyState.CANCELLED, ended_at_s=now_s))
        return
    budget = study.spec.budget
    if study.state is StudyState.SEARCHING:
        left = budget.trials - len(trials)
        wanted = min(budget.parallelism - len(unfinished), left)
        asks = not study.asking and not study.exhausted and not study.enough and wanted > 0
        reason = why_enough(study.spec, trials.values()) if asks else ""
        if reason:
            study = _replace(study, enough=True, message=reason)
            draft.put_study(study)
            asks = False
        if asks:
            call = study.asked + 1
            draft.put_study(_replace(study, asked=call, asking=wanted))
            draft.effects.append(RequestSuggestions(study_id=study_id, call=call, n=wanted))
        elif not unfinished and not study.asking:
            _confirm(draft, study, now_s)
    elif not unfinished:
        draft.put_study(_replace(study, state=StudyState.COMPLETED, ended_at_s=now_s, waiting=""))


def _confirm(draft: Draft, study: StudyRecord, now_s: float) -> None:
    """The search is over: test best and default again under the same arrival orders (SCOOT section 4, end)."""
    trials = draft.trials(study.study_id)
    best = best_of(study, trials.values())
    if best is None:
        message = f"none of {len(trials)} trials succeeded; the reasons are in the report"
        draft.put_study(_replace(study, state=StudyState.FAILED, ended_at_s=now_s, message=message, waiting=""))
        return
    orders = study.spec.confirm.arrival_orders
    if not orders:
        draft.put_study(_replace(study, state=StudyState.COMPLETED, ended_at_s=now_s, waiting=""))
        return
    seeds = tuple(study.spec.workload.seed + _SEED_STRIDE * (k + 1) for k in range(orders))
    targets = [(0, "confirm-default")] if trials[0].state is TrialState.SUCCEEDED else []
    if best != 0:
        targets.append((best, "confirm-best"))
    number = len(trials)
    for target, source in targets:
        draft.put_trial(
            TrialRecord(
                study_id=study.study_id,
                number=number,
                kind=TrialKind.CONFIRMATION,
                config=trials[target].config,
                source=source,
                confirms=target,
                run_seeds=seeds,
                created_at_s=now_s,
            )
        )
        number += 1
    draft.put_study(_replace(study, state=StudyState.CONFIRMING))


def _place(draft: Draft, now_s: float) -> None:
    """Start every trial that fits."""
    state = CoordinatorState(
        studies=draft.studies,
        trials={study_id: draft.trials(study_id) for study_id in draft.studies},
        attempts=draft.attempts,
        agents=draft.agents,
    )
    plan = place(state)
    for (study_id, number), why in plan.impossible.items():
        trial = draft.trials(study_id)[number]
        draft.put_trial(
            _replace(trial, state=TrialState.FAILED, reason=Reason.SPEC_INVALID, message=why, ended_at_s=now_s)
        )
    for study_id, why in plan.waiting.items():
        draft.put_study(_replace(draft.studies[study_id], waiting=why))
    for (study_id, number), passes in plan.passed_over.items():
        trial = draft.trials(study_id)[number]
        draft.put_trial(_replace(trial, passed_over=trial.passed_over + passes))
    for placed in plan.placed:
        trial = draft.trials(placed.study_id)[placed.trial]
        agent = draft.agents[placed.agent_id]
        n = trial.attempts + 1
        attempt_id = f"{placed.study_id}/{placed.trial}/{n}"
        if attempt_id in draft.attempts:
            raise InvariantViolation(f"attempt {attempt_id} exists already", story=(draft.attempts[attempt_id],))
        draft.put_attempt(
            AttemptRecord(
                attempt_id=attempt_id,
                study_id=placed.study_id,
                trial=placed.trial,
                n=n,
                agent_id=placed.agent_id,
                incarnation=agent.incarnation,
                fence=draft.take_fence(),
                devices=placed.devices,
                offered_at_s=now_s,
            )
        )
        draft.put_trial(
            _replace(
                trial,
                state=TrialState.RUNNING,
                attempts=n,
                agent_id=placed.agent_id,
                reason=None,
                message="",
                started_at_s=now_s,
            )
        )
        draft.effects.append(SendAssign(agent_id=placed.agent_id, attempt_id=attempt_id))
    if plan.impossible:
        for study_id in dict.fromkeys(study_id for study_id, _ in plan.impossible):
            _advance(draft, study_id, now_s)
