"""Laws of runs in virtual time, whatever the engine, the load and its limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.metrics import summarise
from scoot.benchmark.trace_row import TraceRow
from scoot.simulator import stress as stresses
from scoot.simulator.load import Load
from scoot.simulator.replica import Replica, Step
from scoot.simulator.routing import Routing
from scoot.simulator.settings import Admission, LoadMemory, Order, Resolved, SchedulerSettings
from scoot.simulator.stress import StressTest, stress
from scoot.wire.columns import NONE_US, RequestStatus, TimingBatch, decode, encode
from scoot.wire.spec import ArrivalProcess, Arrivals, SloClass, Workload


class Linear:
    """A step's time by what it computes, odd enough that no two steps end at once."""

    def gpu_s(self, decodes: int, decode_context: int, prefills: Sequence[tuple[int, int]]) -> float:
        return 0.0031 + 1.1e-5 * decodes + 1.3e-7 * decode_context + 7.3e-5 * sum(tokens for tokens, _ in prefills)

    def cpu_s(self, sequences: int) -> float:
        return 0.0007 + 1e-6 * sequences


class Watched(Replica):
    """A replica that remembers its steps."""

    made: list[Watched]

    def __init__(self, resolved: Resolved, *, record: bool = False) -> None:
        super().__init__(resolved, record=record)
        self.steps: list[Step] = []
        self.made.append(self)

    def begin(self, now_ns: int) -> Step | None:
        step = super().begin(now_ns)
        if step is not None:
            self.steps.append(step)
        return step


@st.composite
def _engines(draw: st.DrawFn) -> Resolved:
    order = draw(st.sampled_from(Order))
    admissions = [each for each in Admission if order is not Order.PREFILL_FIRST or each is not Admission.NEXT_CHUNK]
    chunked = order is Order.DECODE_FIRST and draw(st.booleans())
    return Resolved(
        engine="test",
        scheduler=SchedulerSettings(
            order=order,
            admission=draw(st.sampled_from(admissions)),
            chunked=chunked,
            token_budget=draw(st.sampled_from([8, 64])) if chunked else 64,
            max_running=draw(st.integers(1, 8)),
            max_model_len=100,
            block_size=4,
            blocks=draw(st.integers(15, 60)),
            prefix_caching=draw(st.booleans()),
            delay_factor=draw(st.sampled_from([0.0, 0.5])) if order is Order.PREFILL_FIRST else 0.0,
            async_scheduling=draw(st.booleans()),
        ),
        memory=LoadMemory(
            free_bytes=draw(st.sampled_from([1e9, 1e9, 62.0])), fixed_bytes=0.0, token_bytes=1.0, sequence_bytes=0.0
        ),
        step_time=Linear(),
        tensor_parallel=1,
        effective={},
        start_s=1.0,
        stream_interval=draw(st.sampled_from([1, 1, 3])),
        request_limit=draw(st.sampled_from([None, None, 3])),
    )


@st.composite
def _rows(draw: st.DrawFn) -> tuple[TraceRow, ...]:
    rows, seen = [], set[int]()
    for session in draw(st.lists(st.integers(0, 4), min_size=1, max_size=12)):
        shared = draw(st.booleans())
        rows.append(
            TraceRow(
                input_tokens=draw(st.integers(1, 50)),
                output_tokens=draw(st.integers(1, 30)),
                blocks=(1, 2) if shared else (),
                block_tokens=9 if shared else 0,
                session=session,
                think_s=draw(st.sampled_from([0.0, 0.05, 0.3])) if session in seen else 0.0,
            )
        )
        seen.add(session)
    return tuple(rows)


@st.composite
def _loads(draw: st.DrawFn, *, closed: bool | None = None) -> tuple[Workload, tuple[TraceRow, ...], int]:
    if draw(st.booleans()) if closed is None else closed:
        arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=draw(st.integers(1, 9)))
    else:
        most = draw(st.none() | st.integers(1, 6))
        arrivals = Arrivals(
            process=ArrivalProcess.GAMMA, rate=draw(st.sampled_from([5.0, 40.0])), cv=2.0, max_in_flight=most
        )
    workload = Workload(
        arrivals=arrivals,
        duration_s=draw(st.sampled_from([0.1, 1.0])),
        warm_up_s=draw(st.sampled_from([0.0, 0.3])),
        cool_down_s=draw(st.sampled_from([0.0, 0.2])),
        request_timeout_s=draw(st.sampled_from([0.05, 300.0])),
        drain_s=draw(st.sampled_from([0.0, 0.1, 300.0])),
        sessions=draw(st.booleans()),
        slo_classes=draw(st.sampled_from([(), (SloClass(name="a", share=0.5), SloClass(name="b", share=0.5))])),
    )
    return workload, draw(_rows()), draw(st.integers(0, 2**40))


