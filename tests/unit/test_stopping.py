"""Ending a search early: the decision as a function, and what the study machine makes of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from study_bench import audit, distribution, metrics

from scoot.cli.progress import eta_s, events, progress
from scoot.coordinator.report.build import build_results
from scoot.coordinator.study.draft import CoordinatorState
from scoot.coordinator.study.effects import Effect, Measure, RequestSuggestions, SendAssign
from scoot.coordinator.study.events import (
    AgentConnected,
    AttemptEnded,
    AttemptStarted,
    Event,
    JournalEntry,
    Measured,
    StudySubmitted,
    Suggested,
    SuggestedConfig,
)
from scoot.coordinator.study.machine import step
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.coordinator.study.stopping import expected_gain, trials_needed, why_enough, window
from scoot.wire.assignment import Device, EngineOffer, Inventory
from scoot.wire.errors import UserError
from scoot.wire.measurement import AttemptOutcome, RunResult, Validity
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
from scoot.wire.states import StudyState, TrialKind, TrialState
from scoot.wire.study_file import check_study
from scoot.wire.view import Study, StudyDetail, Trial


def spec(*, parameters: int = 1, **budget: Any) -> StudySpec:
    return StudySpec(
        name="chat",
        service=Service(engine="mock", model="tiny", device="cpu"),
        workload=Workload(profile="BOT", arrivals=Arrivals(rate=5.0)),
        parameters=tuple(
            Parameter(name=f"p{place}", kind=ParameterKind.INT, low=1, high=100, default=1)
            for place in range(parameters)
        ),
        objectives=(Objective(metric="ttft_mean"),),
        budget=Budget(**{"trials": 30, "min_gain": 0.02, **budget}),
        confirm=Confirm(arrival_orders=2),
        workload_facts=WorkloadFacts(sha256="0", requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1),
    )


def trial(number: int, gain: object = None, state: TrialState = TrialState.SUCCEEDED) -> TrialRecord:
    return TrialRecord(
        study_id="s",
        number=number,
        kind=TrialKind.SUGGESTED if number else TrialKind.DEFAULT,
        config={"p0": number + 1},
        source="test",
        run_seeds=(0,),
        created_at_s=0.0,
        state=state,
        explanation={} if gain is None else {"expected_gain": gain},
    )


def history(*gains: object, before: int = 10) -> list[TrialRecord]:
    """The default, `before` - 1 suggestions that promised much, then these."""
    return [trial(n, 0.5) for n in range(before)] + [trial(n, gain) for n, gain in enumerate(gains, before)]


@pytest.mark.parametrize(
    ("explanation", "gain"),
    [
        ({"expected_gain": 0.03}, 0.03),
        ({"expected_gain": 0}, 0.0),
        ({"expected_gain": -0.01}, -0.01),
        ({}, None),
        ({"expected_gain": None}, None),
        ({"expected_gain": True}, None),
        ({"expected_gain": "0.01"}, None),
        ({"expected_gain": float("nan")}, None),
        ({"expected_gain": float("inf")}, None),
    ],
)
def test_what_counts_as_an_expected_gain(explanation: dict[str, Any], gain: float | None) -> None:
    assert expected_gain(explanation) == gain


def test_three_low_gains_in_a_row_are_enough() -> None:
    why = why_enough(spec(), history(0.01, 0.005, 0.019))
    assert why == ("the expected further gain is 1.9 % at most by the last 3 suggestions, under budget.min_gain (2 %)")


@pytest.mark.parametrize(
    "gains",
    [
        (0.01, 0.01),
        (0.01, 0.01, 0.02),
        (0.01, 0.02, 0.01),
        (0.01, None, 0.01),
        (0.01, 0.01, float("nan")),
        (0.01, 0.01, 0.01, 0.3),
        (0.01, 0.01, 0.01, None),
    ],
)
def test_anything_else_is_not(gains: tuple[object, ...]) -> None:
    assert why_enough(spec(), history(*gains)) == ""


@pytest.mark.parametrize("floor", [None, 0.0])
def test_without_a_floor_nothing_ends_early(floor: float | None) -> None:
    trials = history(-0.1, 0.0, -0.1)
    assert why_enough(spec(min_gain=floor), trials) == ""
    assert why_enough(spec(min_gain=1e-6), trials) != ""


def test_too_few_trials_are_not_believed() -> None:
    gains = (0.01, 0.01, 0.01)
    assert why_enough(spec(), history(*gains, before=6)) == ""
    assert why_enough(spec(), history(*gains, before=7)) != ""
    assert trials_needed(spec(parameters=9)) == 18
    assert why_enough(spec(parameters=9), history(*gains, before=14)) == ""
    assert why_enough(spec(parameters=9), history(*gains, before=15)) != ""


def test_only_trials_that_taught_something_count() -> None:
    def last(state: TrialState) -> list[TrialRecord]:
        return [*history(0.01, 0.01, before=7), trial(9, 0.01, state)]

    for state in (TrialState.SUCCEEDED, TrialState.INFEASIBLE):
        assert why_enough(spec(), last(state)) != ""
    for state in (TrialState.FAILED, TrialState.RUNNING, TrialState.PENDING):
        assert why_enough(spec(), last(state)) == ""


def test_a_search_without_a_single_success_goes_on() -> None:
    hopeless = [trial(n, 0.0, TrialState.INFEASIBLE) for n in range(20)]
    assert why_enough(spec(), hopeless) == ""
    assert why_enough(spec(), [*hopeless, trial(20, 0.0)]) != ""


def test_with_parallel_trials_all_that_can_be_in_flight_are_looked_at() -> None:
    assert [window(spec(parallelism=n)) for n in (1, 3, 8)] == [3, 3, 8]
    first_promised_much = history(0.3, *[0.001] * 7)
    assert why_enough(spec(parallelism=8), first_promised_much) == ""
    assert why_enough(spec(parallelism=8), [*first_promised_much, trial(18, 0.001)]) != ""
    twelve = [trial(n, 0.001) for n in range(13)]
    assert why_enough(spec(parallelism=12), twelve) != ""
    assert why_enough(spec(parallelism=13), twelve) == ""


def test_confirmations_are_no_suggestions() -> None:
    confirmation = msgspec.structs.replace(trial(13, 0.9), kind=TrialKind.CONFIRMATION)
    assert why_enough(spec(), [*history(0.01, 0.01, 0.01), confirmation]) != ""


@pytest.mark.parametrize("value", [-0.01, 1.01, float("nan")])
def test_the_floor_is_a_share(value: float) -> None:
    check_study(spec(min_gain=1.0))
    with pytest.raises(UserError, match="out of range") as caught:
        check_study(spec(min_gain=value))
    assert caught.value.key == "budget.min_gain"


# --- the machine -----------------------------------------------------------------------------------------------------


def measured(attempt_id: str, fence: int, seeds: tuple[int, ...], ttft_ms: float) -> Measured:
    figures = metrics(ttft_ms, tpot_ms=distribution(ttft_ms))
    return Measured(
        attempt_id=attempt_id,
        fence=fence,
        runs=tuple(
            RunResult(run=run, seed=seed, metrics=figures, audit=audit(), validity=Validity(valid=True))
            for run, seed in enumerate(seeds)
        ),
    )


class Desk:
    """A study that one agent with room for all runs; the optimizer expects `gains`, one for each call."""

    def __init__(self, study: StudySpec, gains: list[float], infeasible: frozenset[int] = frozenset()) -> None:
        self.state = CoordinatorState()
        self.journal: list[bytes] = []
        self.effects: list[Effect] = []
        self.gains = gains
        self.infeasible = infeasible
        self.running_at_stop: int | None = None
        inventory = Inventory(
            devices=tuple(Device(id=f"cpu-{n}", kind="cpu") for n in range(8)),
            engines=(EngineOffer(name="mock", version="1"),),
        )
        self.feed(AgentConnected(agent_id="a", incarnation="1", boot_id="b", version="1", inventory=inventory))
        self.feed(StudySubmitted(study_id="s", spec=study, idempotency_key="k"))
        while self.effects:
            self.perform(self.effects.pop(0))

    @property
    def study(self) -> StudyRecord:
        return self.state.studies["s"]

    @property
    def trials(self) -> list[TrialRecord]:
        return list(self.state.trials["s"].values())

    def feed(self, event: Event) -> None:
        self.journal.append(msgspec.json.encode(JournalEntry(now_s=1.0, event=event)))
        self.state, effects, _ = step(self.state, event, 1.0)
        self.effects += effects
        if "s" in self.state.studies and self.study.enough and self.running_at_stop is None:
            self.running_at_stop = sum(trial.state is TrialState.RUNNING for trial in self.trials)

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, RequestSuggestions):
            number = len(self.trials)
            suggestions = tuple(
                SuggestedConfig(
                    config={"p0": number + k + 1},
                    source="test",
                    explanation={"expected_gain": self.gains[min(number + k, len(self.gains)) - 1]},
                )
                for k in range(effect.n)
            )
            self.feed(Suggested(study_id="s", call=effect.call, suggestions=suggestions))
        elif isinstance(effect, SendAssign):
            attempt = self.state.attempts[effect.attempt_id]
            self.feed(AttemptStarted(attempt_id=attempt.attempt_id, fence=attempt.fence))
            crashed = attempt.trial in self.infeasible
            outcome = AttemptOutcome(
                attempt_id=attempt.attempt_id,
                fence=attempt.fence,
                state="INFEASIBLE" if crashed else "COMPLETED",
                reason=Reason.ENGINE_OOM if crashed else None,
            )
            self.feed(AttemptEnded(outcome=outcome))
        elif isinstance(effect, Measure):
            attempt = self.state.attempts[effect.attempt_id]
            seeds = self.state.trials["s"][attempt.trial].run_seeds
            self.feed(measured(attempt.attempt_id, attempt.fence, seeds, 100.0 - attempt.trial))


def searched(desk: Desk) -> list[TrialRecord]:
    return [trial for trial in desk.trials if trial.kind is not TrialKind.CONFIRMATION]


def test_a_study_ends_its_search_confirms_and_says_why() -> None:
    desk = Desk(spec(), [0.5] * 12 + [0.01, 0.015, 0.001, 0.5])
    assert len(searched(desk)) == 16
    assert (desk.study.state, desk.study.enough, desk.study.exhausted) == (StudyState.COMPLETED, True, False)
    confirmations = [trial for trial in desk.trials if trial.kind is TrialKind.CONFIRMATION]
    assert [(trial.confirms, trial.state) for trial in confirmations] == [
        (0, TrialState.SUCCEEDED),
        (15, TrialState.SUCCEEDED),
    ]
    assert "1.5 % at most by the last 3 suggestions" in desk.study.message
    results = build_results(desk.study, desk.trials, scoot_version="1", now_s=2.0)
    assert results.message == desk.study.message
    caveat = next(caveat for caveat in results.caveats if caveat.code == "budget-left")
    assert caveat.text.startswith("Only 16 of 30 trials of the budget were used: the expected further gain is 1.5 %")


def test_a_study_without_a_floor_spends_its_budget() -> None:
    desk = Desk(spec(min_gain=None), [0.0])
    assert len(searched(desk)) == 30
    assert (desk.study.state, desk.study.enough, desk.study.message) == (StudyState.COMPLETED, False, "")


def test_infeasible_trials_count_and_end_nothing() -> None:
    desk = Desk(spec(), [0.001], infeasible=frozenset({2, 3, 9}))
    assert len(searched(desk)) == 10
    assert desk.study.state is StudyState.COMPLETED


def test_trials_under_way_are_finished() -> None:
    desk = Desk(spec(parallelism=4), [0.5] * 9 + [0.001])
    assert desk.running_at_stop
    assert all(trial.state is TrialState.SUCCEEDED for trial in desk.trials)
    assert 13 <= len(searched(desk)) < 30
    assert desk.study.state is StudyState.COMPLETED


def test_the_journal_decides_the_same_again() -> None:
    desk = Desk(spec(parallelism=3), [0.5] * 8 + [0.001])
    assert desk.study.enough
    state = CoordinatorState()
    for line in desk.journal:
        entry = msgspec.json.decode(line, type=JournalEntry)
        state, _, _ = step(state, entry.event, entry.now_s)
    assert state == desk.state


# --- what people see -------------------------------------------------------------------------------------------------


def seen(desk: Desk) -> StudyDetail:
    """The study as scootctl gets it."""
    trials = tuple(
        Trial(
            number=each.number, kind=each.kind, state=each.state, config=each.config, started_at_s=1.0, ended_at_s=3.0
        )
        for each in desk.trials
    )
    study = desk.study
    view = Study(study_id="s", spec=study.spec, state=study.state, created_at_s=1.0, message=study.message)
    return StudyDetail(study=view, trials=trials)


def test_the_status_and_the_log_say_why_the_search_ended() -> None:
    whole = seen(Desk(spec(), [0.5] * 9 + [0.001]))
    searching = StudyDetail(
        study=msgspec.structs.replace(whole.study, state=StudyState.SEARCHING, message=""), trials=whole.trials[:12]
    )
    confirming = StudyDetail(
        study=msgspec.structs.replace(whole.study, state=StudyState.CONFIRMING), trials=whole.trials[:-1]
    )
    assert progress(searching, 50.0).waiting == ""
    for detail in (confirming, whole):
        assert "expected further gain" in progress(detail, 50.0).waiting
    lines = [line for line in events(searching, confirming) if "arrival orders" in line]
    assert len(lines) == 1
    assert "the search is over: the expected further gain" in lines[0]
    # One confirmation is left of it (a trial, and one more window), not the rest of the budget.
    assert eta_s(confirming, 50.0) == pytest.approx(2.0 + 110.0)
