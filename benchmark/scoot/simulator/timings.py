"""From exchanges in virtual time to the timings that a load process would have written. Pure, vectorised.

What scoot.benchmark.answer does with the bytes of an answer, for answers whose every event arrives by itself: an event
is what the engine sends together, a chunk is all events of one microsecond.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from scoot.benchmark.answer import CHUNKS_MAX
from scoot.simulator.sequence import Sequence as Served
from scoot.simulator.virtual import Exchange
from scoot.wire.columns import MAX_US, NONE_US, REQUEST_COLUMNS, RequestStatus, TimingBatch
from scoot.wire.measurement import LoadAudit

CLOCK: Final = "virtual"
"""Where the stamps come from, in the audit."""

_PENDING_TOKENS: Final = 1 << 22
"""Tokens whose times are looked up at once: a replica makes an array of all its steps each time it is asked."""

_CHUNK_TOKENS_MAX: Final = 0xFFFF
_NS_PER_US: Final = 1000

_I64 = npt.NDArray[np.int64]
_Bools = npt.NDArray[np.bool_]


class TokenTimes(Protocol):
    """What is asked of a replica."""

    def tokens_ns(self, sequence: Served) -> _I64:
        """(generated,) when each token of a sequence came."""
        ...


class TimingRecorder:
    """Takes exchanges as they end, and makes one batch of them.

    Args:
        replicas: those that serve them; they record.
        stream_interval: tokens that are sent together; the first and the last go at once.
        transport_ns: from a replica to the client.
        run: its index within the attempt.
    """

    def __init__(
        self, replicas: Sequence[TokenTimes], *, stream_interval: int = 1, transport_ns: int = 0, run: int = 0
    ) -> None:
        self._replicas = replicas
        self._interval = stream_interval
        self._transport_ns = transport_ns
        self._run = run
        self._rows: list[tuple[int, ...]] = []
        self._pending: list[Exchange] = []
        self._pending_tokens = 0
        self._parts: list[_Chunks] = []

    def add(self, exchange: Exchange) -> None:
        """Another one has ended. Its sequence may be in its replica still."""
        ask = exchange.ask
        self._rows.append(
            (
                ask.index,
                ask.intended_us,
                exchange.end_ns,
                ask.input_tokens,
                ask.wanted_tokens,
                exchange.http_status,
                exchange.replica,
                ask.phase,
                exchange.status or RequestStatus.OK,
                ask.slo_class,
                # A load generator that takes no time sends at once what is admitted.
                NONE_US if exchange.admitted_us is None else min(MAX_US, exchange.admitted_us - ask.intended_us),
            )
        )
        self._pending.append(exchange)
        self._pending_tokens += ask.wanted_tokens
        if self._pending_tokens >= _PENDING_TOKENS:
            self._flush()

    def batch(self) -> TimingBatch:
        """Everything so far, in the order of the ends."""
        self._flush()
        rows = np.array(self._rows, np.int64).reshape(len(self._rows), 11)
        index, intended, end_ns, inputs, wanted, http, replica, phase, status, slo, admitted = rows.T
        chunks = _joined(self._parts)
        n = len(rows)
        columns = {
            "index": index,
            "intended_us": intended,
            "sent_us": admitted,
            "first_us": np.where(chunks.counts > 0, _offsets(chunks.first_us, intended), NONE_US),
            "end_us": _offsets(end_ns // _NS_PER_US, intended),
            "input_tokens": inputs,
            "output_tokens": chunks.tokens,
            "wanted_tokens": wanted,
            "chunks": chunks.counts,
            "run": np.full(n, self._run),
            "http_status": http,
            "replica": replica,
            "phase": phase,
            "status": status,
        }
        wire = {name: columns[name].astype(dtype) for name, dtype in REQUEST_COLUMNS}
        several, merged = chunks.chunk_tokens, chunks.merged
        return TimingBatch(
            **wire,
            gap_us=chunks.gap_us,
            chunk_tokens=several if several is not None and bool(np.any(several > 1)) else None,
            merged=merged if merged is not None and bool(merged.any()) else None,
            slo_class=slo.astype(np.uint8) if bool(slo.any()) else None,
            admitted_us=admitted.astype(np.uint32) if bool(admitted.any()) else None,
        )

    def _flush(self) -> None:
        """Look up the tokens of what has ended since the last time."""
        pending, self._pending, self._pending_tokens = self._pending, [], 0
        times = [self._times_ns(exchange) for exchange in pending]
        counts = np.fromiter((len(each) for each in times), np.int64, len(times))
        whole = np.fromiter((exchange.status is RequestStatus.OK for exchange in pending), np.bool_, len(pending))
        stamps = np.concatenate(times) if times else np.empty(0, np.int64)
        stamps = (stamps + self._transport_ns) // _NS_PER_US
        self._parts.append(chunks_of(stamps, counts, whole, interval=self._interval))

    def _times_ns(self, exchange: Exchange) -> _I64:
        """When a replica sent each token that has come to the client."""
        if exchange.sequence is None:
            return np.empty(0, np.int64)
        times = self._replicas[exchange.replica].tokens_ns(exchange.sequence)
        if exchange.status is RequestStatus.OK:
            return times
        return times[: np.searchsorted(times, exchange.end_ns - self._transport_ns, side="right")]


class _Chunks:
    """Columns of n answers and their m chunks.

    Attributes:
        counts: (n,) chunks of each.
        tokens: (n,) tokens in them.
        first_us: (n,) stamp of the first; anything where there is none.
        gap_us: (m,) u32.
        chunk_tokens: (m,) u16; None where all are 1.
        merged: (m,) u8; None where all are 0.
    """

    __slots__ = ("chunk_tokens", "counts", "first_us", "gap_us", "merged", "tokens")

    def __init__(
        self,
        counts: _I64,
        tokens: _I64,
        first_us: _I64,
        gap_us: npt.NDArray[np.uint32],
        chunk_tokens: npt.NDArray[np.uint16] | None,
        merged: npt.NDArray[np.uint8] | None,
    ) -> None:
        self.counts = counts
        self.tokens = tokens
        self.first_us = first_us
        self.gap_us = gap_us
        self.chunk_tokens = chunk_tokens
        self.merged = merged


def chunks_of(stamps_us: _I64, counts: _I64, whole: _Bools, *, interval: int) -> _Chunks:
    """Chunks of some answers from the times of their tokens.

    Args:
        stamps_us: (tokens,) when each was there, answer after answer.
        counts: (n,) tokens of each answer.
        whole: (n,) whether an answer came to its end, so that its last token was sent though it is no full event.
        interval: tokens of an event; the first and the last go at once.
    """
    chunk_tokens: npt.NDArray[np.uint16] | None = None
    merged: npt.NDArray[np.uint8] | None = None
    sizes = np.ones(len(stamps_us), np.int64)
    if interval > 1 and len(stamps_us):
        stamps_us, counts, sizes = _events(stamps_us, counts, whole, interval)
    starts = np.cumsum(counts) - counts
    filled = counts > 0
    gaps = np.diff(stamps_us, prepend=np.int64(0))
    gaps[starts[filled]] = 0
    first_us = np.zeros(len(counts), np.int64)
    first_us[filled] = stamps_us[starts[filled]]
    tokens = np.zeros(len(counts), np.int64)
    if len(sizes):
        tokens[filled] = np.add.reduceat(sizes, starts[filled])
    together = gaps == 0
    together[starts[filled]] = False
    if bool(together.any()) or (len(counts) and int(counts.max()) > CHUNKS_MAX):
        gaps, sizes, merged, counts = _merged(gaps, sizes, counts, together)
    if bool(np.any(sizes > 1)):
        chunk_tokens = np.minimum(sizes, _CHUNK_TOKENS_MAX).astype(np.uint16)
    gap_us = np.minimum(gaps, MAX_US).astype(np.uint32)
    return _Chunks(counts, tokens, first_us, gap_us, chunk_tokens, merged)


def _events(stamps_us: _I64, counts: _I64, whole: _Bools, interval: int) -> tuple[_I64, _I64, _I64]:
    """(stamps, events per answer, tokens per event) where `interval` tokens go together."""
    starts = np.cumsum(counts) - counts
    answer = np.repeat(np.arange(len(counts)), counts)
    at = np.arange(len(stamps_us)) - starts[answer]
    last = whole[answer] & (at == counts[answer] - 1)
    sent = (at % interval == 0) | last
    ends = at[sent]
    new = np.bincount(answer[sent], minlength=len(counts)).astype(np.int64)
    sizes = np.diff(ends, prepend=np.int64(-1))
    sizes[(np.cumsum(new) - new)[new > 0]] = 1
    return stamps_us[sent], new, sizes


def _merged(gaps: _I64, sizes: _I64, counts: _I64, together: _Bools) -> tuple[_I64, _I64, npt.NDArray[np.uint8], _I64]:
    """Events of one stamp made one chunk, and those beyond CHUNKS_MAX added to the last one."""
    answer = np.repeat(np.arange(len(counts)), counts)
    begins = ~together
    rank = np.cumsum(begins) - 1
    first = np.cumsum(counts) - counts
    rank -= rank[np.minimum(first, len(gaps) - 1)][answer]
    begins &= rank < CHUNKS_MAX
    at = np.flatnonzero(begins)
    events = np.diff(at, append=len(gaps))
    new = np.bincount(answer[begins], minlength=len(counts)).astype(np.int64)
    return np.add.reduceat(gaps, at), np.add.reduceat(sizes, at), (events > 1).astype(np.uint8), new


def _joined(parts: Sequence[_Chunks]) -> _Chunks:
    def whole(name: str, absent: int) -> npt.NDArray[np.unsignedinteger] | None:
        columns = [getattr(part, name) for part in parts]
        if all(column is None for column in columns):
            return None
        dtype = np.uint16 if absent else np.uint8
        return np.concatenate(
            [
                np.full(len(part.gap_us), absent, dtype) if column is None else column
                for part, column in zip(parts, columns, strict=True)
            ]
        )

    return _Chunks(
        np.concatenate([part.counts for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.first_us for part in parts]),
        np.concatenate([part.gap_us for part in parts]),
        whole("chunk_tokens", 1),
        whole("merged", 0),
    )


def _offsets(at_us: _I64, intended_us: _I64) -> _I64:
    """Times as the wire has them: since the intended start, clipped to what fits."""
    offsets: _I64 = np.clip(at_us - intended_us, 0, MAX_US)
    return offsets


def ideal_audit(*, run: int, wall_s: float) -> LoadAudit:
    """What a load generator that takes no time observes of itself in a run of `wall_s` simulated seconds."""
    return LoadAudit(
        run=run, cpu_share=0.0, run_queue_s=0.0, clock_step_ms=0.0, dropped=0, clock=CLOCK, senders=0, wall_s=wall_s
    )
