"""One run of one sender: dispatch on time, route, stamp, frame, expire, drain, and tell the conductor.

Everything happens in callbacks of one loop. Bytes are stamped as they are read and put into an inbox, which is looked
through after the loop has read every ready socket; a due dispatch goes before each piece of it. What bodies say is not
looked at here at all: they are sent on to the conductor.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Callable
from typing import Final

import msgspec

from scoot.benchmark.admission import Admission
from scoot.benchmark.ask import Ask
from scoot.benchmark.clock import Alarm, CpuWatch, DispatchLead, ReceiveClock, WallWatch, monotonic_ns
from scoot.benchmark.connection import PATIENCE_NS, Ancillary, Connection, Intake, Lost, Pool, Route, Special
from scoot.benchmark.exchange import Exchange
from scoot.benchmark.feed import Feed
from scoot.benchmark.messages import Begun, Ended, Frame, SenderAudit, SenderState
from scoot.benchmark.tls import TlsError
from scoot.wire.assignment import Phase
from scoot.wire.columns import RequestStatus

_TICK_S: Final = 0.05
_NS_PER_US: Final = 1000
_FAR_NS: Final = 1 << 62

_MANY_READS: Final = 100
"""Reads per tick from which on it pays to gather them."""

_SELDOM: Final = 10
"""Tokens of one stream are at least so many times the gathering apart, on average."""

_FRAME_READS: Final = 512
_FRAME_READS_MAX: Final = 2048
"""Reads told at once: from the former on when there is time to pack them, from the latter on in any case."""

_CLEAR_NS: Final = 100_000
_CLEAR_READ_NS: Final = 500
"""There is time when nothing is due for so long, and so much longer per read."""


class SenderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs to know besides its requests.

    Attributes:
        run: index of the run within the attempt.
        sender: which of the senders this is, counted from 0.
        routes: to the replicas.
        heads: per replica, the start of every request up to and including its Host header.
        connections: opened to each replica before the clock starts.
        warm_up_us: end of the warm-up window.
        timeout_us: a request is failed so long after its intended start.
        drain_us: longest wait after the last arrival.
        waits: whether requests wait for answers (a closed loop, sessions, a limit of those in flight), so that the end
            of one must be seen at once.
        most_in_flight: requests that are sent and have not ended, at most; None: no limit.
        priority, pinned: how and where this process is scheduled, for the audit.
    """

    run: int
    sender: int
    routes: tuple[Route, ...]
    heads: tuple[bytes, ...]
    connections: int
    warm_up_us: int
    timeout_us: int
    drain_us: int
    waits: bool
    most_in_flight: int | None
    priority: str
    pinned: int | None


