"""The ground-truth server and the C client: real processes, real sockets. Times are only compared with what is due."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tools.loadbench.truth import Binaries, build, compiler, drive, read_records, serve
from truth_wire import BOTH, CHAT, CLOCKS_NS, COMPLETIONS, Wire, fast

from scoot.wire.errors import PermanentInfraError, UserError

pytestmark = [
    pytest.mark.timeout(50),
    pytest.mark.skipif(compiler() is None, reason="needs a C compiler (gcc, cc or clang) on PATH"),
    pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: epoll, timerfd, SO_TIMESTAMPNS"),
]


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Binaries:
    return build(tmp_path_factory.mktemp("truth"))


@BOTH
def test_tokens_and_usage(binaries: Binaries, path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    with fast(binaries, model="a/b") as server, Wire(server.port) as wire:
        answer = wire.stream(path, 5, stream_options=options)
    assert (answer.status, answer.end) == (200, "complete")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.events[-1] == "[DONE]"
    chat = path == CHAT
    chunks = [json.loads(event) for event in answer.events[:-1]]
    assert {chunk["id"] for chunk in chunks} == {"chatcmpl-0" if chat else "cmpl-0"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk" if chat else "text_completion"}
    assert {chunk["model"] for chunk in chunks} == {"a/b"}
    prompt = chunks[0]["usage"]["prompt_tokens"]
    assert prompt == 3 or chat
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0] * chat + [1, 2, 3, 4, 5, 5]
    assert all(c["usage"]["total_tokens"] == prompt + c["usage"]["completion_tokens"] for c in chunks)
    assert chunks[-1]["choices"] == []
    assert answer.texts == [""] * chat + [" tok"] * 5
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [choice["finish_reason"] for choice in choices] == [None] * (4 + chat) + ["length"]
    if chat:
        assert choices[0]["delta"] == {"role": "assistant", "content": ""}


@BOTH
def test_no_usage_unless_asked(binaries: Binaries, path: str) -> None:
    with fast(binaries) as server, Wire(server.port) as wire:
        plain = wire.stream(path, 3)
        final = wire.stream(path, 3, stream_options={"include_usage": True})
        without = wire.stream(path, 3, stream_options={"continuous_usage_stats": True})
    assert "usage" not in plain.body.decode()
    assert "usage" not in without.body.decode()  # as vLLM
    assert ["usage" in event for event in final.events] == [False] * (3 + (path == CHAT)) + [True, False]


@BOTH
def test_an_answer_that_is_not_streamed(binaries: Binaries, path: str) -> None:
    with fast(binaries) as server, Wire(server.port) as wire:
        wire.ask(path, 4, stream=False)
        answer = wire.read()
    choice = answer.json["choices"][0]
    assert (choice["text"] if path == COMPLETIONS else choice["message"]["content"]) == " tok" * 4
    assert answer.json["usage"]["completion_tokens"] == 4
    assert [len(r.send_ns) for r in server.records] == [4]
    assert server.records[0].send_ns[0] >= server.records[0].arrival_ns + 5_000_000 - CLOCKS_NS
    assert not server.records[0].streamed


def test_other_places(binaries: Binaries) -> None:
    with serve(binaries, model="m1") as server, Wire(server.port) as wire:
        answers = []
        for path, body in (
            ("/health", None),
            ("/v1/models?x=1", None),
            ("/tokenize", {"prompt": "123456789"}),
            ("/v1/completions", {"prompt": "123456789", "max_tokens": 1}),
            ("/tokenize", {"prompt": [7, 8]}),
            ("/nowhere", None),
            ("/health", {}),
            ("/v1/completions", "{not json"),
            ("/v1/completions", "[]"),
        ):
            wire.send(path, body)
            answers.append(wire.read())
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 200, 404, 405, 400, 400]
    assert answers[1].json["data"][0]["id"] == "m1"
    assert answers[2].json["count"] == len(answers[2].json["tokens"]) == 3
    assert answers[3].json["usage"]["prompt_tokens"] == 3
    assert answers[4].json["count"] == 2
    assert answers[7].json["error"]["code"] == 400
    assert len(server.records) == 1


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ('{"prompt":"x"}', 16),
        ('{ "max_tokens" :\t3 }', 3),
        ('\n{"prompt":"\\"max_tokens\\": 9","max_tokens":2}\n', 2),
        ('{"prompt":"\\\\","max_tokens":2}', 2),
        ('{"metadata":{"max_tokens":9},"list":[{"max_tokens":9}],"max_tokens":2}', 2),
        ('{"max_tokens":2,"metadata":{"max_tokens":9}}', 2),
        ('{"max_tokens":null}', 16),
        ('{"max_tokens":null,"max_completion_tokens":4}', 4),
        ('{"max_completion_tokens":4,"max_tokens":9}', 4),
        ('{"max_tokens":0}', 1),
        ('{"stop":"max_tokens","max_tokens":5}', 5),
        ("{}", 16),
    ],
)
def test_what_is_asked(binaries: Binaries, body: str, tokens: int) -> None:
    with serve(binaries, ttft_us=0, gap_us=0) as server, Wire(server.port) as wire:
        wire.send(COMPLETIONS, body)
        assert wire.read().json["usage"]["completion_tokens"] == tokens
        wire.send(COMPLETIONS, body.replace("}", ', "stream" : true}' if ":" in body else '"stream" : true}', 1))
        if body.count("{") == 1:
            assert wire.read().texts == [" tok"] * tokens


_BROKEN = ("", "{", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":"', '{"a":[1}', '{"a":1}x', '{"a" 1}', "{a:1}")


@pytest.mark.parametrize("body", _BROKEN)
def test_broken_bodies_are_refused(binaries: Binaries, body: str) -> None:
    with serve(binaries) as server, Wire(server.port) as wire:
        wire.send(COMPLETIONS, body)
        assert wire.read().status == 400
        wire.send("/health")
        assert wire.read().status == 200


def test_many_requests_on_one_connection_join_by_id(binaries: Binaries) -> None:
    ids = [f'a-{i}-"\\ü' for i in range(10)]
    with fast(binaries) as server, Wire(server.port) as wire:
        answers = [wire.stream(COMPLETIONS, 1 + i, request_id=ids[i]) for i in range(10)]
        wire.stream(COMPLETIONS, 1)
    assert [len(answer.texts) for answer in answers] == [1 + i for i in range(10)]
    latin = [one.encode().decode("latin-1") for one in ids]
    assert [record.request_id for record in server.records] == [*latin, ""]
    assert {record.connection for record in server.records} == {0}
    assert [json.loads(answer.events[0])["id"] for answer in answers] == [f"cmpl-{r.n}" for r in server.records[:-1]]


def test_no_token_is_early_and_all_are_in_order(binaries: Binaries) -> None:
    ttft_us, gap_us, tokens = 8_000, 3_000, 30
    with serve(binaries, ttft_us=ttft_us, gap_us=gap_us) as server, Wire(server.port) as wire:
        wire.stream(COMPLETIONS, tokens)
        segments = wire.segments
    (record,) = server.records
    due = record.arrival_ns + 1_000 * (ttft_us + gap_us * np.arange(tokens))
    assert (record.send_ns >= due - CLOCKS_NS).all()
    assert (np.diff(record.send_ns) > 0).all()
    assert record.late_ns_max >= 0
    assert (record.done, record.closed_early, record.status, record.streamed) == (True, False, 200, True)
    assert 1 + tokens <= segments < 2 * tokens  # the head, and each token alone
    assert server.summary is not None
    assert (server.summary.requests, server.summary.tokens) == (1, tokens)
    assert server.summary.unstamped == 0
    assert server.summary.cpu_s > 0


def test_an_arrival_is_that_of_the_last_segment(binaries: Binaries) -> None:
    with fast(binaries) as server, Wire(server.port) as first, Wire(server.port) as second:
        second.socket.sendall(b"POST /v1/completions HTTP/1.1\r\nContent-Length: 1")
        second.socket.sendall(b'7\r\nExpect: 100-continue\r\n\r\n{"max_tok')
        assert second._file.readline() == b"HTTP/1.1 100 Continue\r\n"
        assert second._file.readline() == b"\r\n"
        first.stream(COMPLETIONS, 3)
        second.socket.sendall(b'ens":12}')
        assert second.read().json["usage"]["completion_tokens"] == 12
    one, two = server.records
    assert two.arrival_ns > one.send_ns[-1] - CLOCKS_NS


def test_requests_one_behind_the_other(binaries: Binaries) -> None:
    with fast(binaries) as server, Wire(server.port) as wire:
        for tokens in (3, 4, 5):
            wire.ask(COMPLETIONS, tokens)
        assert [len(wire.read().texts) for _ in range(3)] == [3, 4, 5]
    starts = [record.send_ns[0] for record in server.records]
    assert all(start >= record.send_ns[-1] for start, record in zip(starts[1:], server.records, strict=False))


def test_a_connection_is_closed_when_asked(binaries: Binaries) -> None:
    with fast(binaries) as server:
        with Wire(server.port) as wire:
            wire.send(COMPLETIONS, {"max_tokens": 2, "stream": True}, more="Connection: close\r\n")
            assert len(wire.read().texts) == 2
            assert wire.read().end == "eof"
        for head in (b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"x" * 70_000):
            with Wire(server.port) as wire:
                wire.socket.sendall(head)
                assert wire.read().status in (400, 411, 431)
                assert wire.read().end in ("eof", "reset")
    assert len(server.records) == 1


def test_a_client_that_leaves_is_seen(binaries: Binaries) -> None:
    with fast(binaries) as server, Wire(server.port) as after:
        with Wire(server.port) as wire:
            wire.ask(COMPLETIONS, 1_000_000)
            assert len(wire.read(most_chunks=3).chunks) == 3
        after.stream(COMPLETIONS, 100)
    left, stayed = server.records
    assert (left.closed_early, left.done) == (True, False)
    assert 3 <= len(left.send_ns) < 1_000_000
    assert (stayed.closed_early, stayed.done) == (False, True)


def test_a_client_that_does_not_read_loses_nothing(binaries: Binaries) -> None:
    tokens = 60_000  # 17 MB: more than the kernel keeps
    with serve(binaries, ttft_us=0, gap_us=0) as server, Wire(server.port) as slow, Wire(server.port) as other:
        slow.ask(COMPLETIONS, tokens, stream_options={"include_usage": True, "continuous_usage_stats": True})
        assert len(other.stream(COMPLETIONS, tokens).texts) == tokens  # in turn with the slow one's
        answer = slow.read()
    assert [json.loads(e)["usage"]["completion_tokens"] for e in answer.events[:-2]] == list(range(1, tokens + 1))
    assert server.summary is not None
    assert server.summary.blocked_sends > 0
    assert [len(record.send_ns) for record in server.records] == [tokens, tokens]


def test_two_hundred_streams_at_a_time(binaries: Binaries) -> None:
    with serve(binaries, ttft_us=100_000, gap_us=2_000) as server, contextlib.ExitStack() as stack:
        wires = [stack.enter_context(Wire(server.port)) for _ in range(200)]
        for i, wire in enumerate(wires):
            wire.ask(COMPLETIONS, 20, request_id=str(i))
        answers = [wire.read() for wire in wires]
    assert {(len(answer.texts), answer.end) for answer in answers} == {(20, "complete")}
    assert sorted(int(record.request_id) for record in server.records) == list(range(200))
    assert all(len(r.send_ns) == 20 and (np.diff(r.send_ns) > 0).all() and r.done for r in server.records)


def test_too_many_connections_are_refused(binaries: Binaries) -> None:
    with serve(binaries, max_connections=2) as server:
        with Wire(server.port) as one, Wire(server.port) as two, Wire(server.port) as three:
            assert three.read().end in ("eof", "reset")
            for wire in (one, two):
                wire.send("/health")
                assert wire.read().status == 200
        with Wire(server.port) as four:
            four.send("/health")
            assert four.read().status == 200
    assert server.summary is not None
    assert (server.summary.refused, server.summary.connections) == (1, 3)


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


@pytest.mark.skipif(not has_ipv6(), reason="needs IPv6 on loopback")
def test_ipv6(binaries: Binaries) -> None:
    with fast(binaries, host="::1") as server:
        with Wire(server.port, "::1") as wire:
            assert len(wire.stream(COMPLETIONS, 2).texts) == 2
        assert drive(binaries, server.port, requests=2, tokens=3, rate=100, host="::1").ok == 2


# --- the client, and both together


@pytest.mark.parametrize("usage", [False, True])
def test_client_and_server_agree(binaries: Binaries, usage: bool) -> None:
    with serve(binaries, ttft_us=5_000, gap_us=2_000) as server:
        run = drive(binaries, server.port, requests=100, tokens=10, rate=500, usage=usage, connections=5)
    assert (run.requests, run.ok, run.tokens) == (100, 100, 1_000)
    seen = {record.request_id: record for record in server.records}
    assert len(seen) == len(server.records) == 100
    intended = np.array([call.intended_ns for call in run.calls])
    assert (np.abs(np.diff(intended) - 2_000_000) <= 1).all()
    for call in run.calls:
        record = seen[call.request_id]
        assert call.sent_ns >= call.intended_ns
        assert record.arrival_ns > call.sent_ns - CLOCKS_NS
        assert call.first_ns > record.send_ns[0] - CLOCKS_NS
        assert call.last_ns > record.send_ns[-1] - CLOCKS_NS
        assert call.tokens == len(record.send_ns) == 1 + len(call.gaps_ns) + call.merged
        assert call.gaps_ns.sum() == call.last_ns - call.first_ns
    assert run.merged == sum(call.merged for call in run.calls)


def test_closed_loop(binaries: Binaries) -> None:
    with serve(binaries, ttft_us=500, gap_us=200) as server:
        run = drive(binaries, server.port, requests=2_000, tokens=4, closed=16)
    assert (run.requests, run.ok, run.opened_late) == (2_000, 2_000, 0)
    assert server.summary is not None
    assert server.summary.connections == 16
    assert server.summary.most_streams == 16
    assert [record.n for record in server.records] == list(range(2_000))
    assert {record.request_id for record in server.records} == {call.request_id for call in run.calls}


@pytest.mark.parametrize("mode", ["close", "rst", "http500", "hang"])
def test_the_client_is_not_fooled(binaries: Binaries, mode: str) -> None:
    with fast(binaries, mode=mode) as server:
        run = drive(binaries, server.port, requests=5, tokens=4, rate=100, idle_s=0.3)
    assert (run.requests, run.ok) == (5, 0)
    assert {call.status for call in run.calls} == {500 if mode == "http500" else 200}
    assert {call.tokens for call in run.calls} == {0 if mode == "http500" else 2}


def test_one_loop_is_chosen(binaries: Binaries) -> None:
    with pytest.raises(UserError, match="one of rate and closed"):
        drive(binaries, 1, requests=1, tokens=1)
    with pytest.raises(UserError, match="one of rate and closed"):
        drive(binaries, 1, requests=1, tokens=1, rate=1.0, closed=1)
    with pytest.raises(UserError, match="--requests: a whole number"):
        drive(binaries, 1, requests=0, tokens=1, rate=1.0)


# --- starting and stopping


def test_options_are_checked(binaries: Binaries) -> None:
    with (
        pytest.raises(UserError, match="--mode nonsense: there is none of that name"),
        serve(binaries, mode="nonsense"),
    ):
        pass
    with pytest.raises(UserError, match="belong together"), serve(binaries, freeze_at_s=1.0):
        pass
    with serve(binaries) as server, pytest.raises(UserError, match="cannot listen"), serve(binaries, port=server.port):
        pass


def test_a_server_ends_with_its_parent(binaries: Binaries) -> None:
    with serve(binaries) as server:
        process = server._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0


def test_the_dump_is_kept_where_asked(binaries: Binaries, tmp_path: Path) -> None:
    path = tmp_path / "dump.jsonl"
    with fast(binaries, dump=path) as server, Wire(server.port) as wire:
        wire.stream(COMPLETIONS, 2)
    records, summary = read_records(path)
    assert [record.arrival_ns for record in records] == [record.arrival_ns for record in server.records]
    assert summary == server.summary
    lines = path.read_text().splitlines()
    for kept in ([], lines[:1], lines[1:]):
        path.write_text("\n".join(kept))
        with pytest.raises(PermanentInfraError, match="the dump"):
            read_records(path)


def test_a_dead_server_is_reported(binaries: Binaries) -> None:
    server = serve(binaries)
    server.__enter__()
    assert server._process is not None
    server._process.kill()
    server._process.wait()
    with pytest.raises(PermanentInfraError, match="ended with -9"):
        server.__exit__(None, None, None)


def test_an_error_inside_is_not_hidden(binaries: Binaries) -> None:
    with pytest.raises(KeyError, match="mine"), serve(binaries):
        raise KeyError("mine")


def compilers(*found: str) -> Any:
    return lambda name: name if name in found else None


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", compilers())
    with pytest.raises(UserError, match="no C compiler"):
        build(tmp_path)


def test_a_compiler_that_refuses(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"truth_server\.c"):
        build(tmp_path, flags=["-DEPOLLIN=nonsense("])


def chunked(text: str, size: int) -> Iterator[str]:
    for i in range(0, len(text), size):
        yield text[i : i + size]


def test_a_request_in_small_pieces(binaries: Binaries) -> None:
    body = json.dumps({"prompt": 'é"\\' * 10, "max_tokens": 3, "stream": True})
    text = f"POST {COMPLETIONS} HTTP/1.1\r\nContent-Length: {len(body)}\r\nX-Request-Id: p\r\n\r\n{body}"
    with fast(binaries) as server, Wire(server.port) as wire:
        wire.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in chunked(text, 3):
            wire.socket.sendall(piece.encode())
        assert wire.read().texts == [" tok"] * 3
    assert [record.request_id for record in server.records] == ["p"]


def test_a_long_prompt(binaries: Binaries) -> None:
    with fast(binaries) as server, Wire(server.port) as wire:
        wire.send(COMPLETIONS, {"prompt": list(range(200_000)), "max_tokens": 2})
        assert wire.read().json["usage"] == {"prompt_tokens": 200_000, "total_tokens": 200_002, "completion_tokens": 2}
