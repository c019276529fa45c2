"""Laws of feeds and of their shares, whatever the schedule and whatever the answers."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.ask import NO_SESSION, Ask
from scoot.benchmark.feed import FAILED_PAUSE_US, Feed, OpenFeed, SessionFeed, closed_feed, open_feed
from scoot.benchmark.schedule import WHEN_FREE, RunSchedule, build_schedule
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.spec import ArrivalProcess, Arrivals, Workload

_SERVICES = st.lists(st.tuples(st.integers(0, 900_000), st.booleans()), min_size=1, max_size=20)
"""How long answers take, and whether they are right; over and over."""


@st.composite
def _rows(draw: st.DrawFn) -> tuple[TraceRow, ...]:
    sessions = draw(st.lists(st.integers(0, 6), min_size=1, max_size=20))
    seen: set[int] = set()
    rows = []
    for index, session in enumerate(sessions):
        on_its_own = session == 6
        pause_s = draw(st.integers(0, 3)) / 4 if session in seen else 0.0
        seen.add(session)
        rows.append(
            TraceRow(
                input_tokens=index + 1,
                output_tokens=1,
                session=None if on_its_own else session,
                think_s=0.0 if on_its_own else pause_s,
            )
        )
    return tuple(rows)


@st.composite
def _workloads(draw: st.DrawFn, *, closed: bool, sessions: bool | None = None) -> Workload:
    if closed:
        users = draw(st.integers(1, 9))
        ramp_s = draw(st.sampled_from([0.0, 0.5, 3.0]))
        arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=users, ramp_s=ramp_s, ramp_from=0.25)
    else:
        process = draw(st.sampled_from([ArrivalProcess.POISSON, ArrivalProcess.CONSTANT]))
        arrivals = Arrivals(process=process, rate=draw(st.sampled_from([0.5, 3.0, 12.0])))
    return Workload(
        arrivals=arrivals,
        warm_up_s=draw(st.sampled_from([0.0, 0.5])),
        duration_s=draw(st.sampled_from([0.5, 2.0])),
        cool_down_s=draw(st.sampled_from([0.0, 1.0])),
        sessions=draw(st.booleans()) if sessions is None else sessions,
    )


def _maker(schedule: RunSchedule) -> Callable[[int], Ask]:
    def make(index: int) -> Ask:
        slot = schedule.slot(index)
        return Ask(
            index=index,
            intended_us=slot.intended_us,
            phase=slot.phase,
            input_tokens=slot.row,
            wanted_tokens=1,
            exact=True,
            body=b"",
            slo_class=slot.slo_class,
            session=slot.session,
            think_us=slot.think_us,
        )

    return make


class _Run:
    """Serves a feed: every request is sent when it is due and takes as long as `services` say.

    Attributes:
        sent: (when, ask), in the order they were taken.
        ended: index -> (when, ok).
        busiest: most requests that were under way at once.
    """

    def __init__(self, feed: Feed, services: list[tuple[int, bool]], *, refill_every: int = 3) -> None:
        self.sent: list[tuple[int, Ask]] = []
        self.ended: dict[int, tuple[int, bool]] = {}
        self.busiest = 0
        service: Iterator[tuple[int, bool]] = itertools.cycle(services)
        under_way: list[tuple[int, int, bool, Ask]] = []
        now_us = 0
        for step in itertools.count():
            due_us = feed.due_us()
            if due_us is None and not under_way:
                break
            if due_us is not None and (not under_way or due_us <= under_way[0][0]):
                now_us = max(now_us, due_us)
                ask = feed.take()
                self.sent.append((now_us, ask))
                took_us, ok = next(service)
                # No answer takes no time: a closed loop would never end.
                heapq.heappush(under_way, (now_us + took_us + 10_000, ask.index, ok, ask))
                self.busiest = max(self.busiest, len(under_way))
            else:
                now_us, _, ok, ask = heapq.heappop(under_way)
                self.ended[ask.index] = (now_us, ok)
                feed.answered(ask, now_us, ok=ok)
            if step % refill_every == 0:
                feed.refill()
        assert feed.over(10**12)


def _follow(run: _Run) -> None:
    """Turns of a session follow one another, each after its pause, none after a failure."""
    by_session: dict[int, list[Ask]] = {}
    for _, ask in run.sent:
        if ask.session != NO_SESSION:
            by_session.setdefault(ask.session, []).append(ask)
    for turns in by_session.values():
        assert [turn.index for turn in turns] == list(range(turns[0].index, turns[0].index + len(turns)))
        assert turns[0].think_us == 0
        for before, turn in itertools.pairwise(turns):
            end_us, ok = run.ended[before.index]
            assert ok
            assert turn.intended_us == end_us + turn.think_us


@settings(deadline=None)
@given(workload=_workloads(closed=False), rows=_rows(), seed=st.integers(0, 999), services=_SERVICES)
def test_open_feeds_send_everything_that_is_intended(
    workload: Workload, rows: tuple[TraceRow, ...], seed: int, services: list[tuple[int, bool]]
) -> None:
    schedule = build_schedule(workload, rows, seed, warm_up=True)
    asks = [_maker(schedule)(index) for index in range(len(schedule))]
    run = _Run(open_feed(asks, schedule.windows), services)
    indices = [ask.index for _, ask in run.sent]
    assert len(set(indices)) == len(indices)
    starts = [ask.index for ask in asks if ask.intended_us != WHEN_FREE]
    assert [index for index in indices if index in set(starts)] == starts
    assert all(when == ask.intended_us < schedule.windows.end_us for when, ask in run.sent)
    assert all(ask.phase is schedule.windows.phase(ask.intended_us) for _, ask in run.sent)
    assert [when for when, _ in run.sent] == sorted(when for when, _ in run.sent)
    _follow(run)
    # What was not sent is behind a failure, or would have been due after the windows.
    for ask in asks:
        if ask.index not in set(indices):
            assert ask.intended_us == WHEN_FREE
            before = run.ended.get(ask.index - 1)
            assert before is None or not before[1] or before[0] + ask.think_us >= schedule.windows.end_us


@settings(deadline=None)
@given(workload=_workloads(closed=False), rows=_rows(), seed=st.integers(0, 999), parts=st.integers(1, 5))
def test_shares_are_a_partition_in_order_with_whole_sessions(
    workload: Workload, rows: tuple[TraceRow, ...], seed: int, parts: int
) -> None:
    schedule = build_schedule(workload, rows, seed, warm_up=True)
    asks = [_maker(schedule)(index) for index in range(len(schedule))]
    shares = [[asks[index] for index in schedule.part(number, parts)] for number in range(parts)]
    assert len(shares) == parts
    assert sorted(ask.index for share in shares for ask in share) == list(range(len(asks)))
    for number, share in enumerate(shares):
        indices = [ask.index for ask in share]
        mine = [ask.index for ask in asks if (ask.session if workload.sessions else ask.index) % parts == number]
        assert indices == sorted(indices) == mine
        starts = [ask.intended_us for ask in share if ask.intended_us != WHEN_FREE]
        assert starts == sorted(starts)
    if workload.sessions:
        owners = [{ask.session for ask in share} for share in shares]
        assert sum(map(len, owners)) == schedule.sessions


@settings(deadline=None)
@given(
    workload=_workloads(closed=True),
    rows=_rows(),
    seed=st.integers(0, 999),
    parts=st.integers(1, 4),
    ahead=st.integers(0, 3),
    services=_SERVICES,
)
def test_closed_loops_never_exceed_their_users_and_share_no_index(
    workload: Workload,
    rows: tuple[TraceRow, ...],
    seed: int,
    parts: int,
    ahead: int,
    services: list[tuple[int, bool]],
) -> None:
    # A short schedule, so that it starts over.
    schedule = build_schedule(workload, rows, seed, warm_up=True).head(7)
    feeds = [closed_feed(schedule, number, parts, make=_maker(schedule), ahead=ahead) for number in range(parts)]
    users = workload.arrivals.users or 0
    joins = sorted(schedule.joins_us.tolist())
    runs = [_Run(feed, services) for feed in feeds]
    taken = [ask.index for run in runs for _, ask in run.sent]
    assert len(set(taken)) == len(taken)
    for number, run in enumerate(runs):
        assert run.busiest <= len(range(number, users, parts))
        assert all(when == ask.intended_us < schedule.windows.end_us for when, ask in run.sent)
        assert all(ask.phase is schedule.windows.phase(ask.intended_us) for _, ask in run.sent)
        if schedule.sessions:
            assert all(ask.session % parts == number for _, ask in run.sent)
        else:
            assert all(ask.index % parts == number for _, ask in run.sent)
        # The n-th request is there only once n users have come, or enough of those before it have ended.
        ends = sorted(end + (0 if ok else FAILED_PAUSE_US) for end, ok in run.ended.values())
        mine = joins[number::parts]
        for n, (when, _) in enumerate(run.sent):
            assert sum(join <= when for join in mine) + sum(end <= when for end in ends) > n
        _follow(run)
    began = sorted(when for run in runs for when, _ in run.sent)
    inside = [join for join in joins if join < schedule.windows.end_us]
    assert len(began) >= len(inside)


@settings(deadline=None)
@given(workload=_workloads(closed=True, sessions=False), seed=st.integers(0, 99), services=_SERVICES)
def test_a_closed_loop_of_single_requests_goes_through_its_indices(
    workload: Workload, seed: int, services: list[tuple[int, bool]]
) -> None:
    schedule = build_schedule(workload, (TraceRow(input_tokens=1, output_tokens=1),), seed, warm_up=True)
    feed = closed_feed(schedule, 0, 1, make=_maker(schedule), ahead=2)
    run = _Run(feed, services)
    assert [ask.index for _, ask in run.sent] == list(range(len(run.sent)))


@settings(deadline=None)
@given(gaps=st.lists(st.integers(0, 1000), max_size=200))
def test_an_open_feed_pops_in_order_and_lets_go_of_what_it_gave(gaps: list[int]) -> None:
    starts = np.cumsum(gaps).tolist()
    template = Ask(index=0, intended_us=0, phase=1, input_tokens=1, wanted_tokens=1, exact=True, body=b"")  # type: ignore[arg-type]  # msgspec takes what it is given
    feed = OpenFeed(Ask(**{**_fields(template), "index": i, "intended_us": t}) for i, t in enumerate(starts))
    for index, start in enumerate(starts):
        assert feed.due_us() == start
        assert not feed.over(10**12)
        assert feed.take().index == index
        assert len(feed._asks) == len(starts) - index - 1
    assert feed.due_us() is None
    assert feed.over(0)


def _fields(ask: Ask) -> dict[str, object]:
    return {name: getattr(ask, name) for name in ask.__struct_fields__}


def test_only_sessions_need_a_feed_of_sessions() -> None:
    row = TraceRow(input_tokens=1, output_tokens=1, session=3)
    workload = Workload(arrivals=Arrivals(process=ArrivalProcess.CONSTANT, rate=1.0), duration_s=5.0)
    for sessions, kind in ((False, OpenFeed), (True, SessionFeed)):
        schedule = build_schedule(
            Workload(arrivals=workload.arrivals, duration_s=5.0, sessions=sessions), (row,), 0, warm_up=True
        )
        asks = [_maker(schedule)(index) for index in range(len(schedule))]
        assert type(open_feed(asks, schedule.windows)) is kind
    assert type(open_feed([], schedule.windows)) is OpenFeed
