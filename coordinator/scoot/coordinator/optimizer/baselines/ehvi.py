"""Expected hypervolume improvement of two independent normal objectives, exactly."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from scoot.coordinator.objective.pareto import FloatArray, pareto_front


def ehvi_2d(mean: FloatArray, deviation: FloatArray, points: FloatArray, reference: FloatArray) -> FloatArray:
    """How much hypervolume each candidate is expected to add.

    The front cuts what is not dominated into strips, each as high as the front's point on its left; a candidate's part
    of a strip is a width, which depends on its first objective alone, times a height, which depends on the second.

    Args:
        mean, deviation: (N, 2) of the candidates, minimised; deviations at least 0.
        points: (k, 2) observed, minimised; k may be 0.
        reference: (2,); only what is better in both objectives counts.

    Returns:
        (N,), at least 0.
    """
    inside = points[(points < reference).all(axis=1)]
    front = np.unique(inside[pareto_front(inside)], axis=0)  # sorted by the first objective, falling in the second
    edges = np.append(front[:, 0], reference[0])
    ceilings = np.append(reference[1], front[:, 1])
    below = _shortfall(edges, mean[:, :1], deviation[:, :1])
    widths = np.diff(below, axis=1, prepend=0.0)
    heights = _shortfall(ceilings, mean[:, 1:], deviation[:, 1:])
    volume: FloatArray = np.maximum(widths, 0.0) * heights @ np.ones(len(edges))
    return volume


def _shortfall(limits: FloatArray, mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """(k,) limits, (N, 1) normal variables Y -> (N, k) E[(limit - Y)+], how far Y is expected to be below."""
    gap = limits - mean
    safe = np.where(deviation > 0, deviation, 1.0)
    z = np.clip(gap / safe, -40.0, 40.0)  # beyond it the density is 0 and the distribution 0 or 1
    spread = deviation * np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    expected: FloatArray = np.where(deviation > 0, np.maximum(gap * ndtr(z) + spread, 0.0), np.maximum(gap, 0.0))
    return expected
