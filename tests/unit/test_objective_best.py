"""Objectives: metrics by name, values of a window, and the best trial."""

from __future__ import annotations

import msgspec
import pytest

from scoot.coordinator.objective.best import best_trial
from scoot.coordinator.objective.metric import (
    METRICS,
    Direction,
    directions_of,
    metric_of,
    metrics_of,
    objective_values,
)
from scoot.wire.errors import UserError
from scoot.wire.measurement import Distribution, Goodput, Metrics
from scoot.wire.spec import Objective

MIN, MAX = Direction.MINIMISE, Direction.MAXIMISE


def distribution(base: float) -> Distribution:
    return Distribution(n=10, mean=base, p50=base + 0.5, p90=base + 0.9, p95=base + 0.95, p99=base + 0.99, max=base + 1)


METRICS_OF_A_WINDOW = Metrics(
    sent=10,
    completed=9,
    failed=1,
    failures={"DEADLINE": 1},
    duration_s=2.0,
    request_throughput=4.5,
    output_token_throughput=450.0,
    input_token_throughput=900.0,
    offered_rate=5.0,
    ttft_ms=distribution(100),
    tpot_ms=distribution(200),
    itl_ms=distribution(300),
    e2e_ms=distribution(400),
    ttft_from_send_ms=None,
    e2e_from_send_ms=None,
    lateness_ms=None,
    output_tokens=900,
    input_tokens=1800,
    merged_share=0.0,
    goodput=Goodput(name="", sent=45, attained=36, share=0.8, rate=4.0),
)


def objectives(*names: str) -> tuple[Objective, ...]:
    return tuple(Objective(metric=name) for name in names)


def test_the_table_is_complete_and_reads_the_right_field() -> None:
    assert len(METRICS) == 4 + 4 * 5
    expected = {"request_throughput": 4.5, "output_token_throughput": 450.0}
    offsets = {"mean": 0.0, "p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
    for base, latency in enumerate(("ttft", "tpot", "itl", "e2e"), 1):
        expected |= {f"{latency}_{name}": 100 * base + offset for name, offset in offsets.items()}
    expected |= {"goodput": 4.0, "goodput_share": 0.8}
    assert {name: metric.get(METRICS_OF_A_WINDOW) for name, metric in METRICS.items()} == expected
    assert {name for name, metric in METRICS.items() if metric.direction is MAX} == {
        "request_throughput",
        "output_token_throughput",
        "goodput",
        "goodput_share",
    }
    assert METRICS["ttft_p95"].unit == "ms"


def test_values_come_in_the_order_of_the_objectives_and_units_of_the_metrics() -> None:
    chosen = objectives("tpot_mean", "request_throughput", "e2e_p95")
    assert objective_values(chosen, METRICS_OF_A_WINDOW) == (200.0, 4.5, 400.95)
    assert directions_of(chosen) == (MIN, MAX, MIN)


def test_an_undefined_value_makes_the_observation_undefined() -> None:
    no_tpot = msgspec.structs.replace(METRICS_OF_A_WINDOW, tpot_ms=None)
    assert objective_values(objectives("ttft_mean", "tpot_mean"), no_tpot) is None
    assert objective_values(objectives("ttft_mean"), no_tpot) == (100.0,)
    infinite = msgspec.structs.replace(METRICS_OF_A_WINDOW, request_throughput=float("inf"))
    assert objective_values(objectives("request_throughput"), infinite) is None


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("p95_latency", "e2e_p95"),
        ("latency", "e2e_p95"),
        ("p95", "e2e_p95"),
        ("throughput", "request_throughput"),
        ("TTFT", "ttft_mean"),
        ("p99_ttft", "ttft_p99"),
        ("mean-tpot", "tpot_mean"),
        ("tpot_mean_ms", "tpot_mean"),
        ("ttft_p59", "ttft_p"),
        ("request_troughput", "request_throughput"),
    ],
)
def test_unknown_metrics_are_refused_with_what_was_meant(name: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        metric_of(name)
    assert caught.value.message == f"unknown metric {name!r}"
    assert f"did you mean '{meant}" in caught.value.hint


def test_objectives_are_checked_as_a_set() -> None:
    with pytest.raises(UserError, match="1 to 3 objectives, not 0"):
        metrics_of(())
    with pytest.raises(UserError, match="1 to 3 objectives, not 4"):
        metrics_of(objectives("ttft_mean", "tpot_mean", "itl_mean", "e2e_mean"))
    with pytest.raises(UserError, match=r"objectives\[1\]\.metric: objective 'ttft_mean' is there twice"):
        metrics_of(objectives("ttft_mean", "ttft_mean"))
    with pytest.raises(UserError, match=r"objectives\[1\]\.metric: unknown metric 'quux' \(metrics: request_thr"):
        metrics_of(objectives("ttft_mean", "quux"))


def test_one_objective_takes_the_best_value_in_its_direction() -> None:
    values = [(0, (5.0,)), (1, (3.0,)), (2, (9.0,))]
    assert best_trial(values, (5.0,), (MIN,)) == 1
    assert best_trial(values, (5.0,), (MAX,)) == 2
    assert best_trial([], None, (MIN,)) is None


def test_ties_keep_the_earlier_trial_whatever_the_order_given() -> None:
    values = [(4, (3.0,)), (0, (3.0,)), (2, (3.0,))]
    assert best_trial(values, (3.0,), (MIN,)) == 0


def test_two_objectives_take_the_largest_box_against_the_default() -> None:
    values = [(0, (10.0, 10.0)), (1, (1.0, 9.0)), (2, (5.0, 5.0)), (3, (9.0, 1.0)), (4, (0.5, 11.0))]
    assert best_trial(values, (10.0, 10.0), (MIN, MIN)) == 2  # boxes: 9, 25, 9, none
    turned = [(number, (-a, b)) for number, (a, b) in values]
    assert best_trial(turned, (-10.0, 10.0), (MAX, MIN)) == 2


def test_three_objectives_likewise() -> None:
    values = [(0, (4.0, 4.0, 4.0)), (1, (1.0, 3.0, 3.0)), (2, (2.0, 2.0, 2.0))]
    assert best_trial(values, (4.0, 4.0, 4.0), (MIN, MIN, MIN)) == 2


def test_the_default_stays_unless_something_is_worse_in_nothing() -> None:
    values = [(0, (2.0, 5.0)), (1, (1.0, 100.0)), (2, (50.0, 1.0)), (3, (2.5, 4.0)), (4, (60.0, 60.0))]
    # Scaled regrets on the front: default (0.02, 0.04), 1 (0, 1), 2 (1, 0), 3 (0.03, 0.03).
    assert best_trial(values, (2.0, 5.0), (MIN, MIN)) == 0
    assert best_trial([*values, (5, (2.0, 4.9))], (2.0, 5.0), (MIN, MIN)) == 5  # equal in one, better in the other
    assert best_trial(values, None, (MIN, MIN)) == 3
    assert best_trial([(0, (2.0, 5.0)), (1, (3.0, 6.0))], (2.0, 5.0), (MIN, MIN)) == 0
