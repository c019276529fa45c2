"""The schedule of one run: which row is due when, in which window. Pure; the same seed gives identical arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from scoot.benchmark.arrivals import intended_starts_us
from scoot.benchmark.ask import NO_SESSION
from scoot.benchmark.trace_row import TraceRow, first_turns
from scoot.wire import limits
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Workload

WHEN_FREE: Final = -1
"""Intended start of what has none beforehand: a closed loop's request, a session's further turn."""

_CLOSED_PER_USER_S: Final = 100
_CLOSED_MAX: Final = 2_000_000
_SEED_MASK: Final = (1 << 64) - 1
_US: Final = 1_000_000

_I64 = npt.NDArray[np.int64]
_U8 = npt.NDArray[np.uint8]


class Windows(msgspec.Struct, frozen=True, kw_only=True):
    """Warm-up [0, warm_up_us), measured [warm_up_us, measured_us), cool-down [measured_us, end_us), microseconds."""

    warm_up_us: int
    measured_us: int
    end_us: int

    def phase(self, intended_us: int) -> RequestPhase:
        """The window of an intended start."""
        if intended_us < self.warm_up_us:
            return RequestPhase.WARM_UP
        if intended_us < self.measured_us or self.measured_us == self.end_us:
            return RequestPhase.MEASURED
        return RequestPhase.COOL_DOWN


def windows_of(workload: Workload, *, warm_up: bool = True) -> Windows:
    """The windows of a workload's runs; without `warm_up` the measured one starts at 0."""
    begin_s = workload.warm_up_s if warm_up else 0.0
    return Windows(
        warm_up_us=round(begin_s * _US),
        measured_us=round((begin_s + workload.duration_s) * _US),
        end_us=round((begin_s + workload.duration_s + workload.cool_down_s) * _US),
    )


class Slot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request of a schedule, as plain values; see RunSchedule."""

    row: int
    intended_us: int
    phase: RequestPhase
    slo_class: int
    session: int
    think_us: int


@dataclass(frozen=True, slots=True, eq=False)
class RunSchedule:
    """Requests of a run, in the order they are due; turns of a session stand together, at the place of the first.

    Attributes:
        intended_us: (n,) int64, intended start since the start of the run, non-decreasing; WHEN_FREE in a closed loop,
            and for the further turns of a session.
        row: (n,) int64, index into the workload's rows.
        phase: (n,) uint8, RequestPhase. MEASURED where there is no intended start: there the load process tells by the
            clock.
        slo_class: (n,) uint8, index into the workload's SLO classes; 0 where there are none.
        session: (n,) int64, number of the session in this run, from 0, non-decreasing; NO_SESSION where rows are on
            their own.
        think_us: (n,) int64, pause before a further turn of a session; 0 elsewhere.
        joins_us: (users,) int64, when each user of a closed loop comes; empty in an open loop.
        windows: see Windows.
    """

    intended_us: _I64
    row: _I64
    phase: _U8
    slo_class: _U8
    session: _I64
    think_us: _I64
    joins_us: _I64
    windows: Windows

    def __len__(self) -> int:
        return len(self.row)

    @property
    def sessions(self) -> int:
        """How many sessions there are; 0 where rows are on their own."""
        return int(self.session[-1]) + 1 if len(self) else 0

    def slot(self, index: int) -> Slot:
        """The request of an index. Beyond the end, where a closed loop may come to, the schedule starts over."""
        lap, at = divmod(index, len(self))
        session = int(self.session[at])
        return Slot(
            row=int(self.row[at]),
            intended_us=int(self.intended_us[at]),
            phase=RequestPhase(int(self.phase[at])),
            slo_class=int(self.slo_class[at]),
            session=session if session == NO_SESSION else session + lap * self.sessions,
            think_us=int(self.think_us[at]),
        )

    def turns(self, session: int) -> range:
        """Indices of a session's turns. Beyond the last session the schedule starts over."""
        lap, within = divmod(session, self.sessions)
        first, end = np.searchsorted(self.session, [within, within + 1]).tolist()
        return range(lap * len(self) + first, lap * len(self) + end)

    def part(self, number: int, parts: int) -> Sequence[int]:
        """Indices of one of `parts` shares of the schedule, ascending: each parts-th request, or session."""
        if self.sessions:
            mine: list[int] = np.flatnonzero(self.session % parts == number).tolist()
            return mine
        return range(number, len(self), parts)

    def head(self, count: int) -> RunSchedule:
        """The first `count` requests, at least one, and the rest of the last one's session."""
        end = min(max(1, count), len(self))
        if self.sessions:
            end = int(np.searchsorted(self.session, self.session[end - 1], side="right"))
        names = ("intended_us", "row", "phase", "slo_class", "session", "think_us")
        columns: dict[str, Any] = {name: getattr(self, name)[:end] for name in names}
        return replace(self, **columns)


