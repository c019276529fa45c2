"""What a failure costs in the eyes of the baselines, and which trials they learn from."""

from __future__ import annotations

import numpy as np
import pytest

from scoot.coordinator.objective.metric import Direction
from scoot.coordinator.optimizer.base import Observation, Outcome, Problem
from scoot.coordinator.optimizer.baselines.penalty import LARGEST, Evidence, evidence_of
from scoot.coordinator.space.space import Space
from scoot.wire.errors import UserError
from scoot.wire.spec import Parameter, ParameterKind

SPACE = Space.build(
    [
        Parameter(name="a", kind=ParameterKind.INT, low=0, high=9, default=4),
        Parameter(name="f", kind=ParameterKind.BOOL),
    ]
)
BOTH = (Direction.MINIMISE, Direction.MAXIMISE)


def seen(number: int, *values: float, outcomes: tuple[float, ...] | None = None) -> Observation:
    return Observation(number=number, config={"a": number % 10, "f": False}, values=values, outcomes=outcomes)


def crashed(number: int) -> Observation:
    return Observation(number=number, config={"a": number % 10, "f": False}, infeasible=True)


def evidence(
    *history: Observation, directions: tuple[Direction, ...] = (Direction.MINIMISE,), outcomes: tuple[Outcome, ...] = ()
) -> Evidence:
    return evidence_of(Problem(space=SPACE, directions=directions, outcomes=outcomes), history)


def test_a_failure_is_a_tenth_of_the_spread_worse_than_the_worst() -> None:
    found = evidence(seen(0, 10.0, 4.0), seen(1, 30.0, 2.0), crashed(2), directions=BOTH)
    assert found.figures.tolist() == [[10.0, -4.0], [30.0, -2.0], [32.0, -1.8]]
    assert found.penalty.tolist() == [32.0, -1.8]
    assert found.reference.tolist() == [10.0, -4.0]


def test_earlier_failures_move_when_something_worse_is_seen() -> None:
    assert evidence(seen(0, 10.0), seen(1, 20.0), crashed(2)).figures[2, 0] == 21.0
    assert evidence(seen(0, 10.0), seen(1, 20.0), crashed(2), seen(3, 110.0)).figures[2, 0] == 120.0


@pytest.mark.parametrize(("value", "penalty"), [(50.0, 55.0), (-50.0, -45.0), (0.0, 0.1)])
def test_without_a_spread_the_figure_itself_is_the_scale(value: float, penalty: float) -> None:
    assert evidence(seen(0, value), crashed(1)).figures.ravel().tolist() == pytest.approx([value, penalty])


def test_before_anything_has_worked_all_failures_are_alike() -> None:
    found = evidence(crashed(0), crashed(1))
    assert found.figures.tolist() == [[1.0], [1.0]]
    assert found.reference.tolist() == [1.0]


def test_a_limit_that_is_not_kept_is_a_failure_and_an_unknown_one_is_none() -> None:
    limits = (Outcome(name="ttft_p95", direction=Direction.MINIMISE, limit=5.0),)
    found = evidence(seen(0, 1.0), seen(1, 2.0, outcomes=(5.0,)), seen(2, 0.5, outcomes=(5.1,)), outcomes=limits)
    assert found.figures.ravel().tolist() == pytest.approx([1.0, 2.0, 2.1])


def test_pending_and_blameless_trials_say_nothing() -> None:
    waiting = Observation(number=1, config={"a": 1, "f": True}, pending=True)
    lost = Observation(number=2, config={"a": 2, "f": True})
    found = evidence(seen(0, 1.0), waiting, lost)
    assert len(found.units) == len(found.figures) == 1


def test_a_partial_default_is_the_reference_but_no_row() -> None:
    found = evidence(Observation(number=0, config={"a": 4}, values=(8.0,)), seen(1, 3.0), crashed(2))
    assert found.reference.tolist() == [8.0]
    assert found.figures.ravel().tolist() == [3.0, 8.5]
    assert np.array_equal(found.units, SPACE.encode([{"a": 1, "f": False}, {"a": 2, "f": False}]))


def test_a_repeated_configuration_is_one_row_with_the_mean() -> None:
    found = evidence(seen(1, 3.0), seen(2, 7.0), seen(11, 5.0))
    assert found.figures.ravel().tolist() == [4.0, 7.0]


def test_figures_beyond_all_measure_keep_their_order_without_overflow() -> None:
    found = evidence(seen(0, -1e300), seen(1, 1e300), seen(2, 0.0), crashed(3))
    assert found.figures.ravel().tolist() == pytest.approx([-LARGEST, LARGEST, 0.0, 1.2 * LARGEST])
    assert np.isfinite(found.figures**2).all()


def test_values_of_another_study_are_refused() -> None:
    with pytest.raises(UserError, match="trial 1 has 2 values for 1 objectives"):
        evidence(seen(0, 1.0), seen(1, 1.0, 2.0))
