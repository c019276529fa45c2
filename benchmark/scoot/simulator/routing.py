"""Which replica a request goes to. Pure; the same choice as the load generator's (scoot.benchmark.sender)."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from scoot.wire.errors import UserError


class Routing(StrEnum):
    """How replicas are chosen.

    LEAST_OUTSTANDING: the one with the fewest unanswered requests, the first of several (SCOOT section 5.1).
    ROUND_ROBIN: one after the other, whatever they have to do.
    """

    LEAST_OUTSTANDING = "least_outstanding"
    ROUND_ROBIN = "round_robin"


def routing_named(name: str, *, key: str = "routing") -> Routing:
    """The routing of a name, as users write it.

    Raises:
        UserError: there is none of that name.
    """
    try:
        return Routing(name.strip().lower().replace("-", "_"))
    except ValueError as error:
        known = ", ".join(each.value for each in Routing)
        raise UserError(f"there is no routing {name[:80]!r}", key=key, hint=f"known are: {known}") from error


class Router:
    """Chooses a replica for one request after the other.

    Args:
        routing: see there.
        replicas: how many there are, at least 1.
        first: the replica that is asked first; among equals the order goes on from it.

    Attributes:
        outstanding: (replicas,) unanswered requests of each; the owner keeps it up to date.
    """

    def __init__(self, routing: Routing, replicas: int, *, first: int = 0) -> None:
        self.outstanding = [0] * replicas
        self._routing = routing
        self._order: Sequence[int] = [(first + index) % replicas for index in range(replicas)]
        self._turn = 0

    def choose(self) -> int:
        """The replica of the next request. It is not counted as outstanding yet."""
        order = self._order
        if len(order) == 1:
            return 0
        if self._routing is Routing.ROUND_ROBIN:
            replica = order[self._turn]
            self._turn = (self._turn + 1) % len(order)
            return replica
        return min(order, key=self.outstanding.__getitem__)