_CASES = {
    "resolved": _engines(),
    "load": _loads(),
    "replicas": st.integers(1, 3),
    "routing": st.sampled_from(Routing),
    "transport_s": st.sampled_from([0.0, 0.0, 0.0013]),
}


def _done(load: tuple[Workload, tuple[TraceRow, ...], int], resolved: Resolved, **case: Any) -> tuple[StressTest, Load]:
    workload, rows, seed = load
    made = Load(workload, rows, seed=seed)
    return stress(resolved, case["replicas"], made, routing=case["routing"], transport_s=case["transport_s"]), made


@given(**_CASES)
def test_every_request_has_one_end(load: Any, resolved: Resolved, **case: Any) -> None:
    done, made = _done(load, resolved, **case)
    batch = done.batch
    index = batch.index.tolist()
    assert len(set(index)) == len(index)
    decode(encode(batch))  # refuses columns that no load process can have written
    whole = not done.end.died and not load[0].sessions
    if whole and not len(made.schedule.joins_us):
        assert sorted(index) == list(range(len(made.schedule)))
        assert np.array_equal(np.sort(batch.intended_us), made.schedule.intended_us)
    assert summarise(batch, run=0).sent == int(np.count_nonzero(batch.phase == 1))
    assert np.array_equal(batch.sent_us, _admitted_us(batch))


@given(**_CASES)
def test_tokens_are_counted_exactly(load: Any, resolved: Resolved, **case: Any) -> None:
    batch = _done(load, resolved, **case)[0].batch
    ok = batch.status == RequestStatus.OK
    assert np.array_equal(batch.output_tokens[ok], batch.wanted_tokens[ok])
    assert np.all(batch.output_tokens <= batch.wanted_tokens)
    refused = batch.status == RequestStatus.HTTP_ERROR
    assert np.array_equal(refused, (batch.http_status == 400) | (batch.http_status == 503))
    assert np.all(batch.output_tokens[refused] == 0)
    several = np.ones(len(batch.gap_us), np.int64) if batch.chunk_tokens is None else batch.chunk_tokens
    assert int(several.sum()) == int(batch.output_tokens.sum())


@given(**_CASES)
def test_no_token_comes_before_its_request_or_after_its_end(load: Any, resolved: Resolved, **case: Any) -> None:
    done, _ = _done(load, resolved, **case)
    batch = done.batch
    last = np.where(batch.first_us == NONE_US, 0, batch.first_us.astype(np.int64))
    owner = np.repeat(np.arange(len(batch)), batch.chunks)
    np.add.at(last, owner, batch.gap_us.astype(np.int64))
    assert np.all(last <= batch.end_us)
    assert np.array_equal(last[batch.status == RequestStatus.OK], batch.end_us[batch.status == RequestStatus.OK])
    timeout_us = round(load[0].request_timeout_s * 1e6)
    assert np.all(batch.end_us <= timeout_us)
    assert np.all(batch.end_us[batch.status == RequestStatus.DEADLINE] == timeout_us)
    ends = batch.intended_us.astype(np.int64) + batch.end_us
    assert np.all(np.diff(ends) >= 0)
    assert not len(ends) or ends[-1] <= done.end.end_ns // 1000


@given(**_CASES)
def test_the_same_seed_gives_the_same_run(load: Any, resolved: Resolved, **case: Any) -> None:
    done, made = _done(load, resolved, **case)
    again, _ = _done(load, resolved, **case)
    third = stress(resolved, case["replicas"], made, routing=case["routing"], transport_s=case["transport_s"])
    for other in (again, third):
        assert encode(other.batch) == encode(done.batch)
        assert other.end == done.end


