"""From timings to summary.json and its table; every name in it is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.metrics import summarise
from scoot.benchmark.standalone.knee import goodput_knee, saturation
from scoot.benchmark.standalone.summary import (
    INTERRUPTED,
    INVALID,
    SCHEMA,
    VALID,
    RunSummary,
    Summary,
    Target,
    all_refused,
    caveats,
    concurrency,
    figures,
    over_runs,
    run_summaries,
    verdict,
)
from scoot.benchmark.standalone.sweep_table import Sweep, point_of, step_of, sweep_csv, sweep_text
from scoot.benchmark.standalone.table import aligned, summary_text, verdict_line
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, concatenate
from scoot.wire.measurement import LoadAudit
from scoot.wire.spec import Arrivals, Limits, SloClass, Workload, WorkloadFacts

DOC = (Path(__file__).parents[2] / "docs" / "benchmark.md").read_text(encoding="utf-8")
AUDIT = LoadAudit(run=0, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0, clock="kernel", wall_s=10.0)
LOOSE = Limits(min_requests=1)


def batch(n: int = 30, *, run: int = 0, gap_us: int = 10_000, **columns: Any) -> TimingBatch:
    """`n` requests every 100 ms, sent 1 ms late, 3 tokens each, the first after 20 ms; columns may be changed."""
    filled: dict[str, Any] = {
        "index": np.arange(n),
        "intended_us": np.arange(n) * 100_000,
        "sent_us": np.full(n, 1_000),
        "first_us": np.full(n, 21_000),
        "end_us": np.full(n, 21_000 + 2 * gap_us),
        "input_tokens": np.full(n, 7),
        "output_tokens": np.full(n, 3),
        "wanted_tokens": np.full(n, 3),
        "chunks": np.full(n, 3),
        "run": np.full(n, run),
        "http_status": np.full(n, 200),
        "replica": np.zeros(n),
        "phase": np.full(n, RequestPhase.MEASURED),
        "status": np.full(n, RequestStatus.OK),
        "gap_us": np.tile([0, gap_us, gap_us], n),
    } | columns
    empty = concatenate([])
    types = {name: getattr(getattr(empty, name), "dtype", np.dtype("u1")) for name in filled}
    types["admitted_us"] = np.dtype("<u4")
    return TimingBatch(**{name: np.asarray(value).astype(types[name]) for name, value in filled.items()})


def runs_of(
    *batches: TimingBatch, limits: Limits = LOOSE, classes: tuple[SloClass, ...] = (), max_in_flight: int | None = None
) -> tuple[RunSummary, ...]:
    """Summaries of batches that are runs 0, 1, ..."""
    audits = [msgspec.structs.replace(AUDIT, run=run) for run in range(len(batches))]
    return run_summaries(
        concatenate(batches),
        audits,
        seeds=range(5, 5 + len(batches)),
        classes=classes,
        limits=limits,
        interrupted=False,
        max_in_flight=max_in_flight,
    )


def summary_of(runs: tuple[RunSummary, ...], *, interrupted: bool = False, rate: float | None = 10.0) -> Summary:
    """A whole summary around some runs."""
    state, detail = verdict(runs, interrupted=interrupted)
    metrics, spread = over_runs(runs)
    return Summary(
        schema=SCHEMA,
        state=state,
        detail=detail,
        metrics=metrics,
        spread=spread,
        runs=runs,
        target=Target(
            urls=("http://h:1",),
            model="m",
            endpoint="completions",
            prompt="token_ids",
            ignore_eos=True,
            max_model_len=None,
            headers=(),
        ),
        workload=Workload(arrivals=Arrivals(rate=rate)),
        facts=WorkloadFacts(sha256="", requests=1, input_p50=1, input_max=1, output_p50=1, output_max=1),
        seeds=(5,),
        limits=LOOSE,
        command=("run",),
        versions={},
        started_at="2026-01-01T00:00:00+00:00",
        notes=caveats(runs, LOOSE),
    )


def test_figures_have_the_names_that_benchmarks_share() -> None:
    flat = figures(summarise(batch(), run=0))
    assert flat["completed"] == 30
    assert flat["mean_ttft_ms"] == 21.0
    assert flat["median_ttft_from_send_ms"] == 20.0
    assert flat["p99_tpot_ms"] == 10.0
    assert flat["max_itl_ms"] == 10.0
    assert flat["n_itl_ms"] == 60
    assert flat["mean_e2el_ms"] == 41.0
    assert flat["mean_e2el_from_send_ms"] == 40.0
    assert flat["std_lateness_ms"] == 0.0
    assert flat["total_token_throughput"] == pytest.approx(300 / 2.941)
    assert flat["request_goodput"] is None
    assert all(value is None or np.isfinite(value) for value in flat.values())


def test_the_wait_for_admission_is_told_where_there_is_a_limit() -> None:
    sent, admitted = np.full(30, 11_000), np.full(30, 10_000)
    sent[:2], admitted[:2] = NONE_US, NONE_US
    status = np.where(admitted == NONE_US, RequestStatus.DEADLINE, RequestStatus.OK)
    first = np.full(30, 31_000)
    waiting = batch(sent_us=sent, admitted_us=admitted, status=status, first_us=first, end_us=first + 20_000)
    found = runs_of(waiting, max_in_flight=2)[0].metrics
    assert (found["n_admission_ms"], found["mean_admission_ms"]) == (28, 10.0)
    assert found["mean_ttft_ms"] == 31.0, "with the wait"
    assert found["mean_ttft_from_send_ms"] == 20.0
    assert found["mean_lateness_ms"] == 1.0, "without it"
    assert found["admitted_rate"] == pytest.approx(10.0)


def test_a_limit_that_nobody_met_is_a_wait_of_nothing_and_no_limit_is_none() -> None:
    for limit, n, wait, rate in ((4, 30, 0.0, pytest.approx(10.0)), (None, 0, None, None)):
        runs = runs_of(batch(), max_in_flight=limit)
        found = runs[0].metrics
        assert (found["n_admission_ms"], found["p99_admission_ms"], found["admitted_rate"]) == (n, wait, rate)
        assert ("wait for admission" in summary_text(summary_of(runs))) is (limit is not None)
        assert runs[0].validity.valid


def test_runs_without_a_wait_count_in_its_median() -> None:
    some = batch(run=2, admitted_us=np.full(30, 500))
    metrics, spread = over_runs(runs_of(batch(run=0), batch(run=1), some, max_in_flight=4))
    assert metrics["p99_admission_ms"] == 0.0
    assert spread is not None
    assert (spread.min["p99_admission_ms"], spread.max["p99_admission_ms"]) == (0.0, 0.5)


def test_nothing_measured_is_null_not_zero() -> None:
    flat = figures(summarise(concatenate([]), run=0)) | concurrency(concatenate([]), run=0)
    assert flat["mean_ttft_ms"] is None
    assert flat["n_ttft_ms"] == 0
    assert flat["requests"] == 0
    assert (flat["mean_concurrency"], flat["max_concurrency"]) == (0.0, 0)


REQUESTS = st.lists(st.tuples(st.integers(0, 2_000), st.integers(0, 50), st.integers(0, 900)), min_size=1, max_size=30)


@given(REQUESTS)
def test_concurrency_is_what_counting_gives(requests: list[tuple[int, int, int]]) -> None:
    starts, late, lasting = (np.array(column) for column in zip(*requests, strict=True))
    n = len(requests)
    timings = batch(n, intended_us=starts, sent_us=late, first_us=late, end_us=late + lasting)
    found = concurrency(timings, run=0)
    spans = [(start + wait, start + wait + length) for start, wait, length in requests]
    moments = sorted({moment for span in spans for moment in span})
    at_once = [sum(begin <= moment < end for begin, end in spans) for moment in moments]
    assert found["max_concurrency"] == max(at_once)
    whole = max(end for _, end in spans) - int(starts.min())
    area = sum(end - begin for begin, end in spans)
    assert found["mean_concurrency"] == pytest.approx(area / whole if whole else 0.0)


def test_requests_without_an_end_are_not_counted_as_concurrent() -> None:
    end = np.full(3, 41_000)
    end[1] = NONE_US
    status = np.array([RequestStatus.OK, RequestStatus.CANCELLED, RequestStatus.OK])
    assert concurrency(batch(3, end_us=end, status=status), run=0)["max_concurrency"] == 1


def test_runs_are_told_apart_and_their_medians_reported() -> None:
    runs = runs_of(batch(run=0, gap_us=10_000), batch(run=1, gap_us=30_000), batch(run=2, gap_us=20_000))
    assert [run.metrics["mean_tpot_ms"] for run in runs] == [10.0, 30.0, 20.0]
    assert [run.seed for run in runs] == [5, 6, 7]
    metrics, spread = over_runs(runs)
    assert metrics["mean_tpot_ms"] == 20.0
    assert spread is not None
    assert (spread.min["mean_tpot_ms"], spread.max["mean_tpot_ms"]) == (10.0, 30.0)
    assert (metrics["request_goodput"], spread.min["request_goodput"]) == (None, None)
    assert over_runs(runs[:1]) == (runs[0].metrics, None)


def test_goodput_of_one_class_and_of_several() -> None:
    first = np.where(np.arange(30) < 10, 90_000, 21_000)
    slow = batch(first_us=first, end_us=first + 20_000)
    (run,) = runs_of(slow, classes=(SloClass(name="all", ttft_ms=50.0),))
    assert run.metrics["goodput_share"] == pytest.approx(2 / 3)
    assert run.metrics["request_goodput"] == pytest.approx(20 / float(run.metrics["duration"] or 0))
    classes = (SloClass(name="a", share=0.5, ttft_ms=50.0), SloClass(name="b", share=0.5))
    (run,) = runs_of(batch(first_us=first, end_us=first + 20_000, slo_class=np.arange(30) % 2), classes=classes)
    assert [(each.name, each.attained) for each in run.goodput_by_class] == [("a", 10), ("b", 15)]


def test_an_audit_without_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="audit of run 1"):
        run_summaries(
            batch(),
            [msgspec.structs.replace(AUDIT, run=1)],
            seeds=(1,),
            classes=(),
            limits=LOOSE,
            interrupted=False,
        )


def test_verdicts() -> None:
    good = runs_of(batch())
    assert verdict(good, interrupted=False) == (VALID, "")
    state, detail = verdict(good, interrupted=True)
    assert state == INTERRUPTED
    few = runs_of(batch(run=0), batch(3, run=1), limits=Limits())
    state, detail = verdict(few, interrupted=False)
    assert state == INVALID
    assert detail == "run 2 of 2: TOO_FEW_REQUESTS: 3 measured requests completed, at least 20 are needed"
    assert verdict((), interrupted=False)[0] == INVALID


def test_caveats() -> None:
    status = np.full(200, RequestStatus.OK)
    status[:4] = RequestStatus.RESET
    status[4] = RequestStatus.DEADLINE
    (note,) = caveats(runs_of(batch(200, status=status)), LOOSE)
    assert note == "5 of 200 requests failed (4 RESET, 1 DEADLINE): latencies are of the others only"
    assert caveats(runs_of(batch(200)), LOOSE) == ()
    assert "few" in caveats(runs_of(batch(99)), LOOSE)[0]
    user = msgspec.structs.replace(runs_of(batch(200))[0], audit=msgspec.structs.replace(AUDIT, clock="user"))
    assert "own" in caveats((user,), LOOSE)[0]


def test_a_server_that_refuses_everything() -> None:
    assert all_refused(runs_of(batch(status=np.full(30, RequestStatus.HTTP_ERROR), http_status=np.full(30, 400))))
    assert not all_refused(runs_of(batch(status=np.full(30, RequestStatus.HTTP_ERROR), http_status=np.full(30, 500))))
    some = np.where(np.arange(30) < 29, RequestStatus.HTTP_ERROR, RequestStatus.OK)
    assert not all_refused(runs_of(batch(status=some, http_status=np.full(30, 404))))
    assert not all_refused(())


def test_the_summary_survives_json() -> None:
    summary = summary_of(runs_of(batch(), classes=(SloClass(name="all", ttft_ms=50.0),)))
    assert msgspec.json.decode(msgspec.json.encode(summary), type=Summary) == summary


def test_the_table_says_what_counts() -> None:
    summary = summary_of(runs_of(batch(), classes=(SloClass(name="all", ttft_ms=50.0),)))
    text = summary_text(summary)
    assert "m: poisson, 10 req/s" in text
    assert re.search(r"^TTFT +21 +21 +0 ", text, re.MULTILINE)
    assert re.search(r"^requests +30 ", text, re.MULTILINE)
    assert "goodput of all: 10.2 req/s, 30 of 30 (100.0%)" in text
    assert text.splitlines()[-1] == verdict_line(summary) == "VALID: the load generator kept to its schedule"
    assert "median of 2 runs" in summary_text(summary_of(runs_of(batch(run=0), batch(run=1))))
    assert summary_text(summary_of(())).endswith("INVALID: nothing was measured")


def test_columns_are_aligned() -> None:
    assert aligned([("a", "10", "x"), ("bbb", "2", "")], right=(1,)) == "a    10  x\nbbb   2"


def sweep_of(*rates: float) -> Sweep:
    """A sweep whose server keeps up, with a TTFT that is broken from 8/s on."""
    steps = []
    for rate in rates:
        n = 30
        first = np.full(n, 21_000 if rate < 8 else 90_000)
        timings = batch(n, intended_us=np.arange(n) * 1e6 / rate, first_us=first, end_us=first + 20_000)
        runs = runs_of(timings, classes=(SloClass(name="all", ttft_ms=50.0),))
        steps.append(step_of(summary_of(runs, rate=rate), name=f"{rate:g}", folder=f"rate-{rate:g}"))
    points = [point for point in map(point_of, steps) if point is not None]
    return Sweep(
        schema=1,
        model="m",
        urls=("http://h:1",),
        slos=("all: TTFT <= 50 ms",),
        steps=tuple(steps),
        knee=goodput_knee(points, target=0.9),
        saturation=saturation(points),
        stopped="",
        interrupted=False,
        command=(),
        versions={},
        started_at="",
    )


def test_a_sweep_as_text_and_csv() -> None:
    sweep = sweep_of(2.0, 4.0, 8.0)
    assert sweep.knee is not None
    assert (sweep.knee.rate, sweep.knee.next_rate) == (4.0, 8.0)
    text = sweep_text(sweep)
    assert re.search(r"^4 +4 +4\.\d+ .* valid$", text, re.MULTILINE)
    assert "goodput knee (all: TTFT <= 50 ms): 4 req/s kept 90% of the requests" in text
    header, *rows = sweep_csv(sweep.steps).splitlines()
    assert header.startswith("name,rate,users,state,reason,detail,requests,completed")
    assert [row.split(",")[:4] for row in rows] == [
        ["2", "2.0", "", "valid"],
        ["4", "4.0", "", "valid"],
        ["8", "8.0", "", "valid"],
    ]
    assert msgspec.json.decode(msgspec.json.encode(sweep), type=Sweep) == sweep


def test_a_sweep_shows_the_wait_where_there_is_one() -> None:
    sweep = sweep_of(2.0)
    assert "wait p99" not in sweep_text(sweep)
    timings = batch(30, admitted_us=np.full(30, 900))
    waited = step_of(summary_of(runs_of(timings, max_in_flight=3)), name="10", folder="rate-10")
    text = sweep_text(msgspec.structs.replace(sweep, steps=(*sweep.steps, waited)))
    assert re.search(r" wait p99 +state$", text, re.MULTILINE)
    assert re.search(r"^2 .* - +valid$", text, re.MULTILINE)
    assert re.search(r"^10 .* 0\.9 +valid$", text, re.MULTILINE)


def test_steps_that_are_no_points() -> None:
    sweep = sweep_of(2.0)
    closed = msgspec.structs.replace(sweep.steps[0], rate=None, users=1)
    assert point_of(closed) is None
    late = msgspec.structs.replace(sweep.steps[0], state=INVALID, reason="LOAD_LATE")
    point = point_of(late)
    assert point is not None
    assert point.saturated
    assert not point.valid
    few = point_of(msgspec.structs.replace(late, reason="TOO_FEW_REQUESTS"))
    assert few is not None
    assert not few.saturated
    text = sweep_text(msgspec.structs.replace(sweep, steps=(late,), knee=None, stopped="too late"))
    assert "stopped: too late" in text
    assert "none without a valid measurement" in text
    assert "none without SLOs" in sweep_text(msgspec.structs.replace(sweep, knee=None, slos=()))


def test_every_name_is_documented() -> None:
    names = set(figures(summarise(batch(), run=0)) | concurrency(batch(), run=0))
    statistic = re.compile(r"^(n|mean|median|std|p50|p90|p95|p99|max)_(?=.*_ms$)")
    names = {statistic.sub("", name) for name in names}
    for kind in (Summary, RunSummary, Target, Sweep):
        names |= set(kind.__struct_fields__)
    missing = [name for name in sorted(names) if f"`{name}`" not in DOC]
    assert missing == []
