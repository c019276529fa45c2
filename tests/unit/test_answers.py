"""A whole answer, from bytes with stamps to timings and a verdict: the sender's framing and the parser behind it."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.answer import Answer, token_cap
from scoot.benchmark.ask import Ask
from scoot.benchmark.exchange import Exchange
from scoot.benchmark.messages import Begun, Ended
from scoot.wire.columns import RequestPhase, RequestStatus

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"
_USAGE_ONLY = b'{"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 9}}'


def _text(text: str | None = None, *, finish: str | None = None, usage: int | None = None) -> bytes:
    body: dict[str, Any] = {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
    if usage is not None:
        body["usage"] = {"prompt_tokens": 7, "completion_tokens": usage}
    return json.dumps(body).encode()


def _sse(*payloads: bytes) -> bytes:
    body = b"".join(b"data: " + payload + b"\n\n" for payload in payloads)
    return b"%x\r\n%b\r\n" % (len(body), body)


class Pair:
    """Sender and parser of one request, joined as the two processes are."""

    def __init__(self, *, wanted: int = 3, exact: bool = True) -> None:
        ask = Ask(
            index=4,
            intended_us=1000,
            phase=RequestPhase.MEASURED,
            input_tokens=5,
            wanted_tokens=wanted,
            exact=exact,
            body=b"",
        )
        self.exchange = Exchange(ask, deadline_us=9_000_000)
        self.exchange.sent_us = 1010
        self.answer = Answer(Begun.of(ask, 0, 1010, ask.intended_us))

    def receive(self, stamp_us: int, data: bytes) -> None:
        """Bytes from the server."""
        exchange = self.exchange
        if exchange.ended:
            return
        if self.answer.receive(stamp_us, data) or self.answer.parse():
            exchange.end(stamp_us, RequestStatus.STREAM_ERROR)
        if not exchange.goes_on(data):
            exchange.settle(stamp_us)
        self._settle()

    @property
    def chunk_tokens(self) -> list[int]:
        """Tokens of each chunk."""
        return [self.answer.chunk_tokens.get(at, 1) for at in range(len(self.answer.gaps_us))]

    def closed(self, stamp_us: int, *, reset: bool, cut: bool = False) -> None:
        """The connection ended."""
        self.exchange.closed(stamp_us, reset=reset, cut=cut)
        self._settle()

    def end(self, now_us: int, status: RequestStatus) -> None:
        """It ended for a reason outside its answer."""
        self.exchange.end(now_us, status)
        self._settle()

    def _settle(self) -> None:
        exchange = self.exchange
        if exchange.ended and exchange.status is not None and exchange.end_us is not None:
            self.answer.end(Ended(4, exchange.end_us, int(exchange.status), exchange.message))


def test_a_good_answer() -> None:
    pair = Pair()
    for at, data in (
        (2000, _HEAD),
        (3000, _sse(_text("", usage=0))),
        (5000, _sse(_text("a", usage=1))),
        (5700, _sse(_text("b", usage=2))),
        (5900, _sse(_text("c", usage=3, finish="length"), _USAGE_ONLY.replace(b"9", b"3"), b"[DONE]")),
    ):
        pair.receive(at, data)
        assert pair.answer.status is None
    pair.receive(6000, _END)
    answer = pair.answer
    assert answer.status is RequestStatus.OK
    assert (answer.first_us, answer.end_us) == (5000, 6000)
    assert list(answer.gaps_us) == [0, 700, 200]
    assert pair.chunk_tokens == [1, 1, 1]
    assert answer.merged == set(), "usage and [DONE] bring no token"
    assert (answer.input_tokens, answer.output_tokens, pair.exchange.reusable) == (7, 3, True)
    assert answer.offset_us(answer.first_us) == 4000


def test_tokens_of_one_read_are_one_chunk_and_marked() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD + _sse(_text("a")) + _sse(_text("b"), _text("c", finish="length")) + _END)
    assert pair.chunk_tokens == [3]
    assert list(pair.answer.gaps_us) == [0]
    assert pair.answer.merged == {0}
    assert pair.answer.status is RequestStatus.OK


def test_reads_with_one_stamp_are_merged_too() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD)
    for at, text in ((3000, "a"), (4000, "b"), (4000, "c")):
        pair.receive(at, _sse(_text(text)))
    assert list(pair.answer.gaps_us) == [0, 1000]
    assert pair.chunk_tokens == [1, 2]
    assert pair.answer.merged == {1}


def test_several_tokens_of_one_event_are_not_merged() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD)
    pair.receive(3000, _sse(_text("abc", usage=3, finish="length")))
    assert (pair.chunk_tokens, pair.answer.merged) == ([3], set())


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
    pair = Pair()
    pair.receive(2000, _HEAD)
    pair.receive(3000, data)
    assert pair.answer.status is status
    assert (pair.answer.first_us, pair.answer.end_us) == (3000, 3000)
    assert pair.exchange.reusable is (status in _WHOLE)
    assert pair.chunk_tokens == [pair.answer.output_tokens]


_WHOLE = (RequestStatus.TOO_FEW_TOKENS, RequestStatus.CLOSED_EARLY)


def test_plain_answers_under_200() -> None:
    for body, status in ((b'{"error": "dead"}', RequestStatus.STREAM_ERROR), (_text("a"), RequestStatus.MALFORMED)):
        pair = Pair()
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        pair.receive(2000, head + body)
        assert pair.answer.status is status


def test_http_errors_have_their_status_and_the_servers_words() -> None:
    pair = Pair()
    body = b'{"error": {"message": "slow down"}}'
    pair.receive(2000, b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    assert (pair.answer.status, pair.answer.http_status, pair.exchange.reusable) == (
        RequestStatus.HTTP_ERROR,
        429,
        True,
    )
    assert "slow down" in pair.answer.message
    pair = Pair()
    pair.receive(2000, b"HTTP/1.1 500 Oops\r\ncontent-length: 20\r\n\r\nno")
    pair.closed(2100, reset=False)
    assert (pair.answer.status, pair.answer.http_status) == (RequestStatus.HTTP_ERROR, 500)


@pytest.mark.parametrize("reset", [False, True])
def test_ends_of_the_connection(reset: bool) -> None:
    early = Pair()
    early.receive(2000, _HEAD + _sse(_text("a")))
    early.closed(2500, reset=reset)
    assert early.answer.status is (RequestStatus.RESET if reset else RequestStatus.CLOSED_EARLY)
    assert (early.answer.first_us, early.answer.end_us) == (2000, 2500)
    whole = Pair()
    whole.receive(2000, _HEAD + _sse(_text("a"), _text("b"), _text("c", finish="length")))
    whole.closed(2500, reset=reset)
    assert (whole.answer.status, whole.answer.end_us) == (RequestStatus.OK, 2000)


def test_an_answer_never_ends_before_its_last_token() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD)
    pair.answer.receive(3000, _sse(_text("abc", usage=3, finish="length")) + _END)
    pair.end(2999, RequestStatus.OK)  # the sender maps the same stamp by another offset
    assert (pair.answer.first_us, pair.answer.end_us, pair.answer.status) == (3000, 3000, RequestStatus.OK)


def test_a_body_that_ends_with_the_connection_may_have_been_cut_under_tls() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    for cut, status in ((False, RequestStatus.OK), (True, RequestStatus.CLOSED_EARLY)):
        pair = Pair()
        pair.receive(2000, head + b"data: " + _text("abc", usage=3) + b"\n\n")
        pair.closed(2500, reset=False, cut=cut)
        assert pair.answer.status is status


def test_deadline_and_cancel_count_once() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD + _sse(_text("a")))
    pair.end(3000, RequestStatus.DEADLINE)
    pair.end(4000, RequestStatus.CANCELLED)
    pair.receive(5000, _sse(_text("b")))
    assert (pair.answer.status, pair.answer.end_us, pair.answer.output_tokens) == (RequestStatus.DEADLINE, 3000, 1)


def test_a_whole_answer_whose_response_never_ends_is_ok_at_its_last_token() -> None:
    pair = Pair()
    pair.receive(2000, _HEAD + _sse(_text("abc", usage=3, finish="length"), b"[DONE]"))
    pair.end(9000, RequestStatus.DEADLINE)
    assert (pair.answer.status, pair.answer.end_us) == (RequestStatus.OK, 2000)


def test_an_answer_of_free_length_may_be_short() -> None:
    pair = Pair(exact=False)
    pair.receive(2000, _HEAD + _sse(_text("a", finish="stop"), b"[DONE]") + _END)
    assert pair.answer.status is RequestStatus.OK


@given(cuts=st.lists(st.integers(min_value=0, max_value=2000), max_size=6), crlf=st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_split_of_an_answer_gives_the_same_tokens(cuts: list[int], crlf: bool) -> None:
    stream = (
        _HEAD
        + b"".join(_sse(_text("x", usage=n + 1)) for n in range(3))
        + _sse(_text("", finish="length"), b"[DONE]")
        + _END
    )
    if crlf:
        body = b"".join(b"data: " + _text("x", usage=n + 1) + b"\r\n\r\n" for n in range(3)) + b"data: [DONE]\r\n\r\n"
        stream = _HEAD + b"%x\r\n%b\r\n" % (len(body), body) + _END
    pair = Pair()
    edges = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    for at, (start, end) in enumerate(itertools.pairwise(edges)):
        pair.receive(2000 + at, stream[start:end])
    assert (pair.answer.status, pair.answer.output_tokens) == (RequestStatus.OK, 3)
    assert sum(pair.chunk_tokens) == 3


_ODD = (
    _sse(_text("a", finish="length"), b"[DONE]"),
    _sse(_text("x"), _text("y")),
    _sse(_text("x")).replace(b"data: ", b"data:").replace(b"%x" % len(b"data: "), b"0"),
    b"5\r\n: hi\n\r\n",
    _sse(b"{"),
    _sse(b"{} {}"),
    _sse(_text("x")) + _sse(_text("y")),
    _sse(_text("x"))[:-7],
    b"zz\r\n",
    b"+" + _sse(_text("x")),
    _sse(b'{"error": "dead"}'),
    _sse(_text("tok", usage=2)),
)


@given(
    kinds=st.lists(st.one_of(st.just(-1), st.just(-1), st.integers(min_value=0, max_value=len(_ODD) - 1)), max_size=80)
)
@settings(max_examples=300, deadline=None)
def test_many_reads_together_say_what_they_say_one_by_one(kinds: list[int]) -> None:
    reads = [_HEAD + _sse(_text("first")), *(_sse(_text("x")) if kind < 0 else _ODD[kind] for kind in kinds)]
    together, alone = Pair(wanted=1000).answer, Pair(wanted=1000).answer
    for at, data in enumerate(reads):
        together.receive(2000 + at, data)
        alone.receive(2000 + at, data)
        alone.parse()
    for answer in (together, alone):
        answer.end(Ended(4, 9000, int(RequestStatus.CLOSED_EARLY), "closed"))
    for field in ("status", "end_us", "first_us", "last_us", "gaps_us", "chunk_tokens", "merged", "output_tokens"):
        assert getattr(together, field) == getattr(alone, field), field
    assert (together.message == "") == (alone.message == "")
