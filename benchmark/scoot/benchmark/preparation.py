"""A run's requests made before its clock starts: a sender's part of the schedule, as a feed."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterable
from typing import Final

import msgspec

from scoot.benchmark.ask import Ask
from scoot.benchmark.clock import monotonic_ns
from scoot.benchmark.connection import Route
from scoot.benchmark.feed import Feed, closed_feed, open_feed
from scoot.benchmark.plan import Endpoint, LoadPlan, PromptMode
from scoot.benchmark.request import RequestBuilder, TokenCounter
from scoot.benchmark.schedule import RunSchedule, build_schedule
from scoot.benchmark.trace_row import TraceRow, estimate_tokens
from scoot.wire.errors import TransientError
from scoot.wire.spec import ArrivalProcess

_SLICE_NS: Final = 50_000_000
_CLOSED_TEXTS_MIN: Final = 500
_CLOSED_TEXTS_PER_USER: Final = 8


class Preparation:
    """Makes a sender's part of the requests of one run.

    Args:
        plan: what the load process was told.
        route: to a replica, which counts tokens if need be.
        rows: the workload.
        run: index of the run.
        seed: of the run.
        sender: which of the senders this is.
        senders: how many there are.
    """

    def __init__(
        self,
        plan: LoadPlan,
        route: Route,
        rows: tuple[TraceRow, ...],
        *,
        run: int,
        seed: int,
        sender: int,
        senders: int,
    ) -> None:
        self._plan = plan
        self._rows = rows
        self._sender = sender
        self._senders = senders
        self._counter = _Counter(route, plan.model)
        self._builder = RequestBuilder(plan, rows, seed, run=run, count_tokens=self._counter)
        self._seed = seed

    async def feed(self, stop: asyncio.Event) -> Feed:
        """The requests; cut short when told to stop.

        Raises:
            UserError: arrivals that cannot be drawn.
        """
        workload = self._plan.workload
        schedule = build_schedule(workload, self._rows, self._seed, warm_up=workload.warm_up_s > 0)
        try:
            if workload.arrivals.process is ArrivalProcess.CLOSED:
                return await self._closed_feed(schedule, stop)
            asks = await self._build(schedule, schedule.part(self._sender, self._senders), stop)
            return open_feed(asks, schedule.windows)
        finally:
            self._counter.close()

    async def _closed_feed(self, schedule: RunSchedule, stop: asyncio.Event) -> Feed:
        users = math.ceil(len(schedule.joins_us) / self._senders)
        if self._plan.prompt_mode is not PromptMode.TEXT and self._plan.endpoint is not Endpoint.CHAT:
            return closed_feed(
                schedule, self._sender, self._senders, make=lambda i: self._make(schedule, i), ahead=users
            )
        # Fitting a text asks the engine and blocks, so these are made now, and used again when they run out.
        schedule = schedule.head(max(_CLOSED_TEXTS_MIN, _CLOSED_TEXTS_PER_USER * len(schedule.joins_us)))
        asks = await self._build(schedule, range(len(schedule)), stop)

        def make(index: int) -> Ask:
            slot = schedule.slot(index)
            return msgspec.structs.replace(asks[index % len(asks)], index=index, session=slot.session)

        return closed_feed(schedule, self._sender, self._senders, make=make, ahead=users)

    async def _build(self, schedule: RunSchedule, indices: Iterable[int], stop: asyncio.Event) -> list[Ask]:
        """The requests of `indices`. Now and then the loop gets a turn."""
        asks: list[Ask] = []
        yielded_ns = monotonic_ns()
        for index in indices:
            asks.append(self._make(schedule, index))
            if monotonic_ns() - yielded_ns >= _SLICE_NS:
                await asyncio.sleep(0)  # noqa: TID251 - no waiting: lets the loop hear of a stop
                yielded_ns = monotonic_ns()
                if stop.is_set():
                    break
        return asks

    def _make(self, schedule: RunSchedule, index: int) -> Ask:
        slot = schedule.slot(index)
        return self._builder.build(
            index,
            slot.row,
            intended_us=slot.intended_us,
            phase=slot.phase,
            slo_class=slot.slo_class,
            session=slot.session,
            think_us=slot.think_us,
        )


class _Counter:
    """Token counts from the engine; estimates once it does not answer: its requests will then fail, and tell why."""

    def __init__(self, route: Route, model: str) -> None:
        self._counter = TokenCounter(route, model)
        self._broken = False

    def __call__(self, text: str) -> int:
        if not self._broken:
            try:
                return self._counter(text)
            except TransientError as error:
                self._broken = True
                sys.stderr.write(f"prompts have estimated lengths: {error}\n")
        return estimate_tokens(text)

    def close(self) -> None:
        self._counter.close()
