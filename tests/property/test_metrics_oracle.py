"""Metrics against an oracle that walks through requests one by one, as the definitions are written."""

from __future__ import annotations

import dataclasses
import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.metrics import summarise
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, decode, encode
from scoot.wire.measurement import Distribution, Metrics


@dataclasses.dataclass(frozen=True)
class _Request:
    intended: int
    late: int | None
    chunks: tuple[tuple[int, int, int], ...]  # (gap from the previous chunk or from sending, tokens, 1 if merged)
    tail: int
    run: int
    phase: RequestPhase
    status: RequestStatus
    input_tokens: int
    http_status: int = 200
    waited: int | None = 0  # for admission; None: it was never admitted

    @property
    def admitted(self) -> int:
        return NONE_US if self.waited is None else self.waited

    @property
    def sent(self) -> int:
        return NONE_US if self.late is None else (self.waited or 0) + self.late

    @property
    def token_times(self) -> list[int]:
        times = []
        at = self.sent
        for gap, _, _ in self.chunks:
            at += gap
            times.append(at)
        return times

    @property
    def end(self) -> int:
        if self.late is None:
            return NONE_US
        return (self.token_times or [self.sent])[-1] + self.tail

    @property
    def tokens(self) -> int:
        return sum(tokens for _, tokens, _ in self.chunks)


@st.composite
def _requests(draw: st.DrawFn) -> _Request:
    status = draw(st.sampled_from(list(RequestStatus)))
    ok = status is RequestStatus.OK
    late = draw(st.integers(0, 10_000)) if ok or draw(st.booleans()) else None
    chunk = st.tuples(st.integers(0, 50_000), st.integers(1, 3), st.integers(0, 1))
    return _Request(
        intended=draw(st.integers(0, 10**8)),
        late=late,
        chunks=() if late is None else tuple(draw(st.lists(chunk, max_size=6))),
        tail=draw(st.integers(0, 1000)),
        run=draw(st.integers(0, 2)),
        phase=draw(st.sampled_from(list(RequestPhase))),
        status=status,
        input_tokens=draw(st.integers(0, 5000)),
        http_status=draw(st.sampled_from([0, 1, 99, 100, 200, 429, 500, 599, 600, 65535])),
        waited=draw(st.integers(0, 100_000) if late is not None else st.none() | st.integers(0, 100_000)),
    )


def _batch(
    requests: list[_Request], *, chunk_tokens: bool = True, merged: bool = True, admitted: bool = True
) -> TimingBatch:
    def column(values: list[int], dtype: str) -> np.ndarray[tuple[int], np.dtype[np.unsignedinteger]]:
        return np.array(values, dtype=dtype)

    return TimingBatch(
        index=column(list(range(len(requests))), "<u4"),
        intended_us=column([r.intended for r in requests], "<u8"),
        sent_us=column([r.sent for r in requests], "<u4"),
        first_us=column([r.token_times[0] if r.chunks else NONE_US for r in requests], "<u4"),
        end_us=column([r.end for r in requests], "<u4"),
        input_tokens=column([r.input_tokens for r in requests], "<u4"),
        output_tokens=column([r.tokens for r in requests], "<u4"),
        wanted_tokens=column([r.tokens for r in requests], "<u4"),
        chunks=column([len(r.chunks) for r in requests], "<u4"),
        run=column([r.run for r in requests], "<u2"),
        http_status=column([r.http_status for r in requests], "<u2"),
        replica=column([0] * len(requests), "<u2"),
        phase=column([r.phase for r in requests], "u1"),
        status=column([r.status for r in requests], "u1"),
        gap_us=column([gap if i else 0 for r in requests for i, (gap, _, _) in enumerate(r.chunks)], "<u4"),
        chunk_tokens=column([n for r in requests for _, n, _ in r.chunks], "<u2") if chunk_tokens else None,
        merged=column([m for r in requests for _, _, m in r.chunks], "u1") if merged else None,
        admitted_us=column([r.admitted for r in requests], "<u4") if admitted else None,
    )


