"""Feeds step by step: when a turn is due, what a failure does, what is made ahead, what is let go."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Iterator

import pytest

from scoot.benchmark.ask import Ask
from scoot.benchmark.feed import FAILED_PAUSE_US, ClosedFeed, OpenFeed, SessionFeed
from scoot.benchmark.schedule import WHEN_FREE, Windows
from scoot.wire.columns import RequestPhase

_WINDOWS = Windows(warm_up_us=1_000, measured_us=2_000_000, end_us=3_000_000)


def _ask(index: int, intended_us: int = WHEN_FREE, *, session: int = -1, think_us: int = 0) -> Ask:
    return Ask(
        index=index,
        intended_us=intended_us,
        phase=RequestPhase.MEASURED,
        input_tokens=1,
        wanted_tokens=1,
        exact=True,
        body=b"body",
        session=session,
        think_us=think_us,
    )


# --- open ------------------------------------------------------------------------------------------------------------


def test_an_open_loop_does_not_care_for_answers() -> None:
    feed = OpenFeed([_ask(0, 10), _ask(1, 20)])
    first = feed.take()
    feed.answered(first, 15, ok=False)
    feed.failed_late()
    feed.refill()
    assert (feed.due_us(), feed.over(10**9)) == (20, False)
    assert feed.take().index == 1
    assert (feed.due_us(), feed.over(0)) == (None, True)


# --- open, sessions --------------------------------------------------------------------------------------------------


def _two_sessions() -> SessionFeed:
    return SessionFeed(
        [
            _ask(0, 500, session=0),
            _ask(1, session=0, think_us=100),
            _ask(2, session=0, think_us=200),
            _ask(3, 1_100, session=1),
            _ask(4, session=1, think_us=5),
        ],
        _WINDOWS,
    )


def test_a_turn_is_due_when_its_pause_after_the_answer_is_over() -> None:
    feed = _two_sessions()
    first = feed.take()
    assert (first.index, first.intended_us) == (0, 500)
    assert feed.due_us() == 1_100
    feed.answered(first, 900, ok=True)
    assert feed.due_us() == 1_000
    second = feed.take()
    assert (second.index, second.intended_us, second.phase) == (1, 1_000, RequestPhase.MEASURED)
    assert feed.due_us() == 1_100
    other = feed.take()
    assert (other.index, feed.due_us()) == (3, None)
    assert not feed.over(10_000)
    feed.answered(second, 2_500_000, ok=True)
    third = feed.take()
    assert (third.index, third.intended_us, third.phase) == (2, 2_500_200, RequestPhase.COOL_DOWN)
    feed.answered(other, 2_600_000, ok=True)
    assert feed.due_us() == 2_600_005
    feed.answered(feed.take(), 2_700_000, ok=True)
    assert feed.due_us() is None
    feed.answered(third, 2_700_000, ok=True)
    assert feed.over(0)


def test_a_start_goes_before_a_turn_of_the_same_moment() -> None:
    feed = _two_sessions()
    feed.answered(feed.take(), 1_000, ok=True)
    assert feed.due_us() == 1_100
    assert [feed.take().index, feed.take().index] == [3, 1]


def test_a_failure_ends_the_session_and_its_later_turns_are_let_go() -> None:
    feed = _two_sessions()
    feed.answered(feed.take(), 900, ok=False)
    assert feed.due_us() == 1_100
    feed.answered(feed.take(), 1_200, ok=False)
    assert feed.due_us() is None
    assert feed.over(0)
    gc.collect()
    assert not any(isinstance(item, Ask) for item in _within(feed))


def _within(feed: SessionFeed) -> Iterator[object]:
    for value in vars(feed).values():
        yield from itertools.chain.from_iterable(value.values()) if isinstance(value, dict) else ()
        yield from value if isinstance(value, list) else ()


@pytest.mark.parametrize(("end_us", "comes"), [(2_999_899, True), (2_999_900, False), (2_999_901, False)])
def test_a_turn_that_would_start_after_the_windows_does_not_come(end_us: int, comes: bool) -> None:
    feed = SessionFeed([_ask(0, 0, session=0), _ask(1, session=0, think_us=100)], _WINDOWS)
    feed.answered(feed.take(), end_us, ok=True)
    assert (feed.due_us() is not None) is comes
    assert feed.over(0) is not comes


def test_an_answer_is_waited_for_only_while_its_next_turn_could_come() -> None:
    feed = SessionFeed([_ask(0, 0, session=0), _ask(1, session=0)], _WINDOWS)
    ask = feed.take()
    assert not feed.over(2_999_999)
    assert feed.over(3_000_000)
    feed.failed_late()
    feed.answered(ask, 10, ok=True)
    feed.answered(ask, 20, ok=True)  # a second word on the same request changes nothing
    assert feed.take().intended_us == 10


# --- closed ----------------------------------------------------------------------------------------------------------


class _Loop:
    """A closed loop over sessions of the given lengths, and what it made."""

    def __init__(self, *lengths: int, joins_us: tuple[int, ...] = (0,), ahead: int = 1) -> None:
        self.made: list[int] = []
        self.feed = ClosedFeed(
            joins_us=joins_us, windows=_WINDOWS, sessions=self._sessions(lengths), make=self._make, ahead=ahead
        )

    @staticmethod
    def _sessions(lengths: tuple[int, ...]) -> Iterator[range]:
        at = 0
        for length in itertools.cycle(lengths):
            yield range(at, at + length)
            at += length

    def _make(self, index: int) -> Ask:
        self.made.append(index)
        return _ask(index, session=0, think_us=50)


def test_users_send_when_they_come_and_when_they_are_answered() -> None:
    loop = _Loop(1, joins_us=(400, 0))
    feed = loop.feed
    assert feed.due_us() == 0
    first = feed.take()
    assert (first.index, first.intended_us, first.phase) == (0, 0, RequestPhase.WARM_UP)
    assert feed.due_us() == 400
    feed.take()
    assert feed.due_us() is None
    feed.answered(first, 2_000_000, ok=True)
    again = feed.take()
    assert (again.index, again.intended_us, again.phase) == (2, 2_000_000, RequestPhase.COOL_DOWN)
    feed.answered(again, 3_000_000, ok=True)
    assert feed.due_us() is None
    assert (feed.over(2_999_999), feed.over(3_000_000)) == (False, True)


def test_a_failed_user_pauses_and_so_does_the_next_one_after_a_late_failure() -> None:
    feed = _Loop(1).feed
    feed.answered(feed.take(), 1_000, ok=False)
    assert feed.due_us() == 1_000 + FAILED_PAUSE_US
    feed.failed_late()
    feed.answered(feed.take(), 200_000, ok=True)
    assert feed.due_us() == 200_000 + FAILED_PAUSE_US
    feed.answered(feed.take(), 400_000, ok=True)
    assert feed.due_us() == 400_000


def test_a_user_runs_a_session_to_its_end() -> None:
    feed = _Loop(3, 1, joins_us=(0, 10)).feed
    ask = feed.take()
    other = feed.take()
    assert other.index == 3
    feed.answered(other, 100, ok=True)
    feed.answered(ask, 100, ok=True)
    assert feed.due_us() == 100
    assert feed.take().index == 4  # the other user's next session
    assert feed.due_us() == 150
    turns = [feed.take()]
    feed.answered(turns[0], 200, ok=True)
    turns.append(feed.take())
    assert [(turn.index, turn.intended_us) for turn in turns] == [(1, 150), (2, 250)]
    feed.answered(turns[1], 300, ok=True)
    assert feed.due_us() == 300
    assert feed.take().index == 7


def test_a_late_failure_makes_a_user_pause_only_when_it_is_free() -> None:
    feed = _Loop(2).feed
    feed.failed_late()
    feed.answered(feed.take(), 100, ok=True)
    assert feed.due_us() == 150
    feed.answered(feed.take(), 200, ok=True)
    assert feed.due_us() == 200 + FAILED_PAUSE_US


def test_a_session_that_failed_is_left() -> None:
    loop = _Loop(3)
    feed = loop.feed
    feed.answered(feed.take(), 100, ok=False)
    feed.refill()
    assert feed.take().index == 3
    assert 1 not in loop.made


def test_requests_are_made_ahead_and_taking_makes_none() -> None:
    loop = _Loop(2, 1, joins_us=(0, 0, 0), ahead=3)
    feed = loop.feed
    assert loop.made == [0, 2, 3]
    ask = feed.take()
    assert loop.made == [0, 2, 3]
    feed.refill()
    assert sorted(loop.made) == [0, 1, 2, 3, 5]
    before = len(loop.made)
    feed.answered(ask, 10, ok=True)
    assert [feed.take().index for _ in range(3)] == [2, 3, 1]
    assert len(loop.made) == before


def test_a_sender_without_users_makes_nothing_and_sends_nothing() -> None:
    loop = _Loop(1, joins_us=(), ahead=5)
    assert loop.made == []
    assert loop.feed.due_us() is None
    assert not loop.feed.over(0)
