"""Metrics of one measured window from request timings (docs/measurement.md, design section 8). Pure, vectorised."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.quantile import distribution
from scoot.wire.columns import NONE_US, Array, RequestPhase, RequestStatus, TimingBatch
from scoot.wire.measurement import Metrics

_US_PER_MS: Final = 1e3
_US_PER_S: Final = 1e6
_HTTP_STATUSES: Final = np.arange(100, 600)

_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]


def summarise(batch: TimingBatch, *, run: int) -> Metrics:
    """Metrics of the measured requests of `run`, without goodput (see goodput.py).

    Warm-up, cool-down and other runs are left out; nothing else is. Latencies are over completed (OK) requests,
    lateness over every request that was sent, admission over every one that was admitted, failures over all. Only
    requests that have a token count for TTFT, only those with two or more tokens for TPOT.

    Args:
        batch: finished requests, of any runs and phases, in any order.
        run: arrival order to summarise.
    """
    measured = measured_of(batch, run=run)
    ok = measured & (batch.status == RequestStatus.OK)
    count = int(measured.sum())
    completed = int(ok.sum())

    intended = batch.intended_us[measured].astype(np.int64)
    sent = batch.sent_us[measured].astype(np.int64)
    was_sent = sent != NONE_US
    waited = batch.admitted_us is not None
    admitted = np.zeros(count, np.int64) if batch.admitted_us is None else batch.admitted_us[measured].astype(np.int64)
    was_admitted = admitted != NONE_US
    end = batch.end_us[ok].astype(np.int64)
    duration_s = window_s(batch, measured)
    input_tokens = int(batch.input_tokens[ok].sum(dtype=np.int64))
    output_tokens = int(batch.output_tokens[ok].sum(dtype=np.int64))

    answered = ok & (batch.first_us != NONE_US)
    first = batch.first_us[answered].astype(np.int64)
    chunk_ok = np.repeat(ok, batch.chunks)
    merged = _above(batch.merged, 0, len(chunk_ok))
    several = answered & (batch.output_tokens > 1)
    return Metrics(
        sent=count,
        completed=completed,
        failed=count - completed,
        failures=_failures(batch, measured),
        duration_s=duration_s,
        request_throughput=_per_s(completed, duration_s),
        output_token_throughput=_per_s(output_tokens, duration_s),
        input_token_throughput=_per_s(input_tokens, duration_s),
        offered_rate=_rate(intended),
        achieved_rate=_rate((intended + sent)[was_sent]),
        ttft_ms=distribution(first, per_unit=_US_PER_MS),
        tpot_ms=distribution(tpot_us(batch, several), per_unit=_US_PER_MS),
        itl_ms=distribution(batch.gap_us[chunk_ok & ~_first_chunks(batch) & ~merged], per_unit=_US_PER_MS),
        request_itl_ms=distribution(_request_itl_us(batch, several), per_unit=_US_PER_MS),
        e2e_ms=distribution(end, per_unit=_US_PER_MS),
        ttft_from_send_ms=distribution(first - batch.sent_us[answered], per_unit=_US_PER_MS),
        e2e_from_send_ms=distribution(end - batch.sent_us[ok], per_unit=_US_PER_MS),
        lateness_ms=distribution((sent - admitted)[was_sent], per_unit=_US_PER_MS),
        output_tokens=output_tokens,
        input_tokens=input_tokens,
        merged_share=_share(merged, chunk_ok),
        multi_token_share=_share(_above(batch.chunk_tokens, 1, len(chunk_ok)) & ~merged, chunk_ok),
        admission_ms=distribution(admitted[was_admitted], per_unit=_US_PER_MS) if waited else None,
        admitted_rate=_rate((intended + admitted)[was_admitted]) if waited else 0.0,
    )


def measured_of(batch: TimingBatch, *, run: int) -> _Bools:
    """(n,) True where a request belongs to the measured window of `run`."""
    measured: _Bools = (batch.run == run) & (batch.phase == RequestPhase.MEASURED)
    return measured


def window_s(batch: TimingBatch, measured: _Bools) -> float:
    """From the first intended start to the last completion, seconds; 0 where nothing completed.

    Args:
        batch: finished requests.
        measured: (n,) the requests of the window.
    """
    ok = measured & (batch.status == RequestStatus.OK)
    if not ok.any():
        return 0.0
    last = int(np.max(batch.intended_us[ok].astype(np.int64) + batch.end_us[ok]))
    return (last - int(batch.intended_us[measured].min())) / _US_PER_S


def tpot_us(batch: TimingBatch, of: _Bools) -> npt.NDArray[np.float64]:
    """(last token - first token) / (output tokens - 1) of some requests, microseconds, in their order.

    Args:
        batch: finished requests.
        of: (n,) the requests; each has a token-bearing chunk and two output tokens or more.
    """
    filled = batch.chunks > 0
    counts = batch.chunks[filled].astype(np.int64)
    starts = np.cumsum(counts) - counts
    # The gap of a request's first chunk is no gap between tokens, whatever its writer put there.
    spans = np.zeros(len(batch), np.int64)
    if len(starts):
        spans[filled] = np.add.reduceat(batch.gap_us, starts, dtype=np.int64) - batch.gap_us[starts]
    tpot: npt.NDArray[np.float64] = spans[of] / (batch.output_tokens[of].astype(np.int64) - 1)
    return tpot


def _request_itl_us(batch: TimingBatch, of: _Bools) -> npt.NDArray[np.float64]:
    """(last byte - first token) / (output tokens - 1), microseconds."""
    itl: npt.NDArray[np.float64] = (batch.end_us[of].astype(np.int64) - batch.first_us[of]) / (
        batch.output_tokens[of].astype(np.int64) - 1
    )
    return itl


def _failures(batch: TimingBatch, measured: _Bools) -> dict[str, int]:
    """Kind -> count. An answer that is an HTTP error is named by its status, as far as that is one."""
    counts = np.bincount(batch.status[measured], minlength=len(RequestStatus))
    failures = {kind.name: int(counts[kind]) for kind in RequestStatus if kind is not RequestStatus.OK and counts[kind]}
    unnamed = failures.pop(RequestStatus.HTTP_ERROR.name, 0)
    refused = batch.http_status[measured & (batch.status == RequestStatus.HTTP_ERROR)]
    for code, number in zip(*np.unique(refused[np.isin(refused, _HTTP_STATUSES)], return_counts=True), strict=True):
        failures[f"HTTP_{code}"] = int(number)
        unnamed -= int(number)
    return failures | ({RequestStatus.HTTP_ERROR.name: unnamed} if unnamed else {})


def _per_s(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0


def _rate(at_us: _Ints) -> float:
    """Gaps over the span of some moments, 1/s; 0 where there is no span (fewer than two, or one burst)."""
    span_us = int(np.ptp(at_us)) if len(at_us) else 0
    return (len(at_us) - 1) * _US_PER_S / span_us if span_us else 0.0


def _first_chunks(batch: TimingBatch) -> _Bools:
    """(m,) True where a chunk is the first of its request."""
    is_first = np.zeros(len(batch.gap_us), dtype=np.bool_)
    counts = batch.chunks.astype(np.int64)
    starts = np.cumsum(counts) - counts
    is_first[starts[counts > 0]] = True
    return is_first


def _above(column: Array | None, value: int, m: int) -> _Bools:
    """(m,) True where a chunk column is above a value; nowhere in one that is left out."""
    return np.zeros(m, np.bool_) if column is None else column > value


def _share(marked: _Bools, chunk_ok: _Bools) -> float:
    """Marked chunks of completed requests over all of theirs; 0 without chunks."""
    total = int(np.count_nonzero(chunk_ok))
    return int(np.count_nonzero(marked & chunk_ok)) / total if total else 0.0
