"""Silence, replica by replica."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.pulse import Pulse


def test_nothing_is_waited_for_at_first_and_in_the_end() -> None:
    pulse = Pulse()
    assert pulse.silent(10**9) == (0, 0)
    pulse.sent(1, 100)
    assert pulse.silent(150) == (1, 50)
    pulse.ended(1)
    assert pulse.silent(10**9) == (0, 0)


def test_a_replica_that_streams_does_not_hide_one_that_hangs() -> None:
    pulse = Pulse()
    for replica in (0, 1, 2):
        pulse.sent(replica, 0)
    for at_us in range(0, 1000, 10):
        pulse.read(0, at_us)
        pulse.read(2, at_us)
    assert pulse.silent(1000) == (1, 1000)
    pulse.sent(1, 900)
    assert pulse.silent(1000) == (1, 1000), "one more question is no answer"
    pulse.ended(1)
    assert pulse.silent(1000) == (1, 1000), "nor is a deadline that has passed"


def test_a_pause_is_no_silence() -> None:
    pulse = Pulse()
    pulse.sent(0, 0)
    pulse.read(0, 10)
    pulse.ended(0)
    pulse.sent(0, 5000)
    assert pulse.silent(5100) == (0, 100)
    pulse.read(0, 4000)
    assert pulse.silent(5100) == (0, 100), "what comes late is no news"
    assert pulse.silent(10) == (0, 0), "a clock that is behind"


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["sent", "read", "ended"]))), st.integers(0, 50))
def test_it_is_the_longest_silence_of_those_that_are_waited_for(story: list[tuple[int, str]], rest: int) -> None:
    pulse = Pulse()
    outstanding = [0] * 4
    alive = [0] * 4
    for now, (replica, what) in enumerate(story):
        if what == "sent":
            alive[replica] = alive[replica] if outstanding[replica] else now
            outstanding[replica] += 1
            pulse.sent(replica, now)
        elif outstanding[replica] and what == "read":
            alive[replica] = now
            pulse.read(replica, now)
        elif outstanding[replica]:
            outstanding[replica] -= 1
            pulse.ended(replica)
    now = len(story) + rest
    silences = [now - alive[replica] if outstanding[replica] else 0 for replica in range(4)]
    replica, silent = pulse.silent(now)
    assert silent == max(silences)
    assert silences[replica] == silent
