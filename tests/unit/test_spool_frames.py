"""Spool files: frames in order, tails, torn and damaged ones; and the batches that go into them."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import pytest

from scoot.benchmark.answer import CHUNKS_MAX, Answer
from scoot.benchmark.batching import BatchBuilder
from scoot.benchmark.messages import Begun, Ended
from scoot.benchmark.spool import SpoolCorruptError, SpoolReader, SpoolWriter
from scoot.wire import limits
from scoot.wire.columns import NONE_US, RequestPhase, RequestStatus, decode

_HEAD_BYTES = 36


def _payload(requests: int = 1, chunks: int = 0, fill: bytes = b"x") -> bytes:
    return struct.pack("<4I", 0x31424353, requests, chunks, 0) + fill * 20


def test_frames_are_read_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    with SpoolReader(path) as reader, SpoolWriter(path) as writer:
        assert reader.read() == []
        for number in range(5):
            writer.append(_payload(number, number * 2))
        first = reader.read(max_frames=2)
        rest = reader.read()
        assert [frame.seq for frame in first + rest] == [0, 1, 2, 3, 4]
        assert [(frame.n_requests, frame.n_chunks) for frame in rest] == [(2, 4), (3, 6), (4, 8)]
        assert first[1].payload == _payload(1, 2)
        assert len(first[0].sha256) == 32
        assert writer.frames == 5
        assert reader.read() == []
        reader.check_end()


def test_a_tail_is_waited_for_and_torn_at_the_end(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with SpoolWriter(whole) as writer:
        writer.append(_payload())
        writer.append(_payload(fill=b"y"))
    data = whole.read_bytes()
    path = tmp_path / "spool"
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        with SpoolReader(path) as reader:
            frames = reader.read()
            assert len(frames) == end // (len(data) // 2)
            if end % (len(data) // 2):
                with pytest.raises(SpoolCorruptError, match=f"spool: at byte {reader.offset}: .*torn"):
                    reader.check_end()
            path.write_bytes(data)
            assert len(frames + reader.read()) == 2
            reader.check_end()


@pytest.mark.parametrize("at", [0, 3, 10, 36, 60])
def test_damage_is_found_with_file_and_offset(tmp_path: Path, at: int) -> None:
    path = tmp_path / "spool"
    with SpoolWriter(path) as writer:
        writer.append(_payload())
        start = path.stat().st_size
        writer.append(_payload(fill=b"y"))
    data = bytearray(path.read_bytes())
    data[start + at] ^= 0x81
    path.write_bytes(data)
    with SpoolReader(path) as reader:
        assert len(reader.read()) == 1
        if at == 0:  # a length that may still come true: torn in the end
            assert reader.read() == []
            with pytest.raises(SpoolCorruptError) as caught:
                reader.check_end()
        else:
            with pytest.raises(SpoolCorruptError) as caught:
                reader.read()
    assert (caught.value.path, caught.value.offset) == (str(path), start)
    assert f"{path}: at byte {start}" in str(caught.value)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "spool"
    SpoolWriter(path).close()
    with pytest.raises(FileExistsError):
        SpoolWriter(path)


def test_only_batches_are_taken(tmp_path: Path) -> None:
    with SpoolWriter(tmp_path / "spool") as writer:
        for payload in (b"", b"x" * (limits.BATCH_BYTES + 1)):
            with pytest.raises(ValueError, match="not a timing batch"):
                writer.append(payload)


def test_a_full_disk_leaves_whole_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "spool"
    with SpoolWriter(path) as writer:
        writer.append(_payload())
        size = path.stat().st_size
        really = os.write
        calls = iter([10, None])

        def write(fd: int, data: bytes) -> int:
            room = next(calls)
            if room is None:
                raise OSError(errno.ENOSPC, "no space left")
            return really(fd, data[:room])

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", write)
            with pytest.raises(OSError, match="no space left"):
                writer.append(_payload())
        assert path.stat().st_size == size
        writer.append(_payload(fill=b"z"))
    with SpoolReader(path) as reader:
        assert [frame.payload[-1:] for frame in reader.read()] == [b"x", b"z"]
        reader.check_end()


# --- batches ---------------------------------------------------------------------------------------------------------


def _begun(index: int = 0, *, sent_us: int | None = 110, slo_class: int = 0) -> Begun:
    return Begun(index, 100, int(RequestPhase.MEASURED), 5, 3, True, slo_class, 1, sent_us, 100)


def _ended(
    begun: Begun,
    *,
    chunks: int = 0,
    tokens: int = 1,
    merged: bool = False,
    status: RequestStatus = RequestStatus.CANCELLED,
) -> Answer:
    answer = Answer(begun)
    if chunks:
        answer.first_us = 200
        answer.gaps_us.extend([0, *[10] * (chunks - 1)])
        if tokens != 1:
            answer.chunk_tokens.update(dict.fromkeys(range(chunks), tokens))
        if merged:
            answer.merged.update(range(chunks))
    answer.end(Ended(begun.index, 5000, int(status), ""))
    return answer


def test_a_batch_has_what_was_added() -> None:
    builder = BatchBuilder()
    builder.add(_ended(_begun(3), chunks=2), run=1, now_us=0)
    builder.add(_ended(_begun(4, sent_us=None), status=RequestStatus.CONNECT_FAILED), run=1, now_us=0)
    batch = decode(builder.take())
    assert len(builder) == 0
    assert batch.index.tolist() == [3, 4]
    assert batch.sent_us.tolist() == [10, NONE_US]
    assert batch.first_us.tolist() == [100, NONE_US]
    assert batch.end_us.tolist() == [4900, 4900]
    assert batch.gap_us.tolist() == [0, 10]
    assert batch.status.tolist() == [RequestStatus.CANCELLED, RequestStatus.CONNECT_FAILED]
    assert (batch.chunk_tokens, batch.merged, batch.slo_class) == (None, None, None)
    assert (batch.run.tolist(), batch.replica.tolist()) == ([1, 1], [1, 1])


def test_several_tokens_per_chunk_merged_reads_and_classes_are_kept() -> None:
    builder = BatchBuilder()
    builder.add(_ended(_begun(slo_class=2), chunks=2, tokens=4, merged=True), run=0, now_us=0)
    batch = decode(builder.take())
    assert batch.chunk_tokens is not None
    assert batch.chunk_tokens.tolist() == [4, 4]
    assert batch.merged is not None
    assert batch.merged.tolist() == [1, 1]
    assert batch.slo_class is not None
    assert batch.slo_class.tolist() == [2]


def test_a_batch_is_due_by_age_or_size() -> None:
    builder = BatchBuilder()
    assert not builder.due(10**12)
    builder.add(_ended(_begun()), run=0, now_us=500)
    assert not builder.due(500 + 999_999)
    assert builder.due(500 + 1_000_000)
    builder.add(_ended(_begun(), chunks=50_000), run=0, now_us=500)
    assert builder.due(500)


def test_the_longest_requests_fit_when_due_is_heeded() -> None:
    builder = BatchBuilder()
    for index in range(3):
        builder.add(_ended(_begun(index), chunks=CHUNKS_MAX, tokens=2), run=0, now_us=0)
        assert builder.due(0)
        assert len(decode(builder.take())) == 1
    with pytest.raises(ValueError, match="not ended"):
        builder.add(Answer(_begun()), run=0, now_us=0)