def _oracle_distribution(samples_us: list[float]) -> Distribution | None:
    if not samples_us:
        return None
    ordered = sorted(samples_us)
    n = len(ordered)

    def at(percent: int) -> float:
        return ordered[math.ceil(Fraction(percent * n, 100)) - 1] / 1000

    mean = math.fsum(ordered) / n / 1000
    std = math.sqrt(math.fsum((sample / 1000 - mean) ** 2 for sample in ordered) / n)
    return Distribution(n=n, mean=mean, p50=at(50), p90=at(90), p95=at(95), p99=at(99), max=ordered[-1] / 1000, std=std)


def _oracle(requests: list[_Request], run: int) -> Metrics:
    measured = [r for r in requests if r.run == run and r.phase is RequestPhase.MEASURED]
    ok = [r for r in measured if r.status is RequestStatus.OK]
    failures: dict[str, int] = {}
    for r in measured:
        if r.status is not RequestStatus.OK:
            told = r.status is RequestStatus.HTTP_ERROR and 100 <= r.http_status <= 599
            kind = f"HTTP_{r.http_status}" if told else r.status.name
            failures[kind] = failures.get(kind, 0) + 1
    first_intended = min((r.intended for r in measured), default=0)
    duration_s = (max(r.intended + r.end for r in ok) - first_intended) / 1e6 if ok else 0.0
    span_us = max((r.intended for r in measured), default=0) - first_intended
    departures = [r.intended + r.sent for r in measured if r.late is not None]
    admissions = [r.intended + r.admitted for r in measured if r.waited is not None]
    admitted_us = max(admissions, default=0) - min(admissions, default=0)
    departed_us = max(departures, default=0) - min(departures, default=0)
    answered = [r for r in ok if r.chunks]
    itl: list[float] = []
    tpot: list[float] = []
    request_itl: list[float] = []
    for r in answered:
        times = r.token_times
        itl += [b - a for (a, b), (_, _, merged) in zip(pairwise(times), r.chunks[1:], strict=True) if not merged]
        if r.tokens > 1:
            tpot.append((times[-1] - times[0]) / (r.tokens - 1))
            request_itl.append((r.end - times[0]) / (r.tokens - 1))
    chunks = [(tokens, merged) for r in answered for _, tokens, merged in r.chunks]

    def rate(count: int) -> float:
        return count / duration_s if duration_s else 0.0

    return Metrics(
        sent=len(measured),
        completed=len(ok),
        failed=len(measured) - len(ok),
        failures=failures,
        duration_s=duration_s,
        request_throughput=rate(len(ok)),
        output_token_throughput=rate(sum(r.tokens for r in ok)),
        input_token_throughput=rate(sum(r.input_tokens for r in ok)),
        offered_rate=(len(measured) - 1) * 1e6 / span_us if span_us else 0.0,
        achieved_rate=(len(departures) - 1) * 1e6 / departed_us if departed_us else 0.0,
        ttft_ms=_oracle_distribution([r.token_times[0] for r in answered]),
        tpot_ms=_oracle_distribution(tpot),
        itl_ms=_oracle_distribution(itl),
        request_itl_ms=_oracle_distribution(request_itl),
        e2e_ms=_oracle_distribution([r.end for r in ok]),
        ttft_from_send_ms=_oracle_distribution([r.token_times[0] - r.sent for r in answered]),
        e2e_from_send_ms=_oracle_distribution([r.end - r.sent for r in ok]),
        lateness_ms=_oracle_distribution([r.late for r in measured if r.late is not None]),
        output_tokens=sum(r.tokens for r in ok),
        input_tokens=sum(r.input_tokens for r in ok),
        merged_share=sum(merged for _, merged in chunks) / len(chunks) if chunks else 0.0,
        multi_token_share=sum(n > 1 and not merged for n, merged in chunks) / len(chunks) if chunks else 0.0,
        admission_ms=_oracle_distribution([r.waited for r in measured if r.waited is not None]),
        admitted_rate=(len(admissions) - 1) * 1e6 / admitted_us if admitted_us else 0.0,
    )


def _assert_same(got: Metrics, expected: Metrics) -> None:
    for name in Metrics.__struct_fields__:
        mine, theirs = getattr(got, name), getattr(expected, name)
        if isinstance(theirs, Distribution):
            assert isinstance(mine, Distribution), name
            for figure in Distribution.__struct_fields__:
                # A TPOT is a quotient, and sums depend on their order: to rounding, of the samples' size for a spread.
                rel, least = (1e-9, 1e-9) if figure == "std" else (1e-12, 0.0)
                near = pytest.approx(getattr(theirs, figure), rel=rel, abs=least)
                assert getattr(mine, figure) == near, (name, figure)
        elif isinstance(theirs, float):
            assert mine == pytest.approx(theirs, rel=1e-12), name
        else:
            assert mine == theirs, name


