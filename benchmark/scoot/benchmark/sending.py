"""The life of a sending process: for every run make its part of the requests, be ready, go, tell, and end.

It is told what to do and tells what happens over a channel to the conductor (scoot.benchmark.messages).
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import traceback
from typing import Final

import msgspec
import uvloop

from scoot.benchmark.admission import share_of
from scoot.benchmark.channel import Channel
from scoot.benchmark.clock import sharpen_timers
from scoot.benchmark.connection import Route
from scoot.benchmark.crew import apply_priority, pin
from scoot.benchmark.messages import Abandon, Frame, FromSender, Go, Ready, Stop, ToSender, Traffic, Trouble
from scoot.benchmark.plan import LoadPlan
from scoot.benchmark.preparation import Preparation
from scoot.benchmark.request import head
from scoot.benchmark.sender import Sender, SenderSettings, connections_wanted
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess

EXIT_FAILED: Final = 1
EXIT_BAD_PLAN: Final = 2

_DECODER: Final = msgspec.msgpack.Decoder(ToSender)


class Sending:
    """One sending process of `senders`.

    Args:
        plan: what the load process was told.
        routes: to the replicas.
        rows: the workload.
        number: which sender this is.
        senders: how many there are.
    """

    def __init__(
        self, plan: LoadPlan, routes: tuple[Route, ...], rows: tuple[TraceRow, ...], number: int, senders: int
    ) -> None:
        self._plan = plan
        self._routes = routes
        self._rows = rows
        self._number = number
        self._senders = senders
        self._priority = ""
        self._pinned: int | None = None
        self._encoder = msgspec.msgpack.Encoder()
        self._go: asyncio.Future[int] | None = None
        self._stop: asyncio.Event | None = None
        self._sender: Sender | None = None

    def work(self, sock: socket.socket) -> int:
        """Do everything; the exit code."""
        # Interrupts from a terminal reach every process of it; the conductor decides what they mean.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sharpen_timers()
        self._pinned = pin(self._plan.cpus, self._number)
        self._priority = apply_priority(self._plan.priority)
        return uvloop.run(self._live(sock))

    async def _live(self, sock: socket.socket) -> int:
        loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        channel = Channel(sock, self._on_message, lambda: os._exit(1))
        try:
            for run, seed in enumerate(self._plan.run_seeds):
                await self._run(channel, run, seed)
                if self._stop.is_set():
                    break
        except UserError as error:
            self._tell(channel, Trouble(EXIT_BAD_PLAN, str(error)))
        except Exception as error:  # noqa: BLE001 - told, and thereby raised again, in the conductor
            traceback.print_exc()
            self._tell(channel, Trouble(EXIT_FAILED, f"{type(error).__name__}: {error}"))
        await channel.drain()
        channel.close()
        return 0

    async def _run(self, channel: Channel, run: int, seed: int) -> None:
        if self._stop is None:
            raise RuntimeError("not alive")
        preparation = Preparation(
            self._plan,
            self._routes[0],
            self._rows,
            run=run,
            seed=seed,
            sender=self._number,
            senders=self._senders,
        )
        feed = await preparation.feed(self._stop)
        workload = self._plan.workload
        limit = workload.arrivals.max_in_flight
        settings = SenderSettings(
            run=run,
            sender=self._number,
            routes=self._routes,
            heads=tuple(
                head(route, self._plan.endpoint, self._plan.headers, os.environ.get(self._plan.api_key_env, ""))
                for route in self._routes
            ),
            connections=connections_wanted(workload.arrivals.rate or workload.arrivals.users or 0, self._senders),
            warm_up_us=round(workload.warm_up_s * 1e6),
            timeout_us=round(workload.request_timeout_s * 1e6),
            drain_us=round(workload.drain_s * 1e6),
            waits=workload.arrivals.process is ArrivalProcess.CLOSED or workload.sessions or limit is not None,
            most_in_flight=share_of(limit, self._number, self._senders),
            priority=self._priority,
            pinned=self._pinned,
        )
        self._sender = Sender(settings, feed, tell=lambda frame: self._tell_frame(channel, frame))
        await self._sender.open()
        self._go = asyncio.get_running_loop().create_future()
        self._tell(channel, Ready(run))
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((self._go, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        zero_ns = self._go.result() if self._go.done() else 0
        if not self._go.done():
            self._sender.close()
            return
        gc.collect()
        gc.freeze()
        await self._sender.execute(zero_ns, self._stop)
        gc.unfreeze()
        self._sender = None

    def _tell_frame(self, channel: Channel, frame: Frame) -> int:
        self._tell(channel, Traffic(frame))
        return channel.backlog_bytes

    def _tell(self, channel: Channel, message: FromSender) -> None:
        channel.send(self._encoder.encode(message))

    def _on_message(self, payload: bytes) -> None:
        message = _DECODER.decode(payload)
        match message:
            case Go():
                if self._go is not None and not self._go.done():
                    self._go.set_result(message.zero_ns)
            case Abandon():
                if self._sender is not None:
                    self._sender.abandon(message.indices, message.failed)
            case Stop():
                if self._stop is not None:
                    self._stop.set()
