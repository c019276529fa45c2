"""Where a run's requests come from: a fixed schedule, or users that send again when they were answered. Pure."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from scoot.benchmark.exchange import Ask
from scoot.wire.columns import RequestPhase

FAILED_PAUSE_US: Final = 100_000
"""A user of a closed loop whose request failed sends the next one so much later: a dead engine is not hammered."""


class Feed(Protocol):
    """Requests of a run in the order they are due. Times are microseconds since the start of the run."""

    def due_us(self) -> int | None:
        """When the next request is due; None if none is until something is answered, or ever."""
        ...

    def take(self) -> Ask:
        """The next request; it is due."""
        ...

    def answered(self, end_us: int, *, ok: bool) -> None:
        """A request ended."""
        ...

    def refill(self) -> None:
        """A good moment for work that may wait."""
        ...

    def over(self, now_us: int) -> bool:
        """Whether no request will come any more."""
        ...


class OpenFeed:
    """An open loop: what was scheduled, whatever the answers. `asks` in the order of their intended starts."""

    def __init__(self, asks: Sequence[Ask]) -> None:
        self._asks = list(reversed(asks))  # taken from the end, so that what was sent can be freed

    def due_us(self) -> int | None:
        """See Feed."""
        return self._asks[-1].intended_us if self._asks else None

    def take(self) -> Ask:
        """See Feed."""
        return self._asks.pop()

    def answered(self, end_us: int, *, ok: bool) -> None:
        """See Feed: an open loop does not care."""

    def refill(self) -> None:
        """See Feed: everything was made beforehand."""

    def over(self, now_us: int) -> bool:  # noqa: ARG002 - see Feed
        """See Feed: once the last was taken."""
        return not self._asks


class ClosedFeed:
    """A closed loop of `users`. A request's intended start is the moment its user became free.

    Args:
        users: users, all free at 0.
        warm_up_us: intended starts before it are WARM_UP.
        end_us: no request is intended at or after it.
        make: makes the request of an index, at a given intended start and in a given window.
        ahead: requests kept made in advance.
    """

    def __init__(self, *, users: int, warm_up_us: int, end_us: int, make: Callable[[int], Ask], ahead: int) -> None:
        self._free = [0] * users
        self._warm_up_us = warm_up_us
        self._end_us = end_us
        self._make = make
        self._made: deque[Ask] = deque()
        self._ahead = ahead
        self._index = 0
        self.refill()

    def due_us(self) -> int | None:
        """See Feed."""
        return self._free[0] if self._free and self._free[0] < self._end_us else None

    def take(self) -> Ask:
        """See Feed."""
        intended_us = heapq.heappop(self._free)
        if not self._made:
            self._make_one()
        phase = RequestPhase.WARM_UP if intended_us < self._warm_up_us else RequestPhase.MEASURED
        return self._made.popleft().at(intended_us, phase)

    def answered(self, end_us: int, *, ok: bool) -> None:
        """See Feed."""
        heapq.heappush(self._free, end_us if ok else end_us + FAILED_PAUSE_US)

    def refill(self) -> None:
        """See Feed."""
        while len(self._made) < self._ahead:
            self._make_one()

    def over(self, now_us: int) -> bool:
        """See Feed: once the window has passed."""
        return now_us >= self._end_us

    def _make_one(self) -> None:
        self._made.append(self._make(self._index))
        self._index += 1
