"""The columnar codec: round trip, and every truncation and contradiction refused."""

from __future__ import annotations

import dataclasses
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.wire import limits
from scoot.wire.columns import (
    MAX_INTENDED_US,
    MAX_US,
    NONE_US,
    REQUEST_COLUMNS,
    RequestPhase,
    RequestStatus,
    TimingBatch,
    concatenate,
    decode,
    encode,
    encoded_bytes,
)
from scoot.wire.errors import RemoteProtocolError

_OPTIONAL: dict[str, Any] = {"chunk_tokens": "<u2", "merged": "u1", "slo_class": "u1", "admitted_us": "<u4"}
_DTYPES: dict[str, Any] = {**dict(REQUEST_COLUMNS), "gap_us": "<u4", **_OPTIONAL}


@st.composite
def _batches(draw: st.DrawFn) -> TimingBatch:
    n = draw(st.integers(0, 8))
    columns: dict[str, list[int]] = {name: [] for name, _ in REQUEST_COLUMNS}
    columns["gap_us"] = []
    optional: dict[str, list[int]] = {name: [] for name in _OPTIONAL}
    for _ in range(n):
        status = draw(st.sampled_from(list(RequestStatus)))
        was_sent = status is RequestStatus.OK or draw(st.booleans())
        chunks = draw(st.integers(0, 4)) if was_sent else 0
        sent, first, end = sorted(draw(st.tuples(*[st.integers(0, MAX_US)] * 3)))
        ended = was_sent and (status is RequestStatus.OK or chunks > 0 or draw(st.booleans()))
        row = {
            "index": draw(st.integers(0, 2**32 - 1)),
            "intended_us": draw(st.integers(0, MAX_INTENDED_US)),
            "sent_us": sent if was_sent else NONE_US,
            "first_us": first if chunks else NONE_US,
            "end_us": end if ended else NONE_US,
            "input_tokens": draw(st.integers(0, 2**32 - 1)),
            "output_tokens": draw(st.integers(0, 2**32 - 1)),
            "wanted_tokens": draw(st.integers(0, 2**32 - 1)),
            "chunks": chunks,
            "run": draw(st.integers(0, 2**16 - 1)),
            "http_status": draw(st.integers(0, 999)),
            "replica": draw(st.integers(0, 2**16 - 1)),
            "phase": draw(st.sampled_from(list(RequestPhase))),
            "status": status,
        }
        for name, value in row.items():
            columns[name].append(value)
        columns["gap_us"] += draw(st.lists(st.integers(0, NONE_US), min_size=chunks, max_size=chunks))
        optional["chunk_tokens"] += draw(st.lists(st.integers(1, 2**16 - 1), min_size=chunks, max_size=chunks))
        optional["merged"] += draw(st.lists(st.integers(0, 1), min_size=chunks, max_size=chunks))
        optional["slo_class"].append(draw(st.integers(0, 255)))
        optional["admitted_us"].append(draw(st.integers(0, sent)) if was_sent else draw(st.integers(0, NONE_US)))
    arrays: dict[str, Any] = {name: np.array(values, _DTYPES[name]) for name, values in columns.items()}
    for name, values in optional.items():
        arrays[name] = np.array(values, _OPTIONAL[name]) if draw(st.booleans()) else None
    return TimingBatch(**arrays)


def _same(a: TimingBatch, b: TimingBatch) -> bool:
    def equal(name: str) -> bool:
        x, y = getattr(a, name), getattr(b, name)
        return (x is None) is (y is None) and (x is None or (np.array_equal(x, y) and x.dtype == y.dtype))

    return all(equal(field.name) for field in dataclasses.fields(TimingBatch))


@settings(deadline=None)
@given(batch=_batches())
def test_round_trip_and_size(batch: TimingBatch) -> None:
    data = encode(batch)
    decoded = decode(data)
    assert _same(decoded, batch)
    assert len(decoded) == len(batch)
    present = {name: getattr(batch, name) is not None for name in _OPTIONAL}
    assert len(data) == encoded_bytes(len(batch), len(batch.gap_us), **present)
    assert encode(decode(memoryview(data))) == data


