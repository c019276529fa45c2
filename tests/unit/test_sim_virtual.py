"""A run in virtual time: who is sent when and where, and how every request ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from scoot.benchmark.ask import NO_SESSION, Ask
from scoot.benchmark.feed import FAILED_PAUSE_US
from scoot.benchmark.schedule import WHEN_FREE
from scoot.benchmark.trace_row import TraceRow
from scoot.simulator import load as loads
from scoot.simulator import virtual
from scoot.simulator.load import Load
from scoot.simulator.prefix import keys_of_row
from scoot.simulator.routing import Router, Routing, routing_named
from scoot.simulator.settings import Admission, LoadMemory, Order, Resolved, SchedulerSettings
from scoot.simulator.stress import StressTest, stress
from scoot.wire.columns import RequestPhase, RequestStatus, TimingBatch
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Limits, SloClass, Workload

_ROW = TraceRow(input_tokens=10, output_tokens=4)


class Linear:
    """A step takes 10 ms, and 1 ms more per prompt token."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 0.010 + 0.001 * sum(tokens for tokens, _ in prefills)

    def cpu_s(self, sequences: int) -> float:
        return 0.0


def _engine(**changes: Any) -> Resolved:
    scheduler = SchedulerSettings(
        order=Order.DECODE_FIRST,
        admission=Admission.NEXT_CHUNK,
        chunked=True,
        token_budget=2048,
        max_running=16,
        max_model_len=1000,
        block_size=16,
        blocks=1000,
        prefix_caching=False,
    )
    of_scheduler = {name: changes.pop(name) for name in list(changes) if name in scheduler.__struct_fields__}
    made = Resolved(
        engine="test",
        scheduler=msgspec.structs.replace(scheduler, **of_scheduler),
        memory=LoadMemory(free_bytes=1e9, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=1.0),
        step_time=Linear(),
        tensor_parallel=1,
        effective={},
        start_s=1.0,
    )
    return msgspec.structs.replace(made, **changes)


def _trace(*arrived_s: float, row: TraceRow = _ROW, **settings: Any) -> Load:
    """A replay of requests at these moments, in this order."""
    rows = [msgspec.structs.replace(row, arrived_s=each) for each in arrived_s]
    arrivals = Arrivals(process=ArrivalProcess.TRACE)
    # Shorter than the gap after which the trace would begin anew.
    workload = Workload(arrivals=arrivals, warm_up_s=0.0, duration_s=arrived_s[-1] - arrived_s[0] + 0.001, seed=5)
    return Load(msgspec.structs.replace(workload, **settings), rows, seed=5)


def _closed(users: int, duration_s: float, rows: Sequence[TraceRow] = (_ROW,), **settings: Any) -> Load:
    arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=users)
    return Load(Workload(arrivals=arrivals, duration_s=duration_s, warm_up_s=0.0, **settings), rows, seed=5)


def _by_index(batch: TimingBatch, column: str) -> list[int]:
    order = np.argsort(batch.index)
    values: list[int] = getattr(batch, column)[order].tolist()
    return values


def _statuses(batch: TimingBatch) -> list[str]:
    return [RequestStatus(each).name for each in _by_index(batch, "status")]


def test_one_request_takes_its_steps() -> None:
    done = stress(_engine(), 1, _trace(0.0))
    assert done.batch.first_us.tolist() == [20_000]
    assert done.batch.gap_us.tolist() == [0, 10_000, 10_000, 10_000]
    assert (done.batch.end_us.tolist(), done.batch.output_tokens.tolist()) == ([50_000], [4])
    assert (done.end.end_ns, done.end.steps, _statuses(done.batch)) == (50_000_000, 4, ["OK"])
    assert done.audit.wall_s == 0.05


def test_transport_is_there_and_back() -> None:
    done = stress(_engine(), 1, _trace(0.0), transport_s=0.003)
    assert done.batch.first_us.tolist() == [26_000]
    assert done.batch.gap_us.tolist() == [0, 10_000, 10_000, 10_000]
    assert done.batch.end_us.tolist() == [56_000]


def test_what_comes_during_a_step_waits_for_the_next() -> None:
    done = stress(_engine(), 1, _trace(0.0, 0.005))
    assert _by_index(done.batch, "first_us") == [20_000, 35_000]


def test_requests_go_to_the_replica_with_the_fewest() -> None:
    done = stress(_engine(), 3, _trace(0.0, 0.001, 0.002, 0.003, 0.004))
    assert _by_index(done.batch, "replica") == [0, 1, 2, 0, 1]


def test_a_replica_that_has_answered_is_free_again() -> None:
    done = stress(_engine(), 2, _trace(0.0, 0.040, 0.055, 0.056))
    assert _by_index(done.batch, "replica") == [0, 1, 0, 0]


