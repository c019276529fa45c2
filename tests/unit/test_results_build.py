"""The arithmetic of a report: values, best, front, confirmation, and what it warns of."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.coordinator.objective.confirmation import Lead, lead_of
from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.report.build import build_results, improvement_percent, worst_of
from scoot.coordinator.report.command import shell_line, tuned_flags
from scoot.coordinator.report.html import render_html
from scoot.coordinator.report.markdown import block, code, plain, render_markdown
from scoot.coordinator.report.plot import MarkKind, linear_ticks, log_ticks, make_chart
from scoot.coordinator.report.results import Results, encode_results, results_json_schema
from scoot.coordinator.report.summary import summarise
from scoot.coordinator.report.text import bound, number, objective_info, seconds
from scoot.coordinator.study.state import StudyRecord, TrialRecord
from scoot.wire.measurement import Distribution, Goodput, LoadAudit, Metrics, RunResult, Validity
from scoot.wire.reasons import Reason
from scoot.wire.spec import (
    Budget,
    Confirm,
    Limits,
    Objective,
    Parameter,
    ParameterKind,
    Service,
    StudySpec,
    Workload,
    WorkloadFacts,
)
from scoot.wire.states import StudyState, TrialKind, TrialState

SEEDS = (101, 102, 103)


def distribution(value: float) -> Distribution:
    return Distribution(n=50, mean=value, p50=value, p90=value, p95=value, p99=value, max=value)


def run(ttft_ms: float, throughput: float = 10.0, *, seed: int = 1, index: int = 0, valid: bool = True) -> RunResult:
    metrics = Metrics(
        sent=50,
        completed=50,
        failed=0,
        failures={},
        duration_s=5.0,
        request_throughput=throughput,
        output_token_throughput=throughput * 10,
        input_token_throughput=throughput * 20,
        offered_rate=10.0,
        ttft_ms=distribution(ttft_ms),
        tpot_ms=None,
        itl_ms=None,
        e2e_ms=distribution(ttft_ms),
        ttft_from_send_ms=None,
        e2e_from_send_ms=None,
        lateness_ms=None,
        output_tokens=500,
        input_tokens=1000,
        merged_share=0.0,
    )
    validity = (
        Validity(valid=True) if valid else Validity(valid=False, reason=Reason.LOAD_LATE, detail="p99 71 ms > 50 ms")
    )
    audit = LoadAudit(run=index, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
    return RunResult(run=index, seed=seed, metrics=metrics, audit=audit, validity=validity)


def spec(*objectives: str, **service: Any) -> StudySpec:
    return StudySpec(
        name="s",
        service=Service(**({"engine": "mock", "model": "m", "device": "cpu"} | service)),
        workload=Workload(profile="BOT"),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=tuple(Objective(metric=metric) for metric in objectives),
        budget=Budget(trials=4),
        confirm=Confirm(arrival_orders=3),
    )


def study(*objectives: str, state: StudyState = StudyState.COMPLETED, **fields: Any) -> StudyRecord:
    chosen = fields.pop("spec", None) or spec(*(objectives or ("ttft_mean",)))
    return StudyRecord(study_id="s-1", spec=chosen, idempotency_key="k", created_at_s=1.0, state=state, **fields)


def trial(number: int, *runs: RunResult, **fields: Any) -> TrialRecord:
    base: dict[str, Any] = {
        "study_id": "s-1",
        "number": number,
        "kind": TrialKind.SUGGESTED if number else TrialKind.DEFAULT,
        "config": {"max_num_seqs": number} if number else {},
        "source": "sobol" if number else "default",
        "run_seeds": (1,),
        "created_at_s": 1.0,
        "state": TrialState.SUCCEEDED,
        "attempts": 1,
        "runs": runs,
    }
    return TrialRecord(**(base | fields))


def infeasible(number: int) -> TrialRecord:
    return trial(
        number,
        state=TrialState.INFEASIBLE,
        reason=Reason.ENGINE_OOM,
        message="CUDA out of memory",
        log_tail="Traceback",
    )


def confirmation(number: int, confirms: int, *values: float | None, **fields: Any) -> TrialRecord:
    """Runs with these TTFTs; None is one that is not believed."""
    runs = [
        run(value or 1e9, seed=seed, index=index, valid=value is not None)
        for index, (seed, value) in enumerate(zip(SEEDS, values, strict=True))
    ]
    base: dict[str, Any] = {
        "kind": TrialKind.CONFIRMATION,
        "source": "confirm-best" if confirms else "confirm-default",
        "confirms": confirms,
        "run_seeds": SEEDS,
    }
    return trial(number, *runs, **(base | fields))


def build(record: StudyRecord, *trials: TrialRecord) -> Results:
    """Results, checked against the schema and rendered, whatever they are."""
    results = build_results(record, trials, scoot_version="0.1.0", now_s=2.0)
    jsonschema.validate(json.loads(encode_results(results)), results_json_schema(), cls=jsonschema.Draft202012Validator)
    assert render_markdown(results)
    assert render_html(results)
    return results


def codes(results: Results) -> list[str]:
    return [caveat.code for caveat in results.caveats]


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


HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>|`__[x](javascript:1)\n# \x1b[31m {{ 7*7 }} ]]>"


def test_hostile_strings_stay_text() -> None:
    chosen = msgspec.structs.replace(
        spec("ttft_mean", model=HOSTILE, env={"A": HOSTILE}, options={"x": HOSTILE}),
        name=HOSTILE,
        parameters=(Parameter(name=HOSTILE, kind=ParameterKind.ENUM, choices=(HOSTILE, "b")),),
        constraints=(HOSTILE,),
        workload=Workload(trace=HOSTILE),
    )
    bad = {"config": {HOSTILE: HOSTILE}, "agent_id": HOSTILE, "engine_version": HOSTILE, "source": HOSTILE}
    results = build(
        study(spec=chosen, state=StudyState.CANCELLED, message=HOSTILE),
        trial(0, run(40.0), **bad),
        trial(1, run(30.0), command=("run", HOSTILE, "--" + HOSTILE), effective_config={HOSTILE: "c"}, **bad),
        trial(2, state=TrialState.INFEASIBLE, reason=Reason.ENGINE_OOM, message=HOSTILE, log_tail=HOSTILE, **bad),
    )
    page = render_html(results)
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page
    assert "{{ 7*7 }}" in page
    text = render_markdown(results)
    assert "\x1b" not in text
    in_code = False
    for line in text.splitlines():
        if line.startswith("```"):
            in_code = not in_code
        elif not in_code and "`" not in line.replace("\\`", ""):
            assert "<script" not in line.replace("\\<", "")
            assert "](" not in line.replace("\\]", "")
    table = [line for line in text.splitlines() if line.startswith("| 2 ")]
    assert len(table) == 1
    header = next(line for line in text.splitlines() if line.startswith("| trial |"))
    assert table[0].replace("\\|", "").count("|") == header.replace("\\|", "").count("|")


@given(st.text())
def test_code_span_and_block_cannot_be_left(text: str) -> None:
    span = code(text)
    if span:
        ticks = len(span) - len(span.lstrip("`"))
        assert "`" * ticks not in span[ticks:-ticks] or span[ticks : ticks + 1] == " "
        assert "\n" not in span
    fence = block(text).split("sh\n", 1)[0]
    assert not any(line.startswith(fence) for line in block(text).splitlines()[1:-1])
    assert "\n" not in plain(text)


def test_secret_values_are_hidden_everywhere() -> None:
    hidden = "sk-very-secret"
    chosen = spec("ttft_mean", env={"API_KEY": hidden}, options={"api_key": "other-secret", "max_tokens": "12345"})
    command = ("serve", "--api-key", "third-secret", "--token=fourth-secret", "--max-tokens", "12345", f"--x={hidden}")
    results = build(
        study(spec=chosen, message=f"used {hidden}"),
        trial(0, run(40.0), command=command),
        trial(1, state=TrialState.INFEASIBLE, reason=Reason.ENGINE_OOM, message=hidden, log_tail=f"a {hidden} b"),
    )
    encoded = encode_results(results).decode() + render_html(results) + render_markdown(results)
    assert "secret" not in encoded.replace("look secret", "").replace("secret-looking", "")
    assert results.best is not None
    assert results.best.command == ("serve", "--api-key", "***", "--token=***", "--max-tokens", "12345", "--x=***")
    assert "redacted" in codes(results)


def test_tuned_flags_are_cut_out_of_a_command() -> None:
    command = (
        "python",
        "-m",
        "x",
        "--model",
        "m",
        "--max-num-seqs",
        "8",
        "--block_size=16",
        "--no-enable-x",
        "--port",
        "1",
    )
    assert tuned_flags(command, ["max_num_seqs", "block_size", "enable_x"]) == (
        "--max-num-seqs",
        "8",
        "--block_size=16",
        "--no-enable-x",
    )
    assert tuned_flags(("serve", "--seqs", "8", "model"), ["seqs"]) == ("--seqs", "8")


def test_shell_line_quotes() -> None:
    assert shell_line(["/a b/run", "--x", "$(rm)"], {"K": "a b"}) == "K='a b' '/a b/run' \\\n  --x '$(rm)'"
    assert shell_line([]) == ""


@given(
    st.floats(min_value=1e-3, max_value=1e6, allow_nan=False),
    st.sampled_from(["ttft_mean", "request_throughput"]),
)
def test_printed_bound_is_never_tighter_than_the_measured_one(value: float, metric: str) -> None:
    objective = objective_info(metric)
    printed = float(bound(value, objective).split()[-2].replace(",", ""))
    tolerance = 1e-5 * max(1.0, value)
    if objective.direction is Direction.MINIMISE:
        assert printed >= value - tolerance
    else:
        assert printed <= value + tolerance
    assert printed == pytest.approx(value, rel=0.02)


def test_worst_follows_the_direction() -> None:
    assert worst_of([1.0, 3.0, 2.0], Direction.MINIMISE) == 3.0
    assert worst_of([1.0, 3.0, 2.0], Direction.MAXIMISE) == 1.0


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_linear_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 8
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(-3, 5), st.floats(1.4, 8))
def test_log_ticks_are_few_and_inside(low: float, span: float) -> None:
    ticks = log_ticks(low, low + span)
    assert 2 <= len(ticks) <= 12
    assert all(10**low * 0.999 <= tick <= 10 ** (low + span) * 1.001 for tick in ticks)


@given(
    st.lists(st.floats(min_value=0.01, max_value=1e5), min_size=1, max_size=12),
    st.sampled_from([("ttft_mean",), ("ttft_mean", "request_throughput")]),
)
def test_marks_lie_inside_the_plot(values: list[float], objectives: tuple[str, ...]) -> None:
    trials = [trial(n, run(value, 1000 / value)) for n, value in enumerate(values)]
    results = build_results(study(*objectives), trials, scoot_version="0", now_s=0.0)
    chart = make_chart(results)
    assert chart is not None
    assert len(chart.marks) == len(values)
    for mark in chart.marks:
        assert chart.left <= mark.x <= chart.right
        assert chart.top <= mark.y <= chart.bottom
    assert len(chart.x.ticks) >= 2
    assert len(chart.y.ticks) >= 2


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.5, "0.5"), (0.01234, "0.0123"), (7.4, "7.40"), (23.68, "23.7"), (1234.5, "1,234"), (None, "-")],
)
def test_numbers_have_three_digits(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0 s"), (59.6, "1 min"), (61.0, "1 min 1 s"), (3600.0, "1 h"), (7_500.0, "2 h 5 min")]
)
def test_durations_read_well(value: float, text: str) -> None:
    assert seconds(value) == text