@settings(deadline=None)
@given(batch=_batches())
def test_without_the_later_columns_the_bytes_are_those_of_the_first_release(batch: TimingBatch) -> None:
    plain = dataclasses.replace(batch, merged=None, slo_class=None, admitted_us=None)
    flags = int(plain.chunk_tokens is not None)
    first_release = struct.pack("<4I", 0x31424353, len(plain), len(plain.gap_us), flags)
    for name, letter in zip(
        (
            *("index", "intended_us", "sent_us", "first_us", "end_us", "input_tokens", "output_tokens"),
            *("wanted_tokens", "chunks", "run", "http_status", "replica", "phase", "status", "gap_us"),
        ),
        "IQIIIIIIIHHHBBI",
        strict=True,
    ):
        values = getattr(plain, name).tolist()
        first_release += struct.pack(f"<{len(values)}{letter}", *values)
    if plain.chunk_tokens is not None:
        first_release += struct.pack(f"<{len(plain.chunk_tokens)}H", *plain.chunk_tokens.tolist())
    assert encode(plain) == first_release
    assert _same(decode(first_release), plain)
    assert len(first_release) == encoded_bytes(len(plain), len(plain.gap_us), chunk_tokens=bool(flags))


@settings(deadline=None)
@given(batch=_batches())
def test_every_truncation_and_any_addition_is_refused(batch: TimingBatch) -> None:
    data = encode(batch)
    for end in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            decode(data[:end])
    with pytest.raises(RemoteProtocolError):
        decode(data + b"\0")


@settings(deadline=None)
@given(batches=st.lists(_batches(), max_size=4))
def test_concatenation_keeps_every_request_in_order(batches: list[TimingBatch]) -> None:
    whole = concatenate(batches)
    for name, _ in REQUEST_COLUMNS:
        assert getattr(whole, name).tolist() == [value for batch in batches for value in getattr(batch, name).tolist()]
    assert len(whole.gap_us) == sum(len(batch.gap_us) for batch in batches)
    for name, absent in (("chunk_tokens", 1), ("merged", 0), ("slo_class", 0), ("admitted_us", 0)):
        columns = [getattr(batch, name) for batch in batches]
        if all(column is None for column in columns):
            assert getattr(whole, name) is None
            continue
        expected: list[int] = []
        for batch, column in zip(batches, columns, strict=True):
            count = len(batch) if name in ("slo_class", "admitted_us") else len(batch.gap_us)
            expected += [absent] * count if column is None else column.tolist()
        assert getattr(whole, name).tolist() == expected
    if len(encode(whole)) <= limits.BATCH_BYTES:
        assert _same(decode(encode(whole)), whole)


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_junk_is_refused_and_nothing_else_is_raised(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@settings(deadline=None)
@given(batch=_batches(), data=st.data())
def test_a_flipped_byte_is_refused_or_decodes_to_a_batch(batch: TimingBatch, data: st.DataObject) -> None:
    raw = bytearray(encode(batch))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(raw))
    except RemoteProtocolError:
        return
    assert len(encode(decoded)) == len(raw)


def _good(**changes: Any) -> TimingBatch:
    """Two requests: one completed with chunks of 1 and 2 tokens, one never sent; with columns replaced."""
    values: dict[str, list[int]] = {
        "index": [0, 1],
        "intended_us": [10, 20],
        "sent_us": [5, NONE_US],
        "first_us": [100, NONE_US],
        "end_us": [300, NONE_US],
        "input_tokens": [7, 7],
        "output_tokens": [3, 0],
        "wanted_tokens": [3, 3],
        "chunks": [2, 0],
        "run": [0, 0],
        "http_status": [200, 0],
        "replica": [0, 0],
        "phase": [RequestPhase.MEASURED, RequestPhase.WARM_UP],
        "status": [RequestStatus.OK, RequestStatus.NOT_SENT],
        "gap_us": [0, 150],
        "chunk_tokens": [1, 2],
        **changes,
    }
    return TimingBatch(**{name: np.array(value, _DTYPES[name]) for name, value in values.items()})


