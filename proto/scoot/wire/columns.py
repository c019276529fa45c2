"""Columnar codec of request timings: what the load process spools, the agent uploads and the coordinator stores.

A batch holds *finished* requests. Layout, all little-endian: the header `magic, n_requests, n_chunks, flags` (4 x u32),
then each request column (n_requests values), then `gap_us` (n_chunks values), then the optional columns that `flags`
names, in the order of their bits: chunk_tokens, merged (n_chunks values each), slo_class, admitted_us (n_requests
values each). Times are microseconds; u32 offsets (71 minutes) count from the request's intended start, which itself is
u64 from the start of its run.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError

NONE_US: Final = 0xFFFF_FFFF
"""Stands for "never": not sent, no token, no end."""

MAX_US: Final = NONE_US - 1

MAX_INTENDED_US: Final = 1 << 52
"""Bound of an intended start: 142 years, and sums of offsets stay exact in float64 and far from int64's end."""

_MAGIC: Final = 0x31424353  # "SCB1"
_HEADER: Final = struct.Struct("<4I")

Array = npt.NDArray[np.unsignedinteger]


class RequestStatus(IntEnum):
    """How a request ended. Only OK counts as completed; the names of the others are the kinds of failure in Metrics."""

    OK = 0
    HTTP_ERROR = 1
    CONNECT_FAILED = 2
    RESET = 3
    CLOSED_EARLY = 4
    DEADLINE = 5
    STREAM_ERROR = 6
    MALFORMED = 7
    CANCELLED = 8
    NOT_SENT = 9
    TOO_FEW_TOKENS = 10


TIME_OUTS: Final = frozenset({RequestStatus.DEADLINE, RequestStatus.CANCELLED})
"""A measured request that ran out of time: its own, or the drain's. No answer was wrong."""


class RequestPhase(IntEnum):
    """Which window the intended start fell into. Load goes on through the cool-down, so that the end is under load."""

    WARM_UP = 0
    MEASURED = 1
    COOL_DOWN = 2


REQUEST_COLUMNS: Final[tuple[tuple[str, np.dtype[Any]], ...]] = (
    ("index", np.dtype("<u4")),
    ("intended_us", np.dtype("<u8")),
    ("sent_us", np.dtype("<u4")),
    ("first_us", np.dtype("<u4")),
    ("end_us", np.dtype("<u4")),
    ("input_tokens", np.dtype("<u4")),
    ("output_tokens", np.dtype("<u4")),
    ("wanted_tokens", np.dtype("<u4")),
    ("chunks", np.dtype("<u4")),
    ("run", np.dtype("<u2")),
    ("http_status", np.dtype("<u2")),
    ("replica", np.dtype("<u2")),
    ("phase", np.dtype("u1")),
    ("status", np.dtype("u1")),
)
_REQUEST_BYTES: Final = sum(dtype.itemsize for _, dtype in REQUEST_COLUMNS)
_GAP: Final = np.dtype("<u4")


@dataclass(frozen=True, slots=True)
class _Optional:
    """A column that is left out where every value of it is `absent`; `flag` tells that it is there."""

    name: str
    flag: int
    dtype: np.dtype[Any]
    per_chunk: bool
    absent: int


_OPTIONAL: Final = (
    _Optional("chunk_tokens", 1, np.dtype("<u2"), per_chunk=True, absent=1),
    _Optional("merged", 2, np.dtype("u1"), per_chunk=True, absent=0),
    _Optional("slo_class", 4, np.dtype("u1"), per_chunk=False, absent=0),
    _Optional("admitted_us", 8, np.dtype("<u4"), per_chunk=False, absent=0),
)
_KNOWN_FLAGS: Final = sum(column.flag for column in _OPTIONAL)


