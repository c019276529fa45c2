"""One run of the load: dispatch on time, route, stamp, parse when there is a moment, expire, drain, account.

Everything happens in callbacks of one loop. Bytes are stamped as they are read and put into an inbox; the inbox is
parsed after the loop has read every ready socket, and a due dispatch goes before each piece of it.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from scoot.benchmark.batching import BatchBuilder
from scoot.benchmark.clock import Alarm, CpuWatch, ReceiveClock, WallWatch, monotonic_ns
from scoot.benchmark.connection import Connection, Lost, Pool, Target
from scoot.benchmark.exchange import Ask, Exchange
from scoot.benchmark.feed import Feed
from scoot.benchmark.plan import LoadProgress
from scoot.wire.assignment import Phase
from scoot.wire.columns import RequestStatus
from scoot.wire.measurement import LoadAudit

WARM_CONNECTIONS: Final = 32
"""Connections opened to each replica before the clock starts."""

_TICK_S: Final = 0.05
_PROGRESS_US: Final = 400_000
_NS_PER_US: Final = 1000
_FAR_NS: Final = 1 << 62


class RunSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a run needs to know besides its requests.

    Attributes:
        run: index of the run within the attempt.
        targets: replicas.
        heads: per replica, the start of every request up to and including its Host header.
        warm_up_us: end of the warm-up window.
        timeout_us: a request is failed so long after its intended start.
        drain_us: longest wait after the last arrival.
    """

    run: int
    targets: tuple[Target, ...]
    heads: tuple[bytes, ...]
    warm_up_us: int
    timeout_us: int
    drain_us: int


