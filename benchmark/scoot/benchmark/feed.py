"""Where a run's requests come from, and how several senders share them. Pure.

A fixed schedule; sessions whose further turns follow the answers; or users that send again when they were answered.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Protocol

from scoot.benchmark.ask import NO_SESSION, Ask
from scoot.benchmark.schedule import WHEN_FREE, RunSchedule, Windows

FAILED_PAUSE_US: Final = 100_000
"""A user of a closed loop whose request failed sends the next one so much later: a dead engine is not hammered."""

_FRESH: Final = -1


class Feed(Protocol):
    """Requests of a run in the order they are due. Times are microseconds since the start of the run."""

    def due_us(self) -> int | None:
        """When the next request is due; None if none is until something is answered, or ever."""
        ...

    def take(self) -> Ask:
        """The next request; it is due."""
        ...

    def answered(self, ask: Ask, end_us: int, *, ok: bool) -> None:
        """A request that was taken ended, or could not be sent."""
        ...

    def failed_late(self) -> None:
        """A request of which `answered` was told `ok` has turned out to have failed."""
        ...

    def refill(self) -> None:
        """A good moment for work that may wait."""
        ...

    def over(self, now_us: int) -> bool:
        """Whether no request will come any more."""
        ...


class OpenFeed:
    """An open loop: what was scheduled, whatever the answers. `asks` in the order of their intended starts."""

    def __init__(self, asks: Iterable[Ask]) -> None:
        self._asks = _to_be_popped(asks)

    def due_us(self) -> int | None:
        """See Feed."""
        return self._asks[-1].intended_us if self._asks else None

    def take(self) -> Ask:
        """See Feed."""
        return self._asks.pop()

    def answered(self, ask: Ask, end_us: int, *, ok: bool) -> None:
        """See Feed: an open loop does not care."""

    def failed_late(self) -> None:
        """See Feed: nor about that."""

    def refill(self) -> None:
        """See Feed: everything was made beforehand."""

    def over(self, now_us: int) -> bool:  # noqa: ARG002 - see Feed
        """See Feed: once the last was taken."""
        return not self._asks


class SessionFeed:
    """An open loop of sessions, which start when they are scheduled to.

    A further turn is due when the pause after the answer before is over. A turn that would begin after the windows is
    not sent, nor is any behind a turn that failed: they are not intended. A failure that is found late ends no session,
    for the next turn may be under way.

    Args:
        asks: first turns in the order of their intended starts, further ones (WHEN_FREE) in their session's order.
        windows: of the run.
    """

    def __init__(self, asks: Iterable[Ask], windows: Windows) -> None:
        self._windows = windows
        starts: list[Ask] = []
        further: dict[int, list[Ask]] = {}
        for ask in asks:
            if ask.intended_us == WHEN_FREE:
                further.setdefault(ask.session, []).append(ask)
            else:
                starts.append(ask)
        self._starts = _to_be_popped(starts)
        self._further = {session: _to_be_popped(turns) for session, turns in further.items()}
        self._waiting: list[tuple[int, int, Ask]] = []
        self._open: set[int] = set()

    def due_us(self) -> int | None:
        """See Feed."""
        if not self._waiting:
            return self._starts[-1].intended_us if self._starts else None
        due_us = self._waiting[0][0]
        return min(due_us, self._starts[-1].intended_us) if self._starts else due_us

    def take(self) -> Ask:
        """See Feed. Of two that are due at once, the start of a session comes first."""
        if self._starts and not (self._waiting and self._waiting[0][0] < self._starts[-1].intended_us):
            ask = self._starts.pop()
        else:
            ask = heapq.heappop(self._waiting)[2]
        if ask.session in self._further:
            self._open.add(ask.session)
        return ask

    def answered(self, ask: Ask, end_us: int, *, ok: bool) -> None:
        """See Feed."""
        if ask.session not in self._open:
            return
        self._open.discard(ask.session)
        turns = self._further.pop(ask.session)
        due_us = end_us + turns[-1].think_us
        if not ok or due_us >= self._windows.end_us:
            return
        following = turns.pop().at(due_us, self._windows.phase(due_us))
        heapq.heappush(self._waiting, (due_us, following.index, following))
        if turns:
            self._further[ask.session] = turns

    def failed_late(self) -> None:
        """See Feed."""

    def refill(self) -> None:
        """See Feed: everything was made beforehand."""

    def over(self, now_us: int) -> bool:
        """See Feed: once no session has a turn to come, or none could begin within the windows."""
        return not self._starts and not self._waiting and (not self._open or now_us >= self._windows.end_us)


class ClosedFeed:
    """A closed loop. A request's intended start is the moment its user became free, and behind it the turn's pause.

    A user that has begun a session goes on to its end, or to its first failure. A failure found late makes the next
    user that becomes free pause.

    Args:
        joins_us: when each user comes.
        windows: no request is intended at or after their end.
        sessions: indices of the turns of one session after the other, endlessly; a request on its own is one turn.
        make: makes the request of an index, at any intended start and in any window.
        ahead: sessions whose first turn is kept made in advance. Further turns are when their session has begun.
    """

    def __init__(
        self,
        *,
        joins_us: Iterable[int],
        windows: Windows,
        sessions: Iterator[range],
        make: Callable[[int], Ask],
        ahead: int,
    ) -> None:
        # (when, index of the turn that is due then); _FRESH: whatever session comes next.
        self._due = [(join_us, _FRESH) for join_us in joins_us]
        heapq.heapify(self._due)
        self._windows = windows
        self._sessions = sessions
        self._make = make
        self._ahead = ahead if self._due else 0
        self._fresh: deque[tuple[Ask, range]] = deque()
        self._going: dict[int, range] = {}
        """Index of a turn that was taken -> its session's further turns."""
        self._resting: dict[int, range] = {}
        """Index of a turn that is due some time -> it and its session's further turns."""
        self._made: dict[int, Ask | None] = {}
        """Index of a further turn that may come -> its request, once made."""
        self._to_make: deque[int] = deque()
        self._pauses = 0
        self.refill()

    def due_us(self) -> int | None:
        """See Feed."""
        return self._due[0][0] if self._due and self._due[0][0] < self._windows.end_us else None

    def take(self) -> Ask:
        """See Feed."""
        intended_us, index = heapq.heappop(self._due)
        if index == _FRESH:
            if not self._fresh:
                self._make_fresh()
            ask, turns = self._fresh.popleft()
        else:
            ask, turns = self._made_now(index), self._resting.pop(index)
            del self._made[index]
        if len(turns) > 1:
            self._going[ask.index] = turns[1:]
            self._made[turns[1]] = None
            self._to_make.append(turns[1])
        return ask.at(intended_us, self._windows.phase(intended_us))

    def answered(self, ask: Ask, end_us: int, *, ok: bool) -> None:
        """See Feed."""
        turns = self._going.pop(ask.index, None)
        if ok and turns:
            self._resting[turns[0]] = turns
            heapq.heappush(self._due, (end_us + self._made_now(turns[0]).think_us, turns[0]))
            return
        if turns:
            del self._made[turns[0]]
        self._free(end_us, ok=ok)

    def failed_late(self) -> None:
        """See Feed."""
        self._pauses += 1

    def refill(self) -> None:
        """See Feed."""
        while len(self._fresh) < self._ahead:
            self._make_fresh()
        while self._to_make:
            index = self._to_make.popleft()
            if index in self._made:  # else its session has ended
                self._made_now(index)

    def over(self, now_us: int) -> bool:
        """See Feed: once the windows have passed."""
        return now_us >= self._windows.end_us

    def _free(self, end_us: int, *, ok: bool) -> None:
        pause = not ok
        if ok and self._pauses:
            self._pauses -= 1
            pause = True
        heapq.heappush(self._due, (end_us + FAILED_PAUSE_US if pause else end_us, _FRESH))

    def _make_fresh(self) -> None:
        turns = next(self._sessions)
        self._fresh.append((self._make(turns[0]), turns))

    def _made_now(self, index: int) -> Ask:
        ask = self._made[index]
        if ask is None:
            ask = self._made[index] = self._make(index)
        return ask


