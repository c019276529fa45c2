"""However a stream of events is cut into reads, the same events come out; and nothing but SseError is ever raised."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark import sse
from scoot.benchmark.sse import Event, EventParser, SseError

_EOL = st.sampled_from([b"\n", b"\r\n", b"\r"])
_TEXT = st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"").replace(b"\r", b""))
_LINE = st.one_of(
    st.builds(lambda sep, text: b"data:" + sep + text, st.sampled_from([b"", b" ", b"  "]), _TEXT),
    st.builds(lambda text: b"event: " + text, _TEXT),
    st.builds(lambda text: b"id:" + text, _TEXT),
    st.builds(lambda text: b":" + text, _TEXT),
    st.sampled_from([b"data", b"", b"", b"retry: 3000", b"nonsense"]),
    _TEXT,
)
_STREAM = st.lists(st.tuples(_LINE, _EOL).map(b"".join), max_size=20).map(b"".join)


def _all_at_once(stream: bytes) -> list[Event]:
    return EventParser().feed(stream)


def _in_pieces(stream: bytes, cuts: list[int]) -> list[Event]:
    parser = EventParser()
    events: list[Event] = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += parser.feed(stream[start:end])
    return events


@given(stream=_STREAM, cuts=st.lists(st.integers(min_value=0), max_size=8))
@settings(max_examples=300, deadline=None)
def test_any_split_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert _in_pieces(stream, cuts) == _all_at_once(stream)


@given(stream=_STREAM)
@settings(max_examples=100, deadline=None)
def test_byte_by_byte_gives_the_same_events(stream: bytes) -> None:
    assert _in_pieces(stream, list(range(len(stream)))) == _all_at_once(stream)


@given(events=st.lists(st.lists(_TEXT, min_size=1, max_size=3), max_size=6), eol=_EOL)
@settings(max_examples=100, deadline=None)
def test_what_was_written_is_read(events: list[list[bytes]], eol: bytes) -> None:
    stream = b"".join(b"".join(b"data: " + line + eol for line in lines) + eol for lines in events)
    assert [event.data for event in _all_at_once(stream)] == [b"\n".join(lines) for lines in events]


@given(stream=st.binary(max_size=300), cuts=st.lists(st.integers(min_value=0), max_size=4))
@settings(max_examples=300, deadline=None)
def test_random_bytes_never_raise(stream: bytes, cuts: list[int]) -> None:
    assert all(isinstance(event, Event) for event in _in_pieces(stream, cuts))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\ndata:b\n\n", [Event(b"a"), Event(b"b")]),
        (b"\xef\xbb\xbfdata: a\r\n\r\n", [Event(b"a")]),
        (b": ping\n\n", []),
        (b"event: error\ndata: x\n\ndata: y\n\n", [Event(b"x", b"error"), Event(b"y")]),
        (b"id: 7\ndata: x\n\ndata: y\n\n", [Event(b"x", b"", b"7"), Event(b"y", b"", b"7")]),
        (b"data: cut off\n", []),
        (b"data:  two spaces\n\n", [Event(b" two spaces")]),
        (b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
    ],
)
def test_fields(stream: bytes, expected: list[Event]) -> None:
    assert _all_at_once(stream) == expected


@pytest.mark.parametrize("piece", [4096, 1 << 30])
@pytest.mark.parametrize(
    "long",
    [b"data: " + b"x" * sse.EVENT_BYTES + b"\n\n", b"data: 1234567\n" * (sse.EVENT_BYTES // 7), b"y" * (2 << 20)],
)
def test_an_endless_event_is_refused_and_what_came_before_is_kept(long: bytes, piece: int) -> None:
    stream = b"data: first\n\n" + long
    parser = EventParser()
    events: list[Event] = []

    def feed_all() -> None:
        for start in range(0, len(stream), piece):
            events.extend(parser.feed(stream[start : start + piece]))

    with pytest.raises(SseError) as caught:
        feed_all()
    assert [*events, *caught.value.events] == [Event(b"first")]