@given(**_CASES)
def test_time_never_goes_back(load: Any, resolved: Resolved, **case: Any) -> None:
    Watched.made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stresses, "Replica", Watched)
        done, _ = _done(load, resolved, **case)
    assert len(Watched.made) == case["replicas"]
    assert sum(len(replica.steps) for replica in Watched.made) == done.end.steps
    for replica in Watched.made:
        for step, following in zip(replica.steps, replica.steps[1:], strict=False):
            assert step.begins_ns < step.ends_ns <= following.begins_ns


@given(load=_loads(closed=True), **{name: each for name, each in _CASES.items() if name != "load"})
def test_a_closed_loop_has_no_more_requests_than_users(load: Any, resolved: Resolved, **case: Any) -> None:
    batch = _done(load, resolved, **case)[0].batch
    assert _most_at_once(batch) <= load[0].arrivals.users


@given(load=_loads(closed=False), **{name: each for name, each in _CASES.items() if name != "load"})
def test_no_more_are_in_flight_than_may_be_and_they_go_in_order(load: Any, resolved: Resolved, **case: Any) -> None:
    done, _ = _done(load, resolved, **case)
    batch, most = done.batch, load[0].arrivals.max_in_flight
    if most is None:
        assert batch.admitted_us is None
        return
    assert _most_at_once(batch) <= most
    admitted = _admitted_us(batch)
    assert np.all(batch.replica[admitted == NONE_US] == 0)
    assert np.all(batch.http_status[admitted == NONE_US] == 0)
    assert not np.any((batch.status == RequestStatus.OK) & (admitted == NONE_US))
    assert not np.any(batch.status == RequestStatus.NOT_SENT)
    # In the order of their intended starts; and who waited went when another ended.
    went, sent = batch.intended_us.astype(np.int64) + admitted, admitted != NONE_US
    in_turn = np.lexsort((batch.index, batch.intended_us))
    assert np.all(np.diff(went[in_turn][sent[in_turn]]) >= 0)
    ends = batch.intended_us.astype(np.int64) + batch.end_us
    assert set(went[sent & (admitted != 0)].tolist()) <= set(ends.tolist())


@given(load=_loads(closed=False), **{name: each for name, each in _CASES.items() if name != "load"})
def test_a_limit_that_is_never_reached_changes_nothing(load: Any, resolved: Resolved, **case: Any) -> None:
    runs = []
    for most in (None, 1000):
        workload = msgspec.structs.replace(
            load[0], arrivals=msgspec.structs.replace(load[0].arrivals, max_in_flight=most)
        )
        runs.append(_done((workload, *load[1:]), resolved, **case)[0])
    assert encode(runs[0].batch) == encode(runs[1].batch)
    assert runs[0].end == runs[1].end


@settings(max_examples=50)
@given(load=_loads(), resolved=_engines(), replicas=st.integers(2, 3))
def test_requests_go_where_the_fewest_are(load: Any, resolved: Resolved, replicas: int) -> None:
    done, _ = _done(load, resolved, replicas=replicas, routing=Routing.LEAST_OUTSTANDING, transport_s=0.0)
    batch = done.batch
    begins = batch.intended_us.astype(np.int64) + _admitted_us(batch)
    ends = batch.intended_us.astype(np.int64) + batch.end_us
    for at in np.flatnonzero(_admitted_us(batch) != NONE_US).tolist():
        # Sent in the same microsecond, or ended in it: before or after, nobody knows.
        sure = (begins < begins[at]) & (ends > begins[at])
        maybe = (begins <= begins[at]) & (ends >= begins[at])
        least = [int(np.count_nonzero(sure & (batch.replica == each))) for each in range(replicas)]
        most = [int(np.count_nonzero(maybe & (batch.replica == each))) for each in range(replicas)]
        assert least[batch.replica[at]] <= min(most)


def _admitted_us(batch: TimingBatch) -> npt.NDArray[np.int64]:
    """(n,) since the intended start; NONE_US for never."""
    return np.zeros(len(batch), np.int64) if batch.admitted_us is None else batch.admitted_us.astype(np.int64)


def _most_at_once(batch: TimingBatch) -> int:
    sent = _admitted_us(batch) != NONE_US
    begins = (batch.intended_us.astype(np.int64) + _admitted_us(batch))[sent]
    ends = (batch.intended_us.astype(np.int64) + batch.end_us)[sent]
    events = sorted([(int(end), 0, -1) for end in ends] + [(int(begin), 1, 1) for begin in begins])
    now = most = 0
    for _, _, change in events:
        now += change
        most = max(most, now)
    return most
