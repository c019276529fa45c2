"""Outcomes and goodput: what a study may ask for, what the optimizer is told, which trial is best, what is reported."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
import study_bench
from study_bench import SEEDS, audit, distribution, metrics, trial

from scoot.cli.progress import headline, title
from scoot.coordinator.objective.best import best_trial, contending
from scoot.coordinator.objective.confirmation import Lead, lead_of
from scoot.coordinator.objective.goal import goal_of
from scoot.coordinator.objective.metric import METRICS, Direction, objective_errors
from scoot.coordinator.objective.outcome import Outcome, outcomes_of, violation, worst_figures
from scoot.coordinator.optimizer.problem import problem_of
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.plot import make_chart
from scoot.coordinator.report.results import Results
from scoot.coordinator.report.summary import summarise
from scoot.coordinator.report.text import limit_text, objective_info, outcome_info
from scoot.coordinator.study.history import best_of, observations
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.measurement import Goodput, Metrics, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Arrivals,
    Budget,
    Confirm,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    SloClass,
    StudySpec,
    Workload,
)
from scoot.wire.states import StudyState, TrialKind, TrialState
from scoot.wire.study_file import check_study
from scoot.wire.view import Study, StudyDetail, Trial

MIN, MAX = Direction.MINIMISE, Direction.MAXIMISE
CHAT = (SloClass(name="chat", ttft_ms=300.0),)


def window(ttft_ms: float, rate: float = 10.0, tpot_ms: float = 5.0, attained: int | None = None) -> Metrics:
    each = msgspec.structs.replace(distribution(ttft_ms), n=100, std=20.0)
    tpot = distribution(tpot_ms)
    good = None
    if attained is not None:
        good = Goodput(name="", sent=100, attained=attained, share=attained / 100, rate=attained / 10)
    return metrics(
        ttft_ms, rate, sent=100, completed=100, duration_s=10.0, ttft_ms=each, tpot_ms=tpot, e2e_ms=None, goodput=good
    )


def run(ttft_ms: float, rate: float = 10.0, tpot_ms: float = 5.0, *, index: int = 0) -> RunResult:
    return RunResult(
        run=index,
        seed=SEEDS[index],
        metrics=window(ttft_ms, rate, tpot_ms),
        audit=audit(index),
        validity=Validity(valid=True),
    )


def spec(objectives: tuple[str, ...] = ("request_throughput",), *outcomes: str, **workload: Any) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(engine="mock", model="m", device="cpu"),
        workload=Workload(profile="BOT", arrivals=Arrivals(rate=5.0), **workload),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=tuple(Objective(metric=metric) for metric in objectives),
        outcomes=outcomes,
        budget=Budget(trials=4),
        confirm=Confirm(arrival_orders=3),
    )


def study(chosen: StudySpec) -> StudyRecord:
    return StudyRecord(study_id="s-1", spec=chosen, idempotency_key="k", created_at_s=1.0, state=StudyState.COMPLETED)


def confirmation(number: int, confirms: int, *runs: tuple[float, float]) -> TrialRecord:
    return trial(
        number,
        *(run(*figures, index=index) for index, figures in enumerate(runs)),
        kind=TrialKind.CONFIRMATION,
        source="confirm-best" if confirms else "confirm-default",
        confirms=confirms,
    )


def build(chosen: StudySpec, *trials: TrialRecord) -> Results:
    return study_bench.build(study(chosen), *trials)


# --- study files -----------------------------------------------------------------------------------------------------


def test_limits_are_read_with_the_direction_of_their_metric() -> None:
    assert outcomes_of(("ttft_p95 <= 2000", " goodput_share>=0.99 ", "request_throughput >= 1e1")) == (
        Outcome(name="ttft_p95", direction=MIN, limit=2000.0),
        Outcome(name="goodput_share", direction=MAX, limit=0.99),
        Outcome(name="request_throughput", direction=MAX, limit=10.0),
    )
    assert str(outcomes_of(("ttft_p95 <= 2000",))[0]) == "ttft_p95 <= 2000"
    problem = problem_of(spec(("ttft_mean", "request_throughput"), "tpot_p99 <= 50"))
    assert (problem.directions, [outcome.name for outcome in problem.outcomes]) == ((MIN, MAX), ["tpot_p99"])


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("ttft_p95", "'ttft_p95' is not a limit on a metric", "ttft_p95 <= 2000"),
        ("ttft_p95 2000", "is not a limit on a metric", "ttft_p95 <= 2000"),
        ("p95_ttft <= 2000", "unknown metric 'p95_ttft'", "did you mean 'ttft_p95'"),
        ("ttft_p95 >= 2000", "limits ttft_p95 with >=", "less of it is better, so write <="),
        ("ttft_p95 < 2000", "limits ttft_p95 with <", "so write <="),
        ("goodput <= 3", "limits goodput with <=", "more of it is better, so write >="),
        ("ttft_p95 <= 2 s", "'2 s' is not a number", "a plain number of ms"),
        ("goodput_share >= 99 %", "'99 %' is not a number", "a plain number, without a unit"),
        ("goodput_share >= 99", "goodput_share cannot be >= 99", "it is at most 1: write 0.99 for 99 %"),
        ("ttft_p95 <= 0", "ttft_p95 cannot be <= 0", "above 0 always"),
        ("ttft_p95 <= -5", "ttft_p95 cannot be <= -5", "above 0 always"),
        ("ttft_p95 <= inf", "inf is not a limit", "finite"),
        ("ttft_p95 <= nan", "nan is not a limit", "finite"),
    ],
)
def test_a_wrong_limit_is_named_with_its_remedy(text: str, message: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        outcomes_of(("e2e_p95 <= 9", text))
    assert caught.value.key == "outcomes[1]"
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_metric_is_limited_once_and_not_too_many_are() -> None:
    with pytest.raises(UserError, match="ttft_p95 is limited twice"):
        outcomes_of(("ttft_p95 <= 9", "ttft_p95 <= 10"))
    many = tuple(f"{name} <= 9" for name in METRICS if METRICS[name].direction is MIN)[: limits.OUTCOMES + 1]
    with pytest.raises(UserError, match="17 are too many"):
        outcomes_of(many)
    with pytest.raises(UserError, match="17 are too many"):
        check_study(spec(("ttft_mean",), *many))
    check_study(spec(("ttft_mean",), *many[1:]))


@pytest.mark.parametrize(
    ("objectives", "outcomes", "key"),
    [
        (("ttft_mean", "goodput"), (), "objectives[1].metric"),
        (("goodput_share",), (), "objectives[0].metric"),
        (("ttft_mean",), ("tpot_p95 <= 9", "goodput_share >= 0.9"), "outcomes[1]"),
    ],
)
def test_goodput_needs_a_promise(objectives: tuple[str, ...], outcomes: tuple[str, ...], key: str) -> None:
    for classes in ((), (SloClass(name="any"),)):
        with pytest.raises(UserError, match="counts the requests that met what they were promised") as caught:
            goal_of(spec(objectives, *outcomes, slo_classes=classes))
        assert caught.value.key == key
        assert "[[workload.slo_classes]]" in caught.value.hint
    goal = goal_of(spec(objectives, *outcomes, slo_classes=CHAT))
    assert [metric.name for metric in goal.metrics] == list(objectives)


# --- figures ---------------------------------------------------------------------------------------------------------


def test_goodput_metrics_are_those_of_all_requests() -> None:
    measured = window(100.0, attained=97)
    assert METRICS["goodput"].get(measured) == 9.7
    assert METRICS["goodput_share"].get(measured) == 0.97
    assert METRICS["goodput"].get(window(100.0)) is None
    empty = msgspec.structs.replace(measured, goodput=Goodput(name="", sent=0, attained=0, share=0.0, rate=0.0))
    assert METRICS["goodput_share"].get(empty) is None
    assert (METRICS["goodput"].heading, METRICS["goodput_share"].heading) == ("goodput [1/s]", "goodput_share")
    assert objective_info("goodput_share").label == "goodput share"


def test_standard_errors_are_those_of_means_and_shares() -> None:
    def errors(*names: str, attained: int = 97) -> tuple[float, ...] | None:
        return objective_errors([Objective(metric=name) for name in names], window(100.0, attained=attained))

    assert errors("ttft_mean") == (2.0,)  # 20 / sqrt(100)
    share = 98 / 102
    expected = math.sqrt(share * (1 - share) / 100)
    assert errors("ttft_mean", "goodput_share") == pytest.approx((2.0, expected))
    assert errors("goodput") == pytest.approx((10 * expected,))
    assert errors("goodput_share", attained=100) != (0.0,)
    assert errors("ttft_mean", "ttft_p95") is None
    assert errors("tpot_mean") is None  # a summary without a standard deviation
    assert errors("request_throughput") is None


def test_excess_is_relative_to_the_limit_and_the_worst_counts() -> None:
    both = outcomes_of(("ttft_p95 <= 200", "request_throughput >= 10"))
    assert violation(both, (200.0, 10.0)) == 0
    assert violation(both, (250.0, 10.0)) == 0.25
    assert violation(both, (250.0, 5.0)) == 0.5
    assert violation(both, (100.0, None)) == math.inf
    assert violation((), ()) == 0
    assert Outcome(name="goodput", direction=MAX, limit=0.0).excess(-2.0) == 2.0
    assert worst_figures(both, [window(90.0, 12.0), window(120.0, 14.0)]) == (120.0, 12.0)
    assert worst_figures(both, []) == (None, None)
    assert worst_figures(outcomes_of(("itl_p95 <= 9",)), [window(90.0)]) == (None,)


def test_the_optimizer_is_told_figures_noise_and_reasons() -> None:
    record = study(spec(("ttft_mean",), "request_throughput >= 5", "tpot_p95 <= 9"))
    crash = {"state": TrialState.INFEASIBLE, "reason": Reason.ENGINE_OOM}
    lost = {"state": TrialState.FAILED, "reason": Reason.HOST_LOST}
    told = observations(
        record,
        [
            trial(0, run(100.0, 4.0)),
            trial(1, **crash),
            trial(2, **lost),
            trial(3, state=TrialState.RUNNING),
            confirmation(4, 0, (90.0, 9.0)),
        ],
    )
    assert [each.number for each in told] == [0, 1, 2, 3]
    assert (told[0].values, told[0].outcomes, told[0].noise) == ((100.0,), (4.0, 5.0), (2.0,))
    assert (told[1].infeasible, told[1].reason, told[1].outcomes) == (True, "ENGINE_OOM", None)
    assert (told[2].infeasible, told[2].reason, told[3].pending) == (False, "", True)
    (unlimited,) = observations(study(spec(("ttft_mean",))), [trial(0, run(100.0))])
    assert unlimited.outcomes is None
    (unknown,) = observations(study(spec(("ttft_mean",), "itl_p95 <= 9")), [trial(0, run(100.0))])
    assert (unknown.values, unknown.outcomes) == ((100.0,), None)


def test_the_optimizer_is_told_what_the_engine_made_of_the_default() -> None:
    record = study(spec(("ttft_mean",)))
    tuned = record.spec.parameters[0].name
    effective = {tuned: 8, "not_tuned": True}
    default = msgspec.structs.replace(trial(0, run(100.0)), config={}, effective_config=effective)
    later = msgspec.structs.replace(trial(1, run(90.0)), config={tuned: 4}, effective_config=effective)
    assert [each.config for each in observations(record, [default, later])] == [{tuned: 8}, {tuned: 4}]
    stated = msgspec.structs.replace(default, config={tuned: 2})
    assert observations(record, [stated])[0].config == {tuned: 2}, "what was asked for counts"


# --- the best --------------------------------------------------------------------------------------------------------


def test_the_best_is_chosen_among_those_that_keep_every_limit() -> None:
    values = [(0, (5.0,)), (1, (9.0,)), (2, (7.0,)), (3, (6.0,))]
    assert best_trial(values, (5.0,), (MAX,), {1: 0.2}) == 2
    assert best_trial(values, (5.0,), (MAX,), {0: 0.3, 1: 0.2, 2: 0.1, 3: 0.1}) == 2
    assert best_trial(values, (5.0,), (MAX,), dict.fromkeys(range(4), math.inf)) == 1
    assert contending([0, 1, 2], {0: 0.3, 1: 0.2}) == {2}
    assert contending([], {}) == frozenset()


def test_with_three_objectives_a_kept_compromise_beats_a_default_that_keeps_nothing() -> None:
    values = [
        (0, (4.0, 4.0, 4.0)),
        (1, (1.0, 1.0, 1.0)),
        (2, (5.0, 3.0, 5.0)),
        (3, (3.0, 5.0, 5.0)),
        (4, (4.0, 4.0, 5.0)),
    ]
    directions = (MIN, MIN, MIN)
    assert best_trial(values, (4.0, 4.0, 4.0), directions) == 1
    assert best_trial(values, (4.0, 4.0, 4.0), directions, {1: 0.1}) == 0
    assert best_trial(values, (4.0, 4.0, 4.0), directions, {0: 0.5, 1: 0.1}) == 4


def test_best_of_a_study_looks_at_the_figures() -> None:
    record = study(spec(("request_throughput",), "ttft_p95 <= 200"))
    trials = [trial(0, run(150.0, 5.0)), trial(1, run(300.0, 9.0)), trial(2, run(190.0, 7.0))]
    assert best_of(record, trials) == 2
    assert best_of(study(spec()), trials) == 1
    assert best_of(record, [trial(0, run(250.0, 5.0)), trial(1, run(300.0, 9.0))]) == 0


def test_limits_come_before_objectives_when_a_lead_is_judged() -> None:
    assert lead_of((MAX,), (5.0,), (9.0,)) is Lead.LOST
    assert lead_of((MAX,), (5.0,), (9.0,), (0.0, 0.4)) is Lead.HELD
    assert lead_of((MAX,), (9.0,), (5.0,), (0.1, 0.0)) is Lead.LOST
    assert lead_of((MAX,), (9.0,), (5.0,), (0.1, 0.1)) is Lead.HELD


# --- reports ---------------------------------------------------------------------------------------------------------

SEARCH = (trial(0, run(250.0, 8.0)), trial(1, run(300.0, 9.0)), trial(2, run(190.0, 7.0)))
LIMITED = spec(("request_throughput",), "ttft_p95 <= 200")


def test_the_report_shows_what_is_kept() -> None:
    again = (
        confirmation(3, 0, (240.0, 8.0), (240.0, 8.0), (240.0, 8.0)),
        confirmation(4, 2, (180.0, 7.0), (199.0, 7.5), (170.0, 6.9)),
    )
    results = build(LIMITED, *SEARCH, *again)
    assert results.best is not None
    assert (results.best.trial, results.best.kept) == (2, True)
    assert [each.kept for each in results.trials] == [False, False, True, False, True]
    assert [each.outcomes for each in results.trials[:3]] == [(250.0,), (300.0,), (190.0,)]
    assert results.slo is not None
    assert results.slo.lead is Lead.HELD  # slower than the default, which does not keep the limit
    assert results.slo.promise[0].bound == 6.9
    (orders,) = results.slo.outcomes
    assert (orders.per_order, orders.worst, orders.kept) == ((180.0, 199.0, 170.0), 199.0, True)
    summary = summarise(results)
    assert [row.limits for row in summary.trials[:3]] == [
        "not kept: TTFT p95 250 ms",
        "not kept: TTFT p95 300 ms",
        "kept",
    ]
    assert [(row.limit, row.verdict, row.worst) for row in summary.limits] == [("TTFT p95 ≤ 200 ms", "kept", "199 ms")]
    assert "| TTFT p95 ≤ 200 ms | kept | 199 ms | 180, 199, 170 |" in render_markdown(results)
    assert "<td>not kept: TTFT p95 250 ms</td>" in render_html(results)
    assert not [caveat for caveat in results.caveats if caveat.code.startswith("outcome")]
    chart = make_chart(results)
    assert chart is not None
    assert "the best, trial 2, has 7 req/s" in chart.description.replace("7.00", "7")
    assert len({height for _, height in chart.line}) == 1  # neither default nor trial 1 leads anything


def test_the_report_says_when_the_worst_order_breaks_a_limit() -> None:
    again = (
        confirmation(3, 0, (300.0, 8.0), (300.0, 8.0), (300.0, 8.0)),
        confirmation(4, 2, (180.0, 7.0), (210.0, 7.0), (170.0, 7.0)),
    )
    results = build(LIMITED, *SEARCH, *again)
    assert [caveat.text for caveat in results.caveats if caveat.code == "outcome-not-confirmed"] == [
        "TTFT p95 ≤ 200 ms is not kept: measured again it was 210 ms in the worst arrival order."
    ]
    assert [row.verdict for row in summarise(results).limits] == ["not kept"]
    assert results.slo is not None
    assert results.slo.lead is Lead.HELD
    # the default keeps it after all: then it is the one to run
    kept = confirmation(3, 0, (150.0, 5.0), (150.0, 5.0), (150.0, 5.0))
    lost = build(LIMITED, *SEARCH, kept, again[1])
    assert lost.slo is not None
    assert (lost.slo.lead, lost.slo.outcomes[0].kept) == (Lead.LOST, True)


def test_the_report_says_when_nothing_keeps_the_limits() -> None:
    results = build(spec(("request_throughput",), "ttft_p95 <= 100"), *SEARCH)
    assert results.best is not None
    assert (results.best.trial, results.best.kept) == (2, False)
    assert "No trial kept every limit (TTFT p95 ≤ 100 ms): trial 2 is the one that exceeds them least." in [
        caveat.text for caveat in results.caveats
    ]
    assert summarise(results).verdict.startswith("Nothing keeps every limit, and the configuration of trial 2 comes")
    chart = make_chart(results)
    assert chart is not None
    default = build(spec(("request_throughput",), "ttft_p95 <= 100"), trial(0, run(150.0, 8.0)), SEARCH[1])
    assert summarise(default).verdict.startswith("Nothing keeps every limit, and the engine's default configuration")


def test_the_front_leaves_out_what_breaks_a_limit() -> None:
    chosen = spec(("ttft_mean", "request_throughput"), "tpot_p95 <= 10")
    trials = (
        trial(0, run(100.0, 5.0, 8.0)),
        trial(1, run(50.0, 9.0, 20.0)),
        trial(2, run(90.0, 6.0, 9.0)),
        trial(3, run(80.0, 5.5, 9.5)),
    )
    assert [member.trial for member in build(chosen, *trials).front] == [3, 2]
    broken = spec(("ttft_mean", "request_throughput"), "tpot_p95 <= 1")
    assert [member.trial for member in build(broken, *trials).front] == [1]


def test_three_objectives_are_reported() -> None:
    chosen = spec(("ttft_mean", "tpot_mean", "request_throughput"))
    trials = (
        trial(0, run(100.0, 5.0, 8.0)),
        trial(1, run(50.0, 6.0, 7.0)),
        trial(2, run(90.0, 9.0, 4.0)),
        trial(3, run(120.0, 4.0, 9.0)),
    )
    results = build(chosen, *trials)
    assert results.best is not None
    assert results.best.trial == 2  # boxes: 50 x 1 x 1 and 10 x 4 x 4
    assert [(member.trial, member.hypervolume) for member in results.front] == [(1, 50.0), (2, 160.0)]
    chart = make_chart(results)
    assert chart is not None
    assert chart.line == ()
    assert render_html(results)
    assert "TPOT mean" in render_markdown(results)


def test_limits_are_written_as_they_were_asked_for() -> None:
    infos = map(outcome_info, outcomes_of(("ttft_p95 <= 2000.5", "goodput_share >= 0.995")))
    assert [limit_text(info) for info in infos] == ["TTFT p95 ≤ 2,000.5 ms", "goodput share ≥ 0.995"]


def test_scootctl_judges_the_lead_by_limits_and_lists_them() -> None:
    again = (
        confirmation(3, 0, (240.0, 8.0), (240.0, 8.0), (240.0, 8.0)),
        confirmation(4, 2, (180.0, 7.0), (210.0, 7.5), (170.0, 6.9)),
    )
    shown = tuple(
        Trial(
            number=each.number,
            state=each.state,
            kind=each.kind,
            source=each.source,
            confirms=each.confirms,
            config=each.config,
            runs=each.runs,
        )
        for each in (*SEARCH, *again)
    )
    state = Study(study_id="s-1", spec=LIMITED, state=StudyState.COMPLETED, created_at_s=1.0, best_trial=2)
    detail = StudyDetail(study=state, trials=shown, revision=1)
    assert title(detail).startswith("s: mock with m, maximise request_throughput, ttft_p95 <= 200")
    lines = headline(detail)
    assert lines[0] == "Best configuration: trial 2"
    assert lines[-2:] == ("Limits, trial 4:", "  ttft_p95 <= 200: 210, not kept")