@settings(deadline=None)
@given(requests=st.lists(_requests(), max_size=25), run=st.integers(0, 2))
def test_summary_is_the_oracles(requests: list[_Request], run: int) -> None:
    batch = decode(encode(_batch(requests)))
    _assert_same(summarise(batch, run=run), _oracle(requests, run))


@settings(deadline=None)
@given(requests=st.lists(_requests(), max_size=15))
def test_every_measured_request_is_completed_or_a_named_failure(requests: list[_Request]) -> None:
    metrics = summarise(_batch(requests), run=0)
    assert metrics.sent == metrics.completed + metrics.failed
    assert metrics.failed == sum(metrics.failures.values())
    kinds = {status.name for status in RequestStatus} - {"OK"}
    assert set(metrics.failures) <= kinds | {f"HTTP_{code}" for code in range(100, 600)}
    assert all(count > 0 for count in metrics.failures.values())


@settings(deadline=None)
@given(requests=st.lists(_requests(), max_size=15), seed=st.integers(0, 1000))
def test_order_of_requests_does_not_matter(requests: list[_Request], seed: int) -> None:
    shuffled = [requests[i] for i in np.random.Generator(np.random.PCG64(seed)).permutation(len(requests))]
    _assert_same(summarise(_batch(shuffled), run=0), summarise(_batch(requests), run=0))


def _one(late: int = 500, *, status: RequestStatus = RequestStatus.OK, intended: int = 0) -> _Request:
    return _Request(
        intended=intended,
        late=late,
        chunks=((20_000, 1, 0), (10_000, 1, 0), (30_000, 1, 0)),
        tail=100,
        run=0,
        phase=RequestPhase.MEASURED,
        status=status,
        input_tokens=10,
    )


def test_latencies_start_at_the_intended_start_so_a_late_sender_hides_nothing() -> None:
    late = summarise(_batch([_one(late=1_500_000)]), run=0)
    assert late.ttft_ms is not None
    assert late.ttft_from_send_ms is not None
    assert late.e2e_ms is not None
    assert late.lateness_ms is not None
    assert (late.ttft_ms.p50, late.ttft_from_send_ms.p50) == (1520.0, 20.0)
    assert (late.e2e_ms.p50, late.lateness_ms.p50) == (1560.1, 1500.0)


def test_tpot_counts_tokens_and_itl_gaps() -> None:
    request = dataclasses.replace(_one(), chunks=((20_000, 1, 0), (10_000, 3, 0), (30_000, 1, 0)))
    metrics = summarise(_batch([request]), run=0)
    assert metrics.tpot_ms is not None
    assert metrics.itl_ms is not None
    assert metrics.tpot_ms.p50 == 10.0  # 40 ms over the 4 tokens after the first
    assert (metrics.itl_ms.n, metrics.itl_ms.p50, metrics.itl_ms.max) == (2, 10.0, 30.0)
    assert (metrics.merged_share, metrics.multi_token_share) == pytest.approx((0.0, 1 / 3))


def test_tokens_read_together_are_no_gap_and_still_tokens() -> None:
    request = dataclasses.replace(_one(), chunks=((20_000, 1, 0), (40_000, 4, 1), (10_000, 1, 0)))
    metrics = summarise(_batch([request]), run=0)
    assert metrics.tpot_ms is not None
    assert metrics.itl_ms is not None
    assert (metrics.itl_ms.n, metrics.itl_ms.max) == (1, 10.0)
    assert metrics.tpot_ms.p50 == 10.0
    assert (metrics.merged_share, metrics.multi_token_share) == pytest.approx((1 / 3, 0.0))


def test_batches_without_the_column_of_merged_chunks_have_none() -> None:
    request = dataclasses.replace(_one(), chunks=((20_000, 1, 1), (10_000, 3, 1)))
    metrics = summarise(_batch([request], merged=False), run=0)
    assert metrics.itl_ms is not None
    assert (metrics.itl_ms.n, metrics.merged_share, metrics.multi_token_share) == (1, 0.0, 0.5)


