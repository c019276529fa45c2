"""Laws of the arrival processes: rate, variability, determinism, bounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.benchmark.arrivals import intended_starts_us
from scoot.wire import limits
from scoot.wire.errors import UserError
from scoot.wire.spec import ArrivalProcess, Arrivals

_SEEDS = st.integers(0, 2**63)


def _rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def _poisson(rate: float) -> Arrivals:
    return Arrivals(process=ArrivalProcess.POISSON, rate=rate)


def _gamma(rate: float, cv: float) -> Arrivals:
    return Arrivals(process=ArrivalProcess.GAMMA, rate=rate, cv=cv)


@settings(deadline=None)
@given(
    seed=_SEEDS,
    rate=st.floats(1e-3, 500),
    cv=st.floats(0.05, 20),
    window_s=st.floats(0.01, 30),
    process=st.sampled_from([ArrivalProcess.POISSON, ArrivalProcess.GAMMA, ArrivalProcess.CONSTANT]),
)
def test_starts_are_sorted_inside_the_window_and_follow_the_seed(
    seed: int, rate: float, cv: float, window_s: float, process: ArrivalProcess
) -> None:
    arrivals = Arrivals(process=process, rate=rate, cv=cv)
    starts = intended_starts_us(arrivals, window_s, _rng(seed))
    assert starts.dtype == np.int64
    assert np.all(np.diff(starts) >= 0)
    assert not len(starts) or 0 <= starts[0] <= starts[-1] < window_s * 1e6
    assert np.array_equal(starts, intended_starts_us(arrivals, window_s, _rng(seed)))


@settings(deadline=None)
@given(seed=_SEEDS)
def test_poisson_rate(seed: int) -> None:
    count = len(intended_starts_us(_poisson(200.0), 50.0, _rng(seed)))
    assert abs(count - 10_000) < 6 * math.sqrt(10_000)


@settings(deadline=None)
@given(seed=_SEEDS, cv=st.sampled_from([0.2, 0.5, 1.0, 2.0, 4.0]))
def test_gamma_rate_and_variability(seed: int, cv: float) -> None:
    starts = intended_starts_us(_gamma(200.0, cv), 100.0, _rng(seed))
    assert abs(len(starts) - 20_000) < 6 * cv * math.sqrt(20_000) + 6
    gaps = np.diff(starts)
    assert float(np.std(gaps) / np.mean(gaps)) == pytest.approx(cv, rel=0.2)


def test_gamma_with_cv_1_is_poisson_draw_for_draw() -> None:
    for arrivals in (_gamma(20.0, 1.0), Arrivals(process=ArrivalProcess.GAMMA, rate=20.0)):
        assert np.array_equal(
            intended_starts_us(arrivals, 30.0, _rng(4)), intended_starts_us(_poisson(20.0), 30.0, _rng(4))
        )


@settings(deadline=None)
@given(rate=st.floats(0.01, 1000), window_s=st.floats(0.1, 50))
def test_constant_is_a_grid_from_zero(rate: float, window_s: float) -> None:
    starts = intended_starts_us(Arrivals(process=ArrivalProcess.CONSTANT, rate=rate), window_s, _rng(0))
    assert abs(len(starts) - window_s * rate) <= 1.0
    assert np.abs(starts - np.arange(len(starts)) * 1e6 / rate).max() <= 1.0


@settings(deadline=None)
@given(
    gaps=st.lists(st.integers(0, 100).map(lambda n: 20 * n), min_size=1, max_size=30),
    origin=st.integers(0, 10**6),
    time_scale=st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0]),
    window_s=st.integers(1, 10),
)
def test_replay_keeps_every_gap_and_repeats_after_the_mean_gap(
    gaps: list[int], origin: int, time_scale: float, window_s: int
) -> None:
    times_ms = np.cumsum([0, *gaps])
    trace_s = ((times_ms + origin) / 1000).tolist()
    arrivals = Arrivals(process=ArrivalProcess.TRACE, time_scale=time_scale)
    starts = intended_starts_us(arrivals, float(window_s), _rng(0), trace_s=trace_s)
    period_us = (times_ms[-1] + times_ms[-1] / len(gaps)) * 1000 * time_scale
    expected: list[float] = []
    lap = 0
    while not lap or (period_us > 0 and lap * period_us < window_s * 1e6):
        expected += [lap * period_us + t * 1000 * time_scale for t in times_ms.tolist()]
        lap += 1
    # A start within a microsecond of the window's end may fall on either side of it.
    inside = [t for t in expected if t < window_s * 1e6 - 1]
    at_most = [t for t in expected if t < window_s * 1e6 + 1]
    assert len(inside) <= len(starts) <= len(at_most)
    assert np.abs(starts - np.array(at_most[: len(starts)])).max() <= 1.5


def test_replay_without_times_or_of_one_instant() -> None:
    arrivals = Arrivals(process=ArrivalProcess.TRACE)
    for trace_s in (None, ()):
        with pytest.raises(UserError, match="arrival times"):
            intended_starts_us(arrivals, 10.0, _rng(0), trace_s=trace_s)
    assert intended_starts_us(arrivals, 10.0, _rng(0), trace_s=[5.0, 5.0, 5.0]).tolist() == [0, 0, 0]
    assert intended_starts_us(arrivals, 10.0, _rng(0), trace_s=[5.0]).tolist() == [0]


def test_closed_loop_has_one_zero_per_user() -> None:
    starts = intended_starts_us(Arrivals(process=ArrivalProcess.CLOSED, users=3), 10.0, _rng(0))
    assert starts.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("arrivals", "key"),
    [
        (Arrivals(process=ArrivalProcess.POISSON), "workload.arrivals.rate"),
        (_poisson(0.0), "workload.arrivals.rate"),
        (_poisson(-1.0), "workload.arrivals.rate"),
        (_poisson(math.nan), "workload.arrivals.rate"),
        (_poisson(math.inf), "workload.arrivals.rate"),
        (_poisson(1e-300), "workload.arrivals.rate"),
        (_poisson(1e8), "workload.arrivals"),
        (_gamma(1.0, 0.0), "workload.arrivals.cv"),
        (_gamma(1.0, 1e200), "workload.arrivals.cv"),
        (_gamma(1.0, math.nan), "workload.arrivals.cv"),
        (Arrivals(process=ArrivalProcess.CLOSED), "workload.arrivals.users"),
        (Arrivals(process=ArrivalProcess.CLOSED, users=0), "workload.arrivals.users"),
        (Arrivals(process=ArrivalProcess.TRACE, time_scale=0.0), "workload.arrivals.time_scale"),
        (Arrivals(process=ArrivalProcess.TRACE, time_scale=1e-6), "workload.arrivals"),
    ],
)
def test_settings_that_cannot_be_drawn(arrivals: Arrivals, key: str) -> None:
    with pytest.raises(UserError) as caught:
        intended_starts_us(arrivals, 100.0, _rng(0), trace_s=[0.0, 1.0])
    assert caught.value.key == key


@pytest.mark.parametrize("window_s", [0.0, -1.0, math.nan, math.inf])
def test_windows_that_are_none(window_s: float) -> None:
    with pytest.raises(UserError, match="positive number"):
        intended_starts_us(_poisson(1.0), window_s, _rng(0))


def test_extreme_variability_ends_in_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS", 200_000)
    counts = []
    for seed in range(20):
        try:
            counts.append(len(intended_starts_us(_gamma(500.0, 1000.0), 100.0, _rng(seed))))
        except UserError as error:
            assert error.key == "workload.arrivals"  # noqa: PT017 - either outcome is right, by seed
    assert len(counts) < 20
    assert all(count <= 200_000 for count in counts)


def _clock_s(real_s: float, ramp_s: float, start: float, steps: int = 20_000) -> float:
    """The integral of the ramp's speed, by the midpoint rule (exact: the speed is linear on either side of ramp_s)."""
    ends = (min(real_s, ramp_s), max(0.0, real_s - ramp_s))
    at = (np.arange(steps) + 0.5) / steps * ends[0]
    speed = start + (1 - start) * at / ramp_s
    return float(speed.sum()) * ends[0] / steps + ends[1]


