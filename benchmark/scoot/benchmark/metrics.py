"""Metrics of one measured window from request timings (docs/measurement.md, design section 8). Pure, vectorised."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.quantile import distribution
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch
from scoot.wire.measurement import Metrics

_US_PER_MS: Final = 1e3
_US_PER_S: Final = 1e6

_Bools = npt.NDArray[np.bool_]
_Ints = npt.NDArray[np.int64]


def summarise(batch: TimingBatch, *, run: int) -> Metrics:
    """Metrics of the measured requests of `run`. Warm-up and other runs are left out; nothing else is.

    Latencies are over completed (OK) requests, lateness over every request that was sent, failures over all.
    Only requests that have a token count for TTFT, only those with two or more tokens for TPOT.

    Args:
        batch: finished requests, of any runs and phases, in any order.
        run: arrival order to summarise.
    """
    measured = (batch.run == run) & (batch.phase == RequestPhase.MEASURED)
    ok = measured & (batch.status == RequestStatus.OK)
    status = batch.status[measured]
    counts = np.bincount(status, minlength=len(RequestStatus))
    failures = {kind.name: int(counts[kind]) for kind in RequestStatus if kind is not RequestStatus.OK and counts[kind]}
    completed = int(counts[RequestStatus.OK])

    intended = batch.intended_us[measured].astype(np.int64)
    end = batch.end_us[ok].astype(np.int64)
    sent = batch.sent_us[ok].astype(np.int64)
    last_completion = int(np.max(batch.intended_us[ok].astype(np.int64) + end)) if completed else 0
    duration_s = (last_completion - int(intended.min())) / _US_PER_S if completed else 0.0
    input_tokens = int(batch.input_tokens[ok].sum(dtype=np.int64))
    output_tokens = int(batch.output_tokens[ok].sum(dtype=np.int64))

    answered = ok & (batch.first_us != NONE_US)
    first = batch.first_us[answered].astype(np.int64)
    dispatched = batch.sent_us[measured]
    chunk_ok = np.repeat(ok, batch.chunks)
    return Metrics(
        sent=len(status),
        completed=completed,
        failed=len(status) - completed,
        failures=failures,
        duration_s=duration_s,
        request_throughput=_rate(completed, duration_s),
        output_token_throughput=_rate(output_tokens, duration_s),
        input_token_throughput=_rate(input_tokens, duration_s),
        offered_rate=_offered_rate(intended),
        ttft_ms=distribution(first, per_unit=_US_PER_MS),
        tpot_ms=distribution(_tpot_us(batch, ok), per_unit=_US_PER_MS),
        itl_ms=distribution(batch.gap_us[chunk_ok & ~_first_chunks(batch)], per_unit=_US_PER_MS),
        e2e_ms=distribution(end, per_unit=_US_PER_MS),
        ttft_from_send_ms=distribution(first - batch.sent_us[answered], per_unit=_US_PER_MS),
        e2e_from_send_ms=distribution(end - sent, per_unit=_US_PER_MS),
        lateness_ms=distribution(dispatched[dispatched != NONE_US], per_unit=_US_PER_MS),
        output_tokens=output_tokens,
        input_tokens=input_tokens,
        merged_share=_merged_share(batch, chunk_ok),
    )


def _rate(count: int, duration_s: float) -> float:
    return count / duration_s if duration_s > 0 else 0.0


def _offered_rate(intended_us: _Ints) -> float:
    """Gaps over the span of the intended starts, 1/s; 0 where there is no span (fewer than two, or one burst)."""
    span_us = int(np.ptp(intended_us)) if len(intended_us) else 0
    return (len(intended_us) - 1) * _US_PER_S / span_us if span_us else 0.0


def _first_chunks(batch: TimingBatch) -> _Bools:
    """(m,) True where a chunk is the first of its request."""
    is_first = np.zeros(len(batch.gap_us), dtype=np.bool_)
    counts = batch.chunks.astype(np.int64)
    starts = np.cumsum(counts) - counts
    is_first[starts[counts > 0]] = True
    return is_first


def _tpot_us(batch: TimingBatch, ok: _Bools) -> npt.NDArray[np.float64]:
    """(last token - first token) / (output tokens - 1) of the completed requests with at least two tokens, us."""
    counts = batch.chunks.astype(np.int64)
    ends = np.cumsum(counts)
    gaps: npt.NDArray[Any] = np.concatenate([np.zeros(1, np.int64), np.cumsum(batch.gap_us, dtype=np.int64)])
    # The gap of a request's first chunk is no gap between tokens: the sum starts after it.
    after_first = np.minimum(ends - counts + 1, ends)
    several = ok & (batch.output_tokens > 1) & (counts > 0)
    span = gaps[ends[several]] - gaps[after_first[several]]
    tpot: npt.NDArray[np.float64] = span / (batch.output_tokens[several].astype(np.int64) - 1)
    return tpot


def _merged_share(batch: TimingBatch, chunk_ok: _Bools) -> float:
    """Chunks of completed requests that brought more than one token, over all of theirs; 0 without chunks."""
    if batch.chunk_tokens is None or not chunk_ok.any():
        return 0.0
    return float(np.mean(batch.chunk_tokens[chunk_ok] > 1))
