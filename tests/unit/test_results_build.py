"""The arithmetic of a report: values, best, front, confirmation, and what it warns of."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from study_bench import SEEDS, build, codes, confirmation, infeasible, run, spec, study, trial

from scoot.coordinator.objective.confirmation import Lead, lead_of
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.report.build import improvement_percent
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import render_markdown
from scoot.coordinator.report.plot import MarkKind, make_chart
from scoot.coordinator.report.summary import summarise
from scoot.wire.measurement import Goodput, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Limits,
    WorkloadFacts,
)
from scoot.wire.states import StudyState, TrialKind, TrialState


def test_best_and_its_improvement_over_the_default() -> None:
    results = build(study(), trial(0, run(40.0)), trial(1, run(50.0)), trial(2, run(30.0)))
    assert results.best is not None
    assert results.best.trial == 2
    assert results.best.values == (30.0,)
    assert results.default == (40.0,)
    gain = results.best.improvement[0]
    assert (gain.default, gain.best) == (40.0, 30.0)
    assert gain.percent == pytest.approx(25.0)
    assert results.front == ()


def test_throughput_is_better_upwards() -> None:
    results = build(study("request_throughput"), trial(0, run(1.0, 10.0)), trial(1, run(1.0, 15.0)))
    assert results.best is not None
    assert results.best.trial == 1
    assert results.best.improvement[0].percent == pytest.approx(50.0)
    assert improvement_percent(10.0, 5.0, Direction.MAXIMISE) == pytest.approx(-50.0)
    assert improvement_percent(0.0, 5.0, Direction.MAXIMISE) is None


def test_front_and_chosen_point_by_hypervolume_against_the_default() -> None:
    results = build(
        study("ttft_mean", "request_throughput"),
        trial(0, run(40.0, 10.0)),
        trial(1, run(20.0, 11.0)),  # 20 x 1
        trial(2, run(30.0, 14.0)),  # 10 x 4: the largest box
        trial(3, run(35.0, 12.0)),  # dominated by 2
        trial(4, run(90.0, 15.0)),  # on the front, does not beat the default
    )
    assert [(m.trial, m.hypervolume, m.chosen) for m in results.front] == [
        (1, 20.0, False),
        (2, 40.0, True),
        (4, 0.0, False),
    ]
    assert results.best is not None
    assert results.best.trial == 2
    chart = make_chart(results)
    assert chart is not None
    assert [mark.kind for mark in chart.marks].count(MarkKind.CHOSEN) == 1
    assert len(chart.line) == 5


def test_default_stays_where_everything_else_is_a_trade() -> None:
    results = build(study("ttft_mean", "request_throughput"), trial(0, run(40.0, 10.0)), trial(1, run(50.0, 30.0)))
    assert results.best is not None
    assert results.best.trial == 0
    assert "can be traded" in next(c.text for c in results.caveats if c.code == "default-is-best")
    assert "Keep the engine's default" in render_markdown(results)


def test_without_a_default_the_front_s_compromise_is_taken() -> None:
    trials = (infeasible(0), trial(1, run(10.0, 10.0)), trial(2, run(12.0, 28.0)), trial(3, run(50.0, 30.0)))
    results = build(study("ttft_mean", "request_throughput"), *trials)
    assert results.best is not None
    assert results.best.trial == 2
    assert [member.hypervolume for member in results.front] == [None, None, None]
    assert {"compromise", "default-infeasible"} <= set(codes(results))


def test_slo_is_the_worst_order_and_pairing_is_by_order() -> None:
    results = build(
        study(),
        trial(0, run(40.0)),
        trial(1, run(30.0)),
        confirmation(2, 0, 40.0, 50.0, 20.0),
        confirmation(3, 1, 30.0, 40.0, 25.0),
    )
    slo = results.slo
    assert slo is not None
    assert slo.seeds == SEEDS == results.seeds.confirmation
    assert (slo.best.confirms, slo.best.trial) == (1, 3)
    assert slo.promise[0].bound == 40.0
    assert slo.best.objectives[0].per_order == (30.0, 40.0, 25.0)
    assert slo.best.objectives[0].median == 30.0
    paired = slo.paired[0]
    assert paired.ratios == pytest.approx((0.75, 0.8, 1.25))
    assert paired.worst == pytest.approx(1.25)
    assert paired.median == pytest.approx(0.8)
    assert not paired.never_worse
    assert "not-always-better" in codes(results)
    assert "+25.0 %" in next(c.text for c in results.caveats if c.code == "not-always-better")
    assert "TTFT mean ≤ 40.0 ms" in render_html(results)


def test_a_lead_that_does_not_hold_keeps_the_default_and_promises_for_it() -> None:
    results = build(
        study(),
        trial(0, run(40.0)),
        trial(1, run(30.0)),
        confirmation(2, 0, 40.0, 42.0, 44.0),
        confirmation(3, 1, 50.0, 39.0, 60.0),
    )
    assert results.slo is not None
    assert results.slo.lead is Lead.LOST
    assert results.slo.promise[0].bound == 44.0
    page = render_markdown(results)
    assert "Keep the engine's default configuration: trial 1 led the search, but not when measured again" in page
    assert "TTFT mean ≤ 44.0 ms" in page
    assert "Tuned flags" not in page


def test_the_lead_is_judged_by_medians_over_every_objective() -> None:
    low, high = Direction.MINIMISE, Direction.MAXIMISE
    assert lead_of([low], [3.0], [4.0]) is Lead.HELD
    assert lead_of([low], [4.0], [4.0]) is Lead.HELD
    assert lead_of([high], [3.0], [4.0]) is Lead.LOST
    assert lead_of([low, high], [3.0, 3.0], [4.0, 4.0]) is Lead.MIXED
    assert lead_of([low, high], [5.0, 3.0], [4.0, 4.0]) is Lead.LOST
    assert lead_of([low, high], [4.0, 5.0], [4.0, 4.0]) is Lead.HELD


def test_throughput_promises_the_least_over_the_orders() -> None:
    orders = (12.0, 9.0, 11.0)
    runs = [run(1.0, value, seed=seed, index=i) for i, (seed, value) in enumerate(zip(SEEDS, orders, strict=True))]
    best = trial(
        1, *runs, kind=TrialKind.CONFIRMATION, source="confirm-default", confirms=0, run_seeds=SEEDS, config={}
    )
    results = build(study("request_throughput"), trial(0, run(1.0, 10.0)), best)
    assert results.slo is not None
    assert results.slo.promise[0].bound == 9.0
    assert results.slo.paired == ()
    assert results.slo.best == results.slo.default
    assert "default-is-best" in codes(results)


def test_orders_that_are_not_believed_are_left_out_and_said() -> None:
    results = build(
        study(),
        trial(0, run(40.0)),
        trial(1, run(30.0)),
        confirmation(2, 0, 40.0, None, 44.0),
        confirmation(3, 1, None, 31.0, 33.0),
    )
    assert results.slo is not None
    assert results.slo.promise[0].bound == 33.0
    assert results.slo.promise[0].orders == 2
    assert results.slo.best.objectives[0].per_order == (None, 31.0, 33.0)
    assert results.slo.paired[0].ratios[:2] == (None, None)
    assert results.slo.paired[0].ratios[2] == pytest.approx(0.75)
    assert {"confirmation-partial", "invalid-measurement"} <= set(codes(results))


def test_unconfirmed_best_promises_nothing() -> None:
    record = confirmation(
        2, 1, 1.0, 1.0, 1.0, state=TrialState.FAILED, runs=(), reason=Reason.HOST_LOST, message="gone"
    )
    results = build(study(), trial(0, run(40.0)), trial(1, run(30.0)), record)
    assert results.slo is None
    assert results.seeds.confirmation == SEEDS
    assert "HOST_LOST" in next(c.text for c in results.caveats if c.code == "not-confirmed")
    assert "It can promise" not in render_html(results)


def test_empty_study() -> None:
    results = build(study(state=StudyState.SEARCHING, waiting="no agent offers engine mock"))
    assert (results.best, results.default, results.slo, results.trials, results.front) == (None, None, None, (), ())
    assert not results.final
    assert results.message == "no agent offers engine mock"
    assert codes(results) == ["unfinished", "pretend-engine"]
    assert make_chart(results) is None


def test_nothing_met() -> None:
    results = build(study(state=StudyState.FAILED, message="none of 3 trials succeeded"), *map(infeasible, range(3)))
    assert results.best is None
    assert results.counts.infeasible == 3
    assert {"nothing-met", "default-infeasible", "study-failed"} <= set(codes(results))
    assert "Nothing met" in render_markdown(results)
    assert "CUDA out of memory" in render_html(results)


def test_default_infeasible_leaves_nothing_to_compare_with() -> None:
    results = build(study(), infeasible(0), trial(1, run(30.0)), confirmation(2, 1, 30.0, 31.0, 32.0))
    assert results.best is not None
    assert results.best.trial == 1
    assert results.best.improvement == ()
    assert results.default is None
    assert results.slo is not None
    assert results.slo.default is None
    assert "default-infeasible" in codes(results)
    assert "default-unconfirmed" not in codes(results)


def test_cancelled_study_keeps_what_it_found() -> None:
    cancelled = trial(2, state=TrialState.CANCELLED, reason=Reason.CANCELLED_BY_USER, runs=())
    results = build(
        study(state=StudyState.CANCELLED, message="asked by ops"), trial(0, run(40.0)), trial(1, run(30.0)), cancelled
    )
    assert results.final
    assert results.best is not None
    assert results.best.trial == 1
    assert results.counts.cancelled == 1
    assert results.trials[2].blame == "USER"
    caveat = next(c for c in results.caveats if c.code == "cancelled")
    assert caveat.text == "The study was cancelled after 2 of 4 trials: asked by ops."


def test_running_study_at_every_moment() -> None:
    trials = [
        trial(0, run(40.0)),
        infeasible(1),
        trial(2, state=TrialState.RUNNING),
        trial(3, state=TrialState.PENDING, attempts=0),
    ]
    for n in range(len(trials) + 1):
        results = build(study(state=StudyState.SEARCHING), *trials[:n])
        assert len(results.trials) == n
    assert (results.counts.running, results.counts.pending) == (1, 1)


def test_metric_nobody_measured_is_no_value() -> None:
    results = build(study("tpot_mean"), trial(0, run(40.0)))
    assert results.trials[0].values is None
    assert results.trials[0].runs[0].values is None
    assert results.best is None


def test_order_of_trials_does_not_matter() -> None:
    trials = [trial(0, run(40.0)), trial(1, run(30.0)), infeasible(2), confirmation(3, 1, 1.0, 2.0, 3.0)]
    shuffled = trials.copy()
    random.Random(7).shuffle(shuffled)
    assert build(study(), *trials) == build(study(), *shuffled)


def test_caveats_about_engine_workload_and_trials() -> None:
    facts = WorkloadFacts(
        sha256="0" * 64, requests=9, input_p50=1, input_max=2, output_p50=3, output_max=4, notes=("3 were clipped.",)
    )
    chosen = msgspec.structs.replace(
        spec("ttft_p99", engine="vllm", options={"enforce_eager": True}, env={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}),
        workload_facts=facts,
        limits=Limits(lateness_p99_ms=250.0),
    )
    results = build(
        study(spec=chosen),
        trial(0, run(40.0), engine_version="0.32.0"),
        trial(1, run(30.0), engine_version="0.31.0", effective_config={"max_num_seqs": 8}),
        trial(2, run(35.0), attempts=2, source="sobol-fallback"),
        trial(3, state=TrialState.FAILED, reason=Reason.PORT_TAKEN, message="port 8000", runs=()),
    )
    assert codes(results) == [
        "cpu",
        "start-up-option",
        "start-up-option",
        "engine-versions",
        "not-confirmed",
        "workload",
        "few-requests",
        "looser-limit",
        "failed-trial",
        "engine-changed-value",
        "retried",
        "optimizer-fallback",
    ]
    assert results.engine.versions == ("0.32.0", "0.31.0")
    assert "default" not in results.caveats[0].text


def measured(ttft_ms: float, *, valid: bool = True, **figures: Any) -> RunResult:
    """A run whose metrics, and audit under `audit`, say this."""
    plain_run = run(ttft_ms, valid=valid)
    audit = msgspec.structs.replace(plain_run.audit, **figures.pop("audit", {}))
    return msgspec.structs.replace(
        plain_run, metrics=msgspec.structs.replace(plain_run.metrics, **figures), audit=audit
    )


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        (Limits(run_queue_share=0.6), "limits.run_queue_share is 0.6 of the run here, not 0.5"),
        (Limits(run_queue_share=0.0), "limits.run_queue_share is 0 of the run here"),
        (Limits(achieved_share=0.9), "limits.achieved_share is 0.9 of the offered rate here, not 0.98"),
        (Limits(merged_share=0.0), "limits.merged_share is 0 of the chunks here"),
        (Limits(other_cpu_share=0.5), "limits.other_cpu_share is 0.5 of the host's CPUs here, not 0.25"),
        (Limits(other_cpu_share=0.0), "limits.other_cpu_share is 0 of the host's CPUs here"),
        (Limits(lateness_p99_ms=50.0), "limits.lateness_p99_ms is 50 ms here, not 20"),
        (Limits(run_queue_share=0.4, achieved_share=1.0, merged_share=0.01, lateness_p99_ms=5.0), ""),
    ],
)
def test_limits_that_are_looser_or_off_are_said(limits: Limits, text: str) -> None:
    results = build(study(spec=msgspec.structs.replace(spec("ttft_mean"), limits=limits)), trial(0, run(40.0)))
    said = [caveat.text for caveat in results.caveats if caveat.code == "looser-limit"]
    assert len(said) == (1 if text else 0)
    assert all(text in one for one in said)


def test_believed_runs_with_merged_chunks_are_said_once() -> None:
    results = build(
        study(),
        trial(0, measured(40.0, merged_share=0.05)),
        trial(1, measured(30.0, merged_share=0.2)),
        trial(2, measured(35.0, merged_share=0.1)),
        trial(3, measured(35.0, merged_share=0.9, valid=False)),
    )
    said = [caveat.text for caveat in results.caveats if caveat.code == "merged-chunks"]
    assert len(said) == 1
    assert "Up to 20 % of the chunks of trials 1 and 2 " in said[0]


def test_a_noisy_run_that_was_taken_is_believed_and_said() -> None:
    def noisy(ttft_ms: float, other_cpu_s: float, *, valid: bool) -> RunResult:
        audit = {"other_cpu_s": other_cpu_s, "host_cpus": 4, "wall_s": 10.0}
        verdict = Validity(valid=valid, reason=Reason.HOST_NOISY, detail="others used 40% of the host's 4 CPUs")
        return msgspec.structs.replace(measured(ttft_ms, audit=audit), validity=verdict)

    results = build(
        study(),
        trial(0, measured(40.0, audit={"other_cpu_s": 39.0, "host_cpus": 4, "wall_s": 10.0})),
        trial(1, noisy(30.0, 16.0, valid=True)),
        trial(2, noisy(20.0, 16.0, valid=False), state=TrialState.FAILED, reason=Reason.HOST_NOISY),
    )
    said = [(caveat.trial, caveat.text) for caveat in results.caveats if caveat.code == "noisy-host"]
    assert len(said) == 1
    assert said[0][0] == 1
    assert "Trial 1 was measured while others used 40 % of the host's CPUs" in said[0][1]
    assert results.best is not None
    assert results.best.trial == 1
    assert {row.name: row.text for row in summarise(results).load}["CPUs used by others"] == "40.0 %"

    both = (noisy(40.0, 36.0, valid=True), noisy(40.0, 14.0, valid=True))
    several = build(study(), trial(0, *both), trial(1, noisy(30.0, 12.0, valid=True)))
    said = [(caveat.trial, caveat.text) for caveat in several.caveats if caveat.code == "noisy-host"]
    assert len(said) == 1
    assert "Trials 0 and 1 were measured while others used up to 90 %" in said[0][1]


def test_load_rows_are_of_the_answers_believed_runs() -> None:
    both = tuple(Goodput(name=name, sent=10, attained=9, share=0.9, rate=1.8) for name in ("chat", "batch"))
    whole = Goodput(name="", sent=20, attained=18, share=0.9, rate=3.6)
    kernel = {"clock": "kernel"}
    runs = (
        measured(30.0, achieved_rate=9.9, audit=kernel, goodput=whole, goodput_by_class=both, multi_token_share=0.5),
        measured(30.0, achieved_rate=9.8, audit=kernel, goodput=whole, goodput_by_class=both, merged_share=0.02),
        measured(30.0, achieved_rate=1.0, merged_share=0.9, valid=False),
    )
    summary = summarise(build(study(), trial(0, run(40.0)), trial(1, *runs)))
    rows = {row.name: row.text for row in summary.load}
    assert rows == {
        "measured": "trial 1, 2 runs",
        "requests sent / due (req/s)": "9.90 / 10.0, 9.80 / 10.0",
        "sent late, p99": "-",
        "receive stamps": "the kernel's",
        "chunks read together": "2.00 %",
        "chunks of several tokens": "50.0 %",
        "goodput": "3.60 req/s (90.0 %), 3.60 req/s (90.0 %)",
        "goodput of chat": "1.80 req/s (90.0 %), 1.80 req/s (90.0 %)",
        "goodput of batch": "1.80 req/s (90.0 %), 1.80 req/s (90.0 %)",
    }


def test_load_rows_of_an_older_agents_run() -> None:
    rows = {row.name: row.text for row in summarise(build(study(), trial(0, run(40.0)))).load}
    assert rows["requests sent / due (req/s)"] == "- / 10.0"
    assert rows["receive stamps"] == "the load generator's own"
    assert not any(name.startswith("goodput") for name in rows)
    assert summarise(build(study())).load == ()


def test_load_rows_follow_the_answer_to_its_confirmation() -> None:
    held = build(study(), trial(0, run(40.0)), trial(1, run(30.0)), confirmation(2, 1, 1.0, 2.0, 3.0))
    assert summarise(held).load[0].text == "trial 2, 3 runs"
    lost = (
        trial(0, run(40.0)),
        trial(1, run(30.0)),
        confirmation(2, 0, 5.0, 5.0, 5.0),
        confirmation(3, 1, 9.0, 9.0, 9.0),
    )
    assert summarise(build(study(), *lost)).load[0].text == "trial 2, 3 runs"
