"""A spool as two Parquet files: a row per request, a row per chunk of tokens. IO; needs pyarrow."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.spool import SpoolReader
from scoot.wire.columns import NONE_US, REQUEST_COLUMNS, RequestPhase, RequestStatus, TimingBatch, concatenate, decode
from scoot.wire.errors import PermanentInfraError

REMEDY: Final = "pip install 'scoot-tuner[records]'"

_NULLABLE: Final = frozenset({"sent_us", "first_us", "end_us"})
_NAMED: Final = {"phase": RequestPhase, "status": RequestStatus}
_GROUP_CHUNKS: Final = 1 << 20
_GROUP_REQUESTS: Final = 1 << 17
"""Rows of a row group, about: what is in memory at once."""


def available() -> bool:
    """Whether pyarrow is installed. Does not load it."""
    return find_spec("pyarrow") is not None


def write_records(spool: Path, requests: Path, tokens: Path) -> None:
    """Write both files; those that are there are replaced. Loads pyarrow.

    requests: the columns of a TimingBatch per request; times that never were are null, phase and status are names.
    tokens: see `token_columns`.

    Raises:
        PermanentInfraError: they cannot be written.
        SpoolCorruptError: the spool is damaged.
        RemoteProtocolError: a batch in it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    def write(writer: Any, columns: dict[str, Any]) -> None:  # noqa: ANN401 - pyarrow has no types
        writer.write_table(pa.table(columns, schema=writer.schema))

    empty = concatenate([])
    try:
        with (
            pq.ParquetWriter(requests, pa.table(request_columns(empty)).schema, compression="zstd") as of_requests,
            pq.ParquetWriter(tokens, pa.table(token_columns(empty)).schema, compression="zstd") as of_tokens,
        ):
            for batch in _groups(spool):
                write(of_requests, request_columns(batch))
                write(of_tokens, token_columns(batch))
    except OSError as error:
        raise PermanentInfraError(f"{requests.parent}: no records can be written: {error.strerror or error}") from error


def _groups(spool: Path) -> Iterator[TimingBatch]:
    """A spool's batches, some of them joined."""
    pending: list[TimingBatch] = []
    with SpoolReader(spool) as reader:
        while frames := reader.read():
            pending += [decode(frame.payload) for frame in frames]
            chunks = sum(len(batch.gap_us) for batch in pending)
            if chunks >= _GROUP_CHUNKS or sum(map(len, pending)) >= _GROUP_REQUESTS:
                yield concatenate(pending)
                pending = []
        reader.check_end()
    if pending:
        yield concatenate(pending)


def request_columns(batch: TimingBatch) -> dict[str, Any]:
    """Name -> Arrow array, one value per request; columns that a batch leaves out are written out. Loads pyarrow."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for name, _ in REQUEST_COLUMNS:
        values = getattr(batch, name)
        if name in _NULLABLE:
            columns[name] = pa.array(values, mask=values == NONE_US)
        elif name in _NAMED:
            names = pa.array([member.name for member in _NAMED[name]])
            columns[name] = pa.DictionaryArray.from_arrays(pa.array(values.astype(np.int8)), names)
        else:
            columns[name] = pa.array(values)
    slo_class = np.zeros(len(batch), np.uint8) if batch.slo_class is None else batch.slo_class
    admitted = np.zeros(len(batch), np.uint32) if batch.admitted_us is None else batch.admitted_us
    return columns | {"slo_class": pa.array(slo_class), "admitted_us": pa.array(admitted, mask=admitted == NONE_US)}


def token_columns(batch: TimingBatch) -> dict[str, npt.NDArray[Any]]:
    """One value per token-bearing chunk, in the order of the requests and of their arrival.

    run, index: the request's.
    chunk: u32, position within the request, from 0.
    time_us: u64, since the start of the run.
    gap_us: u32, since the chunk before; 0 for the first of a request.
    tokens: u16, tokens it brought.
    merged: bool, read together with others, so that its gap is not one between tokens.
    """
    counts = batch.chunks.astype(np.int64)
    total = len(batch.gap_us)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    # Whatever is written as the gap of a first chunk, its time is the request's first token.
    gaps = batch.gap_us.astype(np.int64)
    gaps[starts[starts == np.arange(total)]] = 0
    elapsed = np.cumsum(gaps)
    since_first = elapsed - elapsed[starts] if total else elapsed
    first = batch.intended_us.astype(np.int64) + np.where(batch.chunks > 0, batch.first_us, 0).astype(np.int64)
    return {
        "run": np.repeat(batch.run, counts),
        "index": np.repeat(batch.index, counts),
        "chunk": (np.arange(total) - starts).astype(np.uint32),
        "time_us": (np.repeat(first, counts) + since_first).astype(np.uint64),
        "gap_us": gaps.astype(np.uint32),
        "tokens": np.ones(total, np.uint16) if batch.chunk_tokens is None else batch.chunk_tokens,
        "merged": np.zeros(total, np.bool_) if batch.merged is None else batch.merged > 0,
    }
