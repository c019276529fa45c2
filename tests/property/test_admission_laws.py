"""The gate in front of an engine, whatever comes and however long it takes."""

from __future__ import annotations

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.admission import Admission, share_of
from scoot.benchmark.feed import OpenFeed
from scoot.benchmark.schedule import build_schedule
from scoot.benchmark.trace_row import TraceRow
from scoot.simulator.load import Load
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Workload

_GAPS = st.lists(st.integers(0, 500), min_size=1, max_size=60)
_TAKES = st.lists(st.integers(1, 3000), min_size=1, max_size=20)


class _Run:
    """Requests at their intended starts through a gate, each taking as long as it takes; some give up waiting.

    Attributes:
        sent: (when, index), in the order they went in.
        busiest: most that were in at once.
        gave_up: indices that left while they waited.
    """

    def __init__(self, limit: int | None, starts: list[int], takes: list[int], patience: int) -> None:
        self.sent: list[tuple[int, int]] = []
        self.busiest = 0
        self.gave_up: set[int] = set()
        gate: Admission[int] = Admission(limit)
        took = itertools.cycle(takes)
        # (when, 0 for an end, 1 for giving up, 2 for a start; index)
        events = [(start, 2, index) for index, start in enumerate(starts)]
        heapq.heapify(events)

        def go(now: int, index: int) -> None:
            self.sent.append((now, index))
            self.busiest = max(self.busiest, gate.inside)
            heapq.heappush(events, (now + next(took), 0, index))

        inside: set[int] = set()
        while events:
            now, kind, index = heapq.heappop(events)
            if kind == 2:
                if gate.enter(index, index):
                    inside.add(index)
                    go(now, index)
                else:
                    heapq.heappush(events, (now + patience, 1, index))
                continue
            if kind == 1 and index in inside:
                continue
            if kind == 1:
                self.gave_up.add(index)
            gate.leave(index, now)
            while (admitted := gate.admit()) is not None:
                assert gate.free_us == now
                inside.add(admitted)
                go(now, admitted)
        assert (gate.inside, gate.waiting, gate.ready) == (0, 0, False)


def _starts(gaps: list[int]) -> list[int]:
    return list(itertools.accumulate(gaps))


@given(gaps=_GAPS, takes=_TAKES, limit=st.integers(1, 8), patience=st.integers(1, 20_000))
def test_no_more_than_the_limit_are_in_and_they_go_in_order(
    gaps: list[int], takes: list[int], limit: int, patience: int
) -> None:
    starts = _starts(gaps)
    run = _Run(limit, starts, takes, patience)
    assert run.busiest <= limit
    indices = [index for _, index in run.sent]
    assert indices == sorted(indices)
    assert sorted([*indices, *run.gave_up]) == list(range(len(starts)))
    assert all(when >= starts[index] for when, index in run.sent)
    # Nobody waits while there is room.
    if run.busiest < limit:
        assert [when for when, _ in run.sent] == starts


@given(gaps=_GAPS, takes=_TAKES, more=st.integers(0, 5) | st.none())
def test_a_limit_that_is_never_reached_changes_nothing(gaps: list[int], takes: list[int], more: int | None) -> None:
    starts = _starts(gaps)
    run = _Run(None if more is None else len(starts) + more, starts, takes, 1)
    assert run.sent == list(zip(starts, range(len(starts)), strict=True))
    assert run.gave_up == set()


def test_a_closed_gate_lets_nobody_in() -> None:
    gate: Admission[str] = Admission(1)
    assert gate.enter(0, "a")
    assert not gate.enter(1, "b")
    gate.close()
    gate.leave(0, 5)
    assert gate.admit() is None
    assert (gate.waiting, gate.free_us) == (1, 5)


def test_who_waits_goes_before_who_comes() -> None:
    gate: Admission[str] = Admission(1)
    assert gate.enter(0, "a")
    assert not gate.enter(1, "b")
    gate.leave(0, 5)
    assert not gate.enter(2, "c"), "the place is b's"
    assert (gate.admit(), gate.admit()) == ("b", None)


def test_a_limit_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="0 requests"):
        Admission(0)


@given(limit=st.integers(1, 1000), parts=st.integers(1, 64))
def test_shares_add_up_and_nobody_is_left_without_one(limit: int, parts: int) -> None:
    parts = min(parts, limit)
    shares = [share_of(limit, number, parts) or 0 for number in range(parts)]
    assert sum(shares) == limit
    assert min(shares) >= 1
    assert max(shares) - min(shares) <= 1
    assert share_of(None, 0, parts) is None


@given(limit=st.none() | st.integers(1, 50), seed=st.integers(0, 99))
def test_the_schedule_does_not_know_of_the_limit(limit: int | None, seed: int) -> None:
    rows = (TraceRow(input_tokens=3, output_tokens=2),)

    def made(most: int | None) -> Workload:
        return Workload(arrivals=Arrivals(rate=20.0, max_in_flight=most), duration_s=2.0, warm_up_s=0.5)

    one, two = (build_schedule(made(each), rows, seed, warm_up=True) for each in (limit, None))
    assert one.intended_us.tolist() == two.intended_us.tolist()
    feed = Load(made(limit), rows, seed=seed).feed()
    assert isinstance(feed, OpenFeed)
    assert [feed.take().intended_us for _ in range(len(two))] == two.intended_us.tolist()


@pytest.mark.parametrize(
    "arrivals",
    [
        Arrivals(process=ArrivalProcess.CLOSED, users=3, max_in_flight=2),
        Arrivals(rate=1.0, max_in_flight=0),
        Arrivals(rate=1.0, max_in_flight=-1),
    ],
)
def test_what_makes_no_sense_is_refused_where_no_study_file_was_read(arrivals: Arrivals) -> None:
    with pytest.raises(UserError) as caught:
        build_schedule(Workload(arrivals=arrivals), (TraceRow(input_tokens=3, output_tokens=2),), 1, warm_up=True)
    assert caught.value.key == "workload.arrivals.max_in_flight"
