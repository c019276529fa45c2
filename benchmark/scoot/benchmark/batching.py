"""Ended requests gathered into timing batches of a bounded size. Pure; the caller says what time it is."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from scoot.benchmark.exchange import CHUNKS_MAX, Exchange
from scoot.wire import limits
from scoot.wire.columns import REQUEST_COLUMNS, TimingBatch, encode, encoded_bytes

_DTYPES: Final = dict(REQUEST_COLUMNS)
_U32_MAX: Final = 0xFFFF_FFFF

if encoded_bytes(1, CHUNKS_MAX, chunk_tokens=True) + limits.BATCH_TARGET_BYTES > limits.BATCH_BYTES:
    raise AssertionError("the longest request does not fit behind a batch that is about to be closed")


class BatchBuilder:
    """Columns of the batch being built. A batch is closed at BATCH_TARGET_BYTES or BATCH_TARGET_S after its first."""

    def __init__(self) -> None:
        self._columns: dict[str, list[int]] = {}
        self._gaps = array("I")
        self._tokens = array("H")
        self._opened_us = 0
        self._clear()

    def __len__(self) -> int:
        return len(self._columns["index"])

    def add(self, exchange: Exchange, *, run: int, now_us: int) -> None:
        """Add an ended exchange. Never makes a batch longer than BATCH_BYTES if `due` is heeded after every call."""
        if exchange.status is None:
            raise ValueError("the exchange has not ended")
        if not len(self):
            self._opened_us = now_us
        ask = exchange.ask
        values = {
            "index": ask.index,
            "intended_us": ask.intended_us,
            "sent_us": exchange.offset_us(exchange.sent_us),
            "first_us": exchange.offset_us(exchange.first_us),
            "end_us": exchange.offset_us(exchange.end_us),
            "input_tokens": min(_U32_MAX, exchange.input_tokens),
            "output_tokens": exchange.wire_output_tokens(),
            "wanted_tokens": ask.wanted_tokens,
            "chunks": len(exchange.gaps_us),
            "run": run,
            "http_status": exchange.http_status,
            "replica": exchange.replica,
            "phase": ask.phase,
            "status": exchange.status,
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._gaps.extend(exchange.gaps_us)
        self._tokens.extend(exchange.chunk_tokens)

    def due(self, now_us: int) -> bool:
        """Whether the batch is to be taken."""
        if not len(self):
            return False
        size = encoded_bytes(len(self), len(self._gaps), chunk_tokens=True)
        return size >= limits.BATCH_TARGET_BYTES or now_us - self._opened_us >= limits.BATCH_TARGET_S * 1e6

    def take(self) -> bytes:
        """The encoded batch; the builder is empty afterwards."""
        gaps = np.array(self._gaps, dtype="<u4")
        tokens = np.array(self._tokens, dtype="<u2")
        batch = TimingBatch(
            **{name: np.array(values, dtype=_DTYPES[name]) for name, values in self._columns.items()},
            gap_us=gaps,
            chunk_tokens=tokens if bool(np.any(tokens != 1)) else None,
        )
        self._clear()
        return encode(batch)

    def _clear(self) -> None:
        self._columns = {name: [] for name in _DTYPES}
        self._gaps = array("I")
        self._tokens = array("H")
