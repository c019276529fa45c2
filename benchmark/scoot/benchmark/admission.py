"""Who may be sent: at most so many requests at once, the others wait their turn. Pure.

What a gateway in front of an engine does (`workload.arrivals.max_in_flight`), for the load generator and for the
simulator alike. A request's intended start does not change by waiting: the wait is in its latencies.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class Admission(Generic[T]):
    """A gate.

    Args:
        limit: most requests that are in at once, 1 or more; None: all may go in.

    Attributes:
        inside: requests that were let in and have not left.
        free_us: when a place was last given back.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"{limit} requests at once are none")
        self.inside = 0
        self.free_us = 0
        self._limit = math.inf if limit is None else limit
        self._waiting: OrderedDict[int, T] = OrderedDict()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    @property
    def ready(self) -> bool:
        """Whether `admit` lets somebody in."""
        return bool(self._waiting) and self.inside < self._limit

    def enter(self, index: int, request: T) -> bool:
        """Whether a request that is due goes in at once; else it waits behind all that do. `index` is its own."""
        if self.inside < self._limit and not self._waiting:
            self.inside += 1
            return True
        self._waiting[index] = request
        return False

    def leave(self, index: int, at_us: int) -> None:
        """A request has ended at `at_us`: it gives its place back, or waits no more."""
        if self._waiting.pop(index, None) is None:
            self.inside -= 1
            self.free_us = at_us

    def admit(self) -> T | None:
        """Let in the one that waits longest; None where none waits, or there is no room."""
        if not self.ready:
            return None
        self.inside += 1
        return self._waiting.popitem(last=False)[1]

    def close(self) -> None:
        """Let nobody in any more."""
        self._limit = 0


def share_of(limit: int | None, number: int, parts: int) -> int | None:
    """The part of a limit that sender `number` of `parts` keeps, so that all together keep it; None is no limit."""
    return None if limit is None else limit // parts + (number < limit % parts)
