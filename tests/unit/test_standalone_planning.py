"""Options of the stand-alone tool become workloads, rows and plans; contradictions name the option."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.schedule import build_schedule
from scoot.benchmark.standalone.options import RunOptions, Span
from scoot.benchmark.standalone.planning import (
    DURATION_S,
    arrivals_of,
    base_url,
    checked,
    made_rows,
    plan_of,
    workload_of,
)
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, SloClass

URL = "http://127.0.0.1:8000"


def options(**changes: Any) -> RunOptions:
    """Synthetic requests at 5/s, changed."""
    base = RunOptions(urls=(URL,), input_tokens=Span(16, 16), output_tokens=Span(4, 8), rate=5.0)
    return msgspec.structs.replace(base, **changes)


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("https://h/a/v1/", "https://h/a"),
    ],
)
def test_addresses_are_written_in_one_way(url: str, normal: str) -> None:
    assert base_url(url) == normal


@pytest.mark.parametrize("url", ["", "h:8000", "ftp://h", "http://", "http://h:99999", "http://u:p@h", "http://h?x=1"])
def test_addresses_refused(url: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(options(urls=(url,)))
    assert caught.value.key == "--url"
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"urls": ()}, "--url"),
        ({"rate": None}, "--rate"),
        ({"rate": 0.0}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"users": 4}, "--rate"),
        ({"arrivals": ArrivalProcess.GAMMA}, "--cv"),
        ({"arrivals": ArrivalProcess.TRACE, "rate": None}, "--arrivals"),
        ({"arrivals": ArrivalProcess.CLOSED, "rate": None}, "--users"),
        ({"time_scale": 2.0}, "--time-scale"),
        ({"ramp_from": 0.5}, "--ramp-from"),
        ({"max_in_flight": 0}, "--max-in-flight"),
        ({"max_in_flight": -4}, "--max-in-flight"),
        ({"max_in_flight": 100_001}, "--max-in-flight"),
        ({"rate": None, "users": 4, "max_in_flight": 4}, "--max-in-flight"),
        ({"duration_s": -1.0}, "--duration"),
        ({"warm_up_s": -1.0}, "--warm-up"),
        ({"timeout_s": 0.0}, "--timeout"),
        ({"requests": 0}, "--requests"),
        ({"runs": 0}, "--runs"),
        ({"senders": -1}, "--senders"),
        ({"seed": -1}, "--seed"),
        ({"seed": (1 << 63) - 2, "runs": 9}, "--seed"),
        ({"profile": "BOT"}, "--input-tokens"),
        ({"input_tokens": None, "output_tokens": None}, "--profile"),
        ({"input_tokens": None, "output_tokens": None, "profile": "NOPE"}, "--profile"),
        ({"output_tokens": None}, "--output-tokens"),
        ({"input_tokens": None, "output_tokens": None, "profile": "BOT", "prefix_tokens": 5}, "--prefix-tokens"),
        ({"slo_classes": (SloClass(name="a", share=0.5),)}, "--slo-class"),
        ({"slo_classes": (SloClass(name="a", share=0.5), SloClass(name="a", share=0.5))}, "--slo-class"),
    ],
)
def test_contradictions_name_the_option(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError) as caught:
        checked(options(**changes))
    assert caught.value.key == key
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "process"),
    [
        ({}, ArrivalProcess.POISSON),
        ({"cv": 2.0}, ArrivalProcess.GAMMA),
        ({"rate": None, "users": 3}, ArrivalProcess.CLOSED),
        ({"arrivals": ArrivalProcess.CONSTANT}, ArrivalProcess.CONSTANT),
        ({"arrivals": ArrivalProcess.TRACE, "rate": None, "trace": "x"}, ArrivalProcess.TRACE),
    ],
)
def test_arrivals_follow_from_what_is_given(changes: dict[str, Any], process: ArrivalProcess) -> None:
    assert arrivals_of(options(**changes)).process is process


def test_the_ramp_and_the_windows_arrive_in_the_workload() -> None:
    workload = workload_of(checked(options(ramp_s=2.0, ramp_from=0.1, warm_up_s=1.0, cool_down_s=3.0, timeout_s=9.0)))
    assert workload.arrivals == Arrivals(rate=5.0, ramp_s=2.0, ramp_from=0.1)
    assert (workload.warm_up_s, workload.cool_down_s, workload.request_timeout_s, workload.drain_s) == (1, 3, 9, 9)
    assert workload.duration_s == DURATION_S


@pytest.mark.parametrize("process", [each for each in ArrivalProcess if each is not ArrivalProcess.CLOSED])
def test_any_open_loop_can_have_a_limit_of_those_in_flight(process: ArrivalProcess) -> None:
    replayed = process is ArrivalProcess.TRACE
    source = {"trace": "x", "input_tokens": None, "output_tokens": None} if replayed else {}
    cv = 2.0 if process is ArrivalProcess.GAMMA else None
    asked = options(arrivals=process, rate=None if replayed else 5.0, cv=cv, max_in_flight=4, **source)
    assert workload_of(checked(asked)).arrivals.max_in_flight == 4
    assert workload_of(checked(options())).arrivals.max_in_flight is None


@given(st.integers(1, 400), st.floats(0.5, 200))
def test_so_many_requests_at_a_constant_rate_are_so_many(n: int, rate: float) -> None:
    asked = checked(options(requests=n, rate=rate, arrivals=ArrivalProcess.CONSTANT))
    schedule = build_schedule(workload_of(asked), made_rows(asked), 1, warm_up=False)
    assert int((schedule.phase == RequestPhase.MEASURED).sum()) == n


@given(
    st.lists(st.floats(0, 50), min_size=2, max_size=40).map(sorted).filter(lambda times: times[-1] - times[0] > 1e-3),
    st.floats(0.1, 5),
)
def test_a_replay_lasts_one_lap_of_the_trace(times: list[float], scale: float) -> None:
    rows = [TraceRow(arrived_s=at, input_tokens=3, output_tokens=3) for at in times]
    asked = options(
        trace="x", input_tokens=None, output_tokens=None, rate=None, arrivals=ArrivalProcess.TRACE, time_scale=scale
    )
    workload = workload_of(asked, rows)
    schedule = build_schedule(workload, rows, asked.seed, warm_up=False)
    assert len(schedule) == len(rows)
    np.testing.assert_array_equal(schedule.row, np.arange(len(rows)))


def test_a_replay_of_the_first_requests_is_as_long_as_they_are() -> None:
    rows = [TraceRow(arrived_s=float(at), input_tokens=3, output_tokens=3) for at in range(100)]
    asked = options(
        trace="x", input_tokens=None, output_tokens=None, rate=None, arrivals=ArrivalProcess.TRACE, requests=10
    )
    assert workload_of(asked, rows).duration_s == pytest.approx(10.0)
    asked = msgspec.structs.replace(asked, warm_up_s=2.0, cool_down_s=1.0)
    assert workload_of(asked, rows).duration_s == pytest.approx(7.0)


@given(
    st.integers(1, 50).flatmap(lambda low: st.tuples(st.just(low), st.integers(low, low + 40))),
    st.integers(0, 2**32),
    st.integers(1, 100),
)
def test_synthetic_requests_are_within_their_range_and_repeatable(ends: tuple[int, int], seed: int, n: int) -> None:
    asked = checked(options(input_tokens=Span(*ends), seed=seed, requests=n))
    rows = made_rows(asked)
    assert len(rows) == n
    assert rows == made_rows(asked)
    lengths = [row.input_tokens or 0 for row in rows]
    assert min(lengths) >= ends[0]
    assert max(lengths) <= ends[1]
    assert {row.output_tokens for row in rows} <= set(range(4, 9))


def test_a_shared_prefix() -> None:
    rows = made_rows(checked(options(prefix_tokens=12)))
    assert {(row.blocks, row.block_tokens) for row in rows} == {((0,), 12)}
    with pytest.raises(UserError, match="shortest input"):
        made_rows(checked(options(prefix_tokens=16)))


def test_rows_are_enough_for_the_load() -> None:
    assert len(made_rows(checked(options(rate=100.0, duration_s=8.0, cool_down_s=1.0)))) == 900
    assert len(made_rows(checked(options(rate=None, users=10)))) == 500


def test_rows_of_a_profile() -> None:
    rows = made_rows(checked(options(input_tokens=None, output_tokens=None, profile="CLS")))
    assert len(rows) >= 200


def test_the_plan_has_everything() -> None:
    asked = checked(
        options(runs=3, seed=7, insecure=True, api_key_env="KEY", headers=(("X", "y"),), vocab=Span(5, 9), cpus=(1, 2))
    )
    workload = workload_of(asked)
    plan = plan_of(asked, workload, model="m", max_model_len=4096, folder="/f")
    assert plan.run_seeds == (7, 8, 9)
    assert (plan.token_low, plan.token_high) == (5, 10)
    assert not plan.verify_tls
    assert (plan.api_key_env, plan.headers, plan.cpus) == ("KEY", (("X", "y"),), (1, 2))
    assert (plan.rows_path, plan.spool_path, plan.audit_path) == ("/f/rows.jsonl.gz", "/f/spool", "/f/audit.json")
    assert plan.workload == workload
    assert plan_of(asked, workload, model="m", max_model_len=None, folder="/f").max_model_len == 0
