"""Virtual runs in which only so many requests may be in flight: by the figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from scoot.benchmark.metrics import summarise
from scoot.benchmark.trace_row import TraceRow
from scoot.benchmark.validity import judge
from scoot.simulator.load import Load
from scoot.simulator.settings import Admission, LoadMemory, Order, Resolved, SchedulerSettings
from scoot.simulator.stress import StressTest, stress
from scoot.wire.columns import NONE_US, RequestStatus, TimingBatch
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, Workload

_NEVER = NONE_US
_LIMITS = Limits(min_requests=1)


class Steps:
    """A step takes 10 ms, whatever it computes."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 0.010

    def cpu_s(self, sequences: int) -> float:
        return 0.0


def _engine(**changes: Any) -> Resolved:
    made = Resolved(
        engine="test",
        scheduler=SchedulerSettings(
            order=Order.DECODE_FIRST,
            admission=Admission.NEXT_CHUNK,
            chunked=True,
            token_budget=2048,
            max_running=16,
            max_model_len=1000,
            block_size=16,
            blocks=1000,
            prefix_caching=False,
        ),
        memory=LoadMemory(free_bytes=1e9, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=1.0),
        step_time=Steps(),
        tensor_parallel=1,
        effective={},
        start_s=1.0,
    )
    return msgspec.structs.replace(made, **changes)


def _load(limit: int | None, *arrived_s: float, tokens: int = 4, **settings: Any) -> Load:
    """A replay; each request takes one step per token."""
    rows = [TraceRow(input_tokens=10, output_tokens=tokens, arrived_s=each) for each in arrived_s]
    arrivals = Arrivals(process=ArrivalProcess.TRACE, max_in_flight=limit)
    workload = Workload(arrivals=arrivals, warm_up_s=0.0, duration_s=arrived_s[-1] + 0.001, seed=5)
    return Load(msgspec.structs.replace(workload, **settings), rows, seed=5)


def _column(done: StressTest, name: str) -> list[int]:
    batch: TimingBatch = done.batch
    values: list[int] = getattr(batch, name)[np.argsort(batch.index)].tolist()
    return values


def _statuses(done: StressTest) -> list[str]:
    return [RequestStatus(each).name for each in _column(done, "status")]


def test_the_second_waits_for_the_first_and_its_latency_has_the_wait() -> None:
    done = stress(_engine(), 1, _load(1, 0.0, 0.005))
    assert _column(done, "admitted_us") == [0, 35_000]
    assert _column(done, "sent_us") == [0, 35_000]
    # It goes when the first has ended, at 40 ms; its first step ends at 50 ms, 45 ms after it was due.
    assert _column(done, "first_us") == [10_000, 45_000]
    assert _column(done, "end_us") == [40_000, 75_000]
    free = stress(_engine(), 1, _load(None, 0.0, 0.005))
    assert free.batch.admitted_us is None
    assert _column(free, "first_us") == [10_000, 15_000]


def test_waiting_is_neither_lateness_nor_a_rate_that_was_not_kept() -> None:
    load = _load(2, *(0.001 * at for at in range(60)))
    done = stress(_engine(), 1, load)
    metrics = summarise(done.batch, run=0)
    assert metrics.lateness_ms is not None
    assert metrics.lateness_ms.max == 0
    assert metrics.admission_ms is not None
    # Two every 50 ms, for what is sent during a step waits for the next: the last goes at 29 x 50 ms, due at 59 ms.
    assert metrics.admission_ms.max == 29 * 50 - 59
    assert metrics.admission_ms.n == 60
    assert metrics.achieved_rate == metrics.admitted_rate < metrics.offered_rate / 10
    assert metrics.e2e_ms is not None
    assert metrics.e2e_ms.max == 30 * 50 - 59
    assert judge(metrics, done.audit, _LIMITS).valid
    # Nor where a single one was late: the rate is compared with that of the admissions, which it kept.
    once = msgspec.structs.replace(metrics.lateness_ms, max=_LIMITS.lateness_p99_ms + 1)
    assert judge(msgspec.structs.replace(metrics, lateness_ms=once), done.audit, _LIMITS).valid
    # The same requests sent as late by a load generator that could not keep up are no measurement.
    blamed = msgspec.structs.replace(metrics, lateness_ms=metrics.admission_ms, admission_ms=None, admitted_rate=0.0)
    assert not judge(blamed, done.audit, _LIMITS).valid