def test_round_robin_does_not_look() -> None:
    done = stress(_engine(), 2, _trace(0.0, 0.040, 0.055, 0.056), routing=Routing.ROUND_ROBIN)
    assert _by_index(done.batch, "replica") == [0, 1, 0, 1]


def test_senders_begin_at_different_replicas() -> None:
    router = Router(Routing.LEAST_OUTSTANDING, 3, first=1)
    assert router.choose() == 1
    router.outstanding[:] = [1, 2, 1]
    assert router.choose() == 2


@pytest.mark.parametrize("name", ["least-outstanding", "least_outstanding", " Least-Outstanding "])
def test_routing_has_a_name(name: str) -> None:
    assert routing_named(name) is Routing.LEAST_OUTSTANDING


def test_another_routing_is_refused() -> None:
    with pytest.raises(UserError, match=r"routing: .*fastest.*round_robin"):
        routing_named("fastest")


def test_a_request_ends_at_its_deadline_and_frees_its_place() -> None:
    load = _trace(0.0, 0.001, request_timeout_s=0.045)
    done = stress(_engine(max_running=1), 1, load)
    assert _statuses(done.batch) == ["DEADLINE", "DEADLINE"]
    assert _by_index(done.batch, "end_us") == [45_000, 45_000]
    assert _by_index(done.batch, "output_tokens") == [3, 0]
    # The second one begins when the first has been given up, and is given up itself.
    assert done.end.end_ns == 46_000_000


def test_a_token_at_the_very_deadline_counts() -> None:
    assert _statuses(stress(_engine(), 1, _trace(0.0, request_timeout_s=0.050)).batch) == ["OK"]
    assert _statuses(stress(_engine(), 1, _trace(0.0, request_timeout_s=0.049)).batch) == ["DEADLINE"]


def test_a_client_that_is_gone_is_no_load_any_more() -> None:
    long = TraceRow(input_tokens=10, output_tokens=900)
    load = _trace(0.0, 0.5, row=long, request_timeout_s=0.1)
    done = stress(_engine(max_running=1), 1, load)
    assert _by_index(done.batch, "first_us") == [20_000, 20_000]


def test_the_drain_ends() -> None:
    long = TraceRow(input_tokens=10, output_tokens=900)
    done = stress(_engine(), 1, _trace(0.0, 0.2, row=long, drain_s=0.05))
    assert _statuses(done.batch) == ["CANCELLED", "CANCELLED"]
    assert _by_index(done.batch, "end_us") == [250_000, 50_000]
    assert done.end.end_ns == 250_000_000


def test_the_drain_of_a_closed_loop_begins_when_its_windows_end() -> None:
    long = TraceRow(input_tokens=10, output_tokens=900)
    done = stress(_engine(), 1, _closed(1, 0.2, [long], drain_s=0.05))
    assert _statuses(done.batch) == ["CANCELLED"]
    assert done.end.end_ns == 250_000_000


def test_what_can_never_be_served_is_refused_at_once() -> None:
    rows = TraceRow(input_tokens=999, output_tokens=4)
    done = stress(_engine(), 1, _trace(0.0, 0.1, row=rows))
    assert _statuses(done.batch) == ["HTTP_ERROR"] * 2
    assert _by_index(done.batch, "http_status") == [400, 400]
    assert _by_index(done.batch, "end_us") == [0, 0]


def test_more_than_the_limit_is_refused_as_well() -> None:
    done = stress(_engine(request_limit=1), 1, _trace(0.0, 0.001, 0.060))
    assert _by_index(done.batch, "http_status") == [200, 503, 200]


def test_tokens_that_are_sent_together_come_together() -> None:
    row = TraceRow(input_tokens=10, output_tokens=8)
    done = stress(_engine(stream_interval=3), 1, _trace(0.0, row=row))
    assert done.batch.gap_us.tolist() == [0, 30_000, 30_000, 10_000]
    assert done.batch.chunk_tokens is not None
    assert done.batch.chunk_tokens.tolist() == [1, 3, 3, 1]
    assert done.batch.merged is None


def test_users_of_a_closed_loop_wait_for_their_answers() -> None:
    done = stress(_engine(), 1, _closed(1, 0.21))
    assert _by_index(done.batch, "intended_us") == [0, 50_000, 100_000, 150_000, 200_000]
    assert set(_statuses(done.batch)) == {"OK"}
    assert done.end.end_ns == 250_000_000


def test_what_an_answer_brings_about_comes_after_the_step_that_begins_with_it() -> None:
    # Two users; the second one's request keeps the engine busy when the first one's is answered, at 80 ms.
    rows = (TraceRow(input_tokens=10, output_tokens=4), TraceRow(input_tokens=20, output_tokens=90))
    load = _closed(2, 0.085, rows)
    short = min(load._asks or (load._make(at) for at in range(4)), key=lambda ask: ask.wanted_tokens)
    for planned_ahead, first_us in ((False, 30_000), (True, 40_000)):
        batch = stress(_engine(async_scheduling=planned_ahead), 1, load).batch
        again = (batch.intended_us > 0) & (batch.wanted_tokens == short.wanted_tokens)
        assert batch.intended_us[again].tolist() == [70_000]
        assert batch.first_us[again].tolist() == [first_us]


