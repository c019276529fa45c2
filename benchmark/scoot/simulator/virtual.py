"""One run in virtual time: requests against the replicas of an engine, from one event to the next. Pure; nothing waits.

The client's side is the load generator's (scoot.benchmark.sender) without its own delays: it sends when a request is
due and admitted, sees tokens when they are there, ends a request at its deadline, and everything when the drain is
over. All times are integer nanoseconds since the start of the run.

At one moment, in this order: steps end and the next ones begin; answers and aborts arrive; deadlines pass; requests are
sent; replicas that were idle begin. So what is sent because of an answer is not in the step that begins with it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from scoot.benchmark.admission import Admission
from scoot.benchmark.ask import Ask
from scoot.benchmark.feed import Feed
from scoot.simulator.load import MOST_REQUESTS, MOST_TOKENS, Keys
from scoot.simulator.replica import EngineDied, Replica, Step
from scoot.simulator.routing import Router
from scoot.simulator.sequence import Sequence as Served
from scoot.wire.columns import RequestStatus
from scoot.wire.errors import UserError

HTTP_OK: Final = 200
HTTP_BAD_REQUEST: Final = 400
HTTP_UNAVAILABLE: Final = 503

_FAR_NS: Final = 1 << 62
_NS_PER_US: Final = 1000


class Exchange:
    """One request on its way.

    Attributes:
        ask: what was asked.
        replica: where it went; 0 until it is admitted.
        admitted_us: when it was due to be sent, which is its intended start where it did not have to wait; None until
            then.
        http_status: of the answer; 0 until there is one.
        sequence: it in the replica; None where it was refused or has not arrived.
        status: how it ended for the client; None until then.
        end_ns: when.
    """

    __slots__ = ("admitted_us", "ask", "end_ns", "http_status", "replica", "sequence", "status")

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.replica = 0
        self.admitted_us: int | None = None
        self.http_status = 0
        self.sequence: Served | None = None
        self.status: RequestStatus | None = None
        self.end_ns = 0


class VirtualSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs to know besides its requests.

    Attributes:
        timeout_ns: a request is failed so long after its intended start.
        drain_ns: longest wait after the last arrival.
        windows_end_ns: end of the load's windows.
        most_in_flight: requests that are sent and have not ended, at most; None: no limit.
        request_limit: most requests in a replica; one more is refused (HTTP 503). None: no limit.
        transport_ns: from the client to a replica, and back.
        stall_ns: the engine hangs when nothing at all has come for so long while something was asked; 0: never.
    """

    timeout_ns: int
    drain_ns: int
    windows_end_ns: int
    most_in_flight: int | None = None
    request_limit: int | None = None
    transport_ns: int = 0
    stall_ns: int = 0


class VirtualEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended.

    Attributes:
        end_ns: when.
        steps: of all replicas.
        died: lines of the engine that died under the load; empty for none.
        replica: the one that died.
        hung: requests that were outstanding when the engine had been silent for too long; 0 if it was not.
    """

    end_ns: int
    steps: int
    died: tuple[str, ...] = ()
    replica: int = 0
    hung: int = 0


class VirtualRun:
    """One run. Make it, then `execute()` once.

    Args:
        feed: the requests.
        replicas: the engine, at least one, unused.
        router: chooses among them.
        settings: see VirtualSettings.
        keys: of a request's prefix; None where nothing is shared.
        ended: called with every exchange that has ended, in the order of their ends.
    """

    def __init__(
        self,
        feed: Feed,
        replicas: Sequence[Replica],
        router: Router,
        settings: VirtualSettings,
        *,
        keys: Keys | None,
        ended: Callable[[Exchange], None],
    ) -> None:
        self._feed = feed
        self._replicas = replicas
        self._router = router
        self._settings = settings
        self._keys = keys
        self._tell = ended
        self._now_ns = 0
        self._steps: list[tuple[int, int, Step]] = []
        """(end, replica, step) of every replica that computes."""
        self._busy = [False] * len(replicas)
        most = settings.most_in_flight
        # None where all may go in: most simulations, and there are many of them.
        self._gate: Admission[Exchange] | None = None if most is None else Admission(most)
        self._live: dict[int, Exchange] = {}
        """Those that wait for admission, too."""
        self._deadlines: deque[Exchange] = deque()
        self._travelling: deque[tuple[int, Callable[[Exchange], None], Exchange]] = deque()
        """(when it arrives, what it does, whose) of everything between the client and the replicas."""
        self._client_ns = 0
        """When the client's side is to be looked at again."""
        self._drained_ns: int | None = None
        self._silent_ns = _FAR_NS
        self._taken = self._asked = self._count = 0
        self._died: EngineDied | None = None
        self._dead = 0
        self._hung = 0

    def execute(self) -> VirtualEnd:
        """From the start to the last answer, the end of the drain, or the end of the engine.

        Raises:
            UserError: the load never ends: more than MOST_REQUESTS or MOST_TOKENS in a closed loop.
        """
        steps, replicas = self._steps, self._replicas
        stall_ns = self._settings.stall_ns
        while not self._over():
            while steps and steps[0][0] <= self._client_ns:
                now_ns, number, step = steps[0]
                if stall_ns and self._live and now_ns > self._silent_ns:
                    break
                self._now_ns = now_ns
                replicas[number].end(step)
                if stall_ns and (step.decodes or step.firsts):
                    self._silent_ns = now_ns + stall_ns
                if step.finished:
                    self._finished(step.finished)
                    if self._over():
                        break
                following = self._begun(number)
                if following is None:
                    heapq.heappop(steps)
                    if self._died is not None:
                        break
                else:
                    heapq.heapreplace(steps, (following.ends_ns, number, following))
            if not self._over():
                self._look(min(self._client_ns, steps[0][0] if steps else _FAR_NS))
        self._end_all()
        died = () if self._died is None else self._died.lines
        return VirtualEnd(end_ns=self._now_ns, steps=self._count, died=died, replica=self._dead, hung=self._hung)

    def _over(self) -> bool:
        return self._died is not None or bool(self._hung) or (self._drained_ns is not None and not self._live)

    # --- replicas ----------------------------------------------------------------------------------------------------

    def _begun(self, number: int) -> Step | None:
        """The next step of a replica; None when it has nothing to do, or has died."""
        try:
            step = self._replicas[number].begin(self._now_ns)
        except EngineDied as error:
            self._died, self._dead = error, number
            step = None
        self._busy[number] = step is not None
        self._count += step is not None
        return step

    def _finished(self, sequences: Sequence[Served]) -> None:
        """Sequences have all their tokens."""
        for sequence in sequences:
            exchange = self._live.get(sequence.number)
            if exchange is not None:
                self._send(self._answered, exchange)
        self._drain()

    def _wake(self) -> None:
        """Begin where something has come to a replica that was idle."""
        for number, replica in enumerate(self._replicas):
            if not self._busy[number] and replica.waiting:
                step = self._begun(number)
                if step is not None:
                    heapq.heappush(self._steps, (step.ends_ns, number, step))
                elif self._died is not None:
                    return

    # --- between client and replicas ---------------------------------------------------------------------------------

    def _send(self, arrived: Callable[[Exchange], None], exchange: Exchange) -> None:
        """Something goes from one side to the other, where `arrived` is called."""
        transport_ns = self._settings.transport_ns
        if not transport_ns:
            arrived(exchange)
            return
        # All take equally long, so they arrive in the order in which they went.
        self._travelling.append((self._now_ns + transport_ns, arrived, exchange))
        self._client_ns = min(self._client_ns, self._now_ns + transport_ns)

    def _asked_of(self, exchange: Exchange) -> None:
        """A request arrives at its replica."""
        if exchange.status is not None:
            return
        ask = exchange.ask
        replica = self._replicas[exchange.replica]
        limit = self._settings.request_limit
        if replica.refusal(ask.input_tokens, ask.wanted_tokens):
            exchange.http_status = HTTP_BAD_REQUEST
        elif limit is not None and replica.outstanding >= limit:
            exchange.http_status = HTTP_UNAVAILABLE
        else:
            exchange.http_status = HTTP_OK
            keys = self._keys(ask) if self._keys is not None else ()
            # A step that began at this moment began before: it must not look as if this had been there already.
            arrived_ns = self._now_ns + self._busy[exchange.replica]
            exchange.sequence = Served(ask.index, ask.input_tokens, ask.wanted_tokens, arrived_ns=arrived_ns, keys=keys)
            replica.add(exchange.sequence)
            # The head of the answer goes at once.
            self._silent_ns = self._now_ns + self._settings.transport_ns + self._settings.stall_ns
            return
        self._send(self._refused, exchange)

    def _answered(self, exchange: Exchange) -> None:
        """The last token arrives at the client."""
        if exchange.status is None:
            self._end(exchange, RequestStatus.OK)

    def _refused(self, exchange: Exchange) -> None:
        """A refusal arrives at the client."""
        if exchange.status is None:
            self._end(exchange, RequestStatus.HTTP_ERROR)

    def _abandoned(self, exchange: Exchange) -> None:
        """The replica hears that the client is gone."""
        if exchange.sequence is not None:
            self._replicas[exchange.replica].abort(exchange.sequence)

    # --- the client --------------------------------------------------------------------------------------------------

    def _look(self, now_ns: int) -> None:
        """Everything that is due on the client's side at `now_ns`, when no step ends before."""
        stall_ns = self._settings.stall_ns
        if stall_ns and self._live and now_ns > self._silent_ns:
            self._now_ns = max(self._now_ns, self._silent_ns)
            self._hung = len(self._live) if self._gate is None else self._gate.inside
            return
        self._now_ns = max(self._now_ns, now_ns)
        while self._travelling and self._travelling[0][0] <= self._now_ns:
            _, arrived, exchange = self._travelling.popleft()
            arrived(exchange)
        self._expire()
        self._dispatch()
        self._drain()
        self._wake()
        self._client_ns = self._next_ns()

    def _expire(self) -> None:
        """End what is past its deadline. Requests are sent in the order of their intended starts, hence of these."""
        deadlines = self._deadlines
        while deadlines and (deadlines[0].status is not None or self._deadline_ns(deadlines[0]) <= self._now_ns):
            exchange = deadlines.popleft()
            if exchange.status is None:
                self._give_up(exchange, RequestStatus.DEADLINE)

    def _give_up(self, exchange: Exchange, status: RequestStatus) -> None:
        self._end(exchange, status)
        if exchange.admitted_us is not None:
            self._send(self._abandoned, exchange)

    def _deadline_ns(self, exchange: Exchange) -> int:
        return exchange.ask.intended_us * _NS_PER_US + self._settings.timeout_ns

    def _dispatch(self) -> None:
        """Send what was admitted meanwhile, and what is due."""
        feed, gate = self._feed, self._gate
        while gate is not None and (waited := gate.admit()) is not None:
            self._admit(waited, max(waited.ask.intended_us, gate.free_us))
        due_us = feed.due_us()
        while due_us is not None and due_us * _NS_PER_US <= self._now_ns:
            ask = feed.take()
            self._take_stock(ask)
            exchange = Exchange(ask)
            if not self._live:
                self._silent_ns = self._now_ns + self._settings.stall_ns
            self._live[ask.index] = exchange
            self._deadlines.append(exchange)
            if gate is None or gate.enter(ask.index, exchange):
                self._admit(exchange, ask.intended_us)
            due_us = feed.due_us()

    def _admit(self, exchange: Exchange, at_us: int) -> None:
        exchange.admitted_us = at_us
        exchange.replica = number = self._router.choose()
        self._router.outstanding[number] += 1
        self._send(self._asked_of, exchange)

    def _take_stock(self, ask: Ask) -> None:
        self._taken += 1
        self._asked += ask.wanted_tokens
        if self._taken > MOST_REQUESTS or self._asked > MOST_TOKENS:
            raise UserError(
                f"{self._taken} requests for {self._asked} tokens in one run are too many to simulate",
                key="workload.arrivals",
                hint="lower the users or the duration",
            )

    def _drain(self) -> None:
        """Wait for what is outstanding once nothing more comes, but not for ever."""
        if self._drained_ns is None and self._feed.over(self._now_ns // _NS_PER_US):
            self._drained_ns = self._now_ns + self._settings.drain_ns
        if self._drained_ns is not None and self._now_ns >= self._drained_ns:
            for exchange in tuple(self._live.values()):
                self._give_up(exchange, RequestStatus.CANCELLED)

    def _end(self, exchange: Exchange, status: RequestStatus) -> None:
        """A request has ended for the client."""
        exchange.status = status
        exchange.end_ns = self._now_ns
        ask = exchange.ask
        del self._live[ask.index]
        if exchange.admitted_us is not None:
            self._router.outstanding[exchange.replica] -= 1
        self._feed.answered(ask, self._now_ns // _NS_PER_US, ok=status is RequestStatus.OK)
        if self._gate is not None:
            self._gate.leave(ask.index, self._now_ns // _NS_PER_US)
        self._client_ns = min(self._client_ns, self._next_due_ns())
        self._tell(exchange)

    def _end_all(self) -> None:
        """The engine is gone: its connections are closed, and those to its other replicas are given up."""
        for exchange in tuple(self._live.values()):
            here = self._died is not None and exchange.admitted_us is not None and exchange.replica == self._dead
            self._end(exchange, RequestStatus.CLOSED_EARLY if here else RequestStatus.CANCELLED)

    def _next_due_ns(self) -> int:
        if self._gate is not None and self._gate.ready:
            return self._now_ns
        due_us = self._feed.due_us()
        return _FAR_NS if due_us is None else max(self._now_ns, due_us * _NS_PER_US)

    def _next_ns(self) -> int:
        """When something is due on the client's side."""
        next_ns = self._next_due_ns()
        if self._travelling:
            next_ns = min(next_ns, self._travelling[0][0])
        if self._deadlines:
            next_ns = min(next_ns, self._deadline_ns(self._deadlines[0]))
        if self._drained_ns is not None:
            next_ns = min(next_ns, self._drained_ns)
        elif self._settings.windows_end_ns > self._now_ns:
            next_ns = min(next_ns, self._settings.windows_end_ns)
        if self._settings.stall_ns and self._live:
            next_ns = min(next_ns, self._silent_ns + 1)
        return next_ns