def test_the_limit_is_of_all_replicas_together() -> None:
    done = stress(_engine(), 3, _load(2, 0.0, 0.001, 0.002))
    assert _column(done, "admitted_us") == [0, 0, 38_000]
    # The first has ended in the same moment: its replica is free, and so is the third; the first in order is taken.
    assert _column(done, "replica") == [0, 1, 0]


def test_who_is_never_admitted_has_timed_out_and_was_not_dropped() -> None:
    done = stress(_engine(), 1, _load(1, 0.0, 0.001, 0.002, tokens=10, request_timeout_s=0.080))
    # The first is given up at 80 ms; the second and the third could wait 1 and 2 ms longer and are let in for those.
    assert _statuses(done) == ["DEADLINE", "DEADLINE", "DEADLINE"]
    assert _column(done, "admitted_us") == [0, 79_000, 79_000]
    burst = stress(_engine(), 1, _load(1, 0.0, 0.0, 0.0, 0.05, tokens=10, request_timeout_s=0.080))
    assert _statuses(burst) == ["DEADLINE", "DEADLINE", "DEADLINE", "DEADLINE"]
    assert _column(burst, "admitted_us") == [0, _NEVER, _NEVER, 30_000]
    assert _column(burst, "sent_us") == [0, _NEVER, _NEVER, 30_000]
    assert _column(burst, "end_us") == [80_000] * 4
    metrics = summarise(burst.batch, run=0)
    assert (metrics.failures, burst.audit.dropped) == ({"DEADLINE": 4}, 0)
    assert metrics.admission_ms is not None
    assert metrics.admission_ms.n == 2


def test_the_drain_counts_from_the_last_arrival_and_ends_those_that_wait_too() -> None:
    done = stress(_engine(), 1, _load(1, 0.0, 0.010, 0.020, drain_s=0.050))
    # The first ends at 40 ms; the drain, which began at 20 ms, at 70 ms.
    assert done.end.end_ns == 70_000_000
    assert _statuses(done) == ["OK", "CANCELLED", "CANCELLED"]
    assert _column(done, "admitted_us") == [0, 30_000, _NEVER]


def test_turns_of_sessions_wait_their_turn() -> None:
    rows = [
        TraceRow(arrived_s=0.0, input_tokens=10, output_tokens=4, session=0),
        TraceRow(input_tokens=10, output_tokens=4, session=0, think_s=0.005),
        TraceRow(arrived_s=0.001, input_tokens=10, output_tokens=4, session=1),
        TraceRow(arrived_s=0.2, input_tokens=10, output_tokens=4, session=2),
    ]
    arrivals = Arrivals(process=ArrivalProcess.TRACE, max_in_flight=1)
    workload = Workload(arrivals=arrivals, warm_up_s=0.0, duration_s=0.201, sessions=True, seed=5)
    done = stress(_engine(), 1, Load(workload, rows, seed=5))
    # Two turns of one session, and two sessions of one turn.
    assert _column(done, "intended_us") == [0, 45_000, 1_000, 200_000]
    # The other session goes at 40 ms, so the second turn, due at 45 ms, waits until 80 ms.
    assert _column(done, "admitted_us") == [0, 35_000, 39_000, 0]


def test_an_engine_that_dies_closes_only_what_it_had() -> None:
    memory = LoadMemory(free_bytes=10.5, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=0.0)
    done = stress(_engine(memory=memory), 1, _load(2, 0.0, 0.001, 0.002))
    assert done.end.died
    assert _statuses(done) == ["CLOSED_EARLY", "CLOSED_EARLY", "CANCELLED"]
    assert _column(done, "admitted_us") == [0, 0, _NEVER]


class Slow(Steps):
    """A step takes two minutes."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 120.0


def test_a_hang_is_told_with_the_requests_that_the_engine_had() -> None:
    load = _load(2, 0.0, 0.1, 0.2, 0.3, request_timeout_s=1000.0, drain_s=1000.0)
    done = stress(_engine(step_time=Slow()), 1, load, limits=Limits(stall_timeout_s=60.0))
    assert done.end.hung == 2
    assert _column(done, "admitted_us")[2:] == [_NEVER, _NEVER]