def generator(run_seed: int, stream: int) -> np.random.Generator:
    """An independent random stream of a run. Any integer is a seed; 0 = arrivals, 1 = order of rows, 2 = classes."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((run_seed & _SEED_MASK, stream))))


def build_schedule(workload: Workload, rows: Sequence[TraceRow], run_seed: int, *, warm_up: bool) -> RunSchedule:
    """The schedule of one run.

    One arrival process runs through the warm-up window [0, warm_up_s), the measured one, [warm_up_s, warm_up_s +
    duration_s), and the cool-down behind it. Rows come in a permutation drawn from `run_seed`, over again once all
    were used. A replay keeps the trace's arrival times, and the trace's order too where `run_seed` is the workload's
    own seed; another seed is another arrival order. A closed loop gets a sequence longer than any engine answers in
    the window; a load process that still comes to its end starts over.

    With `workload.sessions`, the process draws the starts of sessions, and sessions are what is permuted and repeated;
    a repeated one is another session. Turns that cannot start before the end of the windows, however fast the answers
    are, are left out.

    Args:
        workload: arrivals and windows; resolved already.
        rows: the workload's rows, at least one.
        run_seed: draws arrivals, order and classes.
        warm_up: whether there is a warm-up window; without it the measured window starts at 0.

    Raises:
        UserError: no rows, arrivals that cannot be drawn (see intended_starts_us), or too many turns.
    """
    if not rows:
        raise UserError("the workload has no requests", key="workload")
    windows = windows_of(workload, warm_up=warm_up)
    window_s = (workload.warm_up_s if warm_up else 0.0) + workload.duration_s + workload.cool_down_s
    arrivals = workload.arrivals
    closed = arrivals.process is ArrivalProcess.CLOSED
    replay = arrivals.process is ArrivalProcess.TRACE
    trace_s = _recorded_s(workload, rows) if replay else None
    starts = intended_starts_us(arrivals, window_s, generator(run_seed, 0), trace_s=trace_s)
    joins = starts if closed else np.empty(0, dtype=np.int64)
    if closed:
        n = min(_CLOSED_MAX, max(len(rows), len(starts) * math.ceil(window_s) * _CLOSED_PER_USER_S))
        starts = np.full(n, WHEN_FREE, dtype=np.int64)
    lanes = _Lanes.of(rows) if workload.sessions else None
    items = len(rows) if lanes is None else len(lanes.counts)
    as_recorded = replay and run_seed == workload.seed
    order = np.arange(items) if as_recorded else generator(run_seed, 1).permutation(items)
    if lanes is None:
        session, think_us = np.broadcast_to(np.int64(NO_SESSION), len(starts)), _zeros(len(starts), np.int64)
        row = order[np.arange(len(starts)) % items].astype(np.int64)
    else:
        if closed:
            starts = starts[: max(items, math.ceil(len(starts) / float(lanes.counts.mean())))]
        starts, row, session, think_us = lanes.lay_out(starts, order, math.inf if closed else windows.end_us)
    return RunSchedule(
        intended_us=starts,
        row=row,
        phase=_phases(starts, windows),
        slo_class=_classes(workload, rows, row, session, run_seed),
        session=session,
        think_us=think_us,
        joins_us=joins,
        windows=windows,
    )


def _recorded_s(workload: Workload, rows: Sequence[TraceRow]) -> list[float] | None:
    """Arrival times of a replay: of the rows, or of the sessions; None where some are missing."""
    starting = first_turns(rows) if workload.sessions else rows
    known = [row.arrived_s for row in starting if row.arrived_s is not None]
    return known if len(known) == len(starting) else None


def _phases(intended_us: _I64, windows: Windows) -> _U8:
    if not len(intended_us) or intended_us[0] == WHEN_FREE:
        return np.full(len(intended_us), RequestPhase.MEASURED, dtype=np.uint8)
    phase = np.where(intended_us < windows.warm_up_us, RequestPhase.WARM_UP, RequestPhase.MEASURED)
    if windows.end_us > windows.measured_us:
        phase = np.where(intended_us >= windows.measured_us, RequestPhase.COOL_DOWN, phase)
    return np.where(intended_us == WHEN_FREE, RequestPhase.MEASURED, phase).astype(np.uint8)


def _classes(workload: Workload, rows: Sequence[TraceRow], row: _I64, session: _I64, run_seed: int) -> _U8:
    """Classes drawn by their shares, one for each request or session, unless the row names one."""
    classes = workload.slo_classes
    if not classes or not len(row):
        return _zeros(len(row), np.uint8)
    upto = np.cumsum([slo_class.share for slo_class in classes])
    several = session[0] != NO_SESSION
    drawn = generator(run_seed, 2).random(int(session[-1]) + 1 if several else len(row))
    chosen = np.searchsorted(upto / upto[-1], drawn, side="right")
    number = {slo_class.name: index for index, slo_class in enumerate(classes)}
    named = np.array([number.get(item.slo_class or "", -1) for item in rows])[row]
    return np.where(named >= 0, named, chosen[session] if several else chosen).astype(np.uint8)


def _zeros(n: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """(n,) zeros that take no memory, read-only."""
    return np.broadcast_to(dtype(0), n)


@dataclass(frozen=True, slots=True, eq=False)
class _Lanes:
    """The sessions of a workload: rows of session s are flat[first[s] : first[s] + counts[s]]."""

    flat: _I64
    first: _I64
    counts: _I64
    think_us: _I64
    """Of every row."""

    @classmethod
    def of(cls, rows: Sequence[TraceRow]) -> _Lanes:
        """Rows by session, in the order of their first turns; a row without one is a session of its own."""
        lanes: dict[int, list[int]] = {}
        for index, row in enumerate(rows):
            lanes.setdefault(-1 - index if row.session is None else row.session, []).append(index)
        counts = np.fromiter((len(lane) for lane in lanes.values()), np.int64, len(lanes))
        return cls(
            flat=np.fromiter((index for lane in lanes.values() for index in lane), np.int64, len(rows)),
            first=np.cumsum(counts) - counts,
            counts=counts,
            think_us=np.rint(np.fromiter((row.think_s for row in rows), np.float64, len(rows)) * _US).astype(np.int64),
        )

    def lay_out(self, starts: _I64, order: npt.NDArray[np.intp], end_us: float) -> tuple[_I64, _I64, _I64, _I64]:
        """Columns intended_us, row, session, think_us of sessions in `order`, over and over, at `starts`.

        Raises:
            UserError: more turns than limits.REQUESTS.
        """
        lane = order[np.arange(len(starts)) % len(order)]
        counts = self.counts[lane]
        total = int(counts.sum())
        if total > limits.REQUESTS:
            raise UserError(
                f"{total} turns of {len(starts)} sessions, over the limit of {limits.REQUESTS}",
                key="workload.arrivals",
                hint="lower the rate or the duration",
            )
        session = np.repeat(np.arange(len(starts)), counts)
        begins = np.cumsum(counts) - counts
        turn = np.arange(total) - np.repeat(begins, counts)
        row = self.flat[np.repeat(self.first[lane], counts) + turn]
        think_us = np.where(turn == 0, 0, self.think_us[row])
        thought_us = np.cumsum(think_us)
        pauses_us = thought_us - np.repeat(thought_us[begins], counts) if total else thought_us
        kept = np.repeat(starts, counts) + pauses_us < end_us
        intended_us = np.where(turn == 0, np.repeat(starts, counts), WHEN_FREE)
        return intended_us[kept], row[kept], session[kept], think_us[kept]
