"""Expected improvements against sampling, inclusion and exclusion, and botorch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.optimizer.auto.gain import expected_log_shortfall
from scoot.coordinator.optimizer.improvement import (
    Shortfall,
    expected_hypervolume_improvement,
    expected_shortfall,
    log_h,
)

pytestmark = pytest.mark.timeout(180)  # a cold import of torch on a busy machine

Corner = tuple[float, float]

REFERENCE = np.array([1.0, 2.0])

corners = st.tuples(st.floats(-2, 3), st.floats(-2, 3))
shortfalls = pytest.mark.parametrize("shortfall", [expected_shortfall, expected_log_shortfall])


def area(points: list[Corner], reference: Corner) -> float:
    """Union of the boxes between the reference and each point, by inclusion and exclusion; less is better."""
    boxes = [point for point in points if point[0] < reference[0] and point[1] < reference[1]]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            corner = np.asarray(reference) - np.max(chosen, axis=0)
            total += (-1) ** (size + 1) * corner[0] * corner[1]
    return total


def drawn(mean: np.ndarray, deviation: np.ndarray, size: int, shortfall: Shortfall) -> np.ndarray:
    """(size, 2) values of the distribution that the shortfall is of."""
    normal = mean + deviation * np.random.default_rng(7).standard_normal((size, 2))
    return np.exp(normal) if shortfall is expected_log_shortfall else normal


def test_hypervolume_is_inclusion_and_exclusion() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = rng.normal(0.0, 1.0, (5, 2))
        assert hypervolume_2d(points, [0.5, 0.5]) == pytest.approx(area([*map(tuple, points)], (0.5, 0.5)))


@shortfalls
def test_a_shortfall_is_what_sampling_gives(shortfall: Shortfall) -> None:
    mean, deviation, ceiling = np.array([0.3, 1.2]), np.array([0.5, 0.2]), np.array(1.5)
    sampled = np.maximum(ceiling - drawn(mean, deviation, 400_000, shortfall), 0).mean(axis=0)
    assert shortfall(mean, deviation, ceiling) == pytest.approx(sampled, rel=0.02, abs=1e-3)


def test_a_certain_shortfall_is_the_gap() -> None:
    mean = np.array([1.0, 3.0, 2.0])
    assert expected_shortfall(mean, np.zeros(3), 2.0).tolist() == [1.0, 0.0, 0.0]


def test_a_tiny_shortfall_keeps_its_digits() -> None:
    # phi(z) / z^2 (1 - 3 / z^2 + 15 / z^4): the expansion far out
    found = expected_shortfall(np.array([20.0]), np.array([1.0]), 0.0)[0]
    expected = math.exp(-200.0) / math.sqrt(2 * math.pi) / 400 * (1 - 3 / 400 + 15 / 160_000 - 105 / 64e6)
    assert found == pytest.approx(expected, rel=1e-6)


def test_logarithms_are_smooth_where_the_values_underflow() -> None:
    z = np.concatenate([-np.logspace(6, -3, 4000), np.linspace(0, 40, 500)])
    found = log_h(z)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    for edge in (-1.0, -300.0):  # where one formula hands over to the next
        below, above = log_h(np.array([edge * (1 + 1e-12), edge * (1 - 1e-12)]))
        assert below == pytest.approx(above, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(st.lists(corners, max_size=6), corners, st.tuples(st.floats(0.05, 2), st.floats(0.05, 2)))
def test_ehvi_is_the_mean_gain_of_many_draws(points: list[Corner], mean: Corner, deviation: Corner) -> None:
    front = np.reshape(np.asarray(points, dtype=np.float64), (-1, 2))
    exact = expected_hypervolume_improvement(np.array([mean]), np.array([deviation]), front, REFERENCE)[0]
    before = hypervolume_2d(front, REFERENCE)
    draws = drawn(np.asarray(mean), np.asarray(deviation), 1500, expected_shortfall)
    gains = np.array([hypervolume_2d(np.vstack([front, draw]), REFERENCE) - before for draw in draws])
    assert abs(gains.mean() - exact) <= 6 * gains.std() / np.sqrt(len(gains)) + 0.01


@shortfalls
def test_ehvi_of_a_long_front_is_what_sampling_gives(shortfall: Shortfall) -> None:
    front = np.array([[0.5, 2.0], [1.0, 1.2], [2.2, 0.4], [9.0, 0.1], [2.3, 2.3]])  # one outside, one dominated
    reference, mean, deviation = np.array([3.0, 2.5]), np.array([[0.2, 0.1]]), np.array([[0.6, 0.8]])
    before = hypervolume_2d(front, reference)
    draws = drawn(mean, deviation, 20_000, shortfall)
    sampled = np.mean([hypervolume_2d(np.vstack([front, draw]), reference) - before for draw in draws])
    closed = expected_hypervolume_improvement(mean, deviation, front, reference, shortfall)
    assert closed[0] == pytest.approx(sampled, rel=0.03)


def test_ehvi_of_certain_points_is_what_they_add() -> None:
    front = [(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]
    points = np.array([[1.5, 1.5], [2.5, 2.5], [2.0, 2.0], [0.0, 0.0], [5.0, 0.0]])
    expected = [area([*front, (x, y)], (4.0, 4.0)) - area(front, (4.0, 4.0)) for x, y in points.tolist()]
    for deviation in (0.0, 1e-9):
        found = expected_hypervolume_improvement(
            points, np.full(points.shape, deviation), np.array(front), np.array([4.0, 4.0])
        )
        assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_ehvi_without_a_front_is_the_product_of_the_shortfalls() -> None:
    mean, deviation = np.array([[0.2, -0.4]]), np.array([[0.5, 1.5]])
    outside = np.array([[0.0, 9.0]])  # not below the reference in both
    found = expected_hypervolume_improvement(mean, deviation, outside, REFERENCE)[0]
    assert found == pytest.approx(expected_shortfall(mean, deviation, REFERENCE).prod(), rel=1e-9)


def test_ehvi_underflows_to_nothing_without_a_warning() -> None:
    found = expected_hypervolume_improvement(
        np.array([[1e9, 1e9]]), np.array([[1e-9, 1e-9]]), np.empty((0, 2)), np.zeros(2)
    )
    assert found.tolist() == [0.0]


def test_ehvi_agrees_with_botorch() -> None:
    import torch
    from botorch.acquisition.multi_objective.analytic import ExpectedHypervolumeImprovement
    from botorch.utils.multi_objective.box_decompositions.non_dominated import NondominatedPartitioning
    from botorch.utils.testing import MockModel, MockPosterior

    front = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.2], [0.3, 0.3]])
    reference, mean, deviation = np.array([0.0, 0.0]), np.array([[0.6, 0.6]]), np.array([[0.3, 0.2]])
    cells = NondominatedPartitioning(ref_point=torch.tensor(reference), Y=torch.tensor(front))
    posterior = MockPosterior(mean=torch.tensor(mean)[None], variance=torch.tensor(deviation**2)[None])
    theirs = ExpectedHypervolumeImprovement(MockModel(posterior), reference.tolist(), cells)(torch.zeros(1, 1, 2))
    ours = expected_hypervolume_improvement(-mean, deviation, -front, -reference)  # botorch maximises
    assert ours[0] == pytest.approx(float(theirs[0]), rel=1e-9)