class Sender:
    """One run. Make it, `await open()`, then `await execute()`.

    Args:
        settings: see SenderSettings.
        feed: the requests.
        tell: called with every frame; returns the bytes that the conductor has not taken yet, at most.
    """

    def __init__(self, settings: SenderSettings, feed: Feed, *, tell: Callable[[Frame], int]) -> None:
        self._settings = settings
        self._feed = feed
        self._tell_frame = tell
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._clock = ReceiveClock()
        self._intake = Intake(dispatch=self._dispatch_due, ready=self._look)
        self._pools = tuple(
            Pool(route, intake=self._intake, clock=self._clock, dispatch=self._send, failed=self._on_failed)
            for route in settings.routes
        )
        self._outstanding = [0] * len(self._pools)
        # Several senders start at different replicas, or the first would get all of a light load.
        self._order = [(settings.sender + i) % len(self._pools) for i in range(len(self._pools))]
        self._admission: Admission[Exchange] = Admission(settings.most_in_flight)
        self._admitting = False
        # Waiting ones too, in the order of their intended starts.
        self._live: dict[int, Exchange] = {}
        self._connections: dict[int, Connection] = {}
        self._alarm: Alarm | None = None
        self._lead = DispatchLead()
        self._zero_ns = 0
        self._alarm_ns = _FAR_NS
        self._looking = False
        self._phase = Phase.WARM_UP if settings.warm_up_us else Phase.MEASURE
        self._drain_until_us: int | None = None
        self._dropped = 0
        self._largest_backlog = 0
        self._reads_before = 0
        self._begun: list[Begun] = []
        self._ended: list[Ended] = []

    async def open(self) -> None:
        """Open connections."""
        await asyncio.gather(*(pool.warm(self._settings.connections) for pool in self._pools))

    async def execute(self, zero_ns: int, stop: asyncio.Event) -> None:
        """Run from `zero_ns` (monotonic) to the end of the drain, or until `stop`: what is outstanding is CANCELLED.

        The last frame carries the audit.
        """
        self._loop.set_exception_handler(self._on_loop_error)
        self._zero_ns = zero_ns
        cpu, wall = CpuWatch(), WallWatch()
        self._alarm = Alarm(self._on_alarm)
        self._intake.watch_other(self._alarm.fd, self._alarm.on_ring)
        stopped = self._loop.create_task(stop.wait())
        try:
            self._note_due()
            self._set_alarm()
            tick = self._loop.call_soon(self._tick, wall)
            await asyncio.wait((self._finished, stopped), return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
            if self._finished.done():
                self._finished.result()
            self._end_all(RequestStatus.CANCELLED, "the load process was told to stop")
            wall.sample()
            self._flush(
                SenderAudit(
                    cpu_share=cpu.share(),
                    run_queue_s=cpu.run_queue_s(),
                    clock_step_ms=wall.largest_ns / 1e6,
                    dropped=self._dropped,
                    connections=sum(pool.made for pool in self._pools),
                    backlog_bytes=self._largest_backlog,
                    priority=self._settings.priority,
                    pinned=self._settings.pinned,
                    wall_s=self._now_us() / 1e6,
                )
            )
        finally:
            self._finished.cancel()
            stopped.cancel()
            alarm, self._alarm = self._alarm, None
            self._intake.forget(alarm.fd)
            alarm.close()
            self.close()
            self._loop.set_exception_handler(None)

    def close(self) -> None:
        """Close everything that was opened."""
        for pool in self._pools:
            pool.close()
        self._intake.close()

    def abandon(self, indices: list[int], failed: int) -> None:
        """End requests whose verdict is decided; `failed` others had ended already, as it seemed well."""
        for index in indices:
            exchange = self._live.get(index)
            if exchange is not None:
                exchange.end(self._now_us(), RequestStatus.STREAM_ERROR)
                self._account(exchange)
        for _ in range(failed):
            self._feed.failed_late()

    # --- dispatch ----------------------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return (monotonic_ns() - self._zero_ns) // _NS_PER_US

    def _on_alarm(self) -> None:
        self._lead.woke(max(0, monotonic_ns() - self._alarm_ns))
        self._dispatch_due()

    def _dispatch_due(self) -> None:
        """Send every request that is due now or within the lead, each at its time; set the alarm for the next."""
        if self._finished.done():
            return
        lead_ns = self._lead.ns
        due_us = self._feed.due_us()
        while due_us is not None:
            due_ns = self._zero_ns + due_us * _NS_PER_US
            now_ns = monotonic_ns()
            if due_ns - now_ns > lead_ns:
                break
            while now_ns < due_ns:
                now_ns = monotonic_ns()
            self._begin(self._feed.take())
            due_us = self._feed.due_us()
            if due_us is not None:
                self._lead.dispatched(self._zero_ns + due_us * _NS_PER_US - due_ns)
        self._note_due()
        self._set_alarm()

    def _note_due(self) -> None:
        due_us = self._feed.due_us()
        self._alarm_ns = _FAR_NS if due_us is None else self._zero_ns + due_us * _NS_PER_US - self._lead.ns
        self._intake.due_ns = self._alarm_ns

    def _set_alarm(self) -> None:
        if self._alarm is not None and not self._looking:
            self._alarm.set(None if self._alarm_ns == _FAR_NS else self._alarm_ns)

    def _begin(self, ask: Ask) -> None:
        """Send what is due, or let it wait until it is admitted."""
        exchange = Exchange(ask, deadline_us=ask.intended_us + self._settings.timeout_us)
        if self._admission.enter(ask.index, exchange):
            self._admit(exchange, ask.intended_us)
        else:
            self._live[ask.index] = exchange

    def _admit_waiting(self) -> None:
        """Send those for whom there is a place now: due since it was given back, or since they were intended."""
        if self._admitting:
            return  # one has ended in the loop below, which goes on
        self._admitting = True
        while (exchange := self._admission.admit()) is not None:
            at_us = max(exchange.ask.intended_us, self._admission.free_us)
            if at_us < exchange.deadline_us:
                self._admit(exchange, at_us)
            else:
                self._expire(exchange)
        self._admitting = False

    def _admit(self, exchange: Exchange, at_us: int) -> None:
        """Choose a replica, the one with the fewest outstanding requests, and send."""
        outstanding = self._outstanding
        replica = 0 if len(outstanding) == 1 else min(self._order, key=outstanding.__getitem__)
        exchange.replica = replica
        exchange.admitted_us = at_us
        connection = self._pools[replica].acquire()
        if connection is not None:
            self._send(connection, exchange)
        outstanding[replica] += 1
        self._live[exchange.index] = exchange
        if connection is None:
            self._pools[replica].wait(exchange)
        else:
            self._pools[replica].refill_soon()

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        sent_us = (monotonic_ns() - self._zero_ns) // _NS_PER_US
        connection.send(exchange, (self._settings.heads[exchange.replica], exchange.ask.body))
        exchange.sent_us = sent_us
        self._connections[exchange.ask.index] = connection
        self._begun.append(Begun.of(exchange.ask, exchange.replica, sent_us, exchange.admitted_us))

    # --- answers -----------------------------------------------------------------------------------------------------

    def _look(self, special: list[Special]) -> None:
        """Look at what may end an answer, and at what is no plain read."""
        if self._finished.done():
            return
        self._looking = True  # the timer is set once, at the end
        for connection, ancillary, data, read_ns in special:
            exchange = connection.exchange
            if exchange is None:
                self._on_idle(connection, data)
            elif data == b"":
                exchange.settle(self._stamp_us(ancillary, read_ns))
                if exchange.ended:
                    self._account(exchange)
            else:
                self._on_special(connection, exchange, ancillary, data, read_ns)
            if monotonic_ns() >= self._alarm_ns:
                self._dispatch_due()
        self._looking = False
        self._set_alarm()
        self._feed.refill()
        self._flush_when_clear()

    def _stamp_us(self, ancillary: Ancillary, read_ns: int) -> int:
        return (self._clock.stamp_ns(ancillary, read_ns) - self._zero_ns) // _NS_PER_US

    def _on_idle(self, connection: Connection, data: bytes | Lost) -> None:
        """Bytes on an idle connection: TLS has some of its own; any others mean that it is out of step."""
        if isinstance(data, Lost):
            return
        try:
            plain, over = connection.plain(data)
        except TlsError:
            plain, over = b"", True
        if plain or over:
            connection.pool.discard(connection)

    def _on_special(
        self, connection: Connection, exchange: Exchange, ancillary: Ancillary, data: bytes | Lost, read_ns: int
    ) -> None:
        """The end of a connection, or bytes that are encrypted."""
        stamp_us = self._stamp_us(ancillary, read_ns)
        if isinstance(data, Lost):
            exchange.closed(stamp_us, reset=data.reset, cut=data.cut)
        else:
            over, broken = False, ""
            try:
                data, over = connection.plain(data)
            except TlsError as error:
                data, broken = error.plain, str(error)
            if data:
                stamp = ancillary[0][2] if ancillary else b""
                self._intake.reads.append((exchange.index, read_ns, stamp, data))
                if not exchange.goes_on(data) or broken or over:
                    exchange.settle(stamp_us)
            if broken:
                exchange.end(stamp_us, RequestStatus.MALFORMED, broken)
            elif over:
                exchange.closed(stamp_us, reset=False)
        if exchange.ended:
            self._account(exchange)

    def _on_failed(self, exchange: Exchange, status: RequestStatus, message: str) -> None:
        exchange.end(self._now_us(), status, message)
        self._account(exchange)

    def _account(self, exchange: Exchange) -> None:
        """An exchange has ended: tell it, free its connection and its user."""
        ask = exchange.ask
        del self._live[ask.index]
        connection = self._connections.pop(ask.index, None)
        if connection is not None:
            # Where the answer did not end as it should the connection is closed, so that the server gives up too.
            self._pools[exchange.replica].release(
                connection, reusable=exchange.status is RequestStatus.OK and exchange.reusable
            )
        else:
            self._begun.append(Begun.of(ask, exchange.replica, None, exchange.admitted_us))
        if exchange.admitted_us is not None:
            self._outstanding[exchange.replica] -= 1
        self._dropped += exchange.status is RequestStatus.NOT_SENT
        end_us = exchange.end_us if exchange.end_us is not None else self._now_us()
        self._ended.append(
            Ended(
                ask.index,
                end_us,
                int(exchange.status or RequestStatus.OK),
                exchange.message,
            )
        )
        self._feed.answered(ask, end_us, ok=exchange.succeeded)
        self._admission.leave(ask.index, end_us)
        self._admit_waiting()
        self._note_due()
        self._set_alarm()
        self._check_finished()

    # --- telling -----------------------------------------------------------------------------------------------------

    def _flush_when_clear(self) -> None:
        reads = len(self._intake.reads)
        if reads >= _FRAME_READS and (reads >= _FRAME_READS_MAX or self._is_clear()):
            self._flush()

    def _is_clear(self) -> bool:
        return self._alarm_ns - monotonic_ns() > _CLEAR_NS + _CLEAR_READ_NS * len(self._intake.reads)

    def _flush(self, audit: SenderAudit | None = None) -> None:
        reads, self._intake.reads = self._intake.reads, []
        frame = Frame(
            made_ns=monotonic_ns(),
            begun=self._begun,
            offset_ns=self._clock.offset_ns,
            patience_ns=PATIENCE_NS if self._intake.patient else 0,
            reads=reads,
            ended=self._ended,
            state=SenderState(self._phase, len(self._live) - self._admission.waiting),
            audit=audit,
        )
        self._begun, self._ended = [], []
        # Here only, so that all stamps of a frame are mapped alike, here and by the conductor.
        self._clock.sample()
        self._largest_backlog = max(self._largest_backlog, self._tell_frame(frame))

    # --- time --------------------------------------------------------------------------------------------------------

    def _tick(self, wall: WallWatch) -> None:
        """Twenty times a second: deadlines, phases, the drain's end, clocks, a frame."""
        if self._finished.done():
            return
        self._loop.call_later(_TICK_S, self._tick, wall)
        now_us = self._now_us()
        for exchange in self._overdue(now_us):
            if not exchange.ended:  # by the end of one before it
                self._expire(exchange)
        wall.sample()
        self._advance(now_us)
        self._intake.patient = not self._settings.waits and self._is_calm()
        if self._is_clear():
            self._flush()
        else:
            self._loop.call_soon(self._flush_after_dispatch)
        self._check_finished()

    def _flush_after_dispatch(self) -> None:
        self._dispatch_due()
        if not self._finished.done():
            self._flush()

    def _is_calm(self) -> bool:
        """Whether many streams bring tokens, each of them seldom: then reads may wait a moment, and come together."""
        reads, self._reads_before = self._intake.count - self._reads_before, self._intake.count
        return reads >= _MANY_READS and len(self._live) * _TICK_S * 1e9 / reads >= _SELDOM * PATIENCE_NS

    def _overdue(self, now_us: int) -> list[Exchange]:
        """Live requests past their deadline. They live in the order of their intended starts, hence of deadlines."""
        return list(itertools.takewhile(lambda exchange: exchange.deadline_us <= now_us, self._live.values()))

    def _expire(self, exchange: Exchange) -> None:
        exchange.end(self._now_us(), RequestStatus.DEADLINE, "not finished at its deadline")
        self._account(exchange)

    def _advance(self, now_us: int) -> None:
        """Enter the phases that have come, each told, none left out; end the drain."""
        over = self._feed.over(now_us)
        if self._phase is Phase.WARM_UP and (over or now_us >= self._settings.warm_up_us):
            self._phase = Phase.MEASURE
            self._flush()
        if self._phase is Phase.MEASURE and over:
            self._phase = Phase.DRAIN
            self._drain_until_us = now_us + self._settings.drain_us
            self._flush()
        if self._drain_until_us is not None and now_us >= self._drain_until_us:
            self._end_all(RequestStatus.CANCELLED, "not finished when the drain ended")

    def _end_all(self, status: RequestStatus, message: str) -> None:
        self._admission.close()
        for exchange in tuple(self._live.values()):
            exchange.end(self._now_us(), status, message)
            self._account(exchange)

    def _check_finished(self) -> None:
        if self._drain_until_us is not None and not self._live and not self._finished.done():
            self._finished.set_result(None)

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback of this run raised: that is our own failure, and ends it."""
        error = context.get("exception")
        if not self._finished.done():
            self._finished.set_exception(
                error if isinstance(error, Exception) else RuntimeError(str(context.get("message")))
            )


def connections_wanted(rate: float, senders: int) -> int:
    """Connections to open beforehand for a load of `rate` requests per second, per sender and replica: 32 to 256."""
    return min(256, max(32, math.ceil(rate / senders)))
