"""Goodput: against an oracle that walks through requests one by one, and the corners by name."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.goodput import attained_of, goodput
from scoot.benchmark.metrics import summarise
from scoot.coordinator.runtime.measure import measure
from scoot.coordinator.store.base import Segment
from scoot.coordinator.store.memory import MemoryStore
from scoot.coordinator.study.events import Measured
from scoot.coordinator.study.state import AttemptRecord, StudyRecord, TrialRecord
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, encode
from scoot.wire.measurement import AttemptOutcome, LoadAudit
from scoot.wire.reasons import Reason
from scoot.wire.spec import Objective, Parameter, ParameterKind, Service, SloClass, StudySpec, Workload
from scoot.wire.states import StudyState, TrialKind


@dataclasses.dataclass(frozen=True)
class _Request:
    """A request whose tokens come one per chunk, the first at `first`, all gaps equal; times in us."""

    intended: int = 0
    sent: int = 10
    first: int = 20_000
    gap: int = 5_000
    tokens: int = 3
    tail: int = 0
    status: RequestStatus = RequestStatus.OK
    phase: RequestPhase = RequestPhase.MEASURED
    run: int = 0
    slo_class: int = 0

    @property
    def end(self) -> int:
        return self.first + self.gap * max(0, self.tokens - 1) + self.tail


def _batch(requests: list[_Request], *, classes: bool = True) -> TimingBatch:
    def column(values: list[int], dtype: str) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        return np.array(values, dtype=dtype)

    n = len(requests)
    return TimingBatch(
        index=column(list(range(n)), "<u4"),
        intended_us=column([r.intended for r in requests], "<u8"),
        sent_us=column([r.sent for r in requests], "<u4"),
        first_us=column([r.first if r.tokens else NONE_US for r in requests], "<u4"),
        end_us=column([r.end for r in requests], "<u4"),
        input_tokens=column([1] * n, "<u4"),
        output_tokens=column([r.tokens for r in requests], "<u4"),
        wanted_tokens=column([r.tokens for r in requests], "<u4"),
        chunks=column([r.tokens for r in requests], "<u4"),
        run=column([r.run for r in requests], "<u2"),
        http_status=column([200] * n, "<u2"),
        replica=column([0] * n, "<u2"),
        phase=column([r.phase for r in requests], "u1"),
        status=column([r.status for r in requests], "u1"),
        gap_us=column([r.gap if i else 0 for r in requests for i in range(r.tokens)], "<u4"),
        slo_class=column([r.slo_class for r in requests], "u1") if classes else None,
    )


def _attained(request: _Request, classes: list[SloClass], run: int) -> bool:
    if request.run != run or request.phase is not RequestPhase.MEASURED or request.status is not RequestStatus.OK:
        return False
    promise = classes[request.slo_class]
    if promise.ttft_ms is not None and (not request.tokens or request.first / 1000 > promise.ttft_ms):
        return False
    if promise.tpot_ms is not None and request.tokens > 1 and request.gap / 1000 > promise.tpot_ms:
        return False
    return promise.e2e_ms is None or request.end / 1000 <= promise.e2e_ms


_thresholds = st.none() | st.sampled_from([0.0, 5.0, 10.001, 20.0, 60.0])
_classes = st.lists(
    st.builds(SloClass, name=st.just("c"), ttft_ms=_thresholds, tpot_ms=_thresholds, e2e_ms=_thresholds),
    min_size=3,
    max_size=3,
)
_requests = st.lists(
    st.builds(
        _Request,
        intended=st.integers(0, 10**7),
        first=st.sampled_from([10, 5_000, 10_001, 10_002, 20_000, 20_001]),
        gap=st.sampled_from([0, 5_000, 5_001, 10_001, 20_000]),
        tokens=st.integers(0, 4),
        tail=st.sampled_from([0, 1, 40_000]),
        status=st.sampled_from([RequestStatus.OK, RequestStatus.OK, RequestStatus.RESET]),
        phase=st.sampled_from(list(RequestPhase)),
        run=st.integers(0, 1),
        slo_class=st.integers(0, 2),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(requests=_requests, classes=_classes, run=st.integers(0, 1))
def test_goodput_is_the_oracles(requests: list[_Request], classes: list[SloClass], run: int) -> None:
    batch = _batch(requests)
    expected = [_attained(request, classes, run) for request in requests]
    assert attained_of(batch, run=run, classes=classes).tolist() == expected
    together, each = goodput(batch, run=run, classes=classes)
    measured = [r for r in requests if r.run == run and r.phase is RequestPhase.MEASURED]
    assert (together.name, together.sent, together.attained) == ("", len(measured), sum(expected))
    for index, one in enumerate(each):
        sent = [r for r in measured if r.slo_class == index]
        good = sum(_attained(r, classes, run) for r in sent)
        assert (one.name, one.sent, one.attained) == ("c", len(sent), good)
        assert one.share == (good / len(sent) if sent else 0.0)
    metrics = summarise(batch, run=run)
    assert together.rate == pytest.approx(together.attained / metrics.duration_s if metrics.duration_s else 0.0)
    assert sum(one.rate for one in each) == pytest.approx(together.rate)
    assert together.rate <= metrics.request_throughput


def _one(request: _Request, **promise: float) -> bool:
    return bool(attained_of(_batch([request]), run=0, classes=[SloClass(name="c", **promise)])[0])


def test_a_latency_at_its_threshold_attains_it_and_a_microsecond_more_does_not() -> None:
    assert _one(_Request(first=1_005), ttft_ms=1.005)
    assert not _one(_Request(first=1_006), ttft_ms=1.005)
    assert _one(_Request(gap=5_000), tpot_ms=5.0)
    assert not _one(_Request(gap=5_001), tpot_ms=5.0)
    assert _one(_Request(tail=10_000), e2e_ms=40.0)
    assert not _one(_Request(tail=10_001), e2e_ms=40.0)


def test_all_promises_have_to_be_met() -> None:
    request = _Request()
    assert _one(request, ttft_ms=20.0, tpot_ms=5.0, e2e_ms=30.0)
    for changes in ({"ttft_ms": 19.0}, {"tpot_ms": 4.0}, {"e2e_ms": 29.0}):
        assert not _one(request, **{"ttft_ms": 20.0, "tpot_ms": 5.0, "e2e_ms": 30.0, **changes})


def test_latencies_count_from_the_intended_start() -> None:
    assert not _one(_Request(sent=15_000, first=20_000), ttft_ms=10.0)


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    assert _one(_Request(tokens=1), tpot_ms=0.001)


def test_an_answer_without_tokens_breaks_a_promised_ttft_only() -> None:
    assert not _one(_Request(tokens=0), ttft_ms=1e9)
    assert _one(_Request(tokens=0), e2e_ms=1e9)


def test_failed_requests_attain_nothing_and_count() -> None:
    requests = [_Request(), _Request(status=RequestStatus.DEADLINE)]
    together, _ = goodput(_batch(requests), run=0, classes=[SloClass(name="c")])
    assert (together.sent, together.attained, together.share) == (2, 1, 0.5)


def test_a_threshold_that_is_no_number_is_met_by_none() -> None:
    assert not _one(_Request(), e2e_ms=float("nan"))


def test_requests_without_classes_are_of_the_first() -> None:
    together, each = goodput(_batch([_Request()], classes=False), run=0, classes=[SloClass(name="all", ttft_ms=20.0)])
    assert (together.attained, each[0].name, each[0].attained) == (1, "all", 1)


def test_classes_are_judged_by_their_own_promise() -> None:
    classes = [SloClass(name="chat", ttft_ms=10.0), SloClass(name="batch", e2e_ms=1_000.0)]
    requests = [_Request(slo_class=0), _Request(slo_class=1), _Request(slo_class=1, tail=2_000_000)]
    together, (chat, batch) = goodput(_batch(requests), run=0, classes=classes)
    assert (chat.attained, chat.sent, batch.attained, batch.sent, together.attained) == (0, 1, 1, 2, 1)


def test_a_class_that_nobody_promised_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="SLO class 2, of 1 classes"):
        attained_of(_batch([_Request(slo_class=2)]), run=0, classes=[SloClass(name="c")])


def _measured(classes: tuple[SloClass, ...], requests: list[_Request]) -> Measured:
    """What the coordinator makes of an attempt that uploaded these requests in one batch."""
    spec = StudySpec(
        name="s",
        service=Service(engine="mock", model="m", device="cpu"),
        workload=Workload(profile="BOT", slo_classes=classes),
        parameters=(Parameter(name="max_num_seqs", kind=ParameterKind.INT, low=1, high=64),),
        objectives=(Objective(metric="ttft_mean"),),
    )
    study = StudyRecord(study_id="s", spec=spec, idempotency_key="k", created_at_s=1.0, state=StudyState.SEARCHING)
    trial = TrialRecord(
        study_id="s", number=0, kind=TrialKind.DEFAULT, config={}, source="default", run_seeds=(7,), created_at_s=1.0
    )
    audit = LoadAudit(run=0, cpu_share=0.1, run_queue_s=0.0, clock_step_ms=0.0, dropped=0)
    attempt = AttemptRecord(
        attempt_id="s/0/1",
        study_id="s",
        trial=0,
        n=1,
        agent_id="a",
        incarnation="i",
        fence=3,
        devices=("cpu-0",),
        outcome=AttemptOutcome(attempt_id="s/0/1", fence=3, state="COMPLETED", audits=(audit,), batches=1),
    )
    payload = encode(_batch(requests))
    store = MemoryStore()
    store.add_segments(
        [
            Segment(
                attempt_id="s/0/1",
                seq=0,
                sha256=hashlib.sha256(payload).hexdigest(),
                encoding="raw",
                raw_bytes=len(payload),
                n_requests=len(requests),
                n_chunks=sum(request.tokens for request in requests),
                payload=payload,
            )
        ]
    )
    return measure(store, study, trial, attempt)


def test_the_coordinator_states_goodput_where_latencies_are_promised() -> None:
    classes = (SloClass(name="chat", share=0.5, ttft_ms=20.0), SloClass(name="batch", share=0.5, e2e_ms=10.0))
    requests = [_Request(slo_class=0), _Request(slo_class=1, intended=50_000)]
    told = _measured(classes, requests)
    assert told.reason is None
    metrics = told.runs[0].metrics
    assert metrics.goodput is not None
    assert (metrics.goodput.sent, metrics.goodput.attained) == (2, 1)
    assert [(one.name, one.attained) for one in metrics.goodput_by_class] == [("chat", 1), ("batch", 0)]
    assert metrics.goodput.rate == pytest.approx(1 / metrics.duration_s)
    silent = _measured((), requests).runs[0].metrics
    assert (silent.goodput, silent.goodput_by_class) == (None, ())


def test_a_class_that_the_study_does_not_have_is_a_damaged_upload() -> None:
    told = _measured((SloClass(name="chat", ttft_ms=20.0),), [_Request(slo_class=1)])
    assert told.reason is Reason.UPLOAD_CORRUPT
    assert "SLO class 1, of 1 classes" in told.message


def test_nothing_measured() -> None:
    together, (one,) = goodput(_batch([]), run=0, classes=[SloClass(name="c", ttft_ms=1.0)])
    assert (together.sent, together.attained, together.share, together.rate) == (0, 0, 0.0, 0.0)
    assert one.sent == 0
