"""MACE: three acquisition functions of one objective that are traded off together (SCOOT, sections 4.4.1 and 4.5.1).

All are of a gain, an objective turned so that more is better, whose distribution at a point is Gaussian.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from scipy.special import ndtr

from scoot.coordinator.objective.pareto import FloatArray
from scoot.coordinator.optimizer.improvement import log_h

XI: Final = 1e-4
"""Margin by which PI and EI want the best gain beaten, in standard deviations of the observed gains (section 4.5.1)."""

_UPSILON: Final = 0.5
_DELTA: Final = 0.01


def beta(iteration: int, parameters: int) -> float:
    """beta_t of UCB: sqrt(2 upsilon ((2 + d/2) ln t + ln(3 pi^2 / (3 delta)))), upsilon 0.5, delta 0.01.

    GP-UCB's schedule (Srinivas et al. 2010) as HEBO has it, on which the paper is built.

    Args:
        iteration: t >= 1.
        parameters: d >= 1.
    """
    growth = (2.0 + parameters / 2.0) * math.log(iteration)
    return math.sqrt(2.0 * _UPSILON * (growth + math.log(3.0 * math.pi**2 / (3.0 * _DELTA))))


def upper_confidence_bound(mean: FloatArray, deviation: FloatArray, weight: float) -> FloatArray:
    """Equation 6: mean + weight * deviation."""
    return mean + weight * deviation


def probability_of_improvement(mean: FloatArray, deviation: FloatArray, best: float) -> FloatArray:
    """Equation 7: P(gain > best + XI). The deviation is above 0."""
    found: FloatArray = ndtr((mean - best - XI) / deviation)
    return found


def expected_improvement(mean: FloatArray, deviation: FloatArray, best: float) -> FloatArray:
    """Equation 8: E max(0, gain - best - XI). The deviation is above 0."""
    return deviation * np.exp(log_h((mean - best - XI) / deviation))