def test_a_user_whose_request_failed_pauses() -> None:
    done = stress(_engine(), 1, _closed(1, 0.25, [TraceRow(input_tokens=999, output_tokens=4)]))
    assert _by_index(done.batch, "intended_us") == [0, FAILED_PAUSE_US, 2 * FAILED_PAUSE_US]


def test_a_schedule_of_a_closed_loop_begins_anew() -> None:
    load = _closed(2, 0.4)
    schedule = load.schedule.head(3)
    load.schedule = schedule
    done = stress(_engine(), 1, load)
    assert max(done.batch.index) > 3
    assert len(set(done.batch.index.tolist())) == len(done.batch)


def test_a_session_s_next_turn_comes_after_the_pause() -> None:
    rows = [
        TraceRow(arrived_s=0.0, input_tokens=10, output_tokens=4, session=0),
        TraceRow(arrived_s=0.0, input_tokens=10, output_tokens=4, session=0, think_s=0.5),
        TraceRow(arrived_s=0.0, input_tokens=10, output_tokens=4, session=0, think_s=1.45),
    ]
    workload = Workload(
        arrivals=Arrivals(process=ArrivalProcess.TRACE), duration_s=2.0, warm_up_s=0.0, sessions=True, seed=5
    )
    done = stress(_engine(), 1, Load(workload, rows, seed=5))
    assert _by_index(done.batch, "intended_us") == [0, 550_000]
    assert done.end.end_ns == 600_000_000


def test_windows_tell_the_phases() -> None:
    load = _trace(0.0, 0.6, 0.9, 1.4, duration_s=0.5, warm_up_s=0.5, cool_down_s=0.1)
    done = stress(_engine(), 1, load)
    assert _by_index(done.batch, "phase") == [RequestPhase.WARM_UP, RequestPhase.MEASURED, RequestPhase.MEASURED]


def test_slo_classes_are_kept() -> None:
    classes = (SloClass(name="a", share=0.5, ttft_ms=1.0), SloClass(name="b", share=0.5))
    load = _trace(*(0.01 * at for at in range(20)), slo_classes=classes)
    done = stress(_engine(), 1, load)
    assert done.batch.slo_class is not None
    assert _by_index(done.batch, "slo_class") == load.schedule.slo_class.tolist()


def test_an_engine_that_dies_ends_the_run() -> None:
    # A step of two prompts is one token more than there is memory for.
    memory = LoadMemory(free_bytes=19.5, fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=0.0)
    done = stress(_engine(memory=memory), 2, _trace(0.0, 0.001, 0.002, 0.003, 0.004, 0.9))
    assert done.end.died
    assert "out of memory" in done.end.died[0].lower()
    assert done.end.replica == 0
    # It was to begin the step after its first one, which ended at 20 ms, with two more prompts.
    assert done.end.end_ns == 20_000_000
    assert _statuses(done.batch) == ["CLOSED_EARLY", "CANCELLED", "CLOSED_EARLY", "CANCELLED", "CLOSED_EARLY"]
    assert _by_index(done.batch, "output_tokens") == [1, 0, 0, 0, 0]


