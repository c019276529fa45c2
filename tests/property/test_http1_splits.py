"""However a response is cut into reads, the same status, headers and body come out; only Http1Error is ever raised."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark import http1
from scoot.benchmark.http1 import Http1Error, ResponseParser

_BODY = st.binary(max_size=60)
_CUTS = st.lists(st.integers(min_value=0), max_size=8)
_EOL = st.sampled_from([b"\r\n", b"\n"])


def _chunked(parts: list[bytes], extension: bytes, trailers: bytes) -> bytes:
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts if part)
    return chunks + b"0\r\n" + trailers + b"\r\n"


@st.composite
def _responses(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A response and its body."""
    eol = draw(_EOL)
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue" + eol + eol]))
    head = b"HTTP/1.1 " + draw(st.sampled_from([b"200 OK", b"503 Service Unavailable", b"200"])) + eol
    head += draw(st.sampled_from([b"", b"X-A: 1" + eol + b"x-a:2" + eol, b"Empty:" + eol]))
    kind = draw(st.sampled_from(["sized", "chunked", "close"]))
    parts = draw(st.lists(_BODY, max_size=4))
    body = b"".join(parts)
    if kind == "sized":
        return interim + head + b"Content-Length: %d" % len(body) + eol + eol + body, body
    if kind == "chunked":
        framed = _chunked(parts, draw(st.sampled_from([b"", b";a=b", b" "])), draw(st.sampled_from([b"", b"T: 1\r\n"])))
        return interim + head + b"Transfer-Encoding: chunked" + eol + eol + framed, body
    return interim + head + eol + body, body


def _feed(stream: bytes, cuts: list[int]) -> tuple[ResponseParser, bytes, str]:
    parser = ResponseParser()
    body = b""
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        try:
            body += parser.feed(stream[start:end])
        except Http1Error as error:
            return parser, body + error.body, str(error)
    return parser, body, ""


def _seen(stream: bytes, cuts: list[int]) -> tuple[object, ...]:
    parser, body, error = _feed(stream, cuts)
    if error:
        return (body, "error")
    return (parser.status, dict(parser.headers), body, parser.complete, parser.keep_alive, parser.eof())


@given(response=_responses(), cuts=_CUTS)
@settings(max_examples=300, deadline=None)
def test_any_split_gives_the_same_response(response: tuple[bytes, bytes], cuts: list[int]) -> None:
    stream, body = response
    parser, seen, error = _feed(stream, cuts)
    assert (seen, error) == (body, "")
    assert parser.complete or parser.eof()
    assert _seen(stream, cuts) == _seen(stream, [])


@given(response=_responses(), cut=st.integers(min_value=0), cuts=_CUTS, noise=st.binary(min_size=1, max_size=3))
@settings(max_examples=300, deadline=None)
def test_damaged_responses_are_seen_alike_however_split(
    response: tuple[bytes, bytes], cut: int, cuts: list[int], noise: bytes
) -> None:
    stream, _ = response
    at = cut % (len(stream) + 1)
    damaged = stream[:at] + noise + stream[at + 1 :]
    assert _seen(damaged, cuts) == _seen(damaged, [])


@given(stream=st.binary(max_size=200), cuts=_CUTS)
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_refused_or_waited_for(stream: bytes, cuts: list[int]) -> None:
    parser, body, error = _feed(stream, cuts)
    assert error or not parser.complete
    assert body == b""


def _parsed(stream: bytes) -> ResponseParser:
    parser = ResponseParser()
    parser.feed(stream)
    return parser


@pytest.mark.parametrize(
    ("stream", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nsurplus", False),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nab", True),
    ],
)
def test_keep_alive(stream: bytes, keep_alive: bool) -> None:
    parser = _parsed(stream)
    assert parser.complete
    assert parser.keep_alive is keep_alive


@pytest.mark.parametrize(
    "stream",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/2 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * http1.HEAD_BYTES,
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * http1.HEAD_BYTES),
    ],
)
def test_what_is_not_http_1_1_is_refused(stream: bytes) -> None:
    with pytest.raises(Http1Error):
        _parsed(stream)


def test_a_response_cut_off_is_not_complete() -> None:
    assert not _parsed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").eof()
    assert not _parsed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n").eof()
    assert not _parsed(b"HTTP/1.1 200 OK\r\n").eof()
    assert _parsed(b"HTTP/1.1 200 OK\r\n\r\nab").eof()
