"""What the events of a completion say, how tokens are counted, and how an answer ends (sans-IO)."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.completion import Chunk, ChunkKind, TokenCount, parse_chunk
from scoot.benchmark.exchange import Ask, Exchange, token_cap
from scoot.wire.columns import RequestPhase, RequestStatus


def _text(text: str | None = None, *, finish: str | None = None, usage: int | None = None, **more: Any) -> bytes:
    body: dict[str, Any] = {"choices": [{"index": 0, "text": text, "finish_reason": finish, **more}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": usage}
    return json.dumps(body).encode()


def _delta(**delta: Any) -> bytes:
    return json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()


_USAGE_ONLY = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}'


@pytest.mark.parametrize(
    ("data", "tokens"),
    [
        (_text("a"), 1),
        (_text(""), 0),
        (_text(None), 0),
        (_text("abc", token_ids=[1, 2, 3]), 3),
        (_text("", token_ids=[5]), 1),
        (_text("abc", logprobs={"tokens": ["a", "b"]}), 2),
        (_text("", usage=1), 1),
        (_text("four", usage=4), 4),
        (_text("a", usage=0), 1),
        (_delta(role="assistant"), 0),
        (_delta(role="assistant", content=""), 0),
        (_delta(content="a"), 1),
        (_delta(reasoning_content="hm"), 1),
        (_delta(reasoning="hm"), 1),
        (_delta(tool_calls=[{"index": 0}]), 1),
        (_USAGE_ONLY, 0),
        (b'{"choices": [{"text": "a", "future": {"x": [1]}}], "error": null}', 1),
        (b"", 0),
    ],
)
def test_tokens_of_a_chunk(data: bytes, tokens: int) -> None:
    chunk = parse_chunk(data)
    assert chunk.kind is ChunkKind.DELTA
    assert TokenCount().add(chunk) == tokens


@pytest.mark.parametrize(
    ("data", "event", "kind"),
    [
        (b"[DONE]", b"", ChunkKind.DONE),
        (b" [DONE] ", b"", ChunkKind.DONE),
        (b'{"error": {"message": "dead"}}', b"", ChunkKind.ERROR),
        (b'{"error": "dead"}', b"", ChunkKind.ERROR),
        (b'{"object": "error", "message": "dead", "code": 400}', b"", ChunkKind.ERROR),
        (b"whatever", b"error", ChunkKind.ERROR),
        (b"{", b"", ChunkKind.MALFORMED),
        (b"[1]", b"", ChunkKind.MALFORMED),
        (b"{}", b"", ChunkKind.MALFORMED),
        (b'{"choices": 3}', b"", ChunkKind.MALFORMED),
        (b"\xff", b"", ChunkKind.MALFORMED),
        (b'{"x": ' + b"[" * 100_000, b"", ChunkKind.MALFORMED),
    ],
)
def test_kinds(data: bytes, event: bytes, kind: ChunkKind) -> None:
    assert parse_chunk(data, event=event).kind is kind


@given(
    data=st.one_of(
        st.binary(max_size=80),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=3),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["choices", "usage", "error", "text", "delta", "finish_reason", "completion_tokens"]
                    ),
                    inner,
                    max_size=4,
                )
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
@settings(max_examples=300, deadline=None)
def test_anything_is_understood_as_something(data: bytes) -> None:
    chunk = parse_chunk(data)
    assert isinstance(chunk, Chunk)
    assert TokenCount().add(chunk) >= 0


def test_a_rising_count_makes_an_empty_text_a_token_and_the_last_usage_adds_none() -> None:
    count = TokenCount()
    assert [count.add(parse_chunk(_text(text, usage=n))) for text, n in [("a", 1), ("", 2), ("b", 3), ("", 3)]] == [
        1,
        1,
        1,
        0,
    ]
    assert count.add(parse_chunk(_USAGE_ONLY)) == 0
    assert count.total == 9


# --- a whole answer --------------------------------------------------------------------------------------------------

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def _exchange(*, wanted: int = 3, exact: bool = True) -> Exchange:
    ask = Ask(
        index=4,
        intended_us=1000,
        phase=RequestPhase.MEASURED,
        input_tokens=5,
        wanted_tokens=wanted,
        exact=exact,
        body=b"",
    )
    exchange = Exchange(ask, replica=0, deadline_us=9_000_000)
    exchange.sent_us = 1010
    return exchange


def _sse(*payloads: bytes) -> bytes:
    body = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    return b"%x\r\n%b\r\n" % (len(body), body)


def test_a_good_answer() -> None:
    exchange = _exchange()
    for at, data in (
        (2000, _HEAD),
        (3000, _sse(_text("", usage=0))),
        (5000, _sse(_text("a", usage=1))),
        (5700, _sse(_text("b", usage=2))),
        (5900, _sse(_text("c", usage=3, finish="length"), _USAGE_ONLY.replace(b"9", b"3"), b"[DONE]")),
    ):
        exchange.receive(at, data)
        assert not exchange.ended
    exchange.receive(6000, _END)
    assert exchange.status is RequestStatus.OK
    assert (exchange.first_us, exchange.end_us) == (5000, 6000)
    assert list(exchange.gaps_us) == [0, 700, 200]
    assert list(exchange.chunk_tokens) == [1, 1, 1]
    assert (exchange.input_tokens, exchange.output_tokens, exchange.reusable) == (7, 3, True)
    assert exchange.offset_us(exchange.first_us) == 4000


def test_tokens_of_one_read_are_one_chunk() -> None:
    exchange = _exchange()
    exchange.receive(2000, _HEAD + _sse(_text("a")) + _sse(_text("b"), _text("c", finish="length")) + _END)
    assert list(exchange.chunk_tokens) == [3]
    assert list(exchange.gaps_us) == [0]
    assert exchange.status is RequestStatus.OK


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (_sse(_text("a"), b'{"error": {"message": "dead"}}'), RequestStatus.STREAM_ERROR),
        (_sse(_text("a"), b'{"choi'), RequestStatus.MALFORMED),
        (_sse(_text("a")) + b"not a chunk\r\n", RequestStatus.MALFORMED),
        (_sse(_text("a", finish="stop"), b"[DONE]") + _END, RequestStatus.TOO_FEW_TOKENS),
        (_sse(_text("a")) + _END, RequestStatus.CLOSED_EARLY),
        (_sse(*[_text("a")] * (token_cap(3) + 1)), RequestStatus.STREAM_ERROR),
    ],
)
def test_bad_answers_keep_their_partial_timings(data: bytes, status: RequestStatus) -> None:
    exchange = _exchange()
    exchange.receive(2000, _HEAD)
    exchange.receive(3000, data)
    assert exchange.status is status
    assert (exchange.first_us, exchange.end_us, exchange.reusable) == (3000, 3000, status in _WHOLE)
    assert list(exchange.chunk_tokens) == [exchange.output_tokens]


_WHOLE = (RequestStatus.TOO_FEW_TOKENS, RequestStatus.CLOSED_EARLY)


def test_plain_answers_under_200() -> None:
    for body, status in ((b'{"error": "dead"}', RequestStatus.STREAM_ERROR), (_text("a"), RequestStatus.MALFORMED)):
        exchange = _exchange()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        exchange.receive(2000, head + body)
        assert exchange.status is status


def test_http_errors_have_their_status() -> None:
    exchange = _exchange()
    exchange.receive(2000, b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\nno")
    assert (exchange.status, exchange.http_status, exchange.reusable) == (RequestStatus.HTTP_ERROR, 429, True)
    exchange = _exchange()
    exchange.receive(2000, b"HTTP/1.1 500 Oops\r\ncontent-length: 20\r\n\r\nno")
    exchange.closed(2100, reset=False)
    assert exchange.status is RequestStatus.HTTP_ERROR


@pytest.mark.parametrize("reset", [False, True])
def test_ends_of_the_connection(reset: bool) -> None:
    early = _exchange()
    early.receive(2000, _HEAD + _sse(_text("a")))
    early.closed(2500, reset=reset)
    assert early.status is (RequestStatus.RESET if reset else RequestStatus.CLOSED_EARLY)
    assert (early.first_us, early.end_us) == (2000, 2500)
    whole = _exchange()
    whole.receive(2000, _HEAD + _sse(_text("a"), _text("b"), _text("c", finish="length")))
    whole.closed(2500, reset=reset)
    assert (whole.status, whole.end_us) == (RequestStatus.OK, 2000)


def test_deadline_and_cancel_count_once() -> None:
    exchange = _exchange()
    exchange.receive(2000, _HEAD + _sse(_text("a")))
    exchange.expire(3000)
    exchange.fail(4000, RequestStatus.CANCELLED, "later")
    exchange.receive(5000, _sse(_text("b")))
    assert (exchange.status, exchange.end_us, exchange.output_tokens) == (RequestStatus.DEADLINE, 3000, 1)


def test_an_answer_of_free_length_may_be_short() -> None:
    exchange = _exchange(exact=False)
    exchange.receive(2000, _HEAD + _sse(_text("a", finish="stop"), b"[DONE]") + _END)
    assert exchange.status is RequestStatus.OK


@given(cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=6))
@settings(max_examples=100, deadline=None)
def test_any_split_of_an_answer_gives_the_same_tokens(cuts: list[int]) -> None:
    stream = (
        _HEAD
        + b"".join(_sse(_text("x", usage=n + 1)) for n in range(3))
        + _sse(_text("", finish="length"), b"[DONE]")
        + _END
    )
    exchange = _exchange()
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    for at, (start, end) in enumerate(itertools.pairwise(edges)):
        exchange.receive(2000 + at, stream[start:end])
    assert (exchange.status, exchange.output_tokens) == (RequestStatus.OK, 3)
    assert sum(exchange.chunk_tokens) == 3
