"""Parquet files hold exactly what the spool holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.spool import SpoolCorruptError, SpoolWriter
from scoot.benchmark.standalone import records
from scoot.benchmark.standalone.records import token_columns, write_records
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, TimingBatch, concatenate, decode, encode
from scoot.wire.errors import PermanentInfraError

pq = pytest.importorskip("pyarrow.parquet")


@st.composite
def batches(draw: st.DrawFn) -> TimingBatch:
    """Any finished requests, with and without chunks."""
    n = draw(st.integers(0, 8))
    chunks = np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n)), dtype=np.uint32)
    total = int(chunks.sum())
    times = st.integers(0, 10**6)
    sent = np.array([draw(times) for _ in range(n)], dtype=np.uint32)
    first = np.where(chunks > 0, sent + 5, NONE_US).astype(np.uint32)
    gaps = np.array([draw(times) for _ in range(total)], dtype=np.uint32)
    starts = (np.cumsum(chunks) - chunks)[chunks > 0].astype(np.int64)
    gaps[starts] = 0
    length = np.array(
        [gaps[at : at + count].sum() for at, count in zip(np.cumsum(chunks) - chunks, chunks, strict=True)]
    )
    ok = chunks > 0
    end = np.where(ok, first.astype(np.int64) + length, NONE_US).astype(np.uint32) if n else first
    several = draw(st.booleans())
    return TimingBatch(
        index=np.arange(n, dtype=np.uint32),
        intended_us=np.array([draw(st.integers(0, 10**9)) for _ in range(n)], dtype=np.uint64),
        sent_us=sent,
        first_us=first,
        end_us=end,
        input_tokens=np.full(n, 5, np.uint32),
        output_tokens=chunks,
        wanted_tokens=chunks,
        chunks=chunks,
        run=np.full(n, draw(st.integers(0, 3)), np.uint16),
        http_status=np.full(n, 200, np.uint16),
        replica=np.zeros(n, np.uint16),
        phase=np.full(n, draw(st.sampled_from(RequestPhase)), np.uint8),
        status=np.where(ok, RequestStatus.OK, RequestStatus.RESET).astype(np.uint8),
        gap_us=gaps,
        chunk_tokens=np.full(total, 2, np.uint16) if several else None,
        merged=np.arange(total, dtype=np.uint8) % 2 if several else None,
        slo_class=np.arange(n, dtype=np.uint8) % 3 if several else None,
        admitted_us=sent // 2 if several else None,
    )


def spooled(folder: Path, *parts: TimingBatch) -> Path:
    """A spool with these batches."""
    path = folder / "spool"
    path.unlink(missing_ok=True)
    with SpoolWriter(path) as writer:
        for part in parts:
            writer.append(encode(part))
    return path


def written(folder: Path, *parts: TimingBatch) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    """Both files, as columns."""
    requests, tokens = folder / "requests.parquet", folder / "tokens.parquet"
    write_records(spooled(folder, *parts), requests, tokens)
    return pq.read_table(requests).to_pydict(), pq.read_table(tokens).to_pydict()


@given(st.lists(batches(), max_size=3))
def test_the_files_are_the_spool(tmp_path_factory: pytest.TempPathFactory, parts: list[TimingBatch]) -> None:
    requests, tokens = written(tmp_path_factory.mktemp("records"), *parts)
    whole = concatenate([decode(encode(part)) for part in parts])
    for name in ("index", "intended_us", "input_tokens", "output_tokens", "wanted_tokens", "chunks", "run", "replica"):
        assert requests[name] == getattr(whole, name).tolist()
    for name in ("sent_us", "first_us", "end_us"):
        assert requests[name] == [None if value == NONE_US else value for value in getattr(whole, name).tolist()]
    assert requests["status"] == [RequestStatus(code).name for code in whole.status]
    assert requests["phase"] == [RequestPhase(code).name for code in whole.phase]
    assert requests["slo_class"] == ([0] * len(whole) if whole.slo_class is None else whole.slo_class.tolist())
    assert requests["admitted_us"] == ([0] * len(whole) if whole.admitted_us is None else whole.admitted_us.tolist())

    expected: list[tuple[int, ...]] = []
    at = 0
    for i in range(len(whole)):
        now = int(whole.intended_us[i]) + int(whole.first_us[i])
        for chunk in range(int(whole.chunks[i])):
            gap = int(whole.gap_us[at])
            now += gap if chunk else 0
            brought = 1 if whole.chunk_tokens is None else int(whole.chunk_tokens[at])
            merged = 0 if whole.merged is None else int(whole.merged[at])
            expected.append((int(whole.run[i]), int(whole.index[i]), chunk, now, gap if chunk else 0, brought, merged))
            at += 1
    names = ("run", "index", "chunk", "time_us", "gap_us", "tokens", "merged")
    assert list(zip(*(tokens[name] for name in names), strict=True)) == expected


def one(index: int = 0, **changes: list[int]) -> TimingBatch:
    """One request that was never answered, unless changed."""
    values: dict[str, list[int]] = {"index": [index], "first_us": [NONE_US], "chunks": [0], "gap_us": []}
    empty = concatenate([])
    names = [name for name in TimingBatch.__slots__ if getattr(empty, name) is not None]
    given = {name: [0] for name in names} | values | changes
    types = {name: getattr(empty, name).dtype for name in names} | {"admitted_us": np.dtype("<u4")}
    return TimingBatch(**{name: np.array(value, types[name]) for name, value in given.items()})


def test_who_was_never_admitted_has_no_time_of_it(tmp_path: Path) -> None:
    never = one(0, status=[RequestStatus.DEADLINE], sent_us=[NONE_US], admitted_us=[NONE_US])
    waited = one(1, status=[RequestStatus.RESET], sent_us=[31], admitted_us=[30])
    requests, _ = written(tmp_path, never, waited, one(2, status=[RequestStatus.RESET], sent_us=[1]))
    assert requests["admitted_us"] == [None, 30, 0]
    assert requests["sent_us"] == [None, 31, 1]


def test_a_long_spool_becomes_several_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_GROUP_REQUESTS", 4)
    requests, _ = written(tmp_path, *(one(i, status=[RequestStatus.RESET]) for i in range(130)))
    assert requests["index"] == list(range(130))
    assert pq.ParquetFile(tmp_path / "requests.parquet").num_row_groups == 3


def test_a_first_chunks_gap_does_not_count() -> None:
    """Whatever a writer put there, its time is the request's first token."""
    found = token_columns(one(intended_us=[10], first_us=[5], chunks=[2], gap_us=[99, 7]))
    assert found["gap_us"].tolist() == [0, 7]
    assert found["time_us"].tolist() == [15, 22]


def test_a_damaged_spool_is_told(tmp_path: Path) -> None:
    path = spooled(tmp_path, one(status=[RequestStatus.RESET]))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(SpoolCorruptError):
        write_records(path, tmp_path / "r", tmp_path / "t")


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(PermanentInfraError, match="no records can be written"):
        write_records(spooled(tmp_path), tmp_path / "gone" / "r", tmp_path / "gone" / "t")