class Slow(Linear):
    """A step takes two minutes."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 120.0


def test_an_engine_that_says_nothing_for_too_long_hangs() -> None:
    load = _trace(0.0, 0.5, request_timeout_s=1000.0, drain_s=1000.0)
    done = stress(_engine(step_time=Slow()), 1, load, limits=Limits(stall_timeout_s=60.0))
    assert done.end.hung == 2
    assert done.end.end_ns == 60_500_000_000
    assert _statuses(done.batch) == ["CANCELLED", "CANCELLED"]
    patient = stress(_engine(step_time=Slow()), 1, load, limits=Limits(stall_timeout_s=130.0))
    assert (patient.end.hung, _statuses(patient.batch)) == (0, ["OK", "OK"])


@pytest.mark.parametrize("transport_s", [0.0, 2.0])
def test_nobody_hangs_who_has_nothing_to_do(transport_s: float) -> None:
    load = _trace(0.0, 500.0, 501.0)
    done = stress(_engine(), 1, load, limits=Limits(stall_timeout_s=60.0), transport_s=transport_s)
    assert _statuses(done.batch) == ["OK", "OK", "OK"]


def test_a_step_whose_clients_are_gone_hangs_nobody() -> None:
    load = _trace(0.0, 300.0, request_timeout_s=30.0)
    done = stress(_engine(step_time=Slow()), 1, load, limits=Limits(stall_timeout_s=60.0))
    assert (done.end.hung, _statuses(done.batch)) == (0, ["DEADLINE", "DEADLINE"])


def test_prefixes_are_shared_where_the_rows_share_them() -> None:
    row = TraceRow(input_tokens=64, output_tokens=4, blocks=(1,), block_tokens=48)
    load = _trace(0.0, 1.0, 2.0, row=row)
    off, on = stress(_engine(), 1, load), stress(_engine(prefix_caching=True), 1, load)
    assert (off.prefix_hit_tokens, on.prefix_hit_tokens) == (0, 96)
    assert _by_index(off.batch, "first_us") == [74_000] * 3
    assert _by_index(on.batch, "first_us") == [74_000, 26_000, 26_000]


def test_keys_follow_the_block_size() -> None:
    row = TraceRow(input_tokens=64, output_tokens=4, blocks=(1,), block_tokens=48)
    load = _trace(0.0, row=row)
    ask = Ask(
        index=0, intended_us=0, phase=RequestPhase.MEASURED, input_tokens=64, wanted_tokens=4, exact=True, body=b""
    )
    for size in (16, 32, 16):
        keys = load.keys(size)(ask)
        assert keys == keys_of_row(load._rows[0], session=NO_SESSION, run_seed=5, block_size=size)
        assert len(keys) == 48 // size


def test_turns_of_another_session_have_other_keys() -> None:
    rows = [TraceRow(arrived_s=0.0, input_tokens=64, output_tokens=4, session=0)]
    arrivals = Arrivals(process=ArrivalProcess.CONSTANT, rate=2.0)
    load = Load(Workload(arrivals=arrivals, duration_s=1.0, warm_up_s=0.0, sessions=True), rows, seed=5)
    keys = load.keys(16)
    first, second = (list(keys(ask)) for ask in load._asks)
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)


def test_one_load_serves_many_runs() -> None:
    for load in (_trace(0.0, 0.01, 0.02), _closed(3, 0.3)):
        before: list[StressTest] = [stress(_engine(), 2, load) for _ in range(3)]
        for other in before[1:]:
            for name in other.batch.__slots__:
                assert np.array_equal(getattr(before[0].batch, name), getattr(other.batch, name)), name


def test_no_rows_are_no_load() -> None:
    with pytest.raises(UserError, match="no requests"):
        Load(Workload(arrivals=Arrivals(rate=1.0)), (), seed=0)


def test_nothing_that_arrives_is_a_run_of_nothing() -> None:
    load = Load(Workload(arrivals=Arrivals(rate=1e-5), duration_s=1.0, warm_up_s=0.0), (_ROW,), seed=0)
    assert len(load.schedule) == 0
    done = stress(_engine(), 1, load)
    assert (len(done.batch), done.end.end_ns) == (0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_times_that_are_none_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=r"workload\.drain_s"):
        Load(Workload(arrivals=Arrivals(rate=1.0), drain_s=value), (_ROW,), seed=0)


def test_too_many_requests_or_tokens_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    workload = Workload(arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=10.0), duration_s=2.0, warm_up_s=0.0)
    monkeypatch.setattr(loads, "MOST_REQUESTS", 19)
    with pytest.raises(UserError, match=r"20 requests .* the limit is 19"):
        Load(workload, (_ROW,), seed=0)
    monkeypatch.setattr(loads, "MOST_REQUESTS", 20)
    monkeypatch.setattr(loads, "MOST_TOKENS", 79)
    with pytest.raises(UserError, match=r"80 output tokens .* the limit is 79"):
        Load(workload, (_ROW,), seed=0)


def test_a_closed_loop_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class AtOnce(Linear):
        def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
            return 0.0

    monkeypatch.setattr(virtual, "MOST_REQUESTS", 100)
    with pytest.raises(UserError, match="101 requests"):
        stress(_engine(step_time=AtOnce()), 1, _closed(1, 10.0))


@pytest.mark.parametrize("transport_s", [-1.0, 61.0, float("nan")])
def test_transport_out_of_range_is_refused(transport_s: float) -> None:
    with pytest.raises(UserError, match="transport_s"):
        stress(_engine(), 1, _trace(0.0), transport_s=transport_s)


def test_no_replicas_serve_nothing() -> None:
    with pytest.raises(UserError, match="0 replicas"):
        stress(_engine(), 0, _trace(0.0))


def test_the_load_generator_s_requests_are_these() -> None:
    load = _trace(0.0, 0.3, 0.9)
    assert [ask.intended_us for ask in load._asks] == load.schedule.intended_us.tolist()
    assert [ask.wanted_tokens for ask in load._asks] == [4, 4, 4]
    assert all(ask.intended_us != WHEN_FREE and ask.body == b"" for ask in load._asks)
