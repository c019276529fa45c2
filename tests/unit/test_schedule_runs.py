"""The schedule of a run: windows, order, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from scoot.benchmark.schedule import WHEN_FREE, RunSchedule, build_schedule
from scoot.benchmark.trace import TraceRow
from scoot.wire.columns import RequestPhase
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals, Workload

_ROWS = tuple(TraceRow(arrived_s=0.5 * i, input_tokens=i + 1, output_tokens=1) for i in range(40))


def _workload(process: ArrivalProcess, **arrivals: float) -> Workload:
    given = Arrivals(process=process, **arrivals)  # type: ignore[arg-type]  # users is an int where it is given
    return Workload(arrivals=given, duration_s=20.0, warm_up_s=5.0)


def _same(a: RunSchedule, b: RunSchedule) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ("intended_us", "row", "phase"))


_OPEN = [
    _workload(ArrivalProcess.POISSON, rate=10.0),
    _workload(ArrivalProcess.GAMMA, rate=10.0, cv=3.0),
    _workload(ArrivalProcess.CONSTANT, rate=10.0),
    _workload(ArrivalProcess.TRACE),
]


@pytest.mark.parametrize("workload", _OPEN, ids=lambda w: str(w.arrivals.process))
def test_windows_types_and_determinism(workload: Workload) -> None:
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert [str(array.dtype) for array in (schedule.intended_us, schedule.row, schedule.phase)] == [
        "int64",
        "int64",
        "uint8",
    ]
    assert len(schedule.intended_us) == len(schedule.row) == len(schedule.phase) == len(schedule) > 20
    assert np.all(np.diff(schedule.intended_us) >= 0)
    assert 0 <= schedule.intended_us[0] <= schedule.intended_us[-1] < 25_000_000
    measured = schedule.phase == RequestPhase.MEASURED
    assert np.array_equal(measured, schedule.intended_us >= 5_000_000)
    assert 0 < measured.sum() < len(schedule)
    assert _same(schedule, build_schedule(workload, _ROWS, 7, warm_up=True))


@pytest.mark.parametrize("workload", _OPEN[:3], ids=lambda w: str(w.arrivals.process))
def test_order_is_a_permutation_that_cycles_and_follows_the_seed(workload: Workload) -> None:
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    laps = len(schedule) // len(_ROWS)
    assert laps >= 2
    first = schedule.row[: len(_ROWS)]
    assert sorted(first.tolist()) == list(range(len(_ROWS)))
    assert first.tolist() != list(range(len(_ROWS)))
    assert np.array_equal(schedule.row, np.resize(first, len(schedule)))
    other = build_schedule(workload, _ROWS, 8, warm_up=True)
    assert not np.array_equal(other.row[: len(_ROWS)], first)


def test_without_warm_up_everything_is_measured() -> None:
    schedule = build_schedule(_OPEN[0], _ROWS, 7, warm_up=False)
    assert np.all(schedule.phase == RequestPhase.MEASURED)
    assert schedule.intended_us[-1] < 20_000_000


def test_replay_keeps_order_and_gaps_under_the_workloads_own_seed() -> None:
    workload = _OPEN[3]
    schedule = build_schedule(workload, _ROWS, workload.seed, warm_up=True)
    assert schedule.row.tolist() == [i % 40 for i in range(50)]
    assert schedule.intended_us.tolist() == [i * 500_000 for i in range(50)]


def test_another_seed_replays_the_times_in_another_order() -> None:
    workload = _OPEN[3]
    schedule = build_schedule(workload, _ROWS, workload.seed + 1, warm_up=True)
    assert schedule.intended_us.tolist() == [i * 500_000 for i in range(50)]
    assert schedule.row.tolist() != [i % 40 for i in range(50)]
    assert sorted(schedule.row[:40].tolist()) == list(range(40))


def test_replay_needs_all_arrival_times() -> None:
    rows = (*_ROWS, TraceRow(input_tokens=1, output_tokens=1))
    with pytest.raises(UserError, match="arrival times"):
        build_schedule(_OPEN[3], rows, 7, warm_up=True)


def test_closed_loop_is_a_long_sequence_due_when_a_user_is_free() -> None:
    workload = _workload(ArrivalProcess.CLOSED, users=4)
    schedule = build_schedule(workload, _ROWS, 7, warm_up=True)
    assert len(schedule) == 4 * 25 * 100
    assert np.all(schedule.intended_us == WHEN_FREE)
    assert sorted(schedule.row[:40].tolist()) == list(range(40))


def test_no_rows() -> None:
    with pytest.raises(UserError, match="no requests"):
        build_schedule(_OPEN[0], (), 7, warm_up=True)


@pytest.mark.parametrize("seed", [-1, 0, 2**63, 2**64 + 5])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert len(build_schedule(_OPEN[0], _ROWS, seed, warm_up=True)) > 0
