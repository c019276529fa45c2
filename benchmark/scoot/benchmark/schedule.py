"""The schedule of one run: which row is due when, in which window. Pure; the same seed gives identical arrays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from scoot.benchmark.arrivals import intended_starts_us
from scoot.benchmark.trace_row import TraceRow
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Workload

WHEN_FREE: Final = -1
"""Intended start of a closed loop's request: when a user is free."""

_CLOSED_PER_USER_S: Final = 100
_CLOSED_MAX: Final = 2_000_000
_SEED_MASK: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True, eq=False)
class RunSchedule:
    """Requests of a run, in the order they are due.

    Attributes:
        intended_us: (n,) int64, intended start since the start of the run, non-decreasing; WHEN_FREE in a closed loop.
        row: (n,) int64, index into the workload's rows.
        phase: (n,) uint8, RequestPhase. In a closed loop all MEASURED: there the load process tells by the clock.
    """

    intended_us: npt.NDArray[np.int64]
    row: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.row)


def generator(run_seed: int, stream: int) -> np.random.Generator:
    """An independent random stream of a run. Any integer is a seed; streams 0 = arrivals, 1 = order of rows."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((run_seed & _SEED_MASK, stream))))


def build_schedule(workload: Workload, rows: Sequence[TraceRow], run_seed: int, *, warm_up: bool) -> RunSchedule:
    """The schedule of one run.

    One arrival process runs through the warm-up window [0, warm_up_s) and the measured one, [warm_up_s,
    warm_up_s + duration_s). Rows come in a permutation drawn from `run_seed`, over again once all were used. A replay
    keeps the trace's arrival times, and the trace's order too where `run_seed` is the workload's own seed; another
    seed is another arrival order. A closed loop gets a sequence longer than any engine answers in the window; a load
    process that still comes to its end starts over.

    Args:
        workload: arrivals and windows; resolved already.
        rows: the workload's rows, at least one.
        run_seed: draws arrivals and order.
        warm_up: whether there is a warm-up window; without it the measured window starts at 0.

    Raises:
        UserError: no rows, or arrivals that cannot be drawn (see intended_starts_us).
    """
    if not rows:
        raise UserError("the workload has no requests", key="workload")
    warm_up_s = workload.warm_up_s if warm_up else 0.0
    window_s = warm_up_s + workload.duration_s
    arrivals = workload.arrivals
    replay = arrivals.process is ArrivalProcess.TRACE
    trace_s = None
    if replay:
        trace_s = [row.arrived_s for row in rows if row.arrived_s is not None]
        trace_s = trace_s if len(trace_s) == len(rows) else None
    starts = intended_starts_us(arrivals, window_s, generator(run_seed, 0), trace_s=trace_s)
    phase = np.where(starts < round(warm_up_s * 1_000_000), RequestPhase.WARM_UP, RequestPhase.MEASURED)
    if arrivals.process is ArrivalProcess.CLOSED:
        n = min(_CLOSED_MAX, max(len(rows), len(starts) * math.ceil(window_s) * _CLOSED_PER_USER_S))
        starts = np.full(n, WHEN_FREE, dtype=np.int64)
        phase = np.full(n, RequestPhase.MEASURED)
    as_recorded = replay and run_seed == workload.seed
    order = np.arange(len(rows)) if as_recorded else generator(run_seed, 1).permutation(len(rows))
    return RunSchedule(
        intended_us=starts,
        row=order[np.arange(len(starts)) % len(rows)].astype(np.int64),
        phase=phase.astype(np.uint8),
    )
