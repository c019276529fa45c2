"""SCOOT's acquisition functions against integrals and figures by hand (sections 4.4 and 4.5)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import integrate, stats

from scoot.coordinator.optimizer.scoot import mace

CASES = [(0.3, 1.2, 0.5), (-2.0, 0.4, 0.1), (3.0, 0.7, 1.0), (0.0, 1e-3, 0.0), (1.0, 2.0, -4.0)]


def one(figure: float) -> np.ndarray:
    return np.array([figure])


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
