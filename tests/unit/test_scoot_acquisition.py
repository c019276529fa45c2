"""SCOOT's acquisition functions against integrals, sampling and inclusion-exclusion (sections 4.4 and 4.5)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import integrate, stats

from scoot.coordinator.objective.hypervolume import hypervolume_2d
from scoot.coordinator.optimizer.scoot import mace
from scoot.coordinator.optimizer.scoot.ehvi import expected_hypervolume_improvement

CASES = [(0.3, 1.2, 0.5), (-2.0, 0.4, 0.1), (3.0, 0.7, 1.0), (0.0, 1e-3, 0.0), (1.0, 2.0, -4.0)]


def one(figure: float) -> np.ndarray:
    return np.array([figure])


def area(points: list[tuple[float, float]], reference: tuple[float, float]) -> float:
    """Union of the boxes between the reference and each point, by inclusion and exclusion; more is better."""
    boxes = [point for point in points if point[0] > reference[0] and point[1] > reference[1]]
    total = 0.0
    for size in range(1, len(boxes) + 1):
        for chosen in itertools.combinations(boxes, size):
            corner = np.min(chosen, axis=0) - reference
            total += (-1) ** (size + 1) * corner[0] * corner[1]
    return total


@pytest.mark.parametrize(("mean", "deviation", "best"), CASES)
def test_expected_improvement_is_the_integral_of_equation_8(mean: float, deviation: float, best: float) -> None:
    bar = best + mace.XI
    normal = stats.norm(mean, deviation)
    expected, _ = integrate.quad(lambda y: (y - bar) * normal.pdf(y), bar, max(bar, mean) + 12 * deviation, limit=200)
    found = mace.expected_improvement(one(mean), one(deviation), best)[0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-14)


@pytest.mark.parametrize(("mean", "deviation", "best"), CASES)
def test_probability_of_improvement_is_the_integral_of_equation_7(mean: float, deviation: float, best: float) -> None:
    bar = best + mace.XI
    normal = stats.norm(mean, deviation)
    expected, _ = integrate.quad(normal.pdf, bar, max(bar, mean) + 12 * deviation, limit=200)
    found = mace.probability_of_improvement(one(mean), one(deviation), best)[0]
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-14)


def test_the_upper_confidence_bound_is_equation_6() -> None:
    found = mace.upper_confidence_bound(np.array([1.0, -2.0]), np.array([0.5, 3.0]), 2.0)
    assert found.tolist() == [2.0, 4.0]


def test_the_margin_is_the_papers() -> None:
    assert mace.XI == 1e-4
    assert mace.probability_of_improvement(one(1.0 + 1e-4), one(1.0), 1.0)[0] == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize(
    ("iteration", "parameters", "expected"),
    # by hand: upsilon 0.5 makes the factor 1; ln(3 pi^2 / 0.03) = 6.894630, ln 10 = 2.302585, ln 30 = 3.401197
    [
        (1, 9, 2.625763),  # sqrt(6.894630)
        (10, 9, 4.675621),  # sqrt(6.5 * 2.302585 + 6.894630) = sqrt(21.861433)
        (30, 9, 5.385389),  # sqrt(6.5 * 3.401197 + 6.894630) = sqrt(29.002411)
        (30, 25, 7.497466),  # sqrt(14.5 * 3.401197 + 6.894630) = sqrt(56.211987)
    ],
)
def test_beta_by_hand(iteration: int, parameters: int, expected: float) -> None:
    assert mace.beta(iteration, parameters) == pytest.approx(expected, abs=2e-6)


def test_beta_grows_with_the_iteration_and_the_parameters() -> None:
    rows = [[mace.beta(t, d) for t in range(1, 40)] for d in (1, 5, 25)]
    assert all(a < b for row in rows for a, b in itertools.pairwise(row))
    assert all(a < b for a, b in itertools.pairwise([row[-1] for row in rows]))


def test_logarithms_are_smooth_where_the_values_underflow() -> None:
    z = np.concatenate([-np.logspace(6, -3, 4000), np.linspace(0, 40, 500)])
    found = mace.log_h(z)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    for edge in (-1.0, -300.0):  # where one formula hands over to the next
        below, above = mace.log_h(np.array([edge * (1 + 1e-12), edge * (1 - 1e-12)]))
        assert below == pytest.approx(above, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_ehvi_is_the_mean_of_sampled_improvements(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference = np.array([-1.0, -0.5])
    front = rng.normal(0.0, 0.7, (4, 2))
    mean, deviation = rng.normal(0.0, 0.5, (1, 2)), rng.uniform(0.2, 1.0, (1, 2))
    present = area([tuple(row) for row in front], tuple(reference))
    draws = rng.normal(mean, deviation, (4000, 2))
    gains = np.array([area([*map(tuple, front), tuple(draw)], tuple(reference)) - present for draw in draws])
    found = expected_hypervolume_improvement(mean, deviation, front, reference)[0]
    assert abs(found - gains.mean()) < 4 * gains.std() / math.sqrt(len(gains))
    assert gains.mean() > 0


def test_ehvi_without_uncertainty_is_the_hypervolume_that_the_point_adds() -> None:
    reference = np.array([0.0, 0.0])
    front = np.array([[0.1, 0.9], [0.5, 0.5], [0.9, 0.2]])
    points = np.array([[0.6, 0.6], [0.5, 0.5], [0.05, 0.05], [2.0, 2.0], [-1.0, 5.0]])
    found = expected_hypervolume_improvement(points, np.full(points.shape, 1e-7), front, reference)
    corners = [tuple(row) for row in front]
    expected = [area([*corners, tuple(point)], (0.0, 0.0)) - area(corners, (0.0, 0.0)) for point in points]
    assert found == pytest.approx(expected, abs=1e-6)


def test_ehvi_without_a_front_is_the_product_of_the_expected_improvements() -> None:
    mean, deviation, reference = np.array([[0.2, -0.4]]), np.array([[0.5, 1.5]]), np.array([0.1, 0.3])
    found = expected_hypervolume_improvement(mean, deviation, np.array([[0.0, 9.0]]), reference)[0]  # not above it
    halves = [mace.expected_improvement(mean[:, k], deviation[:, k], reference[k] - mace.XI)[0] for k in (0, 1)]
    assert found == pytest.approx(halves[0] * halves[1], rel=1e-9)


def test_hypervolume_is_inclusion_and_exclusion() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        points = rng.normal(0.0, 1.0, (5, 2))
        assert hypervolume_2d(-points, [0.5, 0.5]) == pytest.approx(area([*map(tuple, points)], (-0.5, -0.5)))