@dataclass(frozen=True, slots=True, eq=False)
class TimingBatch:
    """Finished requests in columns: n requests, and m token-bearing chunks in request order.

    Attributes:
        index: (n,) u32, position in the run's schedule; unique within a run.
        intended_us: (n,) u64, intended start since the start of the run.
        sent_us, first_us, end_us: (n,) u32 since the intended start; NONE_US for "never".
        input_tokens, output_tokens, wanted_tokens: (n,) u32; output as counted, wanted as asked.
        chunks: (n,) u32, token-bearing chunks; sums to m.
        run: (n,) u16, arrival order within the attempt.
        http_status: (n,) u16, 0 if no answer came.
        replica: (n,) u16, engine replica that served it.
        phase, status: (n,) u8, RequestPhase and RequestStatus.
        gap_us: (m,) u32, since the previous token-bearing chunk; 0 for the first of a request.
        chunk_tokens: (m,) u16, tokens the chunk brought; None when every chunk brought one.
        merged: (m,) u8, 1 where one read brought several token-bearing events under one receive stamp, so that the gap
            is not one gap between tokens; None when there is no such chunk.
        slo_class: (n,) u8, position among the workload's SLO classes; None when all are 0.
        admitted_us: (n,) u32 since the intended start, when the request was let in where only so many may be in flight;
            NONE_US for never. None when all are 0: nothing had to wait.
    """

    index: Array
    intended_us: Array
    sent_us: Array
    first_us: Array
    end_us: Array
    input_tokens: Array
    output_tokens: Array
    wanted_tokens: Array
    chunks: Array
    run: Array
    http_status: Array
    replica: Array
    phase: Array
    status: Array
    gap_us: Array
    chunk_tokens: Array | None = None
    merged: Array | None = None
    slo_class: Array | None = None
    admitted_us: Array | None = None

    def __len__(self) -> int:
        return len(self.index)


def encoded_bytes(
    n_requests: int,
    n_chunks: int,
    *,
    chunk_tokens: bool,
    merged: bool = False,
    slo_class: bool = False,
    admitted_us: bool = False,
) -> int:
    """Size of an encoded batch in bytes; the flags say which optional columns it has."""
    present = {"chunk_tokens": chunk_tokens, "merged": merged, "slo_class": slo_class, "admitted_us": admitted_us}
    return _size(n_requests, n_chunks, [column for column in _OPTIONAL if present[column.name]])


def _size(n_requests: int, n_chunks: int, optional: Sequence[_Optional]) -> int:
    per_request = _REQUEST_BYTES + sum(column.dtype.itemsize for column in optional if not column.per_chunk)
    per_chunk = _GAP.itemsize + sum(column.dtype.itemsize for column in optional if column.per_chunk)
    return _HEADER.size + n_requests * per_request + n_chunks * per_chunk


def encode(batch: TimingBatch) -> bytes:
    """Serialise a batch. Columns are cast to their wire types; the caller keeps values in range."""
    optional = [column for column in _OPTIONAL if getattr(batch, column.name) is not None]
    parts = [_HEADER.pack(_MAGIC, len(batch), len(batch.gap_us), sum(column.flag for column in optional))]
    wire = (*REQUEST_COLUMNS, ("gap_us", _GAP), *((column.name, column.dtype) for column in optional))
    parts += [np.ascontiguousarray(getattr(batch, name), dtype=dtype).tobytes() for name, dtype in wire]
    return b"".join(parts)