def open_feed(asks: Sequence[Ask], windows: Windows) -> OpenFeed | SessionFeed:
    """The feed of an open loop for requests in the order of their schedule."""
    several = bool(asks) and asks[0].session != NO_SESSION
    return SessionFeed(asks, windows) if several else OpenFeed(asks)


def closed_feed(
    schedule: RunSchedule, number: int, parts: int, *, make: Callable[[int], Ask], ahead: int
) -> ClosedFeed:
    """The part of one of `parts` senders in a closed loop: every parts-th user, and every parts-th session or request.

    Indices go on beyond the schedule's end, where it starts over (RunSchedule.slot); no two parts have one in common.

    Args:
        schedule: of a closed loop.
        number: of the sender, 0..parts - 1.
        parts: senders.
        make: see ClosedFeed; index -> RequestBuilder.build(index, schedule.slot(index)...).
        ahead: see ClosedFeed.
    """
    numbers = itertools.count(number, parts)
    sessions = map(schedule.turns, numbers) if schedule.sessions else (range(n, n + 1) for n in numbers)
    joins_us = schedule.joins_us[number::parts].tolist()
    return ClosedFeed(joins_us=joins_us, windows=schedule.windows, sessions=sessions, make=make, ahead=ahead)


def _to_be_popped(asks: Iterable[Ask]) -> list[Ask]:
    """In the opposite order: taken from the end, so that what was sent can be freed."""
    return list(asks)[::-1]