@settings(deadline=None)
@given(
    seed=_SEEDS,
    process=st.sampled_from([ArrivalProcess.POISSON, ArrivalProcess.GAMMA, ArrivalProcess.CONSTANT]),
    ramp_s=st.floats(0.5, 60),
    start=st.floats(0, 1),
    window_s=st.floats(1, 40),
)
def test_a_ramp_slows_the_clock_of_the_very_same_process(
    seed: int, process: ArrivalProcess, ramp_s: float, start: float, window_s: float
) -> None:
    plain = Arrivals(process=process, rate=50.0, cv=2.0)
    ramped = Arrivals(process=process, rate=50.0, cv=2.0, ramp_s=ramp_s, ramp_from=start)
    starts = intended_starts_us(ramped, window_s, _rng(seed))
    full = intended_starts_us(plain, window_s, _rng(seed))
    assert np.all(np.diff(starts) >= 0)
    clock_s = [_clock_s(t / 1e6, ramp_s, start) for t in starts[:: max(1, len(starts) // 20)].tolist()]
    assert clock_s == pytest.approx((full[: len(starts)][:: max(1, len(starts) // 20)] / 1e6).tolist(), abs=2e-6)
    # None that belongs into the window is missing: the next one of the process lies behind its end.
    if len(starts) < len(full):
        assert full[len(starts)] / 1e6 >= _clock_s(window_s, ramp_s, start) - 2e-6


def test_a_ramp_of_constant_arrivals_is_exact() -> None:
    arrivals = Arrivals(process=ArrivalProcess.CONSTANT, rate=8.0, ramp_s=4.0)
    starts = intended_starts_us(arrivals, 6.0, _rng(0))
    # t^2 / (2 x 4) x 8 = k, so t = sqrt(k), up to 4 s; then every 125 ms.
    assert starts.tolist() == [round(math.sqrt(k) * 1e6) for k in range(17)] + [
        4_000_000 + 125_000 * k for k in range(1, 16)
    ]


@settings(deadline=None, max_examples=30)
@given(seed=_SEEDS, start=st.sampled_from([0.0, 0.25, 0.8]))
def test_poisson_counts_of_a_ramp_are_those_of_its_rate(seed: int, start: float) -> None:
    arrivals = Arrivals(rate=1000.0, ramp_s=20.0, ramp_from=start)
    starts = intended_starts_us(arrivals, 30.0, _rng(seed)) / 1e6
    for low, high in ((0.0, 5.0), (5.0, 10.0), (15.0, 20.0), (20.0, 30.0)):
        middle = min(20.0, (low + high) / 2) if high <= 20.0 else 20.0
        expected = 1000.0 * (start + (1 - start) * middle / 20.0) * (high - low)
        count = int(((starts >= low) & (starts < high)).sum())
        assert abs(count - expected) < 6 * math.sqrt(expected) + 6


def test_a_ramp_from_the_full_rate_and_none_are_the_same() -> None:
    plain = intended_starts_us(_poisson(20.0), 30.0, _rng(4))
    flat = Arrivals(rate=20.0, ramp_s=10.0, ramp_from=1.0)
    assert np.array_equal(intended_starts_us(flat, 30.0, _rng(4)), plain)
    assert np.array_equal(intended_starts_us(Arrivals(rate=20.0, ramp_from=0.5), 30.0, _rng(4)), plain)


@pytest.mark.parametrize(
    ("start", "joins"), [(0.0, [0, 2, 4, 6]), (0.5, [0, 0, 0, 4]), (1.0, [0, 0, 0, 0]), (0.25, [0, 0, 8 / 3, 16 / 3])]
)
def test_users_join_along_the_ramp(start: float, joins: list[float]) -> None:
    arrivals = Arrivals(process=ArrivalProcess.CLOSED, users=4, ramp_s=8.0, ramp_from=start)
    assert intended_starts_us(arrivals, 10.0, _rng(0)).tolist() == [round(t * 1e6) for t in joins]


def test_a_longer_window_changes_nothing_of_what_was_before() -> None:
    for arrivals in (_poisson(20.0), _gamma(20.0, 3.0), Arrivals(rate=20.0, ramp_s=25.0)):
        short = intended_starts_us(arrivals, 20.0, _rng(9))
        longer = intended_starts_us(arrivals, 30.0, _rng(9))
        assert np.array_equal(longer[: len(short)], short)
        assert len(longer) > len(short)


@pytest.mark.parametrize(
    ("arrivals", "key"),
    [
        (Arrivals(rate=1.0, ramp_s=-1.0), "workload.arrivals.ramp_s"),
        (Arrivals(rate=1.0, ramp_s=math.inf), "workload.arrivals.ramp_s"),
        (Arrivals(rate=1.0, ramp_s=math.nan), "workload.arrivals.ramp_s"),
        (Arrivals(rate=1.0, ramp_s=1.0, ramp_from=1.1), "workload.arrivals.ramp_from"),
        (Arrivals(rate=1.0, ramp_s=1.0, ramp_from=math.nan), "workload.arrivals.ramp_from"),
        (Arrivals(process=ArrivalProcess.TRACE, ramp_s=1.0), "workload.arrivals.ramp_s"),
    ],
)
def test_ramps_that_are_none(arrivals: Arrivals, key: str) -> None:
    with pytest.raises(UserError) as caught:
        intended_starts_us(arrivals, 10.0, _rng(0), trace_s=[0.0, 1.0])
    assert caught.value.key == key


def test_a_ramp_far_longer_than_the_window_sends_next_to_nothing() -> None:
    arrivals = Arrivals(process=ArrivalProcess.POISSON, rate=1.0, ramp_s=1e300)
    assert len(intended_starts_us(arrivals, 1.0, _rng(0))) == 0


def test_what_a_ramp_leaves_out_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS", 1000)
    arrivals = Arrivals(process=ArrivalProcess.CONSTANT, rate=100.0, ramp_s=15.0)
    assert len(intended_starts_us(arrivals, 15.0, _rng(0))) == 750
    with pytest.raises(UserError, match=r"about 1\.25e\+03 requests"):
        intended_starts_us(arrivals, 20.0, _rng(0))
