"""Runs on a noisy host, as the study machine takes them: again while there are attempts, then as they are."""

from __future__ import annotations

import msgspec
import pytest
from study_bench import audit, distribution, metrics

from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.effects import Effect, Measure, SendAssign
from scoot.coordinator.study.events import AgentConnected, AttemptEnded, AttemptStarted, Event, Measured, StudySubmitted
from scoot.coordinator.study.history import best_of, observations
from scoot.coordinator.study.machine import step
from scoot.coordinator.study.state import AttemptState, TrialRecord
from scoot.wire.assignment import Device, EngineOffer, Inventory
from scoot.wire.measurement import AttemptOutcome, LoadAudit, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Arrivals,
    Budget,
    Confirm,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)
from scoot.wire.states import TrialState

QUIET = Validity(valid=True)
NOISY = Validity(valid=False, reason=Reason.HOST_NOISY, detail="others used 40% of the host's 4 CPUs")
TAKEN = Validity(valid=True, reason=Reason.HOST_NOISY, detail=NOISY.detail)
LATE = Validity(valid=False, reason=Reason.LOAD_LATE, detail="late")
TOO_FEW = Validity(valid=False, reason=Reason.TOO_FEW_REQUESTS, detail="too few")


def spec(max_attempts: int) -> StudySpec:
    """A study of the default configuration alone, confirmed under two orders."""
    return StudySpec(
        name="chat",
        service=Service(engine="mock", model="tiny", device="cpu"),
        workload=Workload(profile="BOT", arrivals=Arrivals(rate=5.0)),
        parameters=(Parameter(name="p", kind=ParameterKind.INT, low=1, high=9, default=1),),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(trials=1, max_attempts=max_attempts),
        confirm=Confirm(arrival_orders=2),
        workload_facts=WorkloadFacts(sha256="0", requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1),
    )


class Desk:
    """A study and an agent; `verdicts` are those of the attempts that are measured, in turn, one for each run.

    `failures` are those of every run, of 50 requests; a run whose verdict is not QUIET had others use 40% of the host.
    """

    def __init__(self, max_attempts: int, *verdicts: tuple[Validity, ...], **failures: int) -> None:
        self.state = CoordinatorState()
        self.effects: list[Effect] = []
        self.verdicts = list(verdicts)
        self.failures = failures
        inventory = Inventory(
            devices=(Device(id="cpu-0", kind="cpu"),), engines=(EngineOffer(name="mock", version="1"),)
        )
        self.feed(AgentConnected(agent_id="a", incarnation="1", boot_id="b", version="1", inventory=inventory))
        self.feed(StudySubmitted(study_id="s", spec=spec(max_attempts), idempotency_key="k"))
        while self.effects and self.verdicts:
            self.perform(self.effects.pop(0))

    def trial(self, number: int) -> TrialRecord:
        return self.state.trials["s"][number]

    def feed(self, event: Event) -> None:
        self.state, effects, _ = step(self.state, event, 1.0)
        self.effects += effects

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, SendAssign):
            attempt = self.state.attempts[effect.attempt_id]
            self.feed(AttemptStarted(attempt_id=attempt.attempt_id, fence=attempt.fence))
            outcome = AttemptOutcome(attempt_id=attempt.attempt_id, fence=attempt.fence, state="COMPLETED")
            self.feed(AttemptEnded(outcome=outcome))
        elif isinstance(effect, Measure):
            attempt = self.state.attempts[effect.attempt_id]
            failed = sum(self.failures.values())
            figures = metrics(10.0, tpot_ms=distribution(1.0), failed=failed, failures=self.failures)
            runs = tuple(
                RunResult(run=run, seed=run, metrics=figures, audit=audited(run, verdict), validity=verdict)
                for run, verdict in enumerate(self.verdicts.pop(0))
            )
            self.feed(Measured(attempt_id=attempt.attempt_id, fence=attempt.fence, runs=runs))


def audited(run: int, verdict: Validity) -> LoadAudit:
    """Of a run of 10 s on 4 CPUs."""
    return msgspec.structs.replace(audit(run), wall_s=10.0, host_cpus=4, other_cpu_s=0.0 if verdict is QUIET else 16.0)


def test_a_noisy_run_is_measured_again() -> None:
    waiting = Desk(3, (NOISY,)).trial(0)
    assert (waiting.state, waiting.reason, waiting.runs) == (TrialState.RUNNING, None, ())
    done = Desk(3, (NOISY,), (QUIET,)).trial(0)
    assert (done.state, done.attempts, done.runs[0].validity) == (TrialState.SUCCEEDED, 2, QUIET)