def decode(data: bytes | memoryview) -> TimingBatch:
    """Parse and check a batch. The arrays are read-only views of `data`.

    Raises:
        RemoteProtocolError: wrong magic or size, over BATCH_BYTES, or columns that contradict each other.
    """
    if len(data) > limits.BATCH_BYTES:
        raise RemoteProtocolError(f"timing batch of {len(data)} bytes is over the limit of {limits.BATCH_BYTES}")
    if len(data) < _HEADER.size:
        raise RemoteProtocolError(f"timing batch of {len(data)} bytes has no header")
    magic, n_requests, n_chunks, flags = _HEADER.unpack_from(data)
    if magic != _MAGIC or flags & ~_KNOWN_FLAGS:
        raise RemoteProtocolError("timing batch has a wrong magic number or unknown flags")
    optional = [column for column in _OPTIONAL if flags & column.flag]
    expected = _size(n_requests, n_chunks, optional)
    if len(data) != expected:
        raise RemoteProtocolError(f"timing batch has {len(data)} bytes, its header says {expected}")
    at = _HEADER.size
    columns: dict[str, Array] = {}
    for name, dtype, count in (
        *((name, dtype, n_requests) for name, dtype in REQUEST_COLUMNS),
        ("gap_us", _GAP, n_chunks),
        *((column.name, column.dtype, n_chunks if column.per_chunk else n_requests) for column in optional),
    ):
        columns[name] = np.frombuffer(data, dtype, count, at)
        at += count * dtype.itemsize
    batch = TimingBatch(**columns)
    _check(batch)
    return batch


def _check(batch: TimingBatch) -> None:
    """Refuse columns that no load process can have written."""
    if int(batch.chunks.sum(dtype=np.uint64)) != len(batch.gap_us):
        raise RemoteProtocolError("timing batch: the chunk counts do not add up to the chunks")
    if len(batch) == 0:
        return
    if int(batch.status.max()) > max(RequestStatus) or int(batch.phase.max()) > max(RequestPhase):
        raise RemoteProtocolError("timing batch: unknown status or phase code")
    if int(batch.intended_us.max()) > MAX_INTENDED_US:
        raise RemoteProtocolError("timing batch: an intended start beyond any run")
    sent, first, end = batch.sent_us, batch.first_us, batch.end_us
    answered = first != NONE_US
    if bool(np.any(answered != (batch.chunks > 0))):
        raise RemoteProtocolError("timing batch: first-token times do not match the chunk counts")
    if bool(np.any(answered & ((first < sent) | (first > end) | (sent == NONE_US)))):
        raise RemoteProtocolError("timing batch: a first token lies before its sending or after its end")
    if bool(np.any((batch.status == RequestStatus.OK) & ((end == NONE_US) | (sent > end)))):
        raise RemoteProtocolError("timing batch: a completed request has no end or ends before its sending")
    _check_optional(batch)


def _check_optional(batch: TimingBatch) -> None:
    sent = batch.sent_us
    if batch.chunk_tokens is not None and not bool(np.all(batch.chunk_tokens > 0)):
        raise RemoteProtocolError("timing batch: a token-bearing chunk without tokens")
    if batch.admitted_us is not None and bool(np.any((sent != NONE_US) & (batch.admitted_us > sent))):
        raise RemoteProtocolError("timing batch: a request was sent before it was admitted")
    if batch.merged is not None and not bool(np.all(batch.merged <= 1)):
        raise RemoteProtocolError("timing batch: a chunk is neither merged nor not merged")


def concatenate(batches: Sequence[TimingBatch]) -> TimingBatch:
    """One batch holding all requests of `batches`, in order. An empty sequence gives an empty batch."""
    dtypes = {**dict(REQUEST_COLUMNS), "gap_us": _GAP}
    columns: dict[str, Array | None] = {
        name: np.concatenate([np.empty(0, dtype), *(getattr(batch, name) for batch in batches)])
        for name, dtype in dtypes.items()
    }
    for column in _OPTIONAL:
        if any(getattr(batch, column.name) is not None for batch in batches):
            columns[column.name] = np.concatenate([_filled(batch, column) for batch in batches])
    return TimingBatch(**columns)  # type: ignore[arg-type]  # only optional columns may be None


def _filled(batch: TimingBatch, optional: _Optional) -> Array:
    """An optional column, written out where it was left out."""
    column: Array | None = getattr(batch, optional.name)
    if column is not None:
        return column
    count = len(batch.gap_us) if optional.per_chunk else len(batch)
    return np.full(count, optional.absent, optional.dtype)