def test_the_good_one_is_good() -> None:
    assert _same(decode(encode(_good())), _good())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chunks": [1, 0]}, "do not add up"),
        ({"chunks": [3, 0]}, "do not add up"),
        ({"chunks": [2**32 - 1, 3]}, "do not add up"),
        ({"chunks": [1, 1]}, "do not match the chunk counts"),
        ({"first_us": [NONE_US, NONE_US]}, "do not match the chunk counts"),
        ({"first_us": [100, 100]}, "do not match the chunk counts"),
        ({"first_us": [4, NONE_US]}, "before its sending"),
        ({"first_us": [301, NONE_US]}, "after its end"),
        ({"sent_us": [NONE_US, NONE_US]}, "before its sending"),
        ({"end_us": [NONE_US, NONE_US]}, "no end"),
        (
            {"chunks": [0, 0], "first_us": [NONE_US] * 2, "sent_us": [400, NONE_US], "gap_us": [], "chunk_tokens": []},
            "ends before its sending",
        ),
        ({"status": [len(RequestStatus), 9]}, "unknown status"),
        ({"status": [0, 255]}, "unknown status"),
        ({"phase": [len(RequestPhase), 0]}, "unknown status or phase"),
        ({"merged": [0, 2]}, "neither merged nor not"),
        ({"admitted_us": [6, 0]}, "before it was admitted"),
        ({"admitted_us": [NONE_US, NONE_US]}, "before it was admitted"),
        ({"chunk_tokens": [0, 3]}, "without tokens"),
        ({"intended_us": [MAX_INTENDED_US + 1, 0]}, "beyond any run"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, list[int]], words: str) -> None:
    with pytest.raises(RemoteProtocolError, match=words):
        decode(encode(_good(**changes)))


def test_magic_flags_and_counts_of_the_header() -> None:
    data = encode(_good())
    magic, n, m, flags = struct.unpack_from("<4I", data)
    for head in (
        (magic + 1, n, m, flags),
        (magic, n, m, flags | 2),
        (magic, n, m, flags | 4),
        (magic, n, m, flags | 8),
        (magic, n, m, flags | 2**31),
        (magic, n, m, 0),
        (magic, n + 1, m, flags),
        (magic, n, m + 1, flags),
        (magic, 2**32 - 1, 2**32 - 1, flags),
    ):
        with pytest.raises(RemoteProtocolError):
            decode(struct.pack("<4I", *head) + data[16:])


def test_a_flag_of_no_column_is_refused_even_where_the_size_fits() -> None:
    magic, n, m, flags = struct.unpack_from("<4I", encode(_good(merged=[0, 1])))
    assert flags == 3
    for unknown in (16, 32, 2**31):
        with pytest.raises(RemoteProtocolError, match="unknown flags"):
            decode(struct.pack("<4I", magic, n, m, flags | unknown) + encode(_good(merged=[0, 1]))[16:])


def test_the_cool_down_is_a_phase_and_columns_survive_together() -> None:
    batch = _good(phase=[RequestPhase.COOL_DOWN, RequestPhase.MEASURED], merged=[0, 1], slo_class=[3, 0])
    decoded = decode(encode(batch))
    assert decoded.phase.tolist() == [2, 1]
    assert decoded.merged is not None
    assert decoded.slo_class is not None
    assert (decoded.merged.tolist(), decoded.slo_class.tolist()) == ([0, 1], [3, 0])


def test_size_is_checked_first() -> None:
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        decode(bytes(limits.BATCH_BYTES + 1))


def test_decoded_columns_are_views_that_cannot_be_written() -> None:
    decoded = decode(encode(_good()))
    with pytest.raises(ValueError, match="read-only"):
        decoded.gap_us[0] = 1