@pytest.mark.parametrize("before", [NOISY, LATE])
def test_the_last_attempts_noisy_run_is_taken_marked_and_told(before: Validity) -> None:
    desk = Desk(3, (before,), (before,), (NOISY,))
    trial = desk.trial(0)
    assert (trial.state, trial.attempts, trial.reason) == (TrialState.SUCCEEDED, 3, None)
    assert trial.runs[0].validity == TAKEN
    study = desk.state.studies["s"]
    assert [each.values for each in observations(study, [trial])] == [(10.0,)]
    assert best_of(study, [trial]) == 0


def test_another_fault_still_fails_the_last_attempt() -> None:
    trial = Desk(1, (LATE,)).trial(0)
    assert (trial.state, trial.reason, trial.runs) == (TrialState.FAILED, Reason.LOAD_LATE, ())
    confirmation = Desk(1, (QUIET,), (NOISY, LATE)).trial(1)
    assert (confirmation.state, confirmation.reason, confirmation.runs) == (TrialState.FAILED, Reason.LOAD_LATE, ())


def test_each_order_of_a_confirmation_is_marked_by_itself() -> None:
    confirmation = Desk(1, (QUIET,), (QUIET, NOISY)).trial(1)
    assert confirmation.state is TrialState.SUCCEEDED
    assert [run.validity for run in confirmation.runs] == [QUIET, TAKEN]
    again = Desk(2, (QUIET,), (QUIET, NOISY)).trial(1)
    assert (again.state, again.attempts) == (TrialState.RUNNING, 2), "one noisy order repeats them all"


def test_requests_that_failed_are_the_configurations_fault_on_a_noisy_host_too() -> None:
    trial = Desk(2, (NOISY,), RESET=5).trial(0)
    assert (trial.state, trial.reason, trial.attempts) == (TrialState.INFEASIBLE, Reason.ENGINE_REQUESTS_FAILED, 1)
    assert trial.message == "5 of 50 requests failed (5 RESET)"


@pytest.mark.parametrize("verdict", [NOISY, TOO_FEW], ids=["noisy", "too few, and noisy too"])
@pytest.mark.parametrize("kind", ["DEADLINE", "CANCELLED"])
def test_requests_that_ran_out_of_time_on_a_noisy_host_are_measured_again(kind: str, verdict: Validity) -> None:
    desk = Desk(3, (verdict,), **{kind: 5})
    trial, attempt = desk.trial(0), desk.state.attempts["s/0/1"]
    assert (trial.state, trial.runs) == (TrialState.RUNNING, ()), "the next attempt"
    assert (attempt.state, attempt.reason) == (AttemptState.ABORTED, Reason.HOST_NOISY)
    noise = "others used 40% of the host's 4 CPUs during the run, limit 25%"
    assert attempt.message == f"5 of 50 requests failed (5 {kind}); {noise}"


def test_the_last_attempts_requests_are_taken_as_they_are_and_the_study_ends() -> None:
    desk = Desk(3, (NOISY,), (NOISY,), (NOISY,), (NOISY,), DEADLINE=5)
    trial = desk.trial(0)
    assert (trial.state, trial.reason, trial.attempts) == (TrialState.INFEASIBLE, Reason.ENGINE_REQUESTS_FAILED, 3)
    assert "5 DEADLINE" in trial.message
    assert "others used 40%" in trial.message
    assert trial.runs[0].validity == TAKEN
    study = desk.state.studies["s"]
    assert study.state.is_terminal
    assert len(desk.verdicts) == 1, "no fourth attempt"
    assert [each.infeasible for each in observations(study, [trial])] == [True]


def test_time_outs_are_the_configurations_fault_where_nothing_else_explains_them() -> None:
    for desk in (
        Desk(3, (QUIET,), DEADLINE=5),
        Desk(3, (NOISY,), DEADLINE=5, HTTP_500=1),  # errors alone are too many
        Desk(3, (NOISY,), DEADLINE=5, TOO_FEW_TOKENS=1),
    ):
        trial = desk.trial(0)
        assert (trial.state, trial.reason, trial.attempts) == (TrialState.INFEASIBLE, Reason.ENGINE_REQUESTS_FAILED, 1)
        assert "others used" not in trial.message


def test_one_order_that_failed_on_a_quiet_host_is_enough() -> None:
    """A confirmation of two orders, in both of which requests ran out of time; the default it confirms was fine."""
    desk = Desk(2, (QUIET,))
    desk.failures = {"DEADLINE": 5}
    desk.verdicts = [(NOISY, QUIET)]
    while desk.effects and desk.verdicts:
        desk.perform(desk.effects.pop(0))
    confirmation = desk.trial(1)
    assert (confirmation.state, confirmation.attempts) == (TrialState.INFEASIBLE, 1)
