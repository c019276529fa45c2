"""Ended answers gathered into timing batches of a bounded size. Pure; the caller says what time it is."""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from scoot.benchmark.answer import CHUNKS_MAX, Answer
from scoot.wire import limits
from scoot.wire.columns import REQUEST_COLUMNS, TimingBatch, encode, encoded_bytes

_DTYPES: Final = dict(REQUEST_COLUMNS)
_U32_MAX: Final = 0xFFFF_FFFF

_LONGEST: Final = encoded_bytes(1, CHUNKS_MAX, chunk_tokens=True, merged=True, slo_class=True, admitted_us=True)
if _LONGEST + limits.BATCH_TARGET_BYTES > limits.BATCH_BYTES:
    raise AssertionError("the longest request does not fit behind a batch that is about to be closed")


class BatchBuilder:
    """Columns of the batch being built. A batch is closed at BATCH_TARGET_BYTES or BATCH_TARGET_S after its first."""

    def __init__(self) -> None:
        self._columns: dict[str, list[int]] = {}
        self._classes: list[int] = []
        self._admitted: list[int] = []
        self._gaps = array("I")
        self._tokens: dict[int, int] = {}
        self._merged: list[int] = []
        self._opened_us = 0
        self._clear()

    def __len__(self) -> int:
        return len(self._columns["index"])

    def add(self, answer: Answer, *, run: int, now_us: int) -> None:
        """Add an ended answer. Never makes a batch longer than BATCH_BYTES if `due` is heeded after every call."""
        if answer.status is None:
            raise ValueError("the answer has not ended")
        if not len(self):
            self._opened_us = now_us
        begun = answer.begun
        values = {
            "index": begun.index,
            "intended_us": begun.intended_us,
            "sent_us": answer.offset_us(begun.sent_us),
            "first_us": answer.offset_us(answer.first_us),
            "end_us": answer.offset_us(answer.end_us),
            "input_tokens": min(_U32_MAX, answer.input_tokens),
            "output_tokens": answer.wire_output_tokens(),
            "wanted_tokens": begun.wanted_tokens,
            "chunks": len(answer.gaps_us),
            "run": run,
            "http_status": answer.http_status,
            "replica": begun.replica,
            "phase": begun.phase,
            "status": answer.status,
        }
        for name, value in values.items():
            self._columns[name].append(value)
        self._classes.append(begun.slo_class)
        self._admitted.append(answer.offset_us(begun.admitted_us))
        base = len(self._gaps)
        self._gaps.extend(answer.gaps_us)
        self._tokens.update((base + at, tokens) for at, tokens in answer.chunk_tokens.items())
        self._merged.extend(base + at for at in answer.merged)

    def due(self, now_us: int) -> bool:
        """Whether the batch is to be taken."""
        if not len(self):
            return False
        size = encoded_bytes(
            len(self), len(self._gaps), chunk_tokens=True, merged=True, slo_class=True, admitted_us=True
        )
        return size >= limits.BATCH_TARGET_BYTES or now_us - self._opened_us >= limits.BATCH_TARGET_S * 1e6

    def take(self) -> bytes:
        """The encoded batch; the builder is empty afterwards."""
        gaps = np.array(self._gaps, dtype="<u4")
        tokens = np.ones(len(gaps), dtype="<u2")
        tokens[list(self._tokens)] = list(self._tokens.values())
        merged = np.zeros(len(gaps), dtype="u1")
        merged[self._merged] = 1
        classes = np.array(self._classes, dtype="u1")
        admitted = np.array(self._admitted, dtype="<u4")
        batch = TimingBatch(
            **{name: np.array(values, dtype=_DTYPES[name]) for name, values in self._columns.items()},
            gap_us=gaps,
            chunk_tokens=tokens if self._tokens else None,
            merged=merged if self._merged else None,
            slo_class=classes if bool(np.any(classes)) else None,
            admitted_us=admitted if bool(np.any(admitted)) else None,
        )
        self._clear()
        return encode(batch)

    def _clear(self) -> None:
        self._columns = {name: [] for name in _DTYPES}
        self._classes = []
        self._admitted = []
        self._gaps = array("I")
        self._tokens = {}
        self._merged = []
