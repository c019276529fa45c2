"""What must hold of every committed state. Checked after each step in tests and by `scoot-coordinator doctor`."""

from __future__ import annotations

from collections import Counter

from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.state import AttemptState
from scoot.wire.states import StudyState, TrialKind, TrialState


def violations(state: CoordinatorState) -> list[str]:
    """One sentence per broken invariant; empty when all is well."""
    return [*_attempts(state), *_trials(state), *_studies(state)]


def _attempts(state: CoordinatorState) -> list[str]:
    out = []
    fences = Counter(attempt.fence for attempt in state.attempts.values())
    out += [f"fence {fence} was given out {count} times" for fence, count in fences.items() if count > 1]
    out += [
        f"fence {fence} is not below the next one, {state.next_fence}" for fence in fences if fence >= state.next_fence
    ]
    held = Counter(
        (attempt.agent_id, device)
        for attempt in state.attempts.values()
        if attempt.state in (AttemptState.OFFERED, AttemptState.RUNNING)
        for device in attempt.devices
    )
    out += [
        f"device {device} of {agent} is held by {count} attempts"
        for (agent, device), count in held.items()
        if count > 1
    ]
    return out


def _trials(state: CoordinatorState) -> list[str]:
    out = []
    live = Counter(
        (attempt.study_id, attempt.trial) for attempt in state.attempts.values() if not attempt.state.is_terminal
    )
    for study_id, trials in state.trials.items():
        for number, trial in trials.items():
            count = live[study_id, number]
            name = f"trial {study_id}/{number}"
            if trial.state is TrialState.RUNNING and count != 1:
                out.append(f"{name} is RUNNING with {count} live attempts")
            if trial.state is not TrialState.RUNNING and count:
                out.append(f"{name} is {trial.state} with {count} live attempts")
            if trial.state is TrialState.SUCCEEDED and not trial.runs:
                out.append(f"{name} SUCCEEDED without a measurement")
            if trial.state in (TrialState.INFEASIBLE, TrialState.FAILED) and trial.reason is None:
                out.append(f"{name} is {trial.state} without a reason")
    return out


def _studies(state: CoordinatorState) -> list[str]:
    out = []
    for study in state.studies.values():
        trials = state.trials.get(study.study_id, {})
        if list(trials) != list(range(len(trials))):
            out.append(f"study {study.study_id}: trial numbers {list(trials)} are not 0, 1, 2, ...")
        searched = sum(trial.kind is not TrialKind.CONFIRMATION for trial in trials.values())
        if searched + study.asking > study.spec.budget.trials:
            out.append(
                f"study {study.study_id}: {searched} + {study.asking} asked for, budget {study.spec.budget.trials}"
            )
        running = sum(trial.state is TrialState.RUNNING for trial in trials.values())
        if running > study.spec.budget.parallelism:
            out.append(f"study {study.study_id}: {running} trials run, parallelism {study.spec.budget.parallelism}")
        if study.state.is_terminal and any(not trial.state.is_terminal for trial in trials.values()):
            out.append(f"study {study.study_id} is {study.state} with unfinished trials")
        if study.state is StudyState.COMPLETED and study.cancelling:
            out.append(f"study {study.study_id} is COMPLETED although it was cancelled")
    return out
