"""The workload blob: the same rows give the same bytes, and damaged ones are refused."""

from __future__ import annotations

import gzip

import pytest

from scoot.benchmark import workload as module
from scoot.benchmark.profiles import PROFILES, draw
from scoot.benchmark.trace import TraceRow
from scoot.benchmark.workload import from_blob, to_blob
from scoot.wire import limits
from scoot.wire.errors import RemoteProtocolError, UserError

_ROWS = (
    TraceRow(arrived_s=0.25, input_tokens=7, output_tokens=3, blocks=(4, 9), block_tokens=3),
    TraceRow(arrived_s=0.25, prompt="naïve\n“text”", output_tokens=1),
)


@pytest.mark.parametrize("rows", [_ROWS, draw(PROFILES["SQL"], 3000, 1)])
def test_round_trip(rows: tuple[TraceRow, ...]) -> None:
    assert from_blob(to_blob(rows)) == tuple(rows)


def test_bytes_do_not_depend_on_the_moment() -> None:
    blob = to_blob(_ROWS)
    assert blob == to_blob(_ROWS)
    assert blob[4:8] == b"\0\0\0\0"  # gzip's time stamp


def test_every_truncation_is_refused() -> None:
    blob = to_blob(_ROWS)
    for end in range(len(blob)):
        with pytest.raises(RemoteProtocolError):
            from_blob(blob[:end])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"not json\n",
        b'{"output_tokens": 1, "input_tokens": 1}',  # no line end
        b'{"output_tokens": 0, "input_tokens": 1}\n',
        b'{"output_tokens": 1, "input_tokens": 0}\n',
        b'{"output_tokens": 1}\n',
        b'{"output_tokens": 1, "prompt": ""}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "arrived_s": -1}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "arrived_s": 1e300}\n',
        b'{"output_tokens": 1, "prompt": "a", "arrived_s": 2}\n{"output_tokens": 1, "prompt": "b", "arrived_s": 1}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "blocks": [1]}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "block_tokens": 4}\n',
        b'{"output_tokens": 1, "input_tokens": 1, "unknown": 4}\n',
        b'{"output_tokens": 1, "input_tokens": 99999999999}\n',
    ],
)
def test_rows_that_no_trace_can_give(text: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        from_blob(gzip.compress(text))


def test_junk_around_the_rows() -> None:
    blob = to_blob(_ROWS)
    for data in (b"", b"junk", blob + b"x", blob + blob, b"\0" + blob):
        with pytest.raises(RemoteProtocolError):
            from_blob(data)


def test_sizes_are_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    blob = to_blob(_ROWS * 1000)
    monkeypatch.setattr(module, "BLOB_INFLATED_BYTES", 100)
    with pytest.raises(RemoteProtocolError, match="inflates to more"):
        from_blob(blob)
    monkeypatch.undo()
    monkeypatch.setattr(limits, "REQUESTS", 10)
    with pytest.raises(RemoteProtocolError, match="more than 10 rows"):
        from_blob(to_blob(_ROWS * 1000)[:])
    monkeypatch.setattr(limits, "BLOB_BYTES", 50)
    with pytest.raises(RemoteProtocolError, match="over the limit"):
        from_blob(blob)
    with pytest.raises(UserError, match="compressed"):
        to_blob(draw(PROFILES["SQL"], 10, 1))
