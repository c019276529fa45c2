"""What the ground-truth server does wrong when it is asked to: every mode, as a client sees it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tools.loadbench.truth import MODES, Binaries, build, compiler, drive, serve
from truth_wire import BOTH, CHAT, CLOCKS_NS, COMPLETIONS, Wire, fast

pytestmark = [
    pytest.mark.timeout(50),
    pytest.mark.skipif(compiler() is None, reason="needs a C compiler (gcc, cc or clang) on PATH"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: epoll, timerfd, SO_TIMESTAMPNS"),
]


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Binaries:
    return build(tmp_path_factory.mktemp("truth"))


def test_every_mode_is_tested() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    assert [mode for mode in MODES if f'mode="{mode}"' not in tests and f'"{mode}", ' not in tests] == ["plain"]


@BOTH
def test_role(binaries: Binaries, path: str) -> None:
    with serve(binaries, ttft_us=600_000, gap_us=1_000, mode="role") as server, Wire(server.port) as wire:
        wire.ask(path, 4)
        assert wire.silent(after=2, before=2 + 4)  # the head and the role, long before the tokens
        answer = wire.read()
        assert wire.segments >= 2 + 4
    assert answer.texts == ["", *[" tok"] * 4]
    assert ("assistant" in answer.events[0]) is (path == CHAT)
    (record,) = server.records
    assert len(record.send_ns) == 4
    assert record.send_ns[0] >= record.arrival_ns + 600_000_000 - CLOCKS_NS


@BOTH
@pytest.mark.parametrize(("tokens", "at"), [(6, 3), (7, 3), (2, 1), (1, 0)])
def test_empty(binaries: Binaries, path: str, tokens: int, at: int) -> None:
    with fast(binaries, mode="empty") as server, Wire(server.port) as wire:
        answer = wire.stream(path, tokens, stream_options={"include_usage": True, "continuous_usage_stats": True})
    texts = answer.texts
    counts = [json.loads(event)["usage"]["completion_tokens"] for event in answer.events[:-2]]
    if path == CHAT and tokens > 1:
        assert (texts.pop(0), counts.pop(0)) == ("", 0)  # the role
    expected = [*[" tok"] * at, "", *[" tok"] * (tokens - at)]
    if path == CHAT and tokens == 1:
        expected.insert(1, "")
        assert texts == expected
    else:
        assert texts == expected
        assert counts == [*range(1, at + 1), at, *range(at + 1, tokens + 1)]
    assert [len(record.send_ns) for record in server.records] == [tokens]


def test_comments(binaries: Binaries) -> None:
    with fast(binaries, mode="comments") as server, Wire(server.port) as wire:
        answer = wire.stream(COMPLETIONS, 4, stream_options={"include_usage": True})
    body = answer.body.decode()
    assert body.count("\n") == body.count("\r\n") > 0
    lines = body.split("\r\n")
    assert not any(line.startswith("data: ") for line in lines)
    data = [line.removeprefix("data:") for line in lines if line.startswith("data:")]
    assert data[-1] == "[DONE]"
    assert [json.loads(one)["choices"][0]["text"] for one in data[:4]] == [" tok"] * 4
    kinds = {line.partition(":")[0] for line in lines}
    assert kinds == {"", "event", "id", "data"}
    assert len(data) == lines.count("event: message") == lines.count(": keep-alive") == 6


@pytest.mark.parametrize(("tokens", "at"), [(6, 3), (1, 0)])
def test_malformed(binaries: Binaries, tokens: int, at: int) -> None:
    with fast(binaries, mode="malformed") as server, Wire(server.port) as wire:
        events = wire.stream(COMPLETIONS, tokens).events
    with pytest.raises(json.JSONDecodeError):
        json.loads(events.pop(at))
    assert events.pop() == "[DONE]"
    assert [json.loads(event)["choices"][0]["text"] for event in events] == [" tok"] * tokens
    assert [len(record.send_ns) for record in server.records] == [tokens]


@BOTH
@pytest.mark.parametrize(("mode", "end"), [("error200", "complete"), ("rst", "reset"), ("close", "eof")])
@pytest.mark.parametrize(("tokens", "half"), [(8, 4), (7, 3), (1, 1)])
def test_streams_that_end_half_way(binaries: Binaries, path: str, mode: str, end: str, tokens: int, half: int) -> None:
    with fast(binaries, mode=mode) as server, Wire(server.port) as wire:
        answer = wire.stream(path, tokens, stream_options={"include_usage": True})
    assert (answer.status, answer.end) == (200, end)
    events = answer.events
    if mode == "error200":
        assert events.pop() == "[DONE]"
        assert json.loads(events.pop())["error"]["code"] == 500
    assert len(events) == half + (path == CHAT)
    assert "length" not in answer.body.decode()
    (record,) = server.records
    assert (len(record.send_ns), record.done, record.closed_early) == (half, True, False)


@BOTH
@pytest.mark.parametrize(("mode", "status"), [("http429", 429), ("http500", 500)])
def test_refusals(binaries: Binaries, path: str, mode: str, status: int) -> None:
    with fast(binaries, mode=mode) as server, Wire(server.port) as wire:
        answers = [wire.stream(path, 3, request_id="x"), wire.stream(path, 3)]
        wire.send("/health")
        assert wire.read().status == 200
    for answer in answers:
        assert answer.status == answer.json["error"]["code"] == status
        assert answer.headers.get("retry-after") == ("1" if status == 429 else None)
    assert [(r.status, len(r.send_ns), r.done) for r in server.records] == [(status, 0, True)] * 2
    assert server.records[0].request_id == "x"


def test_nodone(binaries: Binaries) -> None:
    with fast(binaries, mode="nodone") as server, Wire(server.port) as wire:
        answers = [wire.stream(COMPLETIONS, 3) for _ in range(2)]
    for answer in answers:
        assert (answer.end, answer.texts) == ("complete", [" tok"] * 3)
        assert "[DONE]" not in answer.body.decode()


def test_coalesce(binaries: Binaries) -> None:
    with fast(binaries, mode="coalesce") as server, Wire(server.port) as wire:
        answer = wire.stream(COMPLETIONS, 10)
        segments = wire.segments
    assert answer.texts == [" tok"] * 10
    assert 1 + 3 <= segments < 1 + 10
    (record,) = server.records
    assert [list(record.send_ns).count(at) for at in dict.fromkeys(record.send_ns)] == [4, 4, 2]
    due = record.arrival_ns + 2_000_000 + 4_000_000 * np.array([0, 1, 2])
    assert (np.unique(record.send_ns) >= due - CLOCKS_NS).all()


@BOTH
def test_split(binaries: Binaries, path: str) -> None:
    with serve(binaries, ttft_us=2_000, gap_us=5_000, mode="split") as server, Wire(server.port) as wire:
        answer = wire.stream(path, 5, stream_options={"include_usage": True, "continuous_usage_stats": True})
        segments = wire.segments
    assert [text for text in answer.texts if text] == [" tok"] * 5
    assert json.loads(answer.events[-2])["usage"]["completion_tokens"] == 5
    assert segments >= 1 + 2 * 5
    (record,) = server.records
    due = record.arrival_ns + 4_000_000 + 5_000_000 * np.arange(5)
    assert (record.send_ns >= due - CLOCKS_NS).all()
    assert (np.diff(record.send_ns) > 2_000_000 - 1).all()


def test_never(binaries: Binaries) -> None:
    with fast(binaries, mode="never") as server:
        with Wire(server.port) as wire:
            wire.ask(COMPLETIONS, 4)
            answer = wire.read(most_chunks=40)
        assert answer.texts == [" tok"] * 40
        assert "length" not in answer.body.decode()
    (record,) = server.records
    assert len(record.send_ns) >= 40
    assert (record.done, record.closed_early) == (False, True)


def test_hang(binaries: Binaries) -> None:
    with fast(binaries, mode="hang") as server, Wire(server.port) as wire:
        wire.ask(COMPLETIONS, 6)
        assert wire.read(most_chunks=3).texts == [" tok"] * 3
        assert wire.silent(after=1 + 3, before=1 + 6)
    (record,) = server.records
    assert (len(record.send_ns), record.done) == (3, False)


def test_slowfirst(binaries: Binaries) -> None:
    with fast(binaries, mode="slowfirst") as server, Wire(server.port) as wire:
        wire.ask(COMPLETIONS, 2)
        assert wire.silent(after=0, before=1)
        assert wire.read().texts == [" tok"] * 2
    (record,) = server.records
    assert record.send_ns[0] >= record.arrival_ns + 2_002_000_000 - CLOCKS_NS


@pytest.mark.parametrize("stream", [True, False])
def test_hangnohead(binaries: Binaries, stream: bool) -> None:
    with fast(binaries, mode="hangnohead") as server, Wire(server.port) as wire, Wire(server.port) as other:
        wire.ask(COMPLETIONS, 2, stream=stream)
        assert wire.silent(after=0, before=1)
        other.send("/health")
        assert other.read().status == 200
    (record,) = server.records
    assert (len(record.send_ns), record.done) == (0, False)


def test_freeze(binaries: Binaries) -> None:
    ttft_ns = 20_000_000
    with serve(binaries, ttft_us=20_000, gap_us=10_000, freeze_at_s=0.1, freeze_s=0.5) as server:
        run = drive(binaries, server.port, requests=80, tokens=8, rate=100)
    assert run.ok == 80
    summary = server.summary
    assert summary is not None
    start, end = summary.frozen_from_ns, summary.frozen_until_ns
    assert end - start >= 500_000_000
    assert start >= server.records[0].arrival_ns + 100_000_000 - CLOCKS_NS
    sent = np.concatenate([record.send_ns for record in server.records])
    assert not ((sent > start) & (sent < end)).any()
    within = [record for record in server.records if start <= record.arrival_ns < end]
    assert len(within) == summary.arrivals_in_freeze > 0
    assert all(record.send_ns[0] >= end + ttft_ns for record in within)
    split = [record for record in server.records if record.send_ns[0] < start < end < record.send_ns[-1]]
    assert split
    for record in split:
        due = record.arrival_ns + ttft_ns + 10_000_000 * np.arange(8) + (end - start)
        assert (record.send_ns >= due - CLOCKS_NS)[record.send_ns > end].all()