class Run:
    """One run. Make it, `await execute()`.

    Args:
        settings: see RunSettings.
        feed: the requests.
        spool: called with every encoded batch.
        report: called with progress, for display; must not block.
    """

    def __init__(
        self,
        settings: RunSettings,
        feed: Feed,
        *,
        spool: Callable[[bytes], None],
        report: Callable[[LoadProgress], None],
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._spool = spool
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._receive_clock = ReceiveClock()
        self._pools = tuple(
            Pool(
                target,
                received=self._on_received,
                clock=self._receive_clock,
                dispatch=self._send,
                failed=self._on_failed,
            )
            for target in settings.targets
        )
        self._outstanding = [0] * len(self._pools)
        self._batch = BatchBuilder()
        self._inbox: deque[tuple[Connection, int, bytes | Lost]] = deque()
        self._parse_scheduled = False
        self._live: dict[int, Exchange] = {}
        self._connections: dict[int, Connection] = {}
        self._alarm: Alarm | None = None
        self._zero_ns = 0
        self._next_ns = _FAR_NS
        self._phase = Phase.WARM_UP if settings.warm_up_us else Phase.MEASURE
        self._drain_until_us: int | None = None
        self._reported_us = 0
        self._alive_us = 0
        self._sent = self._completed = self._failed = self._dropped = self._tokens = 0

    async def execute(self, stop: asyncio.Event) -> LoadAudit:
        """Run to the end of the drain, or until `stop` is set: then what is outstanding is CANCELLED.

        Raises:
            OSError: the spool could not be written.
        """
        await asyncio.gather(*(pool.warm(WARM_CONNECTIONS) for pool in self._pools))
        self._loop.set_exception_handler(self._on_loop_error)
        self._zero_ns = monotonic_ns()
        cpu, wall = CpuWatch(), WallWatch()
        self._alarm = Alarm(self._loop, self._dispatch_due)
        stopped = self._loop.create_task(stop.wait())
        try:
            self._tell()
            self._set_alarm()
            tick = self._loop.call_soon(self._tick, wall)
            await asyncio.wait((self._finished, stopped), return_when=asyncio.FIRST_COMPLETED)
            tick.cancel()
            if self._finished.done():
                self._finished.result()
            self._parse_inbox()
            self._end_all(RequestStatus.CANCELLED, "the load process was told to stop")
            wall.sample()
            if len(self._batch):
                self._spool(self._batch.take())
            self._tell()
            return LoadAudit(
                run=self._settings.run,
                cpu_share=cpu.share(),
                run_queue_s=cpu.run_queue_s(),
                clock_step_ms=wall.largest_ns / 1e6,
                dropped=self._dropped,
                clock=self._receive_clock.name,
            )
        finally:
            self._finished.cancel()
            stopped.cancel()
            self._alarm.close()
            for pool in self._pools:
                await pool.close()
            self._loop.set_exception_handler(None)

    # --- dispatch ----------------------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return (monotonic_ns() - self._zero_ns) // _NS_PER_US

    def _dispatch_due(self) -> None:
        """Send every request that is due, then set the alarm for the next."""
        if self._finished.done():
            return
        due_us = self._feed.due_us()
        while due_us is not None and due_us <= self._now_us():
            self._begin(self._feed.take())
            due_us = self._feed.due_us()
        self._set_alarm()

    def _set_alarm(self) -> None:
        due_us = self._feed.due_us()
        self._next_ns = _FAR_NS if due_us is None else self._zero_ns + due_us * _NS_PER_US
        if self._alarm is not None:
            self._alarm.set(None if due_us is None else self._next_ns)

    def _begin(self, ask: Ask) -> None:
        """Choose a replica, the one with the fewest outstanding requests, and send."""
        replica = self._outstanding.index(min(self._outstanding))
        exchange = Exchange(ask, replica=replica, deadline_us=ask.intended_us + self._settings.timeout_us)
        if not any(self._outstanding):
            self._alive_us = self._now_us()
        self._outstanding[replica] += 1
        self._live[ask.index] = exchange
        connection = self._pools[replica].acquire()
        if connection is None:
            self._pools[replica].wait(exchange)
        else:
            self._send(connection, exchange)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        exchange.sent_us = self._now_us()
        self._sent += 1
        self._connections[exchange.ask.index] = connection
        connection.send(exchange, (self._settings.heads[exchange.replica], exchange.ask.body))

    # --- answers -----------------------------------------------------------------------------------------------------

    def _on_received(self, connection: Connection, stamp_ns: int, data: bytes | Lost) -> None:
        self._inbox.append((connection, stamp_ns, data))
        if stamp_ns >= self._next_ns:
            self._dispatch_due()
        if not self._parse_scheduled:
            self._parse_scheduled = True
            self._loop.call_soon(self._parse_inbox)

    def _parse_inbox(self) -> None:
        self._parse_scheduled = False
        while self._inbox:
            connection, stamp_ns, data = self._inbox.popleft()
            exchange = connection.exchange
            if exchange is not None:
                self._parse(exchange, (stamp_ns - self._zero_ns) // _NS_PER_US, data)
            elif not isinstance(data, Lost):
                # Bytes nobody asked for: whatever the server thinks, this connection is out of step.
                connection.pool.discard(connection)
            if monotonic_ns() >= self._next_ns:
                self._dispatch_due()
        self._feed.refill()

    def _parse(self, exchange: Exchange, stamp_us: int, data: bytes | Lost) -> None:
        # Never before its sending: bytes that were left over from an earlier answer would otherwise look like that.
        stamp_us = max(stamp_us, exchange.sent_us or 0)
        self._alive_us = stamp_us
        before = exchange.output_tokens
        if isinstance(data, Lost):
            exchange.closed(stamp_us, reset=data.reset)
        else:
            exchange.receive(stamp_us, data)
        self._tokens += exchange.output_tokens - before
        if exchange.ended:
            self._account(exchange)

    def _on_failed(self, exchange: Exchange, status: RequestStatus, message: str) -> None:
        exchange.fail(self._now_us(), status, message)
        self._account(exchange)

    def _account(self, exchange: Exchange) -> None:
        """An exchange has ended: count it, keep it for the spool, free its user."""
        del self._live[exchange.ask.index]
        connection = self._connections.pop(exchange.ask.index, None)
        if connection is not None:
            # Where the answer did not end as it should the connection is closed, so that the server gives up too.
            connection.pool.release(connection, reusable=exchange.reusable)
        self._outstanding[exchange.replica] -= 1
        ok = exchange.status is RequestStatus.OK
        self._completed += ok
        self._failed += not ok
        self._dropped += exchange.status is RequestStatus.NOT_SENT
        now_us = self._now_us()
        self._batch.add(exchange, run=self._settings.run, now_us=now_us)
        self._flush(now_us)
        self._feed.answered(exchange.end_us if exchange.end_us is not None else now_us, ok=ok)
        self._set_alarm()
        self._check_finished()

    def _flush(self, now_us: int) -> None:
        if self._batch.due(now_us):
            self._spool(self._batch.take())

    # --- time --------------------------------------------------------------------------------------------------------

    def _tick(self, wall: WallWatch) -> None:
        """Twenty times a second: deadlines, phases, the drain's end, batches, clocks, progress."""
        if self._finished.done():
            return
        self._loop.call_later(_TICK_S, self._tick, wall)
        now_us = self._now_us()
        for exchange in self._overdue(now_us):
            exchange.expire(now_us)
            self._account(exchange)
        self._flush(now_us)
        wall.sample()
        self._receive_clock.sample()
        self._advance(now_us)
        if now_us - self._reported_us >= _PROGRESS_US:
            self._tell()
        self._check_finished()

    def _overdue(self, now_us: int) -> list[Exchange]:
        """Live requests past their deadline. They live in the order of their intended starts, hence of deadlines."""
        return list(itertools.takewhile(lambda exchange: exchange.deadline_us <= now_us, self._live.values()))

    def _advance(self, now_us: int) -> None:
        """Enter the phases that have come, each reported, none left out; end the drain."""
        over = self._feed.over(now_us)
        if self._phase is Phase.WARM_UP and (over or now_us >= self._settings.warm_up_us):
            self._phase = Phase.MEASURE
            self._tell()
        if self._phase is Phase.MEASURE and over:
            self._phase = Phase.DRAIN
            self._drain_until_us = now_us + self._settings.drain_us
            self._tell()
        if self._drain_until_us is not None and now_us >= self._drain_until_us:
            self._end_all(RequestStatus.CANCELLED, "not finished when the drain ended")

    def _end_all(self, status: RequestStatus, message: str) -> None:
        for exchange in tuple(self._live.values()):
            exchange.fail(self._now_us(), status, message)
            self._account(exchange)

    def _check_finished(self) -> None:
        if self._drain_until_us is not None and not any(self._outstanding) and not self._finished.done():
            self._finished.set_result(None)

    def _tell(self) -> None:
        now_us = self._now_us()
        self._reported_us = now_us
        outstanding = sum(self._outstanding)
        self._report(
            LoadProgress(
                phase=self._phase,
                run=self._settings.run,
                sent=self._sent,
                completed=self._completed,
                failed=self._failed,
                tokens=self._tokens,
                outstanding=outstanding,
                silent_s=max(0, now_us - self._alive_us) / 1e6 if outstanding else 0.0,
            )
        )

    def _on_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback of this run raised: that is our own failure, and ends it."""
        error = context.get("exception")
        if not self._finished.done():
            self._finished.set_exception(
                error if isinstance(error, Exception) else RuntimeError(str(context.get("message")))
            )