def test_the_other_tools_itl_ends_at_the_last_byte() -> None:
    metrics = summarise(_batch([dataclasses.replace(_one(), tail=2_000)]), run=0)
    assert metrics.request_itl_ms is not None
    assert metrics.tpot_ms is not None
    assert (metrics.tpot_ms.p50, metrics.request_itl_ms.p50) == (20.0, 21.0)


def test_http_errors_are_told_apart_by_status() -> None:
    refused = _one(status=RequestStatus.HTTP_ERROR)
    codes = (429, 429, 500, 0, 7)
    metrics = summarise(_batch([dataclasses.replace(refused, http_status=code) for code in codes]), run=0)
    assert metrics.failures == {"HTTP_429": 2, "HTTP_500": 1, "HTTP_ERROR": 2}


def test_the_cool_down_is_not_measured() -> None:
    after = dataclasses.replace(_one(intended=9_000_000), phase=RequestPhase.COOL_DOWN, chunks=((1, 1, 1),))
    _assert_same(summarise(_batch([_one(), after]), run=0), summarise(_batch([_one()]), run=0))


def test_a_sender_that_falls_behind_achieves_less_than_was_offered() -> None:
    metrics = summarise(_batch([_one(intended=100_000 * i, late=50_000 * i) for i in range(11)]), run=0)
    assert (metrics.offered_rate, metrics.achieved_rate) == pytest.approx((10.0, 10 / 1.5))
    assert summarise(_batch([_one()]), run=0).achieved_rate == 0.0


def test_waiting_for_admission_is_no_lateness_and_in_the_latencies() -> None:
    requests = [dataclasses.replace(_one(intended=1000 * i, late=7), waited=50_000 * i) for i in range(11)]
    never = dataclasses.replace(_one(intended=11_000), late=None, chunks=(), waited=None, status=RequestStatus.DEADLINE)
    metrics = summarise(_batch([*requests, never]), run=0)
    assert metrics.lateness_ms is not None
    assert metrics.admission_ms is not None
    assert metrics.ttft_ms is not None
    assert (metrics.lateness_ms.n, metrics.lateness_ms.max) == (11, 0.007)
    assert (metrics.admission_ms.n, metrics.admission_ms.p50, metrics.admission_ms.max) == (11, 250.0, 500.0)
    assert metrics.ttft_ms.max == 520.007
    assert (metrics.admitted_rate, metrics.achieved_rate) == pytest.approx((10 / 0.51, 10 / 0.51))
    plain = summarise(_batch([_one()], admitted=False), run=0)
    assert (plain.admission_ms, plain.admitted_rate) == (None, 0.0)


def test_the_first_chunks_gap_never_counts() -> None:
    batch = _batch([_one(), _one()])
    gaps = batch.gap_us.copy()
    gaps[[0, 3]] = 12345  # a writer that puts something there is out of contract, and harmless
    _assert_same(summarise(dataclasses.replace(batch, gap_us=gaps), run=0), summarise(batch, run=0))


def test_failed_requests_give_lateness_and_nothing_else() -> None:
    metrics = summarise(_batch([_one(status=RequestStatus.RESET), _one(status=RequestStatus.DEADLINE)]), run=0)
    assert (metrics.sent, metrics.completed, metrics.failures) == (2, 0, {"RESET": 1, "DEADLINE": 1})
    assert metrics.ttft_ms is metrics.tpot_ms is metrics.itl_ms is metrics.e2e_ms is None
    assert metrics.request_throughput == metrics.output_token_throughput == metrics.duration_s == 0.0
    assert metrics.lateness_ms is not None
    assert metrics.lateness_ms.n == 2


def test_throughput_runs_from_the_first_intended_start_to_the_last_completion() -> None:
    requests = [_one(intended=0, status=RequestStatus.RESET), _one(intended=1_000_000), _one(intended=1_939_400)]
    metrics = summarise(_batch(requests), run=0)
    assert metrics.duration_s == 2.0
    assert metrics.request_throughput == 1.0
    assert metrics.output_token_throughput == 3.0


def test_nothing_measured() -> None:
    metrics = summarise(_batch([]), run=0)
    assert (metrics.sent, metrics.completed, metrics.failed, metrics.failures) == (0, 0, 0, {})
    assert metrics.lateness_ms is None
