"""The requests of one simulated run, made once and used by any number of simulations. Pure.

The schedule, the order, the lengths and the shared prefixes are those that the load generator would send with the same
seed (scoot.benchmark.preparation); only the bodies are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from scoot.benchmark.ask import NO_SESSION, Ask
from scoot.benchmark.feed import Feed, closed_feed, open_feed
from scoot.benchmark.schedule import RunSchedule, build_schedule
from scoot.benchmark.trace_row import TraceRow, input_estimate
from scoot.simulator.prefix import keys_of_row
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Workload

MOST_REQUESTS: Final = 1_000_000
MOST_TOKENS: Final = 500_000_000
"""Requests, and output tokens, of one run: beyond, neither memory nor patience suffices."""

_KEYS_KEPT: Final = 8_000_000
"""Keys of prefixes that are kept for the next simulation, for all block sizes together."""

Keys = Callable[[Ask], Sequence[int]]
"""A request's keys; see scoot.simulator.prefix."""


class Load:
    """The requests of a run.

    Args:
        workload: arrivals and windows; resolved already.
        rows: the workload's rows, at least one (scoot.benchmark.workload.resolve clips them).
        seed: of the run: draws arrivals, order and classes.

    Attributes:
        workload, seed: as given.
        schedule: see RunSchedule.

    Raises:
        UserError: no rows, arrivals that cannot be drawn, or more than MOST_REQUESTS or MOST_TOKENS.
    """

    def __init__(self, workload: Workload, rows: Sequence[TraceRow], *, seed: int) -> None:
        _check(workload)
        self.workload = workload
        self.seed = seed
        self.schedule: RunSchedule = build_schedule(workload, rows, seed, warm_up=workload.warm_up_s > 0)
        self._rows = tuple(rows)
        self._closed = workload.arrivals.process is ArrivalProcess.CLOSED
        self._inputs = np.fromiter((input_estimate(row) for row in rows), np.int64, len(rows))
        self._outputs = np.fromiter((row.output_tokens for row in rows), np.int64, len(rows))
        self._keys: dict[tuple[int, int, int], Sequence[int]] = {}
        self._keys_kept = 0
        self._made: dict[int, Ask] = {}
        self._asks: tuple[Ask, ...] = ()
        if not self._closed:
            _check_size(len(self.schedule), int(self._outputs[self.schedule.row].sum()))
            self._asks = self._make_all()

    def feed(self) -> Feed:
        """The requests, from the first one on."""
        schedule = self.schedule
        if self._closed:
            return closed_feed(schedule, 0, 1, make=self._make, ahead=len(schedule.joins_us))
        return open_feed(self._asks, schedule.windows)

    def keys(self, block_size: int) -> Keys:
        """The keys of every request for blocks of so many tokens."""
        rows, known, row_of = self._rows, self._keys, self.schedule.row
        several = len(row_of)

        def of(ask: Ask) -> Sequence[int]:
            index = int(row_of[ask.index % several])
            name = (block_size, index, ask.session)
            keys = known.get(name)
            if keys is None:
                row = rows[index]
                if row.blocks or ask.session != NO_SESSION:
                    keys = keys_of_row(row, session=ask.session, run_seed=self.seed, block_size=block_size)
                else:
                    keys = ()
                self._keys_kept += len(keys) + 1
                if self._keys_kept <= _KEYS_KEPT:
                    known[name] = keys
            return keys

        return of

    def _make_all(self) -> tuple[Ask, ...]:
        schedule = self.schedule
        columns = (
            schedule.intended_us,
            schedule.phase,
            self._inputs[schedule.row],
            self._outputs[schedule.row],
            schedule.slo_class,
            schedule.session,
            schedule.think_us,
        )
        return tuple(
            Ask(
                index=index,
                intended_us=intended_us,
                phase=RequestPhase(phase),
                input_tokens=inputs,
                wanted_tokens=outputs,
                exact=True,
                body=b"",
                slo_class=slo_class,
                session=session,
                think_us=think_us,
            )
            for index, (intended_us, phase, inputs, outputs, slo_class, session, think_us) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        )

    def _make(self, index: int) -> Ask:
        """The request of an index of a closed loop."""
        ask = self._made.get(index)
        if ask is None:
            slot = self.schedule.slot(index)
            ask = self._made[index] = Ask(
                index=index,
                intended_us=slot.intended_us,
                phase=slot.phase,
                input_tokens=int(self._inputs[slot.row]),
                wanted_tokens=int(self._outputs[slot.row]),
                exact=True,
                body=b"",
                slo_class=slot.slo_class,
                session=slot.session,
                think_us=slot.think_us,
            )
        return ask


def _check(workload: Workload) -> None:
    """What is not checked where a workload is used without a study file."""
    for name in ("duration_s", "warm_up_s", "cool_down_s", "drain_s", "request_timeout_s"):
        value = getattr(workload, name)
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{value} is not a time", key=f"workload.{name}", hint="a number of seconds, 0 or more")


def _check_size(requests: int, tokens: int) -> None:
    for count, most, what in ((requests, MOST_REQUESTS, "requests"), (tokens, MOST_TOKENS, "output tokens")):
        if count > most:
            raise UserError(
                f"{count} {what} in one run are too many to simulate, the limit is {most}",
                key="workload.arrivals",
                hint="lower the rate or the duration",
            )
