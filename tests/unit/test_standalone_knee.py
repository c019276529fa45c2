"""Rates of a sweep, when it stops, its goodput knee and its saturation."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scoot.benchmark.standalone.knee import FULL, RISING, Point, goodput_knee, rates_between, saturation, stop_reason

SHARES = st.floats(0, 1)
RATES = st.floats(0.01, 1e4)


def point(rate: float, share: float | None = None, *, throughput: float | None = None, **fields: bool) -> Point:
    """A point where all that was offered was completed, unless told otherwise."""
    done = rate if throughput is None else throughput
    return Point(
        rate=rate,
        offered=rate,
        throughput=done,
        share=share,
        goodput=None if share is None else share * done,
        **fields,  # type: ignore[arg-type]  # only the flags
    )


@given(st.floats(1e-3, 1e5), st.floats(1e-3, 1e5), st.integers(1, 40))
def test_rates_rise_to_the_highest_throughput(low: float, high: float, count: int) -> None:
    rates = rates_between(low, high, count)
    assert 1 <= len(rates) <= count
    assert all(one < other for one, other in itertools.pairwise(rates))
    assert rates[-1] == pytest.approx(high, rel=5e-3)
    assert rates[0] > (low if low < high else 0.0) * (1 - 5e-3)


def test_rates_are_evenly_spaced() -> None:
    assert rates_between(2.0, 10.0, 4) == (4.0, 6.0, 8.0, 10.0)
    assert rates_between(10.0, 8.0, 4) == (2.0, 4.0, 6.0, 8.0)
    assert rates_between(10.0, 10.0, 1) == (10.0,)


def test_a_sweep_goes_on_while_throughput_rises() -> None:
    assert stop_reason([], max_failed_share=0.01) == ""
    assert stop_reason([point(1)], max_failed_share=0.01) == ""
    assert stop_reason([point(1), point(2), point(4)], max_failed_share=0.01) == ""


def test_a_sweep_stops_where_throughput_rises_no_more() -> None:
    flat = [point(4), point(8, throughput=5.0), point(16, throughput=5.1)]
    assert stop_reason(flat[:2], max_failed_share=0.01) == ""
    assert "no longer rises" in stop_reason(flat, max_failed_share=0.01)


def test_a_sweep_stops_at_failures_and_at_the_load_generators_limit() -> None:
    failing = Point(rate=3, offered=3, throughput=2, failed_share=0.02)
    assert "2.0% of the requests failed" in stop_reason([failing], max_failed_share=0.01)
    assert stop_reason([failing], max_failed_share=0.02) == ""
    late = Point(rate=3, offered=3, throughput=3, valid=False, saturated=True, detail="too late")
    assert "too late" in stop_reason([late], max_failed_share=0.01)


def test_a_measurement_that_is_too_short_does_not_stop_a_sweep() -> None:
    short = Point(rate=1, offered=1, throughput=1, valid=False, detail="too few requests")
    assert stop_reason([short], max_failed_share=0.01) == ""
    assert stop_reason([point(0.5), short], max_failed_share=0.01) == ""


def test_the_knee_between_two_rates_is_interpolated() -> None:
    knee = goodput_knee([point(1, 1.0), point(2, 0.95), point(4, 0.85), point(8, 0.1)], target=0.9)
    assert knee is not None
    assert (knee.rate, knee.share, knee.next_rate, knee.next_share) == (2, 0.95, 4, 0.85)
    assert knee.interpolated == pytest.approx(3.0)
    assert knee.goodput == pytest.approx(1.9)
    assert knee.monotonic
    assert "straight line" in knee.detail


def test_a_knee_below_or_above_what_was_tried() -> None:
    below = goodput_knee([point(2, 0.5), point(4, 0.1)], target=0.9)
    assert below is not None
    assert (below.rate, below.next_rate, below.interpolated) == (None, 2, None)
    above = goodput_knee([point(2, 1.0), point(4, 0.9)], target=0.9)
    assert above is not None
    assert (above.rate, above.next_rate, above.interpolated) == (4, None, None)
    assert "lies above" in above.detail


def test_no_knee_without_objectives_or_valid_measurements() -> None:
    assert goodput_knee([point(1), point(2)], target=0.9) is None
    assert goodput_knee([], target=0.9) is None
    assert goodput_knee([point(1, 1.0, valid=False)], target=0.9) is None


def test_a_rate_that_failed_below_the_knee_is_told() -> None:
    knee = goodput_knee([point(1, 1.0), point(2, 0.5), point(4, 0.95), point(8, 0.2)], target=0.9)
    assert knee is not None
    assert knee.rate == 4
    assert not knee.monotonic
    assert "measure longer" in knee.detail
    top = goodput_knee([point(1, 0.5), point(2, 0.95)], target=0.9)
    assert top is not None
    assert not top.monotonic
    assert "lies above" not in top.detail


@given(
    st.lists(st.tuples(RATES, SHARES, st.booleans()), min_size=1, max_size=12, unique_by=lambda item: item[0]),
    st.floats(0.01, 1),
    st.randoms(use_true_random=False),
)
def test_the_knee_is_the_largest_rate_that_holds(
    measured: list[tuple[float, float, bool]], target: float, shuffler: object
) -> None:
    points = [point(rate, share, valid=valid) for rate, share, valid in measured]
    knee = goodput_knee(points, target=target)
    believed = sorted((rate, share) for rate, share, valid in measured if valid)
    if not believed:
        assert knee is None
        return
    assert knee is not None
    holding = [rate for rate, share in believed if share >= target]
    assert knee.rate == (max(holding) if holding else None)
    higher = [rate for rate, _ in believed if not holding or rate > max(holding)]
    assert knee.next_rate == (min(higher) if higher else None)
    assert (knee.interpolated is not None) == (bool(holding) and bool(higher))
    if knee.interpolated is not None:
        assert knee.rate is not None
        assert knee.next_rate is not None
        assert knee.rate <= knee.interpolated <= knee.next_rate
    assert knee.monotonic == (not holding or all(share >= target for rate, share in believed if rate <= max(holding)))
    shuffler.shuffle(points)  # type: ignore[attr-defined]  # a Random
    assert goodput_knee(points, target=target) == knee


def test_saturation_is_where_more_brings_no_more() -> None:
    reached = saturation([point(2), point(4), point(8, throughput=5.0), point(16, throughput=5.05)])
    assert reached.reached
    assert (reached.throughput, reached.rate) == (5.05, 8)
    assert not saturation([point(2), point(4)]).reached
    nothing = saturation([point(2, valid=False)])
    assert (nothing.throughput, nothing.rate, nothing.reached) == (None, None, False)
    assert saturation([point(2, throughput=0.0)]).throughput is None


@given(st.lists(st.tuples(RATES, st.floats(0, 1.2)), min_size=1, max_size=12, unique_by=lambda item: item[0]))
def test_the_saturating_rate_gives_nearly_the_highest_throughput(measured: list[tuple[float, float]]) -> None:
    points = [point(rate, throughput=rate * part) for rate, part in measured]
    found = saturation(points)
    best = max(each.throughput for each in points)
    assert found.throughput == (best or None)
    if found.rate is not None:
        by_rate = {each.rate: each for each in points}
        assert by_rate[found.rate].throughput >= FULL * best
        assert all(each.throughput < FULL * best for each in points if each.rate < found.rate)


@given(st.lists(RATES, min_size=2, max_size=10, unique=True).map(sorted))
def test_a_server_that_keeps_up_never_stops_a_sweep(rates: list[float]) -> None:
    points = [point(rate) for rate in rates]
    assert all(stop_reason(points[:n], max_failed_share=0.0) == "" for n in range(len(points) + 1))
    assert not saturation(points).reached
    assert RISING < 1
